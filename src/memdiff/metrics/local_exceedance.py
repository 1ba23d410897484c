r"""Weighted local exceedance: copies where held-out points are few.

Where training points outnumber held-out ones, competition is weak: ten copies among samples of
which 95 % fall on training points by chance say nothing. This test compares distances instead,
on the local scale

.. math::
    u(g) = \frac{d(g, train)}{d(g, heldout)}, \qquad
    u(h) = \frac{d(h, train)}{d(h, \text{other held-out points, not of its group})} .

**Assumption**, beyond exchangeability: *fresh samples lie to train as held-out points do.* So that
held-out points stand where the samples lie, each weighs by how often it is among the
:math:`\sqrt H` (5 to 16) nearest held-out points of a sample, with the effective number
:math:`H_e = (\sum w)^2/\sum w^2`. The denominator of :math:`u(h)` has one reference point less
than that of :math:`u(g)`: it is stochastically larger, and the test errs to the safe side.

Below the weighted :math:`j/(H_e + 1)` quantile of :math:`u(h)`, :math:`j = 1, 2, 4, 8, 16`, the
number of **distinct training points** hit by samples is compared with the beta-binomial law of
:math:`M` independent samples; repetitions of one fresh sample hit one point. The smallest tail
probability counts times the number of ranks. The law is exact for equal weights and distinct
points; the weights make it an approximation, measured in ``docs/calibration.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from memdiff.metrics.competition import Competition, compete
from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import Interval
from memdiff.metrics.metric_result import MetricResult, Null
from memdiff.neighbors import RowData

__all__ = ["LocalExceedance", "LocalScale", "local_exceedance"]

RANKS = (1, 2, 4, 8, 16)
_ASKED, _NEIGHBOURS = 1000, 16
_FLOOR = 0.05  # occupation of points that nothing is near to


@dataclass(frozen=True, eq=False)
class LocalScale:
    """Distances to train on the local scale, of samples and of weighted held-out points.

    Attributes:
        samples: :math:`u(g)`, float64 ``(M,)``; 1 for 0/0.
        heldout: :math:`u(h)`, float64 ``(H,)``.
        weights: Weight of each held-out point, adding up to 1.
        effective: :math:`H_e`, of points, or of groups where points belong together.
    """

    samples: np.ndarray
    heldout: np.ndarray
    weights: np.ndarray
    effective: float

    @cached_property
    def _ordered(self) -> tuple[np.ndarray, np.ndarray]:
        order = self.heldout.argsort(kind="stable")
        return self.heldout[order], self.weights[order].cumsum()

    def quantile(self, share: float) -> float:
        """The smallest :math:`u(h)` up to which held-out points of that weight lie."""
        values, weight = self._ordered
        return float(values[min(int(np.searchsorted(weight, share - 1e-12)), len(values) - 1)])


def local_scale(found: Distances, competition: Competition, *, seed: int = 0) -> LocalScale | None:
    """The local scale of a competition; None where held-out points have no others to compare with.

    Args:
        found: The distances.
        competition: Their competition.
        seed: Seed of the choice of points that weigh the held-out points.
    """
    size = found.size("heldout")
    labels = found.groups["heldout"].numpy() if found.groups else np.arange(size)
    numbers = np.unique(labels, return_inverse=True)[1].reshape(-1)
    if numbers.max() == 0:
        return None
    to_train = found.to_train("heldout").distances[:, 0].cpu().numpy()
    others = found.to_heldout("heldout").distances[:, 0].cpu().numpy()
    k = min(max(5, math.ceil(math.sqrt(size))), _NEIGHBOURS, int(numbers.max()))
    # How often a point is near to samples, over how often it is near to held-out points: in many
    # dimensions some points (hubs) are near to everything.
    near = _occupation(found, "generated", k, seed)
    own = _occupation(found, "heldout", k, seed)
    weights = (near + _FLOOR) / (own + _FLOOR)
    weights /= weights.sum()
    by_group = np.bincount(numbers, weights)
    return LocalScale(
        samples=_ratio(competition.train[0], competition.heldout[0]),
        heldout=_ratio(to_train, others),
        weights=weights,
        effective=1.0 / float((by_group**2).sum()),
    )


def _occupation(found: Distances, name: str, k: int, seed: int) -> np.ndarray:
    """How often held-out points are among the neighbours of a set, over the mean; 1 on average.

    Of at most 1000 points of the set, by kin, shared equally among points of one value.
    """
    order = np.random.default_rng(seed).permutation(found.size(name))[:_ASKED]
    near = found.apart(name, "heldout", k, torch.from_numpy(np.sort(order))).indices.numpy()
    size = found.size("heldout")
    if found.groups:
        return np.bincount(near.reshape(-1), minlength=size) * (size / near.size)
    kin = found.kin("heldout").numpy()
    hits = np.bincount(kin[near.reshape(-1)], minlength=kin.max() + 1)
    return (hits / np.maximum(np.bincount(kin), 1))[kin] * (size / near.size)


def _ratio(near: np.ndarray, scale: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((near == 0.0) & (scale == 0.0), 1.0, near / scale)


@dataclass(frozen=True)
class LocalExceedance(MetricResult):
    """Result of :func:`local_exceedance`.

    ``value`` is the number of distinct training points hit below the threshold of the best rank,
    over the number of samples; ``null`` what chance gives, with its band. ``scores`` are
    :math:`u(g)`; small is suspicious.

    Attributes:
        p_value: The smallest over ranks, times their number.
        rank: The rank :math:`j` that it belongs to; 0 where there is no test.
        threshold: The quantile of :math:`u(h)` at it.
        hits: Distinct training points hit below it.
        effective: :math:`H_e`.
    """

    p_value: float
    rank: int
    threshold: float
    hits: int
    effective: float


def local_exceedance(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    competition: Competition | None = None,
    scale: LocalScale | None = None,
    level: float = 0.95,
) -> LocalExceedance:
    """Test whether samples hit more training points closely than held-out points do.

    Args:
        generated: Samples ``(M, *S)``.
        train: Training points ``(N, *S)``.
        heldout: Held-out points ``(H, *S)``, at least 2 (in at least two groups).
        distances: Ready distances, in place of the three sets.
        competition: Their competition, if it is at hand.
        scale: Their local scale, if it is at hand.
        level: Coverage of the null band.

    Returns:
        LocalExceedance.

    Raises:
        ValueError: If there are too few held-out points.

    References:
        Reconstructed: the placement statistic of two samples with weights; Bates et al., *Testing
        for Outliers with Conformal p-values*, Annals of Statistics 51 (2023).
    """
    from scipy.stats import betabinom

    found = Distances.resolve(distances, generated, train, heldout)
    result = compete(found) if competition is None else competition
    local = local_scale(found, result) if scale is None else scale
    if local is None:
        raise ValueError("heldout must hold at least two groups of points for a local scale.")
    m, effective = result.samples, local.effective
    # Duplicates are one point, groups are one point.
    target = found.kin("train").numpy()[result.train[1]]
    best = (1.0, 0, 0.0, 0)
    ranks = [rank for rank in RANKS if rank <= effective] or [1]
    for rank in ranks:
        threshold = local.quantile(rank / (effective + 1.0))
        hits = len(np.unique(target[local.samples < threshold]))
        tail = _tail(hits, m, rank, effective)
        if tail < best[0] or best[1] == 0:
            best = (tail, rank, threshold, hits)
    tail, rank, threshold, hits = best
    rest = max(effective + 1.0 - rank, 1e-3)
    ends = betabinom.ppf([(1 - level) / 2, (1 + level) / 2], m, rank, rest)
    return LocalExceedance(
        value=hits / m,
        scores=torch.from_numpy(local.samples),
        interval=None,
        null=Null(
            rank / (effective + 1.0),
            Interval(float(ends[0]) / m, float(ends[1]) / m, level, "beta-binomial"),
            "weighted held-out points",
        ),
        p_value=min(1.0, len(ranks) * tail),
        rank=rank,
        threshold=threshold,
        hits=hits,
        effective=effective,
    )


def _tail(hits: int, m: int, rank: int, effective: float) -> float:
    from scipy.special import logsumexp
    from scipy.stats import betabinom

    if hits == 0:
        return 1.0
    # The upper tail itself: 1 - cdf has no digits left where a p-value matters.
    logs = betabinom.logpmf(np.arange(hits, m + 1), m, rank, max(effective + 1.0 - rank, 1e-3))
    return min(1.0, float(np.exp(logsumexp(logs))))
