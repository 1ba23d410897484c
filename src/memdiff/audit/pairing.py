"""What to look at: flagged samples, suspicious pairs, copied training points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.audit.evidence import Evidence
from memdiff.audit.inputs import AuditInputs
from memdiff.audit.settings import AuditSettings
from memdiff.audit.verdict import Verdict

__all__ = ["CopiedPoint", "Pair", "copied_points", "flagged_samples", "suspicious_pairs"]

_MOST_POINTS = 200


@dataclass(frozen=True)
class Pair:
    """A sample and what it resembles.

    Attributes:
        sample: Index of the sample.
        sample_name: Its name (file or row).
        train: Index of the nearest training point.
        train_name: Its name.
        heldout: Index of the nearest held-out point, or None.
        heldout_name: Its name, or None.
        distance: Distance to the training point, in the descriptor's units.
        heldout_distance: Distance to the held-out point, or None.
        ratio: How close it is on its own scale: :math:`d_1/d_2` in the competition of training
            and held-out points, 2 minus that where a held-out point wins; after registration
            where the descriptor registers images. Without held-out data :math:`d_1/d_2` of
            training points.
        flagged: Whether the sample counts as a copy.
        variant: Transform under which it is closest.
        descriptor: Descriptor that the distances belong to.
    """

    sample: int
    sample_name: str
    train: int
    train_name: str
    heldout: int | None
    heldout_name: str | None
    distance: float
    heldout_distance: float | None
    ratio: float
    flagged: bool
    variant: str
    descriptor: str


@dataclass(frozen=True)
class CopiedPoint:
    """A training point and how often it was copied.

    Attributes:
        train: Index of the training point.
        name: Its name.
        copies: Number of flagged samples that copy it or a duplicate of it.
        duplicates: Number of training points in its group of duplicates.
        best: Index of its closest sample.
        distance: Distance of that sample.
        ratio: Ratio of that sample.
    """

    train: int
    name: str
    copies: int
    duplicates: int
    best: int
    distance: float
    ratio: float


def flagged_samples(evidence: Evidence, decision: Verdict) -> Tensor:
    """The samples that count as copies, index ``(F,)``; none unless the verdict is memorizing.

    The list of the competition, and the repeated cell where that test rejects.

    Args:
        evidence: The evidence of the descriptor that decided.
        decision: The verdict.
    """
    tests = evidence.tests
    if tests is None or decision.name != "memorizing":
        return torch.empty(0, dtype=torch.int64)
    flagged = tests.list.flagged.clone()
    if tests.cell is not None and tests.p_cell <= decision.level:
        flagged |= tests.cell.members
    return flagged.nonzero()[:, 0]


def suspicious_pairs(
    evidence: Evidence, inputs: AuditInputs, flagged: Tensor, settings: AuditSettings
) -> list[Pair]:
    """The flagged samples and the closest others with their nearest training points.

    Args:
        evidence: The evidence of the descriptor that decided.
        inputs: The sets.
        flagged: Index of the flagged samples.
        settings: Settings of the audit.

    Returns:
        The pairs, the closest first.
    """
    ratios = evidence.ratios()
    near, train = nearest_train(evidence)
    order = ratios.argsort(stable=True)
    on_list = torch.zeros(len(ratios), dtype=torch.bool)
    on_list[flagged] = True
    listed = max(settings.pairs, len(flagged))
    # Flagged samples first where the list is longer than what is shown.
    chosen = torch.cat([order[on_list[order]], order[~on_list[order]]])[:listed]
    chosen = chosen[ratios[chosen].argsort(stable=True)]
    versions = evidence.closest_variant(chosen)
    heldout = None if inputs.heldout is None else evidence.nearest("heldout")
    pairs = []
    for i, version in zip(chosen.tolist(), versions.tolist(), strict=True):
        n = int(train[i])
        h = None if heldout is None else int(heldout[1][i])
        pairs.append(
            Pair(
                sample=i,
                sample_name=inputs.generated.names[i],
                train=n,
                train_name=inputs.train.names[n],
                heldout=h,
                heldout_name=None
                if h is None or inputs.heldout is None
                else inputs.heldout.names[h],
                distance=float(near[i]),
                heldout_distance=None if heldout is None else float(heldout[0][i]),
                ratio=float(ratios[i]),
                flagged=bool(on_list[i]),
                variant=evidence.features.versions[version],
                descriptor=evidence.name,
            )
        )
    return pairs


def nearest_train(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """Distance to and index of the training point that each sample is compared with, ``(M,)``.

    The winner of the competition where it is a training point, else the nearest one.
    """
    near, train = evidence.nearest("train")
    if evidence.tests is None:
        return near, train
    won = torch.from_numpy(evidence.tests.competition.winner)
    size = evidence.distances.size("train")
    own = won < size
    train = torch.where(own, evidence.compared["train"][won.clamp(max=size - 1)], train)
    return near, train


def copied_points(evidence: Evidence, inputs: AuditInputs, flagged: Tensor) -> list[CopiedPoint]:
    """The training points that flagged samples copy, the most copied first, at most 200.

    Args:
        evidence: The evidence of the descriptor that decided.
        inputs: The sets.
        flagged: Index of the flagged samples.
    """
    groups = inputs.duplicates
    near, train = nearest_train(evidence)
    ratios = evidence.ratios()
    labels = groups.labels[train]
    points = []
    for label in labels[flagged].unique().tolist():
        members = flagged[labels[flagged] == label]
        best = int(members[ratios[members].argmin()])
        n = int(train[best])
        points.append(
            CopiedPoint(
                train=n,
                name=inputs.train.names[n],
                copies=len(members),
                duplicates=int(groups.sizes[label]),
                best=best,
                distance=float(near[best]),
                ratio=float(ratios[best]),
            )
        )
    points.sort(key=lambda point: (-point.copies, point.ratio))
    return points[:_MOST_POINTS]
