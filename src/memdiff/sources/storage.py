"""What rows are read from: shards one after the other, or some rows of these."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from memdiff.sources.files import ArrayFile

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Joined", "Selection", "Shards", "Storage"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8)


class Storage(Protocol):
    """Rows as they are stored."""

    @property
    def on_disk(self) -> bool:
        """Whether reading goes to files."""

    @property
    def sequential(self) -> bool:
        """Whether neighbouring rows lie next to each other, so that reading ahead pays."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape ``S`` of one row."""

    @property
    def dtype(self) -> torch.dtype:
        """Element type as it is stored."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``, ``(stop - start, *S)``."""

    def read_into(self, start: int, out: Tensor) -> None:
        """Fill ``out``, contiguous ``(n, *S)``, with rows from ``start`` on."""

    def gather(self, index: Tensor) -> Tensor:
        """The rows at ``index`` ``(n,)``, with shape ``(n, *S)``."""


class Shards:
    """Arrays of one row shape and dtype, one after the other.

    Args:
        shards: Tensors, NumPy arrays and files.
        name: What error messages call the data.

    Raises:
        ValueError: As :class:`memdiff.sources.Rows`.
    """

    def __init__(self, shards: Sequence[Tensor | np.ndarray | ArrayFile], name: str) -> None:
        if not shards:
            raise ValueError(f"{name} must hold at least one row, got no shards.")
        self._shards = [_checked(shard, name) for shard in shards]
        self.sequential = True
        first = self._shards[0]
        self.row_shape = tuple(first.shape[1:])
        self.dtype = _torch_dtype(first, name)
        for shard in self._shards[1:]:
            dtype = _torch_dtype(shard, name)
            if tuple(shard.shape[1:]) != self.row_shape or dtype != self.dtype:
                which = f" in {shard.path}" if isinstance(shard, ArrayFile) else ""
                raise ValueError(
                    f"every shard of {name} must have rows of shape {self.row_shape} and dtype "
                    f"{self.dtype} as the first, got {tuple(shard.shape[1:])} and {dtype}{which}."
                )
        self._ends = torch.tensor([len(shard) for shard in self._shards]).cumsum(0)
        self.row_bytes = self.dtype.itemsize
        for size in self.row_shape:
            self.row_bytes *= size
        if len(self) == 0 or self.row_bytes == 0:
            raise ValueError(
                f"{name} must hold at least one row of at least one element, got shape "
                f"{(len(self), *self.row_shape)}."
            )
        self.device = first.device if isinstance(first, Tensor) else torch.device("cpu")
        self.on_disk = any(
            isinstance(shard, ArrayFile) or _mapping(shard) is not None for shard in self._shards
        )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``; a view where the storage is one tensor."""
        pieces = []
        begin = 0
        for shard, end in zip(self._shards, self._ends.tolist(), strict=True):
            if start < end and stop > begin:
                first, last = max(start - begin, 0), min(stop, end) - begin
                if isinstance(shard, ArrayFile):
                    pieces.append(shard.read(first, last))
                else:
                    pieces.append(self._tensor(shard[first:last], shard))
            begin = end
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def gather(self, index: Tensor) -> Tensor:
        """The rows at ``index``, on the device of the first shard."""
        if len(self._shards) == 1:
            return self._take(self._shards[0], index)
        index = index.cpu()
        place = torch.searchsorted(self._ends, index, right=True)
        order = place.argsort(stable=True)
        numbers, counts = place[order].unique_consecutive(return_counts=True)
        found = []
        for number, here in zip(numbers.tolist(), order.split(counts.tolist()), strict=True):
            begin = int(self._ends[number - 1]) if number else 0
            found.append(self._take(self._shards[number], index[here] - begin).to(self.device))
        if not found:
            return torch.empty(0, *self.row_shape, dtype=self.dtype, device=self.device)
        return torch.cat(found)[order.argsort().to(self.device)]

    def read_into(self, start: int, out: Tensor) -> None:
        """Fill ``out``, contiguous ``(n, *S)``, with rows from ``start`` on; allocates nothing."""
        stop = start + len(out)
        begin = 0
        for shard, end in zip(self._shards, self._ends.tolist(), strict=True):
            if start < end and stop > begin:
                first, last = max(start - begin, 0), min(stop, end) - begin
                part = out[first + begin - start : last + begin - start]
                if isinstance(shard, ArrayFile):
                    shard.read_into(first, part)
                elif isinstance(shard, Tensor):
                    part.copy_(shard[first:last].detach())
                else:
                    part.numpy()[...] = shard[first:last]
                    _release(shard)
            begin = end

    def _take(self, shard: Tensor | np.ndarray | ArrayFile, index: Tensor) -> Tensor:
        if isinstance(shard, ArrayFile):
            return shard.gather(index)
        if isinstance(shard, Tensor):
            return shard[index.to(shard.device)]
        if _mapping(shard) is None:
            return self._tensor(shard[index.cpu().numpy()], shard)
        # The system maps the surroundings of a page with it, up to 2 MiB.
        parts = [self._tensor(shard[part.cpu().numpy()], shard) for part in index.split(8)]
        return torch.cat(parts)

    def _tensor(self, piece: Tensor | np.ndarray, shard: Tensor | np.ndarray) -> Tensor:
        if isinstance(piece, Tensor):
            return piece.detach().to(self.device)
        import numpy as np

        array = np.asarray(piece, dtype=piece.dtype.newbyteorder("="))
        # torch neither reads negative strides nor likes read-only memory.
        mapped = _mapping(shard) is not None
        if mapped or not array.flags.writeable or not array.flags.c_contiguous:
            array = np.array(array)
        _release(shard)
        return torch.from_numpy(array).to(self.device)


class Selection:
    """Some rows of a storage, in an order of their own; one selection of another is merged.

    Args:
        storage: The storage.
        index: Rows of it, int64 ``(n,)``.

    Raises:
        ValueError: If no row is selected.
    """

    def __init__(self, storage: Storage, index: Tensor) -> None:
        if not len(index):
            raise ValueError("index selects no row; select at least one.")
        self._storage: Storage = storage
        self._index: Tensor = index
        if isinstance(storage, Selection):
            self._storage, self._index = storage._storage, storage._index[index]
        self.on_disk, self.row_bytes = storage.on_disk, storage.row_bytes
        self.row_shape, self.dtype = storage.row_shape, storage.dtype
        together = bool((self._index.diff() == 1).all())
        self._start = int(self._index[0]) if together else None

    @property
    def sequential(self) -> bool:
        """Whether the rows lie in the storage as they do here, one after the other."""
        return self._start is not None and self._storage.sequential

    def __len__(self) -> int:
        return len(self._index)

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of the selection."""
        if self._start is not None:
            return self._storage.read(self._start + start, self._start + stop)
        return self._storage.gather(self._index[start:stop])

    def read_into(self, start: int, out: Tensor) -> None:
        """Fill ``out`` with rows of the selection from ``start`` on."""
        if self._start is None:
            out.copy_(self.read(start, start + len(out)))
        else:
            self._storage.read_into(self._start + start, out)

    def gather(self, index: Tensor) -> Tensor:
        """The rows at ``index`` of the selection."""
        return self._storage.gather(self._index[index.cpu()])


