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
from typing import Protocol

import torch
from torch import Tensor

from memdiff.kernel.integers import IntegerRows

__all__ = [
    "PRODUCT_LENGTH",
    "ErrorBound",
    "FloatProduct",
    "Operand",
    "PointBlock",
    "Product",
    "Screen",
]

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
    """One side of the product.

    Attributes:
        rows: Centred rows ``(n, d)``.
        info: What the error depends on, rounded up, ``(n, w)``; of rounded rows the norm.
        square: Their squared norms ``(n,)``, float64.
        fine: The rows in float32 where the product is of something rougher.
    """

    rows: Tensor | IntegerRows
    info: Tensor
    square: Tensor
    fine: Tensor | None = None

    def __len__(self) -> int:
        return len(self.info)

    def __getitem__(self, some: slice) -> Operand:
        fine = None if self.fine is None else self.fine[some]
        return Operand(self.rows[some], self.info[some], self.square[some], fine)

    @classmethod
    def joined(cls, parts: list[Operand]) -> Operand:
        """One after the other."""
        whole = [part.rows for part in parts if isinstance(part.rows, IntegerRows)]
        real = [part.rows for part in parts if isinstance(part.rows, Tensor)]
        fine = [part.fine for part in parts if part.fine is not None]
        return cls(
            IntegerRows.joined(whole) if whole else torch.cat(real),
            torch.cat([part.info for part in parts]),
            torch.cat([part.square for part in parts]),
            torch.cat(fine) if fine else None,
        )


