r"""The softmax over training points: one kernel under every score, loss and statistic of memdiff.

For queries :math:`x` with shape ``(B, d)``, training points :math:`x_n` with shape ``(N, d)``,
prior weights :math:`\pi_n` and a forward process with scale :math:`m` and noise :math:`\sigma`,

.. math::
    \ell_n = \log \pi_n - \frac{|x - m x_n|^2}{2 \sigma^2}, \qquad
    w = \mathrm{softmax}(\ell), \qquad
    r = \sum_n w_n (m x_n - x), \qquad D = \sum_n w_n x_n .

Three routes lead to it, and :class:`PosteriorEngine` takes for each query the cheapest one that
is accurate (see :meth:`PosteriorEngine.__call__`):

``dense``
    Blocked matrix products with a running maximum and sum (online softmax), where the rounding
    of :math:`|q|^2 - 2 q \cdot x_n + |x_n|^2` cannot move a weight. Whether float32 is enough is
    measured on a few pairs of every call, and checked afterwards at the heaviest point of every
    query; otherwise the logits come from a product in float64, the sums in float32 where these
    do not lose digits of the residual.
``screened``
    One matrix product finds every point that can carry weight, with a margin that covers its
    rounding; the logits of these candidates are taken from direct differences in float64. Where
    the processor multiplies 8-bit integers fast, the product is of these first, at a quarter of
    the cost (:mod:`memdiff.kernel.integers`).
``direct``
    Direct differences in float64 for all points: small problems, and queries with so many
    candidates that nothing is saved by screening.

Products take the fastest path of the machine (:func:`memdiff.kernel.products.gemm_path`).
Under labels every query sees the points of its own label alone
(:class:`~memdiff.kernel.labelled.LabelledEngine`).
Nothing of size ``B x N`` is ever stored: temporary memory stays below ``memory_limit`` bytes.
Accumulators are float64 and merge associatively, so that blocks, shards and ranks give the
answer of one pass.

With a ``tolerance`` the engine may leave out points that certifiably carry less of the weight
than that (see :mod:`~memdiff.kernel.certified`), and a :class:`Trajectory` lets it use what
it found at earlier queries of the same batch; without one every point counts.

References:
    Baptista et al., arXiv:2501.15785 (the minimiser of empirical score matching).
    Milakov, Gimelshein, *Online normalizer calculation for softmax*, arXiv:1805.02867.
"""

from memdiff.kernel.engine import PosteriorEngine
from memdiff.kernel.locking import Trajectory
from memdiff.kernel.partial import PartialPosterior, Posterior
from memdiff.kernel.work import Work, WorkLedger

__all__ = [
    "PartialPosterior",
    "Posterior",
    "PosteriorEngine",
    "Trajectory",
    "Work",
    "WorkLedger",
]
