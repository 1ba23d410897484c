r"""The softmax over training points, and exact neighbours: under every score, loss and statistic.

For queries :math:`x` with shape ``(B, d)``, training points :math:`x_n` with shape ``(N, d)``,
prior weights :math:`\pi_n` and a forward process with scale :math:`m` and noise :math:`\sigma`,

.. math::
    \ell_n = \log \pi_n - \frac{|x - m x_n|^2}{2 \sigma^2}, \qquad
    w = \mathrm{softmax}(\ell), \qquad
    r = \sum_n w_n (m x_n - x), \qquad D = \sum_n w_n x_n .

One record travels: :class:`Queries` (``x``, ``scale``, ``sigma``, ``prior``). The points are
behind one contract, in memory or on disk (:mod:`~memdiff.kernel.points`).
:class:`PosteriorEngine` picks for each query the cheapest of these routes that is accurate:

1. **Differences** (:mod:`~memdiff.kernel.differences`), in float64, of all points. Taken for small
   problems, where nothing else pays, and where no product is accurate: at the smallest noise with
   many points equally near. Exact to float64 rounding at every noise.
2. **A screen, then differences** (:mod:`~memdiff.kernel.screen`,
   :mod:`~memdiff.kernel.candidates`). One matrix product and a certain bound of its error find all
   points that can carry weight; only these are taken by differences. Products of 8-bit integers
   come first where the processor makes them fast, then float32. Taken at small noise: a first
   block of points shows whether few matter, and a query with many is given up there.
3. **Float32 products** (:mod:`~memdiff.kernel.dense`) of all points, with a running softmax. Taken
   at large noise, where the rounding of :math:`|x|^2 - 2 x \cdot x_n + |x_n|^2` cannot move a
   weight.
4. **Chunks**: float32 products of 256, 128, 64 or 32 coordinates, added up in float64. Taken in
   between, with the longest chunk that is accurate (table `chunks` of the benchmarks: 1.5 to 2
   floors, where float64 takes 3).
5. **Float64 logits** with float32 weights, and **float64** throughout where the residual nearly
   cancels. Taken for what is left.

Whether float32 is enough is decided on the error to be expected, or measured on a few pairs of the
call, and checked afterwards at the heaviest point of every query
(:mod:`~memdiff.kernel.choice`). That is a choice and no bound. What leaves a point out (routes 2,
and all of :mod:`~memdiff.kernel.trajectories`) follows from bounds that hold for certain; the
bounds of rounding in results hold with probability above 0.999
(:mod:`~memdiff.kernel.rounding` is the one error model).

With a ``tolerance`` the engine may leave out points that certainly carry less of the weight than
that; a :class:`Trajectory` lets it use what it found at earlier queries of the same batch.
Around the engine: :mod:`~memdiff.kernel.labels` (queries see the points of their label alone) and
:mod:`~memdiff.kernel.shards` (points dealt out among processes). :mod:`memdiff.neighbors` uses the
same screen. Products take the fastest path of the machine (:mod:`~memdiff.kernel.products`).

Nothing of size ``B x N`` is ever stored, but for products that are recycled along a trajectory
(at most 256 MB): temporary memory stays below ``memory_limit`` bytes. Sums are float64 and merge
associatively, so that blocks, shards and ranks give the answer of one pass.

References:
    Baptista et al., arXiv:2501.15785 (the minimiser of empirical score matching).
"""

from memdiff.kernel.engine import PosteriorEngine
from memdiff.kernel.posterior import Posterior
from memdiff.kernel.queries import Queries
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
