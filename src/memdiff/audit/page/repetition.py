"""Duplicates within the training data, and their overlap with held-out data."""

from __future__ import annotations

from collections.abc import Sequence

from memdiff.audit.findings import Findings
from memdiff.audit.page.row_differences import Differences
from memdiff.audit.page.thumbnails import Thumbnails, has_pictures
from memdiff.report import Gallery, GalleryItem, Paragraph, Table
from memdiff.report.document import Block

__all__ = ["duplicate_blocks"]

_GROUP_BYTES = 400_000
_MOST_GROUPS = 8
_MOST_MEMBERS = 4


def duplicate_blocks(result: Findings) -> list[Block]:
    """Duplicate groups of the training data, with examples, and the overlap with held-out."""
    inputs = result.inputs
    groups = inputs.duplicates
    repeated = (groups.sizes > 1).nonzero()[:, 0]
    blocks: list[Block] = [Paragraph(_duplicate_text(result, len(repeated)))]
    if len(repeated):
        order = repeated[groups.sizes[repeated].argsort(descending=True, stable=True)]
        shown = order[:_MOST_GROUPS].tolist()
        members = [(groups.labels == label).nonzero()[:, 0].tolist() for label in shown]
        note = (
            f"The largest of {len(repeated)} groups, at most {_MOST_GROUPS} of them and "
            f"{_MOST_MEMBERS} points of each."
        )
        blocks.append(_groups(result, members, note))
    blocks.append(Paragraph(_overlap_text(result)))
    return blocks


def _groups(result: Findings, members: Sequence[Sequence[int]], note: str) -> Block:
    train = result.inputs.train
    title = "Groups of duplicated training points"
    if has_pictures(train):
        album = Thumbnails(train)
        items = []
        for group in members:
            if album.used > _GROUP_BYTES:
                break
            images = [
                album.image(train, i, _short(train.names[i], i)) for i in group[:_MOST_MEMBERS]
            ]
            items.append(GalleryItem(images, f"{len(group)} points", {"points": len(group)}))
        return Gallery(title, items, note, strips=train.kind == "video")
    compare = Differences(train)
    rows = []
    for group in members:
        first = train.x[group[0]].flatten()
        values = ", ".join(
            f"{compare.columns[c]} {compare.text(c, float(first[c]))}"
            for c in range(min(4, len(first)))
        )
        more = "" if len(first) <= 4 else ", …"
        names = ", ".join(str(i) for i in group[:_MOST_MEMBERS])
        rows.append(
            (len(group), names + (", …" if len(group) > _MOST_MEMBERS else ""), values + more)
        )
    return Table(title, ("Points", "Index", "Values of the first"), rows, note, stacked=True)


def _short(name: str, index: int) -> str:
    return str(index) if name.startswith("row ") else name.rsplit("/", 1)[-1]


def _duplicate_text(result: Findings, repeated: int) -> str:
    inputs = result.inputs
    groups, count = inputs.duplicates, len(inputs.train)
    if not repeated:
        return (
            f"No two of the {count} training points are closer than the tolerance of "
            f"{inputs.tolerance:.3g} in units of the data: there are no duplicates."
        )
    within = "identical" if inputs.tolerance == 0 else f"closer than {inputs.tolerance:.3g}"
    return (
        f"{groups.num_redundant} of the {count} training points repeat others ({within}, in units "
        f"of the data): {repeated} groups of duplicates, the largest of "
        f"{int(groups.sizes.max())}. The distance to the next point is to one of another group: "
        "duplicates would hide copies otherwise."
    )


def _overlap_text(result: Findings) -> str:
    inputs, overlap = result.inputs, result.inputs.overlap
    if inputs.heldout is None:
        texts = ["There are no held-out data with which training data could overlap."]
    elif not overlap.heldout:
        texts = ["No held-out point equals a training point."]
    else:
        some = ", ".join(str(i) for i in overlap.heldout[:10])
        more = ", …" if len(overlap.heldout) > 10 else ""
        what = (
            "They and the samples on their values were left out, as asked."
            if overlap.dropped
            else "They were kept: a sample on a value that both sets hold is no evidence."
        )
        texts = [
            f"{len(overlap.heldout)} held-out points equal a training point (index {some}{more}), "
            f"and {overlap.samples} samples lie on such values, where {overlap.expected:.0f} "
            f"would if samples repeated them as training points repeat each other. {what}"
        ]
    texts += inputs.notes
    if inputs.repeated_samples:
        texts.append(
            f"{inputs.repeated_samples} of the {len(inputs.generated)} samples equal an earlier "
            "sample exactly."
        )
    if inputs.samples_on_train:
        texts.append(f"{inputs.samples_on_train} samples equal a training point exactly.")
    return " ".join(texts)
