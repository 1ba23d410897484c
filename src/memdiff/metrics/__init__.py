"""Measurements of memorisation: pure functions with frozen results, intervals and nulls."""

from memdiff.metrics.authenticity import Authenticity, authenticity
from memdiff.metrics.calibrated import CalibratedL2, calibrated_l2
from memdiff.metrics.competition import Cells, Competition, compete, compete_again
from memdiff.metrics.copied_fraction import CopiedFraction, copied_fraction
from memdiff.metrics.copying import CopyingTests, copying_tests
from memdiff.metrics.data_copying import CellStatistic, DataCopying, data_copying
from memdiff.metrics.discoveries import Discoveries, discoveries
from memdiff.metrics.distances import Distances
from memdiff.metrics.exchangeability import Exchangeability, exchangeability
from memdiff.metrics.extraction import Extraction, Extrapolation, extraction
from memdiff.metrics.fidelity import Estimate, Fidelity, fidelity
from memdiff.metrics.fld import FLD, LikelihoodGap, fld
from memdiff.metrics.intervals import Interval, bootstrap, clopper_pearson
from memdiff.metrics.intrinsic_dimension import IntrinsicDimension, intrinsic_dimension
from memdiff.metrics.local_exceedance import LocalExceedance, local_exceedance
from memdiff.metrics.metric_result import Detail, MetricResult, Null
from memdiff.metrics.mifid import MiFID, mifid
from memdiff.metrics.ratio import Ratio, ratio
from memdiff.metrics.repeated_cell import RepeatedCell, repeated_cell
from memdiff.metrics.richness import Richness, chao1, good_toulmin
from memdiff.metrics.share import ShareTest, share_test
from memdiff.metrics.similarity import (
    MaximalSimilarity,
    SimilaritySummary,
    maximal_similarity,
)
from memdiff.metrics.tail import TailTest, tail_test
from memdiff.metrics.tolerance import ToleranceFraction, tolerance_fraction
from memdiff.metrics.vendi import Vendi, vendi

__all__ = [
    "FLD",
    "Authenticity",
    "CalibratedL2",
    "CellStatistic",
    "Cells",
    "Competition",
    "CopiedFraction",
    "CopyingTests",
    "DataCopying",
    "Detail",
    "Discoveries",
    "Distances",
    "Estimate",
    "Exchangeability",
    "Extraction",
    "Extrapolation",
    "Fidelity",
    "Interval",
    "IntrinsicDimension",
    "LikelihoodGap",
    "LocalExceedance",
    "MaximalSimilarity",
    "MetricResult",
    "MiFID",
    "Null",
    "Ratio",
    "RepeatedCell",
    "Richness",
    "ShareTest",
    "SimilaritySummary",
    "TailTest",
    "ToleranceFraction",
    "Vendi",
    "authenticity",
    "bootstrap",
    "calibrated_l2",
    "chao1",
    "clopper_pearson",
    "compete",
    "compete_again",
    "copied_fraction",
    "copying_tests",
    "data_copying",
    "discoveries",
    "exchangeability",
    "extraction",
    "fidelity",
    "fld",
    "good_toulmin",
    "intrinsic_dimension",
    "local_exceedance",
    "maximal_similarity",
    "mifid",
    "ratio",
    "repeated_cell",
    "share_test",
    "tail_test",
    "tolerance_fraction",
    "vendi",
]
