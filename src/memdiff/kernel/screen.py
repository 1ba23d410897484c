r"""The screen: which points can be near, from one matrix product and a bound of its error.

Memorisation is decided by the smallest distances, which the expansion
:math:`|x|^2 - 2 x \cdot y + |y|^2` in float32 loses. Here that product is never a result: it
says which pairs cannot matter, and direct differences in float64 decide among the others.

:class:`FloatProduct` gives scores with the certain bound
:class:`~memdiff.kernel.rounding.SquareBound`. :class:`IntegerProduct` rounds rows to 8-bit
integers, whose products are exact and cost a quarter. With the distance :math:`\tilde D` of the
rounded rows, the rounding :math:`\eta` of its square to float32, and the norms ``e`` of what
rounding took off both rows,

.. math::
    \big(\sqrt{\tilde D^2 - \eta} - e\big)_+^2 \le D^2
    \le \big(\sqrt{\tilde D^2 + \eta} + e\big)^2 .

Only the extremes over groups of columns are looked at in full. All bounds here are certain.
Longer than other files, as both products answer to one screen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from memdiff.kernel.integers import IntegerRows, ProductBuffer
from memdiff.kernel.points import Points
from memdiff.kernel.products import gemm_path
from memdiff.kernel.rounding import PRODUCT_LENGTH, SquareBound

__all__ = [
    "GROUP",
    "FloatProduct",
    "IntegerProduct",
    "Operand",
    "PointBlock",
    "Product",
    "Screen",
]

GROUP = 64
"""Columns whose extreme is looked at first."""

# Rounding of a few sums of numbers up to (A + B)^2, and of what is made of them.
_ROUNDING = 32.0 * 2.0**-24
# Squares below this one are as good as equal: float32 loses their digits.
_TINY = 1e-33
# Pairs whose float32 differences are taken together.
_PAIRS = 1024
_NORM, _ERROR, _SQUARE = range(3)


@dataclass(frozen=True)
class Operand:
    """One side of the product.

    Attributes:
        rows: Centred rows ``(n, d)``.
        info: What the error depends on, rounded up, ``(n, w)``; first the norm.
        square: Their squared norms ``(n,)``, float64.
        fine: The rows in float32 where the product is of something rougher, and they are wanted.
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
    """A way to scores: how rows are rounded, multiplied, and what that proves.

    Attributes:
        dtype: Rows that were rounded to this dtype are as good as exact ones.
    """

    dtype: torch.dtype

    def operand(self, centred: Tensor) -> Operand:
        """From centred rows ``(n, d)``, float64 or already rounded, of norm at most about one."""

    def points(self, points: Points, block: slice) -> Operand:
        """The operand of a block of training points."""

    def scores(self, queries: Operand, block: PointBlock) -> Tensor:
        """Scores ``(q, p)``, written over by the next call."""

    def interval(self, scores: Tensor, queries: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Least and largest :math:`D^2` less a constant of the query.

        Args:
            scores: Of any shape.
            queries: The info of their queries, whose shape but for the last axis broadcasts.
            points: The info of their points.
        """

    def bar(self, threshold: Tensor, queries: Tensor, points: Tensor) -> Tensor:
        """Scores beyond which ``D^2``, less that constant, is above a threshold, ``(q,)``.

        Args:
            threshold: ``(q,)``.
            queries: The info of the queries, ``(q, w)``.
            points: The largest info of the points, ``(w,)``.
        """

    def sharpened(
        self, queries: Operand, rows: Tensor, points: Operand, columns: Tensor, bounds: _Bounds
    ) -> _Bounds:
        """Better bounds of pairs of a row and a column, ``(pairs,)``, where it has any."""


_Bounds = tuple[Tensor, Tensor]


class FloatProduct:
    r"""Scores :math:`|b_j|^2 - 2 a_i \cdot b_j` in float32 or float64.

    The constant of a query in its intervals is :math:`|a_i|^2`.

    Args:
        features: Number of features ``d``.
        dtype: float32 or float64.
        device: Where the product runs.
    """

    def __init__(self, features: int, dtype: torch.dtype, device: torch.device) -> None:
        self.bound = SquareBound(features, dtype, device)
        self.dtype = dtype
        self._path = gemm_path(min(features, PRODUCT_LENGTH), dtype, device)
        self._buffer = torch.empty(0, dtype=dtype, device=device)

    def operand(self, centred: Tensor) -> Operand:
        """From centred rows ``(n, d)``."""
        rows = centred.to(self.dtype)
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
        return self._operand(rows, norms)

    def points(self, points: Points, block: slice) -> Operand:
        """The operand of a block of training points."""
        norms = (2.0 * points.half_norm[block]).sqrt() * points.unit
        return self._operand(points.centred(block, self.dtype), norms)

    def _operand(self, rows: Tensor, norms: Tensor) -> Operand:
        return Operand(rows, (norms * (1.0 + 1e-6)).to(self.dtype)[:, None], norms.square())

    def scores(self, queries: Operand, block: PointBlock) -> Tensor:
        """Scores ``(q, p)``, written over by the next call."""
        a, b = queries.rows, block.operand.rows
        assert isinstance(a, Tensor) and isinstance(b, Tensor)
        if self._path.name != "torch" and a.shape[1] <= PRODUCT_LENGTH:
            return self._path.logits(-2.0 * a, b, block.bias)
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
        error = self.bound(queries[..., _NORM], points[..., _NORM])
        return scores - error, scores + error

    def bar(self, threshold: Tensor, queries: Tensor, points: Tensor) -> Tensor:
        """Scores beyond which ``D^2 - |a|^2`` is above a threshold, ``(q,)``."""
        rounding = torch.finfo(threshold.dtype).eps * threshold.abs()
        bar = threshold + 1.01 * self.bound(queries[:, _NORM], points[_NORM]) + rounding
        return torch.where(threshold.isinf(), threshold, bar)

    def sharpened(
        self, queries: Operand, rows: Tensor, points: Operand, columns: Tensor, bounds: _Bounds
    ) -> _Bounds:
        """The bounds as they are."""
        return bounds


class IntegerProduct:
    r"""Scores :math:`|b_j|^2 - 2 a_i \cdot b_j` of rows rounded to 8 bits.

    Its intervals are of :math:`D^2` itself: no constant is left out. They hold as well for scores
    to which a non-negative number was added, then of :math:`D^2` and that number.
    """

    dtype = torch.float32

    def __init__(self) -> None:
        self._buffer = ProductBuffer()

    def operand(self, centred: Tensor) -> Operand:
        """From centred rows ``(n, d)``."""
        fine = centred.to(torch.float32)
        return self._operand(IntegerRows.of(fine), fine)

    def points(self, points: Points, block: slice) -> Operand:
        """The operand of a block of training points, which have integers."""
        rows = points.integers()
        assert rows is not None
        return self._operand(rows[block], None)

    def _operand(self, rows: IntegerRows, fine: Tensor | None) -> Operand:
        square = 2.0 * rows.half_norm
        info = torch.stack([square.sqrt(), rows.error, square], 1)
        return Operand(rows, (info * (1.0 + 1e-6)).to(torch.float32), square, fine)

    def scores(self, queries: Operand, block: PointBlock) -> Tensor:
        """Scores ``(q, p)``, written over by the next call."""
        a, b = queries.rows, block.operand.rows
        assert isinstance(a, IntegerRows) and isinstance(b, IntegerRows)
        values = a.products(b, self._buffer)
        return torch.addcmul(block.bias, values, -2.0 * a.step[:, None], out=values)

    def interval(self, scores: Tensor, queries: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Least and largest ``D^2``."""
        rounding = _ROUNDING * (queries[..., _NORM] + points[..., _NORM]).square()
        error = queries[..., _ERROR] + points[..., _ERROR]
        square = scores + queries[..., _SQUARE]
        lower = (square - rounding).clamp_min(0.0).sqrt() - error
        upper = (square + rounding).clamp_min(0.0).sqrt() + error
        return _outward(lower, upper)

    def bar(self, threshold: Tensor, queries: Tensor, points: Tensor) -> Tensor:
        """Scores beyond which ``D^2`` is above a threshold, ``(q,)``."""
        norms = queries[:, _NORM] + points[_NORM]
        error = queries[:, _ERROR] + points[_ERROR]
        root = (1.0 + 1e-6) * (threshold.clamp_min(0.0) + _TINY).sqrt() + error
        bar = (1.0 + 4e-6) * root.square() + 1.5 * _ROUNDING * norms.square()
        return torch.where(threshold.isinf(), threshold, bar - queries[:, _SQUARE])

    def sharpened(
        self, queries: Operand, rows: Tensor, points: Operand, columns: Tensor, bounds: _Bounds
    ) -> _Bounds:
        """Bounds by direct differences in float32, where both sides have their rows."""
        if queries.fine is None or points.fine is None:
            return bounds
        distance = torch.empty_like(bounds[0])
        for part in torch.arange(len(rows), device=rows.device).split(_PAIRS):
            difference = queries.fine.index_select(0, rows[part])
            difference -= points.fine.index_select(0, columns[part])
            distance[part] = torch.linalg.vecdot(difference, difference).sqrt()
        # Each row was rounded once, and so were the differences, their squares and the sum.
        relative = (queries.fine.shape[1] + 8) * 2.0**-24
        norms = queries.info[rows, _NORM] + points.info[columns, _NORM]
        errors = queries.info[rows, _ERROR] + points.info[columns, _ERROR]
        rounding = relative * distance + 2.0**-23 * (norms + errors)
        low, high = _outward(distance - rounding, distance + rounding)
        return torch.maximum(bounds[0], low), torch.minimum(bounds[1], high)


def _outward(lower: Tensor, upper: Tensor) -> _Bounds:
    """Squares of the ends of intervals of distances, rounded outward."""
    below = lower.clamp_min(0.0).square() * (1.0 - 1e-6) - _TINY
    return below.clamp_min(0.0), upper.square() * (1.0 + 1e-6) + _TINY


@dataclass(frozen=True)
class PointBlock:
    """A block of points made ready for the product, in groups of ``group`` columns.

    Attributes:
        start: Index of its first point.
        operand: The points.
        bias: Squared norms ``(p,)``; infinity for a point that is left out, and for padding.
        group: Number of points in a group.
    """

    start: int
    operand: Operand
    bias: Tensor
    group: int

    @classmethod
    def of(
        cls, centred: Tensor, product: Product, *, start: int, group: int, skip: Tensor | None
    ) -> PointBlock:
        """From centred rows ``(n, d)``, leaving out where ``skip`` ``(n,)`` is true.

        They are filled up with the centre to a multiple of ``group``.
        """
        num = len(centred)
        short = -num % group
        if short:
            centred = torch.cat([centred, centred.new_zeros(short, centred.shape[1])])
        operand = product.operand(centred)
        bias = operand.square.clone()
        bias[num:] = torch.inf
        if skip is not None:
            bias[:num].masked_fill_(skip, torch.inf)
        return cls(start, operand, bias.to(operand.info.dtype), group)

    @classmethod
    def of_points(cls, points: Points, product: Product, block: slice) -> PointBlock:
        """A block of training points, in groups that need no filling up."""
        operand = product.points(points, block)
        group = math.gcd(GROUP, len(operand))
        return cls(block.start, operand, operand.square.to(operand.info.dtype), group)

    @cached_property
    def group_info(self) -> Tensor:
        """Largest info in each group ``(p / group, w)``."""
        info = self.operand.info
        return info.view(-1, self.group, info.shape[1]).amax(1)

    @cached_property
    def top_info(self) -> Tensor:
        """Largest info of all, ``(w,)``."""
        return self.operand.info.amax(0)


@dataclass(frozen=True)
class Screen:
    """Scores of one block of queries against one block of points, and what they prove.

    Attributes:
        values: Scores ``(q, p)``, infinite where a pair is left out.
        queries: The queries.
        block: The points.
        product: Whose scores they are.
        slack: Bound of the rounding of terms that were added to the scores, ``(q,)``, or None.
    """

    values: Tensor
    queries: Operand
    block: PointBlock
    product: Product
    slack: Tensor | None = None

    @classmethod
    def of(cls, queries: Operand, block: PointBlock, product: Product) -> Screen:
        """The scores of queries and points."""
        return cls(product.scores(queries, block), queries, block, product)

    @cached_property
    def least(self) -> Tensor:
        """Smallest score in each group, ``(q, groups)``; infinite where all is left out."""
        if self.block.group == 1:
            return self.values
        return self.values.view(len(self.values), -1, self.block.group).amin(2)

    def group_bounds(self) -> _Bounds:
        """Lower and upper bound of the smallest ``D^2`` in each group, ``(q, groups)``.

        Less a constant of the query; both are infinite where all of a group is left out.
        """
        slack = None if self.slack is None else self.slack[:, None]
        return self._interval(self.least, self.queries.info[:, None], self.block.group_info, slack)

    def largest_of_nearest(self) -> Tensor:
        """Upper bound of the smallest ``D^2`` of all, less that constant, ``(q,)``."""
        info = (self.queries.info, self.block.top_info)
        return self._interval(self.least.amin(1), *info, self.slack)[1]

    def groups_below(self, threshold: Tensor) -> Tensor:
        """Groups in which ``D^2 <= threshold`` cannot be ruled out, bool ``(q, groups)``."""
        return (self.least <= self._bar(threshold)[:, None]) & (self.least < torch.inf)

    def _bar(self, threshold: Tensor) -> Tensor:
        bar = self.product.bar(threshold, self.queries.info, self.block.top_info)
        return bar if self.slack is None else bar + self.slack

    def _interval(
        self, scores: Tensor, queries: Tensor, points: Tensor, slack: Tensor | None
    ) -> _Bounds:
        if slack is None:
            return self.product.interval(scores, queries, points)
        lower = self.product.interval(scores - slack, queries, points)[0]
        return lower, self.product.interval(scores + slack, queries, points)[1]

    def pairs_below(
        self, threshold: Tensor, groups: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pairs for which ``D^2 <= threshold``, less that constant, cannot be ruled out.

        Args:
            threshold: ``(q,)``.
            groups: Groups to look at, as of :meth:`groups_below`.

        Returns:
            Query in the block, index of the point, lower and upper bound, each ``(pairs,)``.
        """
        size = self.block.group
        query, group = groups.nonzero(as_tuple=True)
        values = self.values.view(len(self.values), -1, size)
        info, bar = self.block.operand.info, self._bar(threshold)
        found = []
        step = max(self.values.numel() // (4 * size), 1)
        for q, g in zip(query.split(step), group.split(step), strict=True):
            score = values[q, g]
            hit, column = ((score <= bar[q][:, None]) & (score < torch.inf)).nonzero(as_tuple=True)
            row, place, score = q[hit], g[hit] * size + column, score[hit, column]
            slack = None if self.slack is None else self.slack[row]
            bounds = self._interval(score, self.queries.info[row], info[place], slack)
            near = bounds[0] <= threshold[row]
            row, place, bounds = row[near], place[near], (bounds[0][near], bounds[1][near])
            bounds = self.product.sharpened(self.queries, row, self.block.operand, place, bounds)
            found.append((row, self.block.start + place, *bounds))
        if not found:
            empty, none = query.new_empty(0), threshold.new_empty(0)
            return empty, empty, none, none
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))  # type: ignore[return-value]
