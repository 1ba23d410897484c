"""What every metric returns: a value with its uncertainty and its null, and a score per sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from memdiff.metrics.intervals import Interval

__all__ = ["Detail", "MetricResult", "Null", "Unit"]

Unit = Literal["share", "number", "p-value"]
"""How a number is to be read, and so how a page prints it."""


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
class Detail:
    """A further number of a result.

    Attributes:
        name: What it is.
        value: The number.
        unit: How it is to be read.
        interval: Its uncertainty.
        expected: What it would be without memorisation.
        remark: What has to be said of it, or nothing.
    """

    name: str
    value: float
    unit: Unit = "number"
    interval: Interval | None = None
    expected: float | None = None
    remark: str = ""


@dataclass(frozen=True)
class MetricResult:
    """Base of the results of :mod:`memdiff.metrics`; a result says itself how it is to be shown.

    Attributes:
        unit: How ``value`` is to be read.
        value: The number that the metric is known by.
        scores: float64 ``(M,)``, one score a generated sample; the metric says which end is
            suspicious.
        interval: Confidence interval of ``value``.
        null: What ``value`` would be without memorisation, or None where nothing is known (no
            held-out data).
    """

    unit: ClassVar[Unit] = "number"

    value: float
    scores: Tensor
    interval: Interval | None
    null: Null | None

    def details(self) -> tuple[Detail, ...]:
        """Further numbers to show beside ``value``."""
        return ()
