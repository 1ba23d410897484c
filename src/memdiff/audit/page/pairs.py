"""The suspicious pairs and the copied training points, to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from memdiff.audit.evidence import Evidence
from memdiff.audit.findings import Findings
from memdiff.audit.page.numbers import percent_given
from memdiff.audit.page.row_differences import Differences
from memdiff.audit.page.thumbnails import Thumbnails, has_pictures
from memdiff.audit.pairing import Pair
from memdiff.data import Dataset
from memdiff.features import Invariance
from memdiff.report import Cell, Gallery, GalleryItem, Image, Paragraph, Table
from memdiff.report.document import Block, CellValue

__all__ = ["MOST_PAIRS", "copied_blocks", "pair_blocks"]

MOST_PAIRS = 100
"""Pairs that a page shows; all of them are in ``report.json``."""

# Bytes of the pictures of one gallery; noise, which does not compress, is what they are there for.
_PAIR_BYTES, _POINT_BYTES = 1_700_000, 700_000
_COPIED = "Training points by the number of their copies"
_MOST_POINTS = 24
_ROWS_IN_FULL = 6
_COLUMNS_IN_FULL = 10


def pair_blocks(result: Findings) -> list[Block]:
    """The most suspicious pairs: a gallery of pictures, or tables of rows."""
    if has_pictures(result.inputs.train):
        return [_picture_gallery(result)]
    return _row_tables(result)


def _left_out(result: Findings, shown: int) -> str:
    total = len(result.pairs)
    flagged = sum(pair.flagged for pair in result.pairs)
    text = (
        "r is the distance to the nearest point over that to the next, 2 minus that where a "
        "held-out point is nearer. Flagged: on the list of which at most "
        f"{percent_given(result.settings.false_discovery_rate)} are expected to be there by "
        f"chance [Barber15], or in a cell that repeats one training point; {flagged} of "
        f"{len(result.inputs.generated)} samples. The closest pairs come first."
    )
    if shown < total:
        text += (
            f" Shown are {shown} of the {total} pairs listed; {total - shown} are left out here "
            "and are in `report.json`."
        )
    return text


def _values(pair: Pair, has_variants: bool) -> dict[str, str | float | bool | None]:
    values: dict[str, str | float | bool | None] = {"distance": pair.distance}
    if pair.heldout_distance is not None:
        values["held-out distance"] = pair.heldout_distance
    values["ratio r"] = pair.ratio
    if has_variants:
        values["closest as"] = pair.variant
    values["flagged"] = pair.flagged
    return values


def _picture_gallery(result: Findings) -> Gallery:
    inputs = result.inputs
    album = Thumbnails(inputs.train)
    transforms = _transforms(result)
    items = []
    for pair in result.pairs[:MOST_PAIRS]:
        if album.used > _PAIR_BYTES:
            break
        images = [album.image(inputs.generated, pair.sample, "sample")]
        if transforms is not None and pair.variant != "identity":
            images.append(
                _transformed(
                    album,
                    inputs.generated,
                    pair.sample,
                    f"as {pair.variant}",
                    pair.variant,
                    transforms,
                )
            )
        images.append(album.image(inputs.train, pair.train, "nearest train"))
        if inputs.heldout is not None and pair.heldout is not None:
            images.append(album.image(inputs.heldout, pair.heldout, "nearest held-out"))
        items.append(
            GalleryItem(
                images,
                f"sample {pair.sample}{_named(pair.sample_name)}, train {pair.train}"
                f"{_named(pair.train_name)}",
                _values(pair, transforms is not None),
            )
        )
    return Gallery(
        f"Samples that are closest to the training data, by {result.decision.descriptor}",
        items,
        _left_out(result, len(items)),
        strips=inputs.train.kind == "video",
        facets=("flagged", "closest as"),
    )


def _transforms(result: Findings) -> Invariance | None:
    return _decisive(result).features.transforms


def _decisive(result: Findings) -> Evidence:
    name = result.decision.descriptor
    return next((e for e in result.evidence if e.name == name), result.evidence[0])


def _transformed(
    album: Thumbnails,
    data: Dataset,
    index: int,
    label: str,
    variant: str,
    transforms: Invariance,
) -> Image:
    """A point as the transform shows it under which it is closest."""
    point = transforms.variant(data.x[index], transforms.names.index(variant))
    return album.image(data, index, label, point)


def _named(name: str) -> str:
    """The name in brackets where it says more than the index."""
    return "" if name.startswith("row ") else f" ({name})"


def _row_tables(result: Findings) -> list[Block]:
    inputs = result.inputs
    compare = Differences(inputs.train)
    shown = result.pairs[:MOST_PAIRS]
    has_heldout = any(pair.heldout_distance is not None for pair in shown)
    header = ["Pair, and where it differs", "Distance"]
    header += ["To held-out"] if has_heldout else []
    header += ["r", "Flagged"]
    rows: list[list[CellValue]] = []
    for pair in shown:
        row: list[CellValue] = [
            Cell(
                f"sample {pair.sample}{_named(pair.sample_name)}, train {pair.train}"
                f"{_named(pair.train_name)}",
                note="differs "
                + compare.summary(
                    _row(inputs.generated, pair.sample), _row(inputs.train, pair.train)
                ),
            ),
            pair.distance,
        ]
        row += [pair.heldout_distance] if has_heldout else []
        row += [pair.ratio, _mark(pair.flagged)]
        rows.append(row)
    listed = Table(
        f"Samples that are closest to the training data, by {result.decision.descriptor}",
        header,
        rows,
        _left_out(result, len(rows))
        + " Differences are sample against training point; s.d. is the standard deviation of the "
        "training column. To held-out: distance to the nearest held-out point.",
        sortable=True,
        stacked=True,
    )
    return [listed, _in_full(result, compare)]


def _mark(flagged: bool) -> Cell:
    return Cell("flagged", "bad", sort=1) if flagged else Cell("no", sort=0)


def _row(data: Dataset, index: int) -> np.ndarray:
    return np.asarray(data.x[index].flatten().numpy())


def _in_full(result: Findings, compare: Differences) -> Table:
    """The closest pairs value by value, with what differs from the sample marked."""
    inputs = result.inputs
    pairs = result.pairs[:_ROWS_IN_FULL]
    chosen = _telling_columns(result, compare, pairs)
    rows: list[list[CellValue]] = []
    for pair in pairs:
        sample = _row(inputs.generated, pair.sample)
        rows.append(
            [
                f"sample {pair.sample}",
                *(compare.text(c, float(sample[c])) for c in chosen),
            ]
        )
        others = [("nearest train", pair.train, inputs.train)]
        if inputs.heldout is not None and pair.heldout is not None:
            others.append(("nearest held-out", pair.heldout, inputs.heldout))
        for name, index, data in others:
            found = compare(sample, _row(data, index))
            cells = [
                Cell(f"≠ {one.second}", "caution", note=one.change)
                if one.differs
                else Cell(one.second)
                for one in (found[c] for c in chosen)
            ]
            rows.append([f"{name} {index}", *cells])
    some = "" if len(chosen) == len(compare.columns) else f"{len(chosen)} of the "
    return Table(
        f"The closest pairs in full ({some}{len(compare.columns)} columns)",
        ["Row", *(compare.columns[c] for c in chosen)],
        rows,
        "≠ marks what differs from the sample by more than 0.001 standard deviations of the "
        "training column, with the signed difference under it.",
    )


def _telling_columns(result: Findings, compare: Differences, pairs: Sequence[Pair]) -> list[int]:
    """All columns of narrow data; of wide data those in which the pairs differ most."""
    width = len(compare.columns)
    if width <= _COLUMNS_IN_FULL:
        return list(range(width))
    sizes = np.zeros(width)
    for pair in pairs:
        found = compare(
            _row(result.inputs.generated, pair.sample), _row(result.inputs.train, pair.train)
        )
        sizes += [one.size for one in found]
    return sorted(np.argsort(-sizes, kind="stable")[:_COLUMNS_IN_FULL].tolist())


def copied_blocks(result: Findings) -> list[Block]:
    """The training points with the most suspicious samples."""
    points = result.copied_points[:_MOST_POINTS]
    if not points:
        return [Paragraph("No sample is flagged, so no training point is listed.")]
    blocks: list[Block] = []

    def note(shown: int) -> str:
        total = len(result.copied_points)
        return (
            "Copies: flagged samples that copy the point or one of its "
            "duplicates. Occurrences: how often the point is in the training data."
        ) + (f" Shown are {shown} of {total} points." if shown < total else "")

    inputs = result.inputs
    if has_pictures(inputs.train):
        album = Thumbnails(inputs.train)
        transforms = _transforms(result)
        best = torch.tensor([point.best for point in points])
        versions = _decisive(result).closest_variant(best).tolist()
        items = []
        for point, version in zip(points, versions, strict=True):
            if album.used > _POINT_BYTES:
                break
            images = [
                album.image(inputs.train, point.train, "training point"),
                album.image(inputs.generated, point.best, "closest sample"),
            ]
            if transforms is not None and version > 0:
                variant = transforms.names[version]
                images.append(
                    _transformed(
                        album, inputs.generated, point.best, f"as {variant}", variant, transforms
                    )
                )
            values = {
                "copies": point.copies,
                "occurrences": point.duplicates,
                "distance": point.distance,
            }
            items.append(GalleryItem(images, f"train {point.train}{_named(point.name)}", values))
        blocks.append(
            Gallery(_COPIED, items, note(len(items)), strips=inputs.train.kind == "video")
        )
        return blocks
    compare = Differences(inputs.train)
    blocks.append(
        Table(
            _COPIED,
            (
                "Training point, and its closest sample",
                "Copies",
                "Occurrences",
                "Distance",
            ),
            [
                (
                    Cell(
                        f"train {point.train}{_named(point.name)}, sample {point.best}",
                        note="differs "
                        + compare.summary(
                            _row(inputs.generated, point.best), _row(inputs.train, point.train)
                        ),
                    ),
                    point.copies,
                    point.duplicates,
                    point.distance,
                )
                for point in points
            ],
            note(len(points)),
            sortable=True,
            stacked=True,
        )
    )
    return blocks
