r"""Fast squared distances with a proven error bound: the screen before an exact search.

The matrix product gives the score

.. math::
    s_{ij} = |b_j|^2 - 2\, a_i \cdot b_j \approx |x_i - y_j|^2 - |a_i|^2,

with :math:`a = x - c` and :math:`b = y - c` centred and rounded to the precision of the product.
In float32 it is wrong by far more than the distances that memorisation is about, so it never is a
result. It is a screen: for the exact distance :math:`D`, :math:`A = |a_i|` and :math:`B = |b_j|`,

.. math::
    |s_{ij} - (D_{ij}^2 - A^2)| \le
    \gamma\,(B^2 + 2AB) + 2\rho A B + \epsilon\,(A + B)^2 + \omega =: E(A, B) .

- :math:`\gamma = nu/(1 - nu)` bounds a sum of products of unit roundoff :math:`u` in any order
  (Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., section 3.1). Products
  longer than ``PRODUCT_LENGTH`` are summed piecewise, so :math:`n` stays near that length.
- :math:`\rho` is the error of each product where the backend was told to round the factors
  (TF32, bfloat16).
- :math:`\epsilon = 4u + (d + 4)\,2^{-52}`: the rounding of :math:`a` and :math:`b` moves each by
  at most :math:`u` of its norm; the second term is the rounding of the float64 distance by direct
  differences, so that "exact" means equal to that computation.
- :math:`\omega` covers underflow.

Coordinates are scaled by a power of two, which is exact, so that no norm exceeds one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PRODUCT_LENGTH", "ErrorBound", "Operand", "PointBlock", "Screen", "scores"]

PRODUCT_LENGTH = 2048


@dataclass(frozen=True)
class ErrorBound:
    r""":math:`E(A, B)` of the module for one number of features, dtype and backend setting.

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
        length = min(self.features, PRODUCT_LENGTH) + pieces + 8
        gamma = length * u / (1.0 - length * u)
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


@dataclass(frozen=True)
class Operand:
    """One side of the product: centred rows ``(n, d)`` and their norms ``(n,)``, rounded up."""

    rows: Tensor
    norms: Tensor

    @classmethod
    def of(cls, coordinates: Tensor, centre: Tensor, dtype: torch.dtype) -> Operand:
        """From float64 coordinates ``(n, d)`` and the centre ``(d,)``."""
        rows = (coordinates - centre).to(dtype)
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
        return cls(rows, (norms * (1.0 + 1e-6)).to(dtype))

    def part(self, start: int, stop: int) -> Operand:
        """Rows ``start`` to ``stop``."""
        return Operand(self.rows[start:stop], self.norms[start:stop])


@dataclass(frozen=True)
class PointBlock:
    """A block of points made ready for the product, in groups of ``group`` columns.

    Attributes:
        start: Index of its first point.
        rows: Centred rows ``(p, d)``, padded with zeros to a multiple of ``group``.
        norms: Norms ``(p,)``, rounded up.
        bias: Squared norms ``(p,)``; infinity for a point that is left out, and for padding.
        group: Number of points in a group.
    """

    start: int
    rows: Tensor
    norms: Tensor
    bias: Tensor
    group: int

    @classmethod
    def of(
        cls,
        coordinates: Tensor,
        centre: Tensor,
        dtype: torch.dtype,
        *,
        start: int,
        group: int,
        skip: Tensor | None = None,
    ) -> PointBlock:
        """From float64 coordinates ``(n, d)``, leaving out where ``skip`` ``(n,)`` is true."""
        operand = Operand.of(coordinates, centre, dtype)
        bias = torch.linalg.vector_norm(operand.rows, dim=1, dtype=torch.float64).square()
        if skip is not None:
            bias.masked_fill_(skip, torch.inf)
        short = -len(bias) % group
        pad = torch.nn.functional.pad
        return cls(
            start,
            pad(operand.rows, (0, 0, 0, short)) if short else operand.rows,
            pad(operand.norms, (0, short)),
            pad(bias, (0, short), value=torch.inf).to(dtype),
            group,
        )

    def group_norms(self) -> Tensor:
        """Largest norm in each group ``(p / group,)``."""
        return self.norms.view(-1, self.group).amax(1)


@dataclass(frozen=True)
class Screen:
    """Scores of one block of queries against one block of points, and what they prove.

    Attributes:
        values: Scores ``(q, p)``, infinite where a pair is left out.
        query_norms: Norms ``(q,)``, rounded up.
        block: The points.
        bound: The error bound.
    """

    values: Tensor
    query_norms: Tensor
    block: PointBlock
    bound: ErrorBound

    def group_bounds(self) -> tuple[Tensor, Tensor]:
        """Lower and upper bound of the smallest ``D^2 - A^2`` in each group, ``(q, groups)``.

        Both are infinite where all of a group is left out.
        """
        least = self.values
        if self.block.group > 1:
            least = least.view(len(least), -1, self.block.group).amin(2)
        error = self.bound(self.query_norms[:, None], self.block.group_norms())
        return least - error, least + error

    def pairs_below(
        self, threshold: Tensor, lower: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pairs for which ``D^2 - A^2 <= threshold`` cannot be ruled out.

        Only groups whose lower bound passes are looked at.

        Args:
            threshold: ``(q,)``.
            lower: First result of :meth:`group_bounds`.

        Returns:
            Query in the block, index of the point, lower and upper bound, each ``(pairs,)``.
        """
        size = self.block.group
        query, group = ((lower <= threshold[:, None]) & (lower < torch.inf)).nonzero(as_tuple=True)
        values = self.values.view(len(self.values), -1, size)
        norms = self.block.norms.view(-1, size)
        found = []
        step = max(self.values.numel() // (4 * size), 1)
        for q, g in zip(query.split(step), group.split(step), strict=True):
            score = values[q, g]
            error = self.bound(self.query_norms[q][:, None], norms[g])
            low = score - error
            hit, column = ((low <= threshold[q][:, None]) & (score < torch.inf)).nonzero(
                as_tuple=True
            )
            found.append(
                (
                    q[hit],
                    self.block.start + g[hit] * size + column,
                    low[hit, column],
                    (score + error)[hit, column],
                )
            )
        if not found:
            empty = query.new_empty(0)
            return empty, empty, lower.new_empty(0), lower.new_empty(0)
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))  # type: ignore[return-value]


def scores(queries: Operand, block: PointBlock, bound: ErrorBound, buffer: Tensor) -> Screen:
    r"""The product: :math:`|b_j|^2 - 2 a_i \cdot b_j`, written into ``buffer``.

    Args:
        queries: The queries ``(q, d)``.
        block: The points.
        bound: The error bound for their dtype.
        buffer: At least ``q * p`` elements of that dtype, reused between calls.
    """
    a, b = queries.rows, block.rows
    out = buffer[: len(a) * len(b)].view(len(a), len(b))
    first = slice(0, PRODUCT_LENGTH)
    torch.addmm(block.bias, a[:, first], b[:, first].t(), alpha=-2.0, out=out)
    for start in range(PRODUCT_LENGTH, a.shape[1], PRODUCT_LENGTH):
        piece = slice(start, start + PRODUCT_LENGTH)
        out.sub_(torch.mm(a[:, piece], b[:, piece].t()), alpha=2.0)
    return Screen(out, queries.norms, block, bound)
