"""What helps along the trajectories of a sampler, behind one door.

A sampler evaluates its score inside :meth:`Batch.follow`; an exact score asks :func:`followed`.
What is remembered never decides an answer that it does not certify.
"""

from memdiff.kernel.trajectories.batch import Batch, Trajectory, followed, unfollowed
from memdiff.kernel.trajectories.counts import Counts, LevelCounts
from memdiff.kernel.trajectories.truncation import TruncatedPosterior, index_bytes

__all__ = [
    "Batch",
    "Counts",
    "LevelCounts",
    "Trajectory",
    "TruncatedPosterior",
    "followed",
    "index_bytes",
    "unfollowed",
]
