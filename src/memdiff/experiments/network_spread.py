r"""Memorised fractions over training seeds: their spread, and when they agree or rise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Comparison", "PublishedRows", "Spread", "compare", "rises", "spread"]

DEVIATIONS = 3.0
"""Standard deviations that a difference to a published value may have."""

SHARE_OUTSIDE = 0.05
"""Share of the compared values that chance may put outside."""

PublishedRows: TypeAlias = Sequence[Sequence[float | None]]
"""Published fractions ``[tolerance][value]``; None where there is none."""


@dataclass(frozen=True)
class Spread:
    r"""A fraction over training seeds.

    Attributes:
        mean: Mean over the seeds.
        deviation: Standard deviation of a single run: that over the seeds, or the binomial
            :math:`\sqrt{p (1 - p) / n}` of :math:`n` samples where it is larger.
        seeds: Number of seeds :math:`k`.
    """

    mean: float
    deviation: float
    seeds: int

    def allowed(self, reading_error: float = 0.0) -> float:
        r"""Return the largest difference to one more run: :math:`e + 3 s \sqrt{1 + 1/k}`."""
        return reading_error + DEVIATIONS * self.deviation * math.sqrt(1.0 + 1.0 / self.seeds)


def spread(values: Sequence[float], latents: int) -> Spread:
    """Return mean and spread of one fraction over seeds, each of ``latents`` samples.

    >>> spread([0.5, 0.5], 100)
    Spread(mean=0.5, deviation=0.05, seeds=2)
    """
    count = len(values)
    mean = sum(values) / count
    # A fraction of 0 or 1 has an uncertainty too: one half sample is added to either side.
    shrunk = (mean * latents + 0.5) / (latents + 1.0)
    binomial = math.sqrt(shrunk * (1.0 - shrunk) / latents)
    variance = sum((value - mean) ** 2 for value in values) / max(1, count - 1)
    return Spread(mean, max(math.sqrt(variance), binomial), count)


@dataclass(frozen=True)
class Comparison:
    """Measured fractions next to published ones.

    Attributes:
        good: Whether each difference is allowed, ``[tolerance][value]``; None where there is no
            published value.
        outside: Number of differences that exceed what is allowed.
        count: Number of published values.
        largest: Largest absolute difference.
    """

    good: tuple[tuple[bool | None, ...], ...]
    outside: int
    count: int
    largest: float

    @property
    def within(self) -> bool:
        """Whether at most one difference in twenty exceeds what is allowed."""
        return self.outside <= SHARE_OUTSIDE * self.count


def compare(
    spreads: Sequence[Sequence[Spread]], values: PublishedRows, reading_error: float = 0.0
) -> Comparison:
    """Compare measured fractions ``[tolerance][value]`` with published ones.

    Args:
        spreads: Measured fractions.
        values: Published fractions.
        reading_error: Error of reading the published ones off a plot.
    """
    differences, good = [], []
    for row, known in zip(spreads, values, strict=True):
        marks: list[bool | None] = []
        for one, value in zip(row, known, strict=True):
            if value is None:
                marks.append(None)
                continue
            differences.append(abs(one.mean - value))
            marks.append(differences[-1] <= one.allowed(reading_error))
        good.append(tuple(marks))
    outside = sum(mark is False for row in good for mark in row)
    return Comparison(tuple(good), outside, len(differences), max(differences))


def rises(spreads: Sequence[Sequence[Spread]]) -> bool:
    """Tell whether every fraction ``[tolerance][value]`` rises along the values, but for chance.

    From one value to the next the mean may fall by three standard errors of the difference, and
    from first to last it must rise by more.
    """

    def error(a: Spread, b: Spread) -> float:
        return DEVIATIONS * math.sqrt(a.deviation**2 / a.seeds + b.deviation**2 / b.seeds)

    return all(
        all(b.mean >= a.mean - error(a, b) for a, b in itertools.pairwise(row))
        and row[-1].mean >= row[0].mean + error(row[0], row[-1])
        for row in spreads
    )
