"""All squared distances between two sets, a strip of rows at a time.

Metrics that look at every pair, not only at nearest ones, read the ``n x m`` distances as strips
``(block, m)``. The strips come from one matrix product in float64 of centred coordinates; values
so small that cancellation would show are computed again from direct differences.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from memdiff.metrics.distances import Distances
from memdiff.neighbors import MEMORY_LIMIT, Rows

__all__ = ["Pairwise", "blocks", "moments", "rows_of"]

REFINE_BELOW = 1e-6  # of |x|^2 + |y|^2: a product's error of 1e-15 is then 1e-9 of the distance
UNCERTAIN = 1e-9  # of |x|^2 + |y|^2: comparisons closer than this are decided by differences


def rows_of(found: Distances, name: str) -> Rows:
    """The points of a set that ``found`` was built from."""
    return found.rows(name)


def blocks(rows: Rows, name: str, memory_limit: int = MEMORY_LIMIT) -> Iterator[Tensor]:
    """All rows in order, as float64 ``(block, d)`` of bounded size.

    Raises:
        ValueError: If a row is not finite.
    """
    size = max(1, memory_limit // (32 * rows.features))
    for start in range(0, len(rows), size):
        block = rows.read(start, min(start + size, len(rows))).to(torch.float64)
        finite = torch.isfinite(block).all(1)
        if not bool(finite.all()):
            raise ValueError(
                f"{name} must be finite, got NaN or infinity in row "
                f"{start + int((~finite).nonzero()[0])}: remove or repair it."
            )
        yield block


def moments(
    rows: Rows, name: str, *, covariance: bool = False, memory_limit: int = MEMORY_LIMIT
) -> tuple[Tensor, Tensor]:
    """Mean and variance (or covariance) of a set in float64, in two passes over it.

    Args:
        rows: The set, ``n`` rows of ``d`` numbers.
        name: What error messages call it.
        covariance: Whether to return the ``(d, d)`` covariance in place of the variances.
        memory_limit: Bytes allocated for a block of rows, at most.

    Returns:
        Mean ``(d,)`` and variance ``(d,)`` or covariance ``(d, d)``, divided by ``n - 1`` (by 1
        for a single row). A constant feature has a variance of exactly 0.
    """
    total: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None
    for block in blocks(rows, name, memory_limit):
        total = block.sum(0) if total is None else total + block.sum(0)
        low = block.amin(0) if low is None else torch.minimum(low, block.amin(0))
        high = block.amax(0) if high is None else torch.maximum(high, block.amax(0))
    assert total is not None and low is not None and high is not None  # Rows are never empty
    mean = torch.where(low == high, low, total / len(rows))  # exact where there is no spread
    shape = (rows.features,) * (2 if covariance else 1)
    second = torch.zeros(shape, dtype=torch.float64, device=mean.device)
    for block in blocks(rows, name, memory_limit):
        centred = block - mean
        second += centred.T @ centred if covariance else centred.square().sum(0)
    return mean, second / max(len(rows) - 1, 1)


class Pairwise:
    r"""Squared distances :math:`\sum_f w_f^2 (x_f - y_f)^2` between two sets.

    Args:
        rows: The ``n`` points ``x``.
        columns: The ``m`` points ``y``.
        centre: float64 ``(d,)``, near both sets; the products lose fewer digits the nearer.
        weights: float64 ``(d,)``, the :math:`w_f`, or None for 1.
        memory_limit: Bytes allocated for a strip and its products, at most (a few rows at least);
            a consumer may hold as much again.
    """

    def __init__(
        self,
        rows: Rows,
        columns: Rows,
        *,
        centre: Tensor,
        weights: Tensor | None = None,
        memory_limit: int = MEMORY_LIMIT,
    ) -> None:
        self.rows = rows
        self.columns = columns
        self.centre = centre
        self.weights = weights
        self.memory_limit = memory_limit
        cells = memory_limit // 64
        self.block = int(max(1, min(len(rows), cells // len(columns), cells // rows.features)))
        self._column_block = int(max(1, min(len(columns), cells // rows.features)))

    @property
    def shape(self) -> tuple[int, int]:
        """``(n, m)``."""
        return len(self.rows), len(self.columns)

    def strips(self) -> Iterator[tuple[int, int, Tensor]]:
        """All strips in order: first row, last row plus one, float64 ``(block, m)``."""
        for start in range(0, len(self.rows), self.block):
            stop = min(start + self.block, len(self.rows))
            yield start, stop, self.strip(start, stop)

    def strip(self, start: int, stop: int) -> Tensor:
        """Squared distances of rows ``start`` to ``stop``, float64 ``(stop - start, m)``."""
        x = self._coordinates(self.rows.read(start, stop))
        out = torch.empty(len(x), len(self.columns), dtype=torch.float64, device=x.device)
        for begin in range(0, len(self.columns), self._column_block):
            end = min(begin + self._column_block, len(self.columns))
            y = self._coordinates(self.columns.read(begin, end))
            norms = x.square().sum(1)[:, None] + y.square().sum(1)
            piece = torch.addmm(norms, x, y.T, alpha=-2.0)
            i, j = (piece < REFINE_BELOW * norms).nonzero(as_tuple=True)
            piece[i, j] = self.direct(start + i, begin + j)
            out[:, begin:end] = piece
        return out

    def norms(self, start: int, stop: int) -> Tensor:
        """:math:`|x|^2 + |y|^2` about the centre: what the error of a strip is relative to."""
        x = self._coordinates(self.rows.read(start, stop)).square().sum(1)
        y = torch.cat(
            [
                self._coordinates(
                    self.columns.read(begin, min(begin + self._column_block, len(self.columns)))
                )
                .square()
                .sum(1)
                for begin in range(0, len(self.columns), self._column_block)
            ]
        )
        return x[:, None] + y

    def direct(self, i: Tensor, j: Tensor) -> Tensor:
        """Squared distances of the pairs ``(i, j)`` from direct differences, float64."""
        out = torch.empty(len(i), dtype=torch.float64, device=self.rows.device)
        step = max(1, self.memory_limit // (64 * self.rows.features))
        for start in range(0, len(i), step):
            part = slice(start, start + step)
            x = self.rows.gather(i[part]).to(torch.float64)
            difference = x - self.columns.gather(j[part]).to(torch.float64)
            if self.weights is not None:
                difference *= self.weights
            out[part] = difference.square().sum(1)
        return out

    def within(self, start: int, strip: Tensor, radii: Tensor) -> Tensor:
        """Whether each distance of a strip is at most a radius; ties are decided exactly.

        Args:
            start: First row of the strip.
            strip: From :meth:`strip`.
            radii: Radii that broadcast with the strip, ``(block, 1)`` or ``(m,)``.

        Returns:
            bool of the strip's shape.
        """
        bounds = radii.square().expand_as(strip)
        inside = strip <= bounds
        error = UNCERTAIN * self.norms(start, start + len(strip))
        i, j = ((strip - bounds).abs() <= error).nonzero(as_tuple=True)
        inside[i, j] = self.direct(start + i, j).sqrt() <= radii.expand_as(strip)[i, j]
        return inside

    def _coordinates(self, raw: Tensor) -> Tensor:
        moved = raw.to(torch.float64) - self.centre
        return moved if self.weights is None else moved * self.weights
