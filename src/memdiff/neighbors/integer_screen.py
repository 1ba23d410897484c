r"""The screen before the screen: squared distances of rows rounded to 8-bit integers.

With the distance :math:`\tilde D` of the rounded rows, which is exact but for the rounding
:math:`\eta` of its square to float32, and the norms ``e`` of what rounding took off both rows,

.. math::
    \big(\sqrt{\tilde D^2 - \eta} - e\big)_+^2 \le D^2
    \le \big(\sqrt{\tilde D^2 + \eta} + e\big)^2 .

It costs a quarter of a screen in float32 and rules out nearly as much, unless distances are small
against the entries of the rows. Queries that it leaves too many candidates go on to that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memdiff.kernel.integers import IntegerRows, ProductBuffer
from memdiff.neighbors.screen import Operand, PointBlock

__all__ = ["IntegerProduct"]

# Rounding of a few sums of numbers up to (A + B)^2, and of what is made of them.
_ROUNDING = 32.0 * 2.0**-24
# Squares below this one are as good as equal: float32 loses their digits.
_TINY = 1e-33
# Pairs whose differences are taken together.
_PAIRS = 1024
_NORM, _ERROR, _SQUARE = range(3)


class IntegerProduct:
    r"""Scores :math:`|b_j|^2 - 2 a_i \cdot b_j` of rows rounded to 8 bits.

    Its intervals are of :math:`D^2` itself: no constant is left out.
    """

    def __init__(self) -> None:
        self._buffer = ProductBuffer()

    def operand(self, coordinates: Tensor, centre: Tensor) -> Operand:
        """From float64 coordinates ``(n, d)`` and the centre ``(d,)``."""
        fine = (coordinates - centre).to(torch.float32)
        rows = IntegerRows.of(fine)
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

    def sharpened(
        self,
        queries: Operand,
        rows: Tensor,
        points: Operand,
        columns: Tensor,
        lower: Tensor,
        upper: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Bounds by direct differences in float32."""
        assert queries.fine is not None and points.fine is not None
        distance = torch.empty_like(lower)
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
        return torch.maximum(lower, low), torch.minimum(upper, high)


def _outward(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Squares of the ends of intervals of distances, rounded outward."""
    below = lower.clamp_min(0.0).square() * (1.0 - 1e-6) - _TINY
    return below.clamp_min(0.0), upper.square() * (1.0 + 1e-6) + _TINY
