"""The training points behind the kernel: every route reads them through one contract."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from memdiff.kernel.identical import identical_rows
from memdiff.kernel.integers import IntegerRows, integers_pay
from memdiff.sources import Rows

__all__ = ["DiskPoints", "MemoryPoints", "Points", "blocks", "power_of_two"]


# Set-up takes 42 ms in blocks of this size and 200 ms in those of a memory limit of 64 MiB
# (20,000 x 784, one thread).
_CACHED_BYTES = 2**21


class Points(Protocol):
    """What the routes ask of ``N`` training points with ``d`` coordinates.

    Attributes:
        num: N.
        dim: d.
        dtype: Dtype of the points, float32 or float64: that of the single-precision routes.
        device: Device of what the methods return.
        centre: The mean, float64 with shape ``(d,)``.
        half_norm: Half the squared distances from it, float64 with shape ``(N,)``.
        radius: Largest distance from it.
        unit: A power of two that brings differences of points to norm at most one, so that no
            square leaves float32, whatever the unit of the data.
    """

    num: int
    dim: int
    dtype: torch.dtype
    device: torch.device
    centre: Tensor
    half_norm: Tensor
    radius: float
    unit: float

    def centred(self, block: slice, dtype: torch.dtype) -> Tensor:
        """``unit`` times points of a block minus the centre, rounded once, ``(K, d)``."""

    def exact(self, block: slice) -> Tensor:
        """Points of a block, float64 with shape ``(K, d)``."""

    def gather(self, index: Tensor) -> Tensor:
        """Points at ``index`` of any shape ``I``, float64 with shape ``(*I, d)``."""

    def integers(self) -> IntegerRows | None:
        """What :meth:`centred` gives of all, as 8-bit integers; None where screens do without."""

    def duplicates(self) -> Tensor:
        """First of the points that are identical to each point, int64 ``(N,)``."""


class MemoryPoints:
    """Points that lie in memory, with a centred copy beside them.

    Where products of 8-bit integers are fast on this machine, another copy in these is made when
    it is first asked for: ``d + 20`` bytes for each point.

    Args:
        points: Tensor with shape ``(N, d)``, float32 or float64.
        memory_limit: Bound in bytes of temporary memory.
    """

    def __init__(self, points: Tensor, memory_limit: int = 2**26) -> None:
        self.tensor = points
        self.num, self.dim = points.shape
        self.dtype, self.device = points.dtype, points.device
        # Blocks that stay in the cache: set-up is several times faster than in one piece.
        some = blocks(self.num, max(1, min(memory_limit, _CACHED_BYTES) // (16 * self.dim)))
        total = torch.zeros(self.dim, dtype=torch.float64, device=self.device)
        for block in some:
            total += points[block].sum(0, dtype=torch.float64)
        self.centre = total / self.num
        low, high = torch.aminmax(points)
        self.unit = power_of_two(max(-float(low), float(high)), self.dim)
        self._centred = torch.empty_like(points)
        self.half_norm = points.new_empty(self.num, dtype=torch.float64)
        for block in some:
            difference = points[block].to(torch.float64) - self.centre
            self.half_norm[block] = 0.5 * torch.linalg.vecdot(difference, difference)
            self._centred[block] = difference.mul_(self.unit)
        self.radius = float((2.0 * self.half_norm.max()).sqrt())
        self._integers: IntegerRows | None = None

    def centred(self, block: slice, dtype: torch.dtype) -> Tensor:
        """``unit`` times points of a block minus the centre, rounded once, ``(K, d)``."""
        if dtype == self.dtype:
            return self._centred[block]
        return (self.exact(block) - self.centre).mul_(self.unit).to(dtype)

    def exact(self, block: slice) -> Tensor:
        """Points of a block, float64 with shape ``(K, d)``."""
        return self.tensor[block].to(torch.float64)

    def gather(self, index: Tensor) -> Tensor:
        """Points at ``index`` of any shape ``I``, float64 with shape ``(*I, d)``."""
        return self.tensor[index].to(torch.float64)

    def integers(self) -> IntegerRows | None:
        """What :meth:`centred` gives of all, as 8-bit integers; None where screens do without."""
        if self._integers is None:
            if self.radius == 0.0 or not integers_pay(self.dim, self.device):
                return None
            self._integers = IntegerRows.of(self._centred)
        return self._integers

    def duplicates(self) -> Tensor:
        """First of the points that are identical to each point, int64 ``(N,)``."""
        return identical_rows(Rows(self.tensor))


class DiskPoints:
    """Points ``(N, d)`` that stay on disk, and are read, centred and converted in blocks.

    Kept in memory are the norms of the centred points, 8 bytes for each point, and the few spans
    that :class:`~memdiff.sources.Rows` holds. Two passes are made when it is built, one of which
    finds the mean, and is shared with whoever asked the rows for their moments before.

    Args:
        rows: The points, float32 or float64.

    Raises:
        ValueError: If a value is not finite.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.num, self.dim = len(rows), rows.features
        self.dtype, self.device = rows.dtype, rows.device
        self._buffers: dict[torch.dtype, Tensor] = {}
        moments = rows.moments()
        self.centre = moments.mean
        largest = max(float(moments.largest.abs().max()), float(moments.smallest.abs().max()))
        self.unit = power_of_two(largest, self.dim)
        self.half_norm = torch.empty(self.num, dtype=torch.float64, device=self.device)
        for block in blocks(self.num, rows.block_size()):
            centred = self.exact(block).sub_(self.centre)
            self.half_norm[block] = 0.5 * torch.linalg.vecdot(centred, centred)
        self.radius = float((2.0 * self.half_norm.max()).sqrt())

    def centred(self, block: slice, dtype: torch.dtype) -> Tensor:
        """``unit`` times points of a block minus the centre, written over by the next call."""
        centred = self.exact(block).sub_(self.centre).mul_(self.unit)
        if dtype == torch.float64:
            return centred
        return self._buffer(len(centred), dtype).copy_(centred)

    def exact(self, block: slice) -> Tensor:
        """Points of a block, float64 ``(K, d)``; written over by the next call."""
        out = self._buffer(block.stop - block.start, torch.float64)
        self._rows.read_into(block.start, out)
        return out

    def gather(self, index: Tensor) -> Tensor:
        """Points at ``index`` of any shape ``I``, float64 with shape ``(*I, d)``."""
        found = self._rows.gather(index.reshape(-1)).to(torch.float64)
        return found.reshape(*index.shape, self.dim)

    def _buffer(self, size: int, dtype: torch.dtype) -> Tensor:
        """Memory for a block, used again: its pieces would add up over a pass."""
        held = self._buffers.get(dtype)
        if held is None or len(held) < size:
            held = torch.empty(size, self.dim, dtype=dtype, device=self.device)
            self._buffers[dtype] = held
        return held[:size]

    def integers(self) -> IntegerRows | None:
        """None: what is read anew each time is not worth rounding."""
        return None

    def duplicates(self) -> Tensor:
        """First of the points that are identical to each point, int64 ``(N,)``."""
        return identical_rows(self._rows)


def blocks(num: int, size: int) -> list[slice]:
    """Slices of at most ``size`` that cover ``num`` points in order."""
    return [slice(i, min(i + size, num)) for i in range(0, num, size)]


def power_of_two(largest: float, features: int) -> float:
    """A power of two that brings differences of rows to norm at most one; exact to multiply by.

    Args:
        largest: Largest magnitude of an element of either row.
        features: Number of elements of a row.
    """
    if largest == 0.0:
        return 1.0
    exponent = math.frexp(largest)[1] + math.ceil(0.5 * math.log2(features)) + 1
    return math.ldexp(1.0, -max(min(exponent, 1000), -1000))
