"""Measurements of memorisation: pure functions with frozen results, intervals and nulls."""

from memdiff.metrics.authenticity import Authenticity, authenticity
from memdiff.metrics.calibrated import CalibratedL2, calibrated_l2
from memdiff.metrics.closeness import closeness
from memdiff.metrics.conformal import (
    Conformal,
    benjamini_hochberg,
    conformal,
    conformal_local,
)
from memdiff.metrics.distances import Distances
from memdiff.metrics.exceedance import Exceedance, ExcessCopies, exceedance, excess_copies
from memdiff.metrics.exchange import Exchange, exchange
from memdiff.metrics.intervals import Interval, bootstrap, clopper_pearson
from memdiff.metrics.intrinsic_dimension import IntrinsicDimension, intrinsic_dimension
from memdiff.metrics.ratio import Ratio, ratio
from memdiff.metrics.result import MetricResult, Null
from memdiff.metrics.similarity import (
    MaximalSimilarity,
    SimilaritySummary,
    maximal_similarity,
)
from memdiff.metrics.tolerance import ToleranceFraction, tolerance_fraction

__all__ = [
    "Authenticity",
    "CalibratedL2",
    "Conformal",
    "Distances",
    "Exceedance",
    "ExcessCopies",
    "Exchange",
    "Interval",
    "IntrinsicDimension",
    "MaximalSimilarity",
    "MetricResult",
    "Null",
    "Ratio",
    "SimilaritySummary",
    "ToleranceFraction",
    "authenticity",
    "benjamini_hochberg",
    "bootstrap",
    "calibrated_l2",
    "clopper_pearson",
    "closeness",
    "conformal",
    "conformal_local",
    "exceedance",
    "excess_copies",
    "exchange",
    "intrinsic_dimension",
    "maximal_similarity",
    "ratio",
    "tolerance_fraction",
]
