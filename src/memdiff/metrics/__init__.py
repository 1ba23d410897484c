"""Measurements of memorisation: pure functions with frozen results, intervals and nulls."""

from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import Interval, bootstrap, clopper_pearson
from memdiff.metrics.intrinsic_dimension import IntrinsicDimension, intrinsic_dimension
from memdiff.metrics.ratio import Ratio, ratio
from memdiff.metrics.result import MetricResult, Null
from memdiff.metrics.tolerance import ToleranceFraction, tolerance_fraction

__all__ = [
    "Distances",
    "Interval",
    "IntrinsicDimension",
    "MetricResult",
    "Null",
    "Ratio",
    "ToleranceFraction",
    "bootstrap",
    "clopper_pearson",
    "intrinsic_dimension",
    "ratio",
    "tolerance_fraction",
]