class Joined:
    """Several storages of one row shape and dtype, one after the other.

    Args:
        parts: The storages, at least one; anything that reads and gathers rows as they do.
        device: Where gathered rows arrive.

    Raises:
        ValueError: If they differ in row shape or dtype.
    """

    sequential = False  # each part reads ahead for itself

    def __init__(self, parts: Sequence[Storage], device: torch.device) -> None:
        first = parts[0]
        for part in parts[1:]:
            if part.row_shape != first.row_shape or part.dtype != first.dtype:
                raise ValueError(
                    f"joined rows must have one shape and dtype, got {first.row_shape} and "
                    f"{first.dtype}, then {part.row_shape} and {part.dtype}."
                )
        self._parts, self._device = tuple(parts), device
        self._ends = torch.tensor([len(part) for part in parts]).cumsum(0)
        self.row_shape, self.dtype = first.row_shape, first.dtype
        self.row_bytes = first.row_bytes
        self.on_disk = any(part.on_disk for part in parts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``."""
        pieces, begin = [], 0
        for part, end in zip(self._parts, self._ends.tolist(), strict=True):
            if start < end and stop > begin:
                pieces.append(part.read(max(start - begin, 0), min(stop, end) - begin))
            begin = end
        return torch.cat([piece.to(self._device) for piece in pieces])

    def read_into(self, start: int, out: Tensor) -> None:
        """Fill ``out`` with rows from ``start`` on."""
        out.copy_(self.read(start, start + len(out)))

    def gather(self, index: Tensor) -> Tensor:
        """The rows at ``index``."""
        index = index.cpu()
        out = torch.empty(len(index), *self.row_shape, dtype=self.dtype, device=self._device)
        place = torch.searchsorted(self._ends, index, right=True)
        for number, part in enumerate(self._parts):
            here = (place == number).nonzero()[:, 0]
            if len(here):
                begin = int(self._ends[number - 1]) if number else 0
                out[here.to(self._device)] = part.gather(index[here] - begin).to(self._device)
        return out


def _mapping(array: Tensor | np.ndarray) -> mmap.mmap | None:
    """The file mapping behind an array, where its pages may be dropped without loss.

    The pages of a copy-on-write mapping may hold changes that are nowhere else.
    """
    import numpy as np

    if not isinstance(array, np.memmap) or array.mode not in ("r", "r+", "w+"):
        return None
    base: object = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    return base


def _release(array: Tensor | np.ndarray) -> None:
    """Give the pages of a mapping back: they are in the system's cache, and come again."""
    mapping = _mapping(array)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def _checked(shard: object, name: str) -> Tensor | np.ndarray | ArrayFile:
    import numpy as np

    if not isinstance(shard, (Tensor, np.ndarray, ArrayFile)):
        raise ValueError(
            f"{name} must be a tensor, a NumPy array, an ArrayFile or a sequence of these, "
            f"got {type(shard).__name__}."
        )
    if shard.ndim == 0:
        raise ValueError(f"{name} must have shape (N, *S), one row per point, got a scalar.")
    return shard


def _torch_dtype(shard: Tensor | np.ndarray | ArrayFile, name: str) -> torch.dtype:
    if isinstance(shard, ArrayFile):
        return shard.dtype
    dtype: object = shard.dtype
    if not isinstance(shard, Tensor):
        dtype = getattr(torch, shard.dtype.name, None)
    if isinstance(dtype, torch.dtype) and dtype in _DTYPES:
        return dtype
    raise ValueError(
        f"{name} must be of a floating-point dtype or uint8, got {shard.dtype}: convert it first."
    )
