"""What every metric returns: a value with its uncertainty and its null, and a score a sample."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from memdiff.metrics.intervals import Interval

__all__ = ["MetricResult", "Null"]


@dataclass(frozen=True)
class Null:
    """What the value would be without memorisation.

    Attributes:
        value: The value of held-out data, or the one expected under the null hypothesis.
        interval: Its uncertainty, or the band of the null hypothesis.
        source: Where it comes from, for example ``"held-out points"``.
    """

    value: float
    interval: Interval | None
    source: str


@dataclass(frozen=True)
class MetricResult:
    """Base of the results of :mod:`memdiff.metrics`.

    Attributes:
        value: The number that the metric is known by.
        scores: float64 ``(M,)``, one score a generated sample; the metric says which end is
            suspicious.
        interval: Confidence interval of ``value``.
        null: What ``value`` would be without memorisation, or None where nothing is known (no
            held-out data).
    """

    value: float
    scores: Tensor
    interval: Interval | None
    null: Null | None
