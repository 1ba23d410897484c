r"""How wrong computed numbers can be: the one error model of the kernel.

Three kinds of statements are made, and each function says which it is.

*Certain.* A sum of ``n`` products in any order with unit roundoff ``u`` is off by at most
:math:`\gamma_n |a||b|`, :math:`\gamma_n = nu/(1 - nu)`. All that leaves a point out follows from
such bounds: screens, pruning, neighbours, and the certificate that one point has all the weight.

*With probability above 0.999.* For independent rounding errors of mean zero the factor is about
:math:`8 + 4\sqrt n` instead of ``n``. The bounds of rounding in ``logit_error``, ``sum_error`` and
``error_bound`` are of this kind: the certain ones are several times larger and say less.

*Expected.* What is usual. It chooses the route of a query, and bounds nothing.

References:
    Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., section 3.1.
    Higham, Mary, *A new approach to probabilistic rounding error analysis*, SIAM J. Sci. Comput.
    41 (2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.kernel.points import Points
from memdiff.kernel.queries import Queries

__all__ = [
    "PRODUCT_LENGTH",
    "LogitRounding",
    "SquareBound",
    "certain_factor",
    "probable_factor",
    "unit_roundoff",
]

PRODUCT_LENGTH = 2048
"""Screens sum longer products in pieces of this length."""


def certain_factor(length: int, unit: float) -> float:
    r"""Certain: :math:`\gamma_n` for sums of ``length`` products of unit roundoff ``unit``.

    Infinite where nothing is certain: long sums under a reduced precision of products.
    """
    return length * unit / (1.0 - length * unit) if length * unit < 1.0 else math.inf


def probable_factor(length: int) -> float:
    r"""With probability above 0.999: :math:`8 + 4 \sqrt{n}`, in units of the roundoff."""
    return 8.0 + 4.0 * math.sqrt(length)


def unit_roundoff(dtype: torch.dtype) -> float:
    """Unit roundoff of a matrix product in ``dtype`` under torch's current precision setting."""
    if dtype == torch.float32:
        reduced = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}
        return reduced[torch.get_float32_matmul_precision()]
    return 2.0**-53


@dataclass(frozen=True)
class LogitRounding:
    r"""Errors of logits that come from a matrix product of centred points.

    The logit is a sum of ``dim`` products of magnitude
    :math:`M = m R (|x - m c| + m R) / \sigma^2`, with the radius ``R`` of the points.

    Attributes:
        magnitude: ``M``, ``(B,)``.
        terms: Largest magnitude of the terms that conditions add.
        dim: Number of products that are summed.
        unit: Unit roundoff.
    """

    magnitude: Tensor
    terms: float
    dim: int
    unit: float

    @classmethod
    def of(cls, points: Points, queries: Queries, dtype: torch.dtype) -> LogitRounding:
        """For a product in ``dtype``."""
        reach = queries.scale * points.radius
        size = reach * (queries.distance(points) + reach) / queries.sigma**2
        return cls(size, queries.prior.bound, points.dim, unit_roundoff(dtype))

    @property
    def probable(self) -> Tensor:
        """Bound with probability above 0.999, ``(B,)``."""
        return self.unit * (probable_factor(self.dim) * self.magnitude + self.terms)

    @property
    def expected(self) -> Tensor:
        """Expected size of the largest error, ``(B,)``."""
        return self.probable * (2.0 / probable_factor(self.dim))

    @property
    def typical(self) -> Tensor:
        """Twice the root mean square error, ``(B,)``: errors of both signs cancel."""
        return self.expected * (2.0 / math.sqrt(self.dim))


@dataclass(frozen=True)
class SquareBound:
    r"""Certain bound of a score :math:`s_{ij} = |b_j|^2 - 2 a_i \cdot b_j` of centred rows.

    With the exact distance :math:`D` of rows that were rounded once to :math:`a, b`, and norms
    :math:`A, B`,

    .. math::
        |s - (D^2 - A^2)| \le
        \gamma\,(B^2 + 2AB) + 2\rho A B + \epsilon\,(A + B)^2 + \omega =: E(A, B) .

    - :math:`\gamma` is :func:`certain_factor`; products longer than ``PRODUCT_LENGTH`` are summed
      piecewise, so that ``n`` stays near that length.
    - :math:`\rho` is the error of each product where the backend was told to round the factors
      (TF32, bfloat16).
    - :math:`\epsilon = 4u + (d + 4)\,2^{-52}`: the rounding of the rows moves each by at most
      ``u`` of its norm; the second term is the rounding of the float64 distance by direct
      differences, so that "exact" means equal to that computation.
    - :math:`\omega` covers underflow.

    Args:
        features: Number of features ``d``.
        dtype: float32 or float64, the precision of the product.
        device: Where the product runs.
    """

    features: int
    dtype: torch.dtype
    device: torch.device

    def coefficients(self) -> tuple[float, float, float, float]:
        """``(c_AA, c_AB, c_BB, omega)`` with ``E = c_AA A^2 + c_AB A B + c_BB B^2 + omega``."""
        u = 0.5 * torch.finfo(self.dtype).eps
        pieces = -(-self.features // PRODUCT_LENGTH)
        gamma = certain_factor(min(self.features, PRODUCT_LENGTH) + pieces + 8, u)
        epsilon = 4.0 * u + (self.features + 4) * 2.0**-52
        omega = (self.features + 8) * 4.0 * torch.finfo(self.dtype).tiny
        factors = _factor_roundoff(self.device) if self.dtype == torch.float32 else 0.0
        cross = 2.0 * gamma + 2.0 * factors + 2.0 * epsilon
        return 1.01 * epsilon, 1.01 * cross, 1.01 * (gamma + epsilon), omega

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """The bound for norms ``a`` and ``b`` that broadcast against each other."""
        aa, ab, bb, omega = self.coefficients()
        return a * (aa * a + ab * b) + (bb * b.square() + omega)


def _factor_roundoff(device: torch.device) -> float:
    """Relative error of a float32 product whose factors the backend may round beforehand."""
    settings = [torch.get_float32_matmul_precision()]
    backends = [torch.backends, getattr(torch.backends.mkldnn, "matmul", None)]
    if device.type != "cpu":
        backends.append(torch.backends.cuda.matmul)
        settings.append("tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee")
    settings += [getattr(backend, "fp32_precision", "none") for backend in backends]
    if all(setting in ("highest", "ieee", "none") for setting in settings):
        return 0.0
    return 2.0**-6  # bfloat16 factors, each with 2^-8 (rounded) or 2^-7 (truncated)
