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
from memdiff.metrics.data_copying import CellStatistic, DataCopying, data_copying
from memdiff.metrics.distances import Distances
from memdiff.metrics.exceedance import Exceedance, ExcessCopies, exceedance, excess_copies
from memdiff.metrics.exchange import Exchange, exchange
from memdiff.metrics.extraction import Extraction, Extrapolation, extraction
from memdiff.metrics.fidelity import Estimate, Fidelity, fidelity
from memdiff.metrics.fld import FLD, LikelihoodGap, fld
from memdiff.metrics.intervals import Interval, bootstrap, clopper_pearson
from memdiff.metrics.intrinsic_dimension import IntrinsicDimension, intrinsic_dimension
from memdiff.metrics.mifid import MiFID, mifid
from memdiff.metrics.ratio import Ratio, ratio
from memdiff.metrics.result import MetricResult, Null
from memdiff.metrics.richness import Richness, chao1, good_toulmin
from memdiff.metrics.similarity import (
    MaximalSimilarity,
    SimilaritySummary,
    maximal_similarity,
)
from memdiff.metrics.tolerance import ToleranceFraction, tolerance_fraction
from memdiff.metrics.vendi import Vendi, vendi

__all__ = [
    "FLD",
    "Authenticity",
    "CalibratedL2",
    "CellStatistic",
    "Conformal",
    "DataCopying",
    "Distances",
    "Estimate",
    "Exceedance",
    "ExcessCopies",
    "Exchange",
    "Extraction",
    "Extrapolation",
    "Fidelity",
    "Interval",
    "IntrinsicDimension",
    "LikelihoodGap",
    "MaximalSimilarity",
    "MetricResult",
    "MiFID",
    "Null",
    "Ratio",
    "Richness",
    "SimilaritySummary",
    "ToleranceFraction",
    "Vendi",
    "authenticity",
    "benjamini_hochberg",
    "bootstrap",
    "calibrated_l2",
    "chao1",
    "clopper_pearson",
    "closeness",
    "conformal",
    "conformal_local",
    "data_copying",
    "exceedance",
    "excess_copies",
    "exchange",
    "extraction",
    "fidelity",
    "fld",
    "good_toulmin",
    "intrinsic_dimension",
    "maximal_similarity",
    "mifid",
    "ratio",
    "tolerance_fraction",
    "vendi",
]