class Product(Protocol):
    """A way to scores: how rows are rounded, multiplied, and what that proves."""

    def operand(self, coordinates: Tensor, centre: Tensor) -> Operand:
        """From float64 coordinates ``(n, d)`` and the centre ``(d,)``."""

    def scores(self, queries: Operand, block: PointBlock) -> Tensor:
        """Scores ``(q, p)``, written over by the next call."""

    def interval(self, scores: Tensor, queries: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Least and largest :math:`D^2` less a constant of the query.

        Args:
            scores: Of any shape.
            queries: The info of their queries, whose shape but for the last axis broadcasts.
            points: The info of their points.
        """

    def sharpened(
        self,
        queries: Operand,
        rows: Tensor,
        points: Operand,
        columns: Tensor,
        lower: Tensor,
        upper: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Better bounds of pairs of a row and a column, ``(pairs,)``, where it has any."""


@dataclass(frozen=True)
class PointBlock:
    """A block of points made ready for the product, in groups of ``group`` columns.

    Attributes:
        start: Index of its first point.
        operand: The points, filled up with the centre to a multiple of ``group``.
        bias: Squared norms ``(p,)``; infinity for a point that is left out, and for padding.
        group: Number of points in a group.
    """

    start: int
    operand: Operand
    bias: Tensor
    group: int

    @classmethod
    def of(
        cls,
        coordinates: Tensor,
        centre: Tensor,
        product: Product,
        *,
        start: int,
        group: int,
        skip: Tensor | None = None,
    ) -> PointBlock:
        """From float64 coordinates ``(n, d)``, leaving out where ``skip`` ``(n,)`` is true."""
        num = len(coordinates)
        short = -num % group
        if short:
            coordinates = torch.cat([coordinates, centre.expand(short, -1)])
        operand = product.operand(coordinates, centre)
        bias = operand.square.clone()
        bias[num:] = torch.inf
        if skip is not None:
            bias[:num].masked_fill_(skip, torch.inf)
        return cls(start, operand, bias.to(operand.info.dtype), group)

    def group_info(self) -> Tensor:
        """Largest info in each group ``(p / group, w)``."""
        info = self.operand.info
        return info.view(-1, self.group, info.shape[1]).amax(1)


@dataclass(frozen=True)
class Screen:
    """Scores of one block of queries against one block of points, and what they prove.

    Attributes:
        values: Scores ``(q, p)``, infinite where a pair is left out.
        queries: The queries.
        block: The points.
        product: Whose scores they are.
    """

    values: Tensor
    queries: Operand
    block: PointBlock
    product: Product

    @classmethod
    def of(cls, queries: Operand, block: PointBlock, product: Product) -> Screen:
        """The scores of queries and points."""
        return cls(product.scores(queries, block), queries, block, product)

    def group_bounds(self) -> tuple[Tensor, Tensor]:
        """Lower and upper bound of the smallest ``D^2`` in each group, ``(q, groups)``.

        Less a constant of the query; both are infinite where all of a group is left out.
        """
        least = self.values
        if self.block.group > 1:
            least = least.view(len(least), -1, self.block.group).amin(2)
        return self.product.interval(least, self.queries.info[:, None], self.block.group_info())

    def pairs_below(
        self, threshold: Tensor, lower: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pairs for which ``D^2 <= threshold``, less that constant, cannot be ruled out.

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
        info = self.block.operand.info
        info = info.view(-1, size, info.shape[1])
        found = []
        step = max(self.values.numel() // (4 * size), 1)
        for q, g in zip(query.split(step), group.split(step), strict=True):
            score = values[q, g]
            low, high = self.product.interval(score, self.queries.info[q][:, None], info[g])
            hit, column = ((low <= threshold[q][:, None]) & (score < torch.inf)).nonzero(
                as_tuple=True
            )
            row, place = q[hit], g[hit] * size + column
            low, high = self.product.sharpened(
                self.queries, row, self.block.operand, place, low[hit, column], high[hit, column]
            )
            found.append((row, self.block.start + place, low, high))
        if not found:
            empty = query.new_empty(0)
            return empty, empty, lower.new_empty(0), lower.new_empty(0)
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))  # type: ignore[return-value]


class FloatProduct:
    r"""Scores :math:`|b_j|^2 - 2 a_i \cdot b_j` in float32 or float64.

    The constant of a query in its intervals is :math:`|a_i|^2`.

    Args:
        features: Number of features ``d``.
        dtype: float32 or float64.
        device: Where the product runs.
    """

    def __init__(self, features: int, dtype: torch.dtype, device: torch.device) -> None:
        self.bound = ErrorBound(features, dtype, device)
        self.dtype = dtype
        self._buffer = torch.empty(0, dtype=dtype, device=device)

    def operand(self, coordinates: Tensor, centre: Tensor) -> Operand:
        """From float64 coordinates ``(n, d)`` and the centre ``(d,)``."""
        rows = (coordinates - centre).to(self.dtype)
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
        return Operand(rows, (norms * (1.0 + 1e-6)).to(self.dtype)[:, None], norms.square())

    def scores(self, queries: Operand, block: PointBlock) -> Tensor:
        """Scores ``(q, p)``, written over by the next call."""
        a, b = queries.rows, block.operand.rows
        assert isinstance(a, Tensor) and isinstance(b, Tensor)
        size = len(a) * len(b)
        if len(self._buffer) < size:
            self._buffer = self._buffer.new_empty(size)
        out = self._buffer[:size].view(len(a), len(b))
        first = slice(0, PRODUCT_LENGTH)
        torch.addmm(block.bias, a[:, first], b[:, first].t(), alpha=-2.0, out=out)
        for start in range(PRODUCT_LENGTH, a.shape[1], PRODUCT_LENGTH):
            piece = slice(start, start + PRODUCT_LENGTH)
            out.sub_(torch.mm(a[:, piece], b[:, piece].t()), alpha=2.0)
        return out

    def interval(self, scores: Tensor, queries: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Least and largest ``D^2 - |a|^2``."""
        error = self.bound(queries[..., 0], points[..., 0])
        return scores - error, scores + error

    def sharpened(
        self,
        queries: Operand,
        rows: Tensor,
        points: Operand,
        columns: Tensor,
        lower: Tensor,
        upper: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The bounds as they are."""
        return lower, upper
