"""What an audit cannot know, as far as it follows from what was given."""

from __future__ import annotations

from memdiff.audit.evidence import Evidence
from memdiff.audit.findings import Findings
from memdiff.audit.page.numbers import percent_given
from memdiff.audit.verdict import samples_needed

__all__ = ["limitations"]


def limitations(result: Findings) -> dict[str, str]:
    """Limitations by topic, those that weigh most first."""
    decision = result.decision
    found = {"What was audited": _scope(result)}
    if result.inputs.heldout is None:
        found["No held-out data"] = (
            "Nothing tells here what samples share with training data by nature, so there is no "
            "verdict: only pairs to look at."
        )
    else:
        found["Held-out data"] = (
            "The verdict supposes that training and held-out data were told apart by chance. The "
            "test of that sees coarse differences; a fine one, a slightly later time or a "
            "slightly different selection, can still make samples look close to train."
        )
        found["Copied fraction"] = (
            "It counts samples closer than a third of the distance to the next point, on values "
            "that train and held-out do not share. Its interval allows for chance and for the "
            "sampling of the samples; it is conservative. Zero hits is not zero rate: its upper "
            "end is the bound."
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


def _scope(result: Findings) -> str:
    return (
        f"The verdict is on these {len(result.inputs.generated)} samples and the way they were "
        "drawn. Other prompts, seeds, guidance or checkpoints of the same model may copy more. "
        "Copying is no complete measure of privacy: membership can leak without it."
    )


def _sizes(result: Findings) -> dict[str, str]:
    inputs, resolution = result.inputs, result.settings.resolution
    found = {}
    samples, wanted = len(inputs.generated), samples_needed(resolution)
    if samples < wanted:
        found["Few samples"] = (
            f"{samples} samples cannot exclude a copied fraction of {percent_given(resolution)}, "
            f"even if none of them is a copy; about {wanted} could."
        )
    for entry in result.evidence:
        if entry.tests is None:
            continue
        odds = entry.tests.competition.odds
        if odds > 5.0:
            found["Few held-out points"] = (
                f"There are {odds:.0f} training points for each held-out one. Chance then puts "
                "most samples on training points, and the competition sees only many copies; the "
                "local exceedance helps, under its assumption."
            )
        least = entry.tests.list.least_units
        if least > 1:
            found["Length of the list"] = (
                f"At the rate asked for, a list holds at least {least} distinct training points. "
                "Copies of fewer carry a verdict and are not listed."
            )
    if result.inputs.groups:
        found["Groups"] = (
            "Points of a group are exchanged together, so the number of groups and not of points "
            "says how much can be seen."
        )
    return found


def _blind_spots(entry: Evidence, result: Findings) -> str:
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
    if noun == "thumbnail" and pictures:
        return (
            "They compare coarse grey images without their brightness and contrast, registered to "
            "each other. Images that differ in colour or detail alone count as alike; large "
            "crops, collages and changes of style go unseen. A learned descriptor, such as SSCD "
            "[Pizzi22], sees more."
        )
    if noun in ("sscd", "torchscript", "transformers", "onnx"):
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
