"""Confidence intervals of fractions and of statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Interval", "bootstrap", "clopper_pearson"]


@dataclass(frozen=True)
class Interval:
    """A confidence interval or a null band, both ends included.

    Attributes:
        low: Lower end.
        high: Upper end.
        level: Coverage, 0.95 for 95 %.
        method: How it was found, for example ``"Clopper-Pearson"``.
    """

    low: float
    high: float
    level: float
    method: str

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def clopper_pearson(hits: int, trials: int, level: float = 0.95) -> Interval:
    """The exact two-sided interval of a fraction of independent trials.

    Its coverage is at least ``level`` for every true fraction, so zero hits do not become a zero
    rate: 0 of 1000 gives an upper end of 0.37 %.

    Args:
        hits: Number of hits, from 0 to ``trials``.
        trials: Number of trials, at least 1.
        level: Coverage, between 0 and 1.

    Returns:
        The interval.

    Raises:
        ValueError: If a number is out of range.

    References:
        Clopper, Pearson, *The use of confidence or fiducial limits illustrated in the case of the
        binomial*, Biometrika 26 (1934).

    Example:
        >>> round(clopper_pearson(0, 1000).high, 4)
        0.0037
    """
    if trials < 1 or not 0 <= hits <= trials:
        raise ValueError(
            f"hits and trials must satisfy 0 <= hits <= trials and trials >= 1, got {hits} and "
            f"{trials}."
        )
    check_level(level)
    from scipy.stats import beta

    tail = (1.0 - level) / 2.0
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, trials - hits + 1))
    high = 1.0 if hits == trials else float(beta.isf(tail, hits + 1, trials - hits))
    return Interval(low, high, level, "Clopper-Pearson")


def bootstrap(
    statistic: Callable[[Tensor], Tensor],
    samples: Tensor,
    *,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """The percentile bootstrap interval of a statistic of independent samples.

    Args:
        statistic: From a resample with the shape of ``samples`` to a scalar tensor.
        samples: ``(n, ...)``, resampled along the first axis.
        level: Coverage, between 0 and 1.
        draws: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        The interval. Its coverage is approximate, and poor for fractions near 0 or 1: use
        :func:`clopper_pearson` there.

    Raises:
        ValueError: If there are no samples, or ``level`` or ``draws`` is out of range.

    References:
        Efron, Tibshirani, *An Introduction to the Bootstrap* (1993), chapter 13.

    Example:
        >>> interval = bootstrap(torch.mean, torch.arange(100.0), seed=1)
        >>> 43 < interval.low < 45 and 54 < interval.high < 56
        True
    """
    check_level(level)
    if len(samples) == 0 or draws < 1:
        raise ValueError(
            f"samples and draws must be at least 1, got {len(samples)} samples and {draws} draws."
        )
    generator = torch.Generator().manual_seed(seed)
    values = torch.empty(draws, dtype=torch.float64)
    for draw in range(draws):
        index = torch.randint(len(samples), (len(samples),), generator=generator)
        values[draw] = statistic(samples[index.to(samples.device)]).to("cpu", torch.float64)
    tail = (1.0 - level) / 2.0
    low, high = torch.quantile(values, torch.tensor([tail, 1.0 - tail], dtype=torch.float64))
    return Interval(float(low), float(high), level, f"percentile bootstrap, {draws} draws")


def check_level(level: float) -> None:
    """Refuse a coverage outside (0, 1)."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, got {level}.")
