"""What to do about a finding. Each piece of advice names the measured fact it follows from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.audit.evidence import Evidence
from memdiff.audit.inputs import AuditInputs
from memdiff.audit.pairing import nearest_train
from memdiff.audit.verdict import Verdict
from memdiff.metrics import Fidelity, Vendi

__all__ = ["Advice", "advise"]


@dataclass(frozen=True)
class Advice:
    """A fact and what follows from it.

    Attributes:
        finding: What was found, with its number.
        action: What to do.
    """

    finding: str
    action: str


def advise(
    verdict: Verdict, evidence: Sequence[Evidence], inputs: AuditInputs, flagged: Tensor
) -> list[Advice]:
    """Collect the advice.

    Args:
        verdict: The verdict.
        evidence: The evidence of every descriptor.
        inputs: The sets.
        flagged: Index of the samples that count as copies.

    Returns:
        Advice, the most pressing first.
    """
    decisive = next((e for e in evidence if e.name == verdict.descriptor), evidence[0])
    found: list[Advice] = []
    if verdict.name == "memorizing":
        found += _about_copies(verdict, decisive, inputs, flagged)
    if verdict.name == "overfitting":
        found.append(
            Advice(
                "Samples follow their training points, and no copies stand out.",
                "The model has begun to memorise. Stop training earlier, regularise, or add data, "
                "and audit again before copies appear.",
            )
        )
    found += _about_inputs(verdict, inputs)
    # Coverage and precision compare with independent points of one law: not with groups, and not
    # where train and held-out differ.
    if not (inputs.groups or verdict.reasons) and (defect := _fidelity(decisive)):
        found.append(defect)
    if inputs.duplicates.num_redundant and verdict.name != "memorizing":
        found.append(
            Advice(
                f"{inputs.duplicates.num_redundant} of {len(inputs.train)} training points repeat "
                "others.",
                "Remove duplicates before training: repeated points are memorised first.",
            )
        )
    if verdict.name == "inconclusive" and not verdict.reasons:
        found.append(Advice("The data do not decide.", verdict.sentence.rsplit(". ", 1)[-1]))
    if verdict.name == "not detected":
        found.append(
            Advice(
                f"Up to {verdict.upper_bound:.2%} of the samples could be copies unseen.",
                "Audit more samples to lower the bound, and another descriptor to look for copies "
                "that these features miss.",
            )
        )
    return found


def _about_inputs(verdict: Verdict, inputs: AuditInputs) -> list[Advice]:
    """What to do about the sets themselves."""
    found = [Advice(problem, "Check what was given.") for problem in inputs.problems]
    found += [Advice(note, "Check that this is as you expect.") for note in inputs.notes]
    if inputs.heldout is None:
        found.append(
            Advice(
                "There were no held-out data.",
                "Give --heldout: data of the same source that the model has not seen. Without "
                "them nothing tells copying from what such data share anyway.",
            )
        )
    elif verdict.reasons and not inputs.problems:
        found.append(
            Advice(
                "Train and held-out are not exchangeable.",
                "If points belong together (patients, videos, bursts, households), give --groups. "
                "Else take held-out data from the source of the training data, by a random split "
                "made before training.",
            )
        )
    overlap = inputs.overlap
    if overlap.heldout and not inputs.problems:
        text = (
            f"{len(overlap.heldout)} held-out points equal a training point; {overlap.samples} "
            "samples lie on such values."
        )
        found.append(
            Advice(
                text,
                "They and the samples on them were left out, as asked."
                if overlap.dropped
                else "They were kept: values that repeat by nature belong there. If the split has "
                "leaked, give --drop-overlap, or split anew.",
            )
        )
    return found


def _about_copies(
    verdict: Verdict, evidence: Evidence, inputs: AuditInputs, flagged: Tensor
) -> list[Advice]:
    advice = []
    copied = nearest_train(evidence)[1][flagged].unique()
    sizes = inputs.duplicates.sizes[inputs.duplicates.labels]
    repeated = float((sizes[copied] > 1).to(torch.float64).mean()) if len(copied) else 0.0
    background = float((sizes > 1).to(torch.float64).mean())
    if inputs.duplicates.num_redundant and repeated > 0:
        advice.append(
            Advice(
                f"{repeated:.0%} of the copied training points are duplicated, against "
                f"{background:.0%} of all.",
                "Remove duplicates from the training data and train again: they are memorised "
                "first, and this is the cheapest cure.",
            )
        )
    if verdict.copied >= 0.5:
        advice.append(
            Advice(
                f"Most samples are copies ({verdict.copied:.0%}).",
                "The model has reached its training data. Do not release it. Train for fewer "
                "steps, with a smaller network or with more data, and stop when the training and "
                "held-out losses at small noise part.",
            )
        )
    else:
        count = f"{len(flagged)} samples are flagged" if len(flagged) else "None is flagged alone"
        advice.append(
            Advice(
                f"A part of the samples are copies (estimated {verdict.copied:.1%}). {count}.",
                "Stop training earlier, or add a Tikhonov penalty to the score; until then, leave "
                "out the flagged samples and audit what you publish. `memdiff sample "
                "--regularizer tikhonov` shows what a regularised score of these data gives.",
            )
        )
    versions = evidence.closest_variant(flagged) if len(flagged) else flagged
    if int((versions > 0).sum()) > 0:
        share = float((versions > 0).to(torch.float64).mean())
        advice.append(
            Advice(
                f"{share:.0%} of the flagged samples match under a transform.",
                "These are copies that plain distances miss. If training used such augmentation, "
                "this is how it shows.",
            )
        )
    return advice


def _fidelity(evidence: Evidence) -> Advice | None:
    """Low diversity or samples off the data: defects, but no memorisation."""
    results = [entry.result for entry in evidence.measurements]
    fidelity = next((r for r in results if isinstance(r, Fidelity)), None)
    diversity = next((r for r in results if isinstance(r, Vendi)), None)
    if fidelity is None or fidelity.null is None or fidelity.precision.null is None:
        return None
    precision, usual = fidelity.precision.value, fidelity.precision.null.value
    if precision < 0.5 * usual:
        return Advice(
            f"Only {precision:.0%} of the samples lie among the training data, of fresh data "
            f"{usual:.0%} would.",
            "The samples are noisier or more spread than the data. An absence of copies says "
            "little about a model that has not learned its data.",
        )
    coverage, expected = fidelity.value, fidelity.null.value
    narrow = (
        diversity is not None
        and diversity.null is not None
        and diversity.value < 0.25 * diversity.null.value
    )
    if coverage > 0.5 * expected and not narrow:
        return None
    return Advice(
        f"The samples cover {coverage:.0%} of the training data, where fresh data would cover "
        f"{expected:.0%}.",
        "The model has collapsed onto a part of the data. That is a defect of its own and no "
        "evidence of memorisation; see precision and recall.",
    )
