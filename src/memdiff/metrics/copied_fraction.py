r"""Estimate of the copied fraction, by what falls on decoys.

With :math:`T(\tau)` the samples with a ratio of at most :math:`\tau` that fall on training points
and :math:`D(\tau)` those that fall on decoys,

.. math::
    \hat\pi(\tau) = \frac{T(\tau) - (N/H) D(\tau)}{M},

since chance puts :math:`N/H` samples on training units for each one on held-out units. Not cut at
0. A value that both sets hold (a blank frame) is left out: a sample on it is no copy. A value that
:math:`k` units of one set and none of the other hold counts :math:`(N/H)^k` for :math:`N/H`, the
odds of its labels. The headline is at :math:`\tau = 1/3`, the ratio of the literature.

The interval allows for chance and for the sampling of the samples, half of the error each.
Chance: each unit that is hit by chance is a training unit with probability :math:`N/(N+H)`, so
the number of training units hit by chance, given :math:`u` hit decoys, is at most the quantile of
a negative binomial of :math:`u + 1` (and at least that of :math:`u`). Whichever units these are:
the lower limit leaves out the heaviest so many, the upper limit the lightest. Values that several
units of one set hold are counted by the variance of their labels in place of that. Sampling:
Clopper and Pearson. Conservative where the units are exchangeable, but for the normal
approximation for repeated values and for the odds of large pools in place of those of finite
ones; measured in ``docs/calibration.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from memdiff.metrics.competition import Competition
from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import Interval, check_level
from memdiff.metrics.metric_result import MetricResult, Null
from memdiff.metrics.tail import competed, signed_ratios
from memdiff.neighbors import RowData

__all__ = ["COPY", "CopiedFraction", "copied_fraction", "resolved_ratio"]

COPY = 1.0 / 3.0
"""Ratio :math:`d_1/d_2` below which the literature calls a sample a copy."""

_RATIOS = (COPY, 0.2, 0.1, 0.05, 0.02, 0.01, 0.0)


@dataclass(frozen=True)
class CopiedFraction(MetricResult):
    """Result of :func:`copied_fraction`.

    ``value`` is the estimate, not cut at 0, ``interval`` is cut to [0, 1]. ``null`` is 0.
    ``scores`` are those of :class:`~memdiff.metrics.TailTest`.

    Attributes:
        ratio: The closeness that it is for.
        targets: Samples at most so close that fall on values of training points alone; ties
            count in parts.
        decoys: The same of held-out points.
        both: Samples at most so close on values that both sets hold.
        by_chance: Samples of ``targets`` that chance explains.
    """

    ratio: float
    targets: float
    decoys: float
    both: float
    by_chance: float


def copied_fraction(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    competition: Competition | None = None,
    ratio: float = COPY,
    level: float = 0.95,
) -> CopiedFraction:
    """Estimate the share of samples that are copies closer than a ratio, beyond chance.

    Args:
        generated: Samples ``(M, *S)``.
        train: Training points ``(N, *S)``.
        heldout: Held-out points ``(H, *S)``.
        distances: Ready distances, in place of the three sets.
        competition: Ready competition, in place of all of them.
        ratio: The closeness.
        level: Coverage of the interval.

    Returns:
        CopiedFraction.

    Raises:
        ValueError: If there are no held-out points, or ``ratio`` or ``level`` is out of range.

    References:
        Reconstructed; see :mod:`memdiff.metrics.competition`.

    Example:
        >>> train, heldout = torch.randn(2, 200, 8, generator=torch.Generator().manual_seed(0))
        >>> result = copied_fraction(generated=train[:50], train=train, heldout=heldout)
        >>> result.value, round(result.interval.low, 2)
        (1.0, 0.74)
    """
    check_level(level)
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"ratio must lie in [0, 1], got {ratio}.")
    result = competed(competition, distances, generated, train, heldout)
    weights, m = result.weights(ratio), result.samples
    pure = _Pure.of(result, weights)
    low, high = _chance(pure, result.odds, (1.0 - level) / 4.0)
    return CopiedFraction(
        value=(pure.targets - pure.by_chance) / m,
        scores=torch.from_numpy(signed_ratios(result)),
        interval=Interval(
            *_sampling(low, high, m, (1.0 - level) / 4.0),
            level,
            "negative binomial for chance, Clopper-Pearson for sampling",
        ),
        null=Null(0.0, None, "decoys"),
        ratio=ratio,
        targets=pure.targets,
        decoys=pure.decoys,
        both=float(weights.sum()) - pure.targets - pure.decoys,
        by_chance=pure.by_chance,
    )


@dataclass(frozen=True, eq=False)
class _Pure:
    """Cells that only one of the sets holds, and the samples on them.

    Attributes:
        weight: Samples on each cell.
        is_train: Whether training units hold it.
        size: Units in it.
        odds: How many such cells chance puts on training units for each on held-out units.
    """

    weight: np.ndarray
    is_train: np.ndarray
    size: np.ndarray
    odds: np.ndarray

    @classmethod
    def of(cls, result: Competition, weights: np.ndarray) -> _Pure:
        cells = result.cells
        pure = ((cells.train == 0) | (cells.heldout == 0)) & (weights > 0)
        size = cells.size[pure]
        return cls(weights[pure], cells.heldout[pure] == 0, size, result.odds**size)

    @property
    def targets(self) -> float:
        return float(self.weight[self.is_train].sum())

    @property
    def decoys(self) -> float:
        return float(self.weight[~self.is_train].sum())

    @property
    def by_chance(self) -> float:
        return float((self.weight * self.odds)[~self.is_train].sum())


def _chance(pure: _Pure, odds: float, tail: float) -> tuple[float, float]:
    """Limits of the number of samples on training units that are not there by chance."""
    from scipy.stats import nbinom, norm

    single = pure.size == 1
    of_train = np.sort(pure.weight[single & pure.is_train])
    hit_decoys = int((single & ~pure.is_train).sum())
    by_decoy = 1.0 / (1.0 + odds)
    most = int(nbinom.ppf(1.0 - tail, hit_decoys + 1, by_decoy))
    least = int(nbinom.ppf(tail, hit_decoys, by_decoy)) if hit_decoys else 0
    low = float(of_train[: max(len(of_train) - most, 0)].sum())
    high = float(of_train[min(least, len(of_train)) :].sum())
    weight, own_odds = pure.weight[~single], pure.odds[~single]
    signs = np.where(pure.is_train[~single], 1.0, -own_odds)
    surplus = float(weight @ signs)
    spread = float(norm.isf(tail)) * math.sqrt(float((weight**2) @ own_odds))
    low += max(surplus - spread, 0.0)
    high += min(max(surplus + spread, 0.0), float(weight[signs > 0].sum()))
    return low, high


def _sampling(low: float, high: float, m: int, tail: float) -> tuple[float, float]:
    from scipy.stats import beta

    lower = float(beta.ppf(tail, low, m - low + 1.0)) if low > 0 else 0.0
    upper = float(beta.isf(tail, high + 1.0, m - high)) if high < m else 1.0
    return lower, upper


def resolved_ratio(result: Competition, resolution: float) -> float:
    """The largest ratio at which chance leaves room to see a copied fraction.

    In few dimensions many fresh samples have a ratio below 1/3. Chosen by the decoys alone.

    Args:
        result: The competition.
        resolution: The copied fraction that should be seen.

    Returns:
        1/3, or the largest of 0.2, 0.1, 0.05, 0.02, 0.01 and 0 at which chance is expected to put
        at most a quarter of ``resolution`` of the samples on training points.
    """
    for ratio in _RATIOS:
        by_chance = _Pure.of(result, result.weights(ratio)).by_chance
        if by_chance <= 0.25 * resolution * result.samples:
            return ratio
    return 0.0
