"""The kernel (docstring follows)."""

from memdiff.kernel.engine import PosteriorEngine
from memdiff.kernel.queries import Queries
from memdiff.kernel.result import Posterior
from memdiff.kernel.softmax import PartialPosterior
from memdiff.kernel.trajectories import Batch, LevelCounts, Trajectory

__all__ = [
    "Batch",
    "LevelCounts",
    "PartialPosterior",
    "Posterior",
    "PosteriorEngine",
    "Queries",
    "Trajectory",
]
