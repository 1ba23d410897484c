r"""Repeated cell: one training point copied many times.

Neither the tail test nor an exceedance of distinct points sees a model that copies a single
training point: it is one coincidence to them. So the *most repeated* cell of the samples is
chosen without a look at the training points, and its distance to train on the local scale
(:mod:`memdiff.metrics.local_exceedance`) is ranked among those of held-out points: a weighted
conformal p-value for one point.

A cell is a sample whose :math:`k` nearest other samples, :math:`k` = 2 % of the samples, are at
most a third as far as its :math:`5 k` nearest: repeated beyond its surroundings. Among identical
samples the largest group counts, else the smallest ratio. At most 500 samples are looked at.

**Assumption**: *a repeated fresh sample lies to train as a held-out point does.* A frame that
both sets hold has :math:`u = 1`, a collapsed fresh mode an ordinary :math:`u`. It is an assumption
and no theorem: the cell lies where points are dense, and :math:`u` may vary more there. Measured
(``docs/calibration.md``): at a level of 0.05 it rejects 3 % of all fresh draws, but 10 to 30 % on
tight clusters and smooth photographs with few held-out points; the rule of the audit therefore
gives it a fifth of the level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memdiff.metrics.competition import Competition, compete
from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import clopper_pearson
from memdiff.metrics.local_exceedance import LocalScale, local_scale
from memdiff.metrics.metric_result import MetricResult, Null
from memdiff.neighbors import RowData, Rows, self_nearest

__all__ = ["RepeatedCell", "repeated_cell"]

_LOOKED_AT = 500
_SHARE = 0.02
_SURROUNDINGS = 5
_REPEATED = 1.0 / 3.0
_REFERENCE = 250
"""Held-out points or groups that a cell is compared with; all, where there are fewer.

Enough for a p-value below a fifth of the level of 0.05 shared by two descriptors.
"""


@dataclass(frozen=True)
class RepeatedCell(MetricResult):
    """Result of :func:`repeated_cell`.

    ``value`` is the share of samples in the cell, among those looked at; 0 where nothing repeats.
    ``null`` says nothing of it. ``scores`` are :math:`u(g)`; small is suspicious.

    Attributes:
        p_value: Rank of :math:`u` of the cell among near held-out points; 1 where nothing repeats.
        sample: The sample at its centre, or -1.
        members: bool ``(M,)``: samples that fall on the same training point, closely (``u`` at
            most twice that of the centre, or 0).
        u: Its distance to train over that to held-out; 1 where nothing repeats.
    """

    p_value: float
    sample: int
    members: Tensor
    u: float


def repeated_cell(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    competition: Competition | None = None,
    scale: LocalScale | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> RepeatedCell:
    """Test whether what the samples repeat most lies on a training point.

    Args:
        generated: Samples ``(M, *S)``.
        train: Training points ``(N, *S)``.
        heldout: Held-out points ``(H, *S)``, at least 2 (in at least two groups).
        distances: Ready distances, in place of the three sets.
        competition: Their competition, if it is at hand.
        scale: Their local scale, if it is at hand.
        level: Coverage of the interval.
        seed: Seed of the choice of samples that are looked at.

    Returns:
        RepeatedCell.

    Raises:
        ValueError: If there are too few held-out points.

    References:
        Reconstructed.
    """
    found = Distances.resolve(distances, generated, train, heldout)
    result = compete(found) if competition is None else competition
    local = local_scale(found, result) if scale is None else scale
    if local is None:
        raise ValueError("heldout must hold at least two groups of points for a local scale.")
    m = result.samples
    looked = np.sort(np.random.default_rng(seed).permutation(m)[:_LOOKED_AT])
    centre, count = _most_repeated(found, looked)
    members = np.zeros(m, dtype=bool)
    u, p_value = 1.0, 1.0
    if centre >= 0:
        u = float(local.samples[centre])
        p_value = _p_value(found, local, centre)
        same = found.kin("train").numpy()[result.train[1]]
        members = (same == same[centre]) & (local.samples <= 2.0 * u)
    return RepeatedCell(
        value=count / len(looked),
        scores=torch.from_numpy(local.samples),
        interval=clopper_pearson(count, len(looked), level),
        null=Null(0.0, None, "says nothing of the size of a cell"),
        p_value=p_value,
        sample=centre,
        members=torch.from_numpy(members),
        u=u,
    )


def _p_value(found: Distances, local: LocalScale, centre: int) -> float:
    """Rank of the local scale of one sample among those of the held-out units nearest to it."""
    labels = found.kin("heldout").numpy()
    kins = min(_REFERENCE, len(np.unique(labels)))
    near = found.apart("generated", "heldout", kins, torch.tensor([centre])).indices.numpy()[0]
    inside = np.isin(labels, labels[near])
    closer = (local.heldout[inside] <= local.samples[centre]).astype(float)
    if found.groups:  # each group counts once
        units = np.unique(labels[inside], return_inverse=True)[1].reshape(-1)
        closer = np.bincount(units, closer) / np.bincount(units)
    return (1.0 + float(closer.sum())) / (1.0 + len(closer))


def _most_repeated(found: Distances, looked: np.ndarray) -> tuple[int, int]:
    """The sample at the centre of the most repeated cell, and the samples in it; -1 for none."""
    k = max(2, math.ceil(_SHARE * len(looked)))
    if len(looked) <= k:
        return -1, 0
    rows = Rows(found.data("generated"), "generated").select(torch.from_numpy(looked))
    wide = min(_SURROUNDINGS * k, len(looked) - 1)
    near = (
        self_nearest(
            rows, wide, metric=found.metric, memory_limit=found.memory_limit, ranks=found.ranks
        )
        .distances.cpu()
        .numpy()
    )
    if found.metric == "cosine":
        near = np.sqrt(near)  # 1 - cos is half the square of a length
    inner, outer = near[:, k - 1], near[:, wide - 1]
    ratio = np.where(inner == 0.0, 0.0, inner / np.where(outer == 0.0, 1.0, outer))
    best = float(ratio.min())
    if best > _REPEATED:
        return -1, 0
    tied = np.flatnonzero(ratio == best)
    radius = 3.0 * inner[tied]
    counts = 1 + (near[tied] <= radius[:, None]).sum(1)
    centre = int(tied[counts.argmax()])
    return int(looked[centre]), int(counts.max())
