"""What an audit cannot know, as far as it follows from what was given."""

from __future__ import annotations

from memdiff.audit.evidence import Evidence
from memdiff.audit.page.figures import reference_of
from memdiff.audit.page.numbers import percent, percent_given
from memdiff.audit.result import AuditResult
from memdiff.audit.verdict import heldout_needed, samples_needed

__all__ = ["limitations"]


def limitations(result: AuditResult) -> dict[str, str]:
    """Limitations by topic, those that weigh most first."""
    decision = result.decision
    found = {"What was audited": _scope(result)}
    if all(entry.shares is None for entry in result.evidence):
        found["No held-out data"] = (
            "The samples were compared with the training points among themselves. The p-values "
            "are approximate, the exchange test is missing, and training data that are unlike the "
            "rest of their source cannot be told from copying."
        )
    else:
        found["Held-out data"] = (
            "The verdict supposes that held-out and training data are draws of one source. If the "
            "held-out data are of another one, later or cleaner for example, every sample looks "
            "close to train, and copying is reported that is none."
        )
    found["Upper bound"] = (
        f"At most {percent(decision.upper_bound)} is a bound on samples that are closer to train "
        "than every reference point. Samples that resemble training data less than that, as fresh "
        "data do by chance, are not bounded by it. Zero hits is not zero rate: the bound is that "
        "of Clopper and Pearson [Clopper34] with the uncertainty of the threshold."
    )
    found |= _sizes(result)
    found |= {f"Features {entry.name}": _blind_spots(entry, result) for entry in result.evidence}
    found["Flagged samples"] = (
        "The list controls the expected share of wrong entries, not that of each entry, and it "
        "need not be complete. A pair on it is a reason to look, and a pair off it no acquittal."
    )
    if result.verdict == "memorizing" and decision.copied < 0.005:
        found["Small effect"] = (
            "The evidence is significant, but the copied fraction is small or the copies are "
            "slight. Judge by the pairs what it means for your data."
        )
    return found


def _scope(result: AuditResult) -> str:
    return (
        f"The verdict is on these {len(result.inputs.generated)} samples and the way they were "
        "drawn. Other prompts, seeds, guidance or checkpoints of the same model may copy more. "
        "Copying is no complete measure of privacy: membership can leak without it."
    )


def _sizes(result: AuditResult) -> dict[str, str]:
    inputs, resolution = result.inputs, result.settings.resolution
    found = {}
    samples, wanted = len(inputs.generated), samples_needed(resolution)
    if samples < wanted:
        found["Few samples"] = (
            f"{samples} samples cannot exclude a copied fraction of {percent_given(resolution)}, "
            f"even if none of them is a copy; about {wanted} could."
        )
    decisive = next(e for e in result.evidence if e.name == result.decision.descriptor)
    flags, reference = decisive.flags, reference_of(decisive)
    size, needed = decisive.distances.size(reference), heldout_needed(resolution)
    kind = "training" if reference == "train" else "held-out"
    if size < needed:
        found[f"Few {kind} points"] = (
            f"A fresh sample is closer than all {size} {kind} points with probability "
            f"{percent(1 / (size + 1))}, which blurs the bound; about {needed} points would do."
        )
    if flags.least_flagged > 1:
        possible = (
            "no sample can be flagged"
            if flags.least_flagged > samples
            else f"{flags.least_flagged} samples are flagged or none"
        )
        found["Resolution of p-values"] = (
            f"With {size} {kind} points the p-value of a sample is at least 1/{size + 1}: at the "
            f"level asked for, {possible}. Copies may be too few to be listed and still carry the "
            "verdict."
        )
    return found


def _blind_spots(entry: Evidence, result: AuditResult) -> str:
    noun = entry.name.partition(":")[0]
    pictures = result.inputs.train.kind in ("images", "video")
    invariance = result.settings.invariance
    if noun in ("pixels", "downscaled", "pca", "dct") and pictures:
        coarse = {
            "pixels": "compare pixel by pixel",
            "downscaled": "compare coarse pixels, so that images which differ in detail count as "
            "close",
            "pca": "compare the directions of largest variance in train, and see nothing else",
            "dct": "compare low frequencies, so that images which differ in detail count as close",
        }[noun]
        seen = (
            f"Copies under {invariance} are looked for; others"
            if invariance
            else "Copies that are shifted, mirrored (see `--invariance`)"
        )
        return (
            f"They {coarse}. {seen}, cropped, recoloured, rescaled or partly copied images go "
            "unseen, and flat images look close to each other. A learned descriptor, such as SSCD "
            "[Pizzi22], sees more."
        )
    if noun in ("sscd", "torchscript", "transformers"):
        return (
            "A learned descriptor sees what its training data taught it: style, logos and blank "
            "images may count as alike, small crops as different. Its similarities have no unit, "
            "and bounds published for others do not apply. Preprocessing is part of it; see the "
            "provenance."
        )
    if noun == "table":
        return (
            "Each numeric column counts by its standard deviation, each category as one. A rare "
            "category or a long tail that identifies a person weighs no more than any other "
            "value, and a copy in a few columns only goes unseen."
        )
    return (
        "Distances are Euclidean in the units given: a column of large numbers dominates, and a "
        "copy in a few coordinates only goes unseen."
    )
