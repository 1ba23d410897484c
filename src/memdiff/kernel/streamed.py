"""Training points that stay on disk, as the engine reads them."""

from __future__ import annotations

import torch
from torch import Tensor

from memdiff.kernel.integers import IntegerRows
from memdiff.neighbors import duplicate_groups
from memdiff.sources import Rows

__all__ = ["StreamedPoints"]


class StreamedPoints:
    """Points ``(N, d)`` that are read, centred and converted in blocks.

    Kept in memory are the norms of the centred points, 8 bytes a point, and the few spans that
    :class:`~memdiff.sources.Rows` holds. Two passes are made when it is built, one of which finds
    the mean, and is shared with whoever asked the rows for their moments before.

    Args:
        rows: The points, float32 or float64.

    Attributes:
        num: N.
        dim: d.
        dtype: Dtype of the points.
        device: Device on which blocks arrive.
        centre: The mean, float64 with shape ``(d,)``.
        half_norm: Half the squared distances from the centre, float64 with shape ``(N,)``.
        radius: Largest distance from the centre.

    Raises:
        ValueError: If a value is not finite.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.num, self.dim = len(rows), rows.features
        self.dtype, self.device = rows.dtype, rows.device
        self._buffers: dict[torch.dtype, Tensor] = {}
        self.centre = rows.moments().mean
        self.half_norm = torch.empty(self.num, dtype=torch.float64, device=self.device)
        size = rows.block_size()
        for start in range(0, self.num, size):
            block = slice(start, min(start + size, self.num))
            centred = self.exact(block).sub_(self.centre)
            self.half_norm[block] = 0.5 * torch.linalg.vecdot(centred, centred)
        self.radius = float((2.0 * self.half_norm.max()).sqrt())

    def centred(self, block: slice, dtype: torch.dtype) -> Tensor:
        """Points of a block minus the centre, rounded once, ``(K, d)``.

        The tensor is written over by the next call.
        """
        centred = self.exact(block).sub_(self.centre)
        if dtype == torch.float64:
            return centred
        return self._buffer(len(centred), dtype).copy_(centred)

    def exact(self, block: slice) -> Tensor:
        """Points of a block as they are, float64 with shape ``(K, d)``.

        The tensor is written over by the next call.
        """
        out = self._buffer(block.stop - block.start, torch.float64)
        self._rows.read_into(block.start, out)
        return out

    def gather(self, index: Tensor) -> Tensor:
        """Points at ``index`` ``(..., K)``, float64 with shape ``(..., K, d)``."""
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
        """Group of identical points that each point is in, numbered by first points, ``(N,)``."""
        return duplicate_groups(self._rows).labels
