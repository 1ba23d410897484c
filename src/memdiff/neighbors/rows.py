"""Rows of a data set, wherever they live: a tensor, an array, a memory map, or shards of these.

Searches over large sets read blocks of rows and gather single rows, and need no more than that.
:class:`Rows` gives both over every kind of storage without copying the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np

__all__ = ["RowData", "Rows", "check_match"]

RowData: TypeAlias = "Tensor | np.ndarray | Sequence[Tensor | np.ndarray]"

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8)


class Rows:
    """A read-only view of ``N`` rows, each flattened to ``d`` numbers.

    Args:
        data: Tensor or NumPy array (a memory map too) with shape ``(N, *S)``, or a sequence of
            such shards, which are taken one after the other. Any floating-point dtype, or uint8.
        name: What error messages call the data.
        device: Device on which blocks arrive; by default the one of the (first) tensor, or the
            CPU for arrays.

    Attributes:
        shape: Shape ``S`` of one row.
        features: Its number of elements ``d``.
        dtype: Element type of the storage.
        device: Device on which blocks arrive.

    Raises:
        ValueError: If the data are empty, of another type, or the shards differ in shape or dtype.

    Example:
        >>> rows = Rows([torch.zeros(2, 3), torch.ones(4, 3)], "train")
        >>> len(rows), rows.read(1, 3).tolist()
        (6, [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    """

    def __init__(self, data: RowData, name: str, device: torch.device | None = None) -> None:
        shards = [data] if isinstance(data, Tensor) or hasattr(data, "__array__") else list(data)
        if not shards:
            raise ValueError(f"{name} must hold at least one row, got no shards.")
        self._shards = [_checked(shard, name) for shard in shards]
        first = self._shards[0]
        self.shape = tuple(first.shape[1:])
        self.dtype = _torch_dtype(first, name)
        for shard in self._shards[1:]:
            dtype = _torch_dtype(shard, name)
            if tuple(shard.shape[1:]) != self.shape or dtype != self.dtype:
                raise ValueError(
                    f"every shard of {name} must have rows of shape {self.shape} and dtype "
                    f"{self.dtype} as the first, got {tuple(shard.shape[1:])} and {dtype}."
                )
        self.features = 1
        for size in self.shape:
            self.features *= size
        ends = torch.tensor([len(shard) for shard in self._shards]).cumsum(0)
        self._ends = ends
        if len(self) == 0 or self.features == 0:
            raise ValueError(
                f"{name} must hold at least one row of at least one element, got shape "
                f"{(len(self), *self.shape)}."
            )
        if device is None:
            device = first.device if isinstance(first, Tensor) else torch.device("cpu")
        self.device = device

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``, with shape ``(stop - start, d)`` and the storage's dtype."""
        pieces = []
        begin = 0
        for shard, end in zip(self._shards, self._ends.tolist(), strict=True):
            if start < end and stop > begin:
                pieces.append(self._tensor(shard[max(start - begin, 0) : stop - begin]))
            begin = end
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def gather(self, index: Tensor) -> Tensor:
        """The rows at ``index``, an int64 tensor ``(n,)``, with shape ``(n, d)``."""
        if len(self._shards) == 1:
            return self._take(self._shards[0], index)
        place = torch.searchsorted(self._ends, index.cpu(), right=True)
        out = torch.empty(len(index), self.features, dtype=self.dtype, device=self.device)
        for number in place.unique().tolist():
            here = (place == number).to(index.device)
            begin = int(self._ends[number - 1]) if number else 0
            out[here.to(self.device)] = self._take(self._shards[number], index[here] - begin)
        return out

    def _take(self, shard: Tensor | np.ndarray, index: Tensor) -> Tensor:
        if isinstance(shard, Tensor):
            return self._tensor(shard[index.to(shard.device)])
        return self._tensor(shard[index.cpu().numpy()])

    def _tensor(self, piece: Tensor | np.ndarray) -> Tensor:
        if not isinstance(piece, Tensor):
            import numpy as np

            array = np.asarray(piece, dtype=piece.dtype.newbyteorder("="))
            # torch neither reads negative strides nor likes read-only memory.
            if not array.flags.writeable or not array.flags.c_contiguous:
                array = array.copy()
            piece = torch.from_numpy(array)
        return piece.detach().reshape(len(piece), self.features).to(self.device)


def _checked(shard: object, name: str) -> Tensor | np.ndarray:
    import numpy as np

    if not isinstance(shard, (Tensor, np.ndarray)):
        raise ValueError(
            f"{name} must be a tensor, a NumPy array or a sequence of these, "
            f"got {type(shard).__name__}."
        )
    if shard.ndim == 0:
        raise ValueError(f"{name} must have shape (N, *S), one row a point, got a scalar.")
    return shard


def _torch_dtype(shard: Tensor | np.ndarray, name: str) -> torch.dtype:
    dtype: object = shard.dtype
    if not isinstance(shard, Tensor):
        dtype = getattr(torch, shard.dtype.name, None)
    if isinstance(dtype, torch.dtype) and dtype in _DTYPES:
        return dtype
    raise ValueError(
        f"{name} must be of a floating-point dtype or uint8, got {shard.dtype}: convert it first."
    )


def check_match(queries: Rows, points: Rows) -> None:
    """Refuse to compare rows of different shapes, or bytes with real numbers.

    Raises:
        ValueError: If the shapes differ, or one is uint8 and the other is not.
    """
    if queries.shape != points.shape:
        raise ValueError(
            f"queries and points must have rows of one shape, got {queries.shape} and "
            f"{points.shape}."
        )
    if (queries.dtype == torch.uint8) != (points.dtype == torch.uint8):
        raise ValueError(
            f"queries and points must both be uint8 or both floating point, got {queries.dtype} "
            f"and {points.dtype}: bring both to one range."
        )
