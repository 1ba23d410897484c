"""Rows of a data set, wherever they live: a tensor, an array, files, or shards of these.

Work on large sets reads blocks of rows and gathers single rows, and needs no more than that.
:class:`Rows` gives both over every kind of storage without copying the whole, and looks enough
like a tensor (length, shape, indexing, split) to be passed on in the place of one.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from memdiff.sources.files import ArrayFile
from memdiff.sources.read_ahead import ReadAhead
from memdiff.sources.storage import Joined, Selection, Shards, Storage

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Moments", "RowData", "Rows"]

RowData: TypeAlias = (
    "Tensor | np.ndarray | ArrayFile | Rows | Sequence[Tensor | np.ndarray | ArrayFile]"
)

SPAN_BYTES = 2**22
"""Rows on disk are read in spans of at most so many bytes (or one row), two of them held."""

_PIECE_BYTES = 2**17

BLOCK_BYTES = 2**20
"""Bytes of the float64 blocks in which passes over all rows compute."""


@dataclass(frozen=True)
class Moments:
    """What one pass over all rows finds, float64.

    Attributes:
        mean: Mean of each coordinate, ``(d,)``.
        scatter: Sum of squared deviations from it, ``(d,)``.
        smallest: Smallest value of each coordinate, ``(d,)``.
        largest: Largest value, ``(d,)``.
    """

    mean: Tensor
    scatter: Tensor
    smallest: Tensor
    largest: Tensor


class Rows:
    """A read-only view of ``N`` rows, each flattened to ``d`` numbers.

    Rows on disk (an :class:`ArrayFile`, a memory-mapped NumPy array, or shards of these) are read
    in spans of 4 MiB, the next one in the background; the pages of a memory map are given back to
    the system after each span, so that the memory of the process stays at a few spans.

    Args:
        data: Tensor, NumPy array (a memory map too) or :class:`ArrayFile` with shape ``(N, *S)``,
            or a sequence of such shards, which are taken one after the other. Any floating-point
            dtype, or uint8; files may hold any numbers.
        name: What error messages call the data.
        device: Device on which blocks arrive; by default the one of the (first) tensor, or the
            CPU.

    Attributes:
        name: What error messages call the data.
        row_shape: Shape ``S`` of one row.
        features: Its number of elements ``d``.
        dtype: Element type of the rows.
        device: Device on which blocks arrive.

    Raises:
        ValueError: If the data are empty, of another type, or the shards differ in shape or dtype.

    Example:
        >>> rows = Rows([torch.zeros(2, 3), torch.ones(4, 3)], "train")
        >>> len(rows), rows.read(1, 3).tolist()
        (6, [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    """

    def __init__(
        self, data: RowData, name: str = "data", device: torch.device | str | None = None
    ) -> None:
        self.name = name
        self._functions: tuple[Callable[[Tensor], Tensor], ...] = ()
        self._storage: Storage
        self.device: torch.device
        if isinstance(data, Rows):
            self._storage, self._functions = data._storage, data._functions
            self.device = data.device
        else:
            single = isinstance(data, (Tensor, ArrayFile)) or hasattr(data, "__array__")
            shards = Shards([data] if single else list(data), name)  # type: ignore[arg-type,list-item]
            self._storage, self.device = shards, shards.device
        if device is not None:
            self.device = torch.device(device)
        self._prepare()

    @classmethod
    def open(
        cls,
        paths: str | Path | Sequence[str | Path],
        name: str = "data",
        *,
        key: str | None = None,
    ) -> Rows:
        """Rows of one or several ``.npy`` and ``.safetensors`` files, taken one after the other.

        Args:
            paths: A file, or the shards in their order.
            name: What error messages call the data.
            key: The tensor of ``.safetensors`` files that hold several.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If there is none, one is damaged, or they differ in shape or dtype.
        """
        files = [paths] if isinstance(paths, (str, Path)) else list(paths)
        return cls([ArrayFile.open(path, name, key) for path in files], name)

    def _prepare(self) -> None:
        self._ahead: ReadAhead | None = None
        self._moments: Moments | None = None
        self._row_bytes = self._storage.row_bytes
        first = self._apply(self._storage.gather(torch.zeros(1, dtype=torch.int64)))
        self.row_shape = tuple(first.shape[1:])
        self.dtype = first.dtype
        self.features = first[0].numel()

    def _apply(self, raw: Tensor) -> Tensor:
        raw = raw.detach().to(self.device)
        if not len(raw):  # a function of points may have no answer for none
            return torch.empty(0, *self.row_shape, dtype=self.dtype, device=self.device)
        for function in self._functions:
            raw = function(raw)
        return raw

    def __len__(self) -> int:
        return len(self._storage)

    def __repr__(self) -> str:
        where = "on disk" if self.on_disk else f"on {self.device}"
        return f"Rows({self.name}: shape {tuple(self.shape)}, {self.dtype}, {where})"

    def __getstate__(self) -> dict[str, Any]:
        # A thread can be neither copied nor sent to another process.
        return {**self.__dict__, "_ahead": None}

    @property
    def shape(self) -> torch.Size:
        """Shape ``(N, *S)`` of the whole."""
        return torch.Size((len(self), *self.row_shape))

    @property
    def ndim(self) -> int:
        """Number of dimensions of the whole."""
        return 1 + len(self.row_shape)

    @property
    def storage(self) -> Storage:
        """What rows are read from, as they are stored; views share it."""
        return self._storage

    @property
    def on_disk(self) -> bool:
        """Whether rows are read from files as they are wanted."""
        return self._storage.on_disk

    def numel(self) -> int:
        """Number of elements of the whole."""
        return len(self) * self.features

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``, with shape ``(stop - start, d)``; not to be written to."""
        return self._points(start, stop).reshape(stop - start, self.features)

    def _points(self, start: int, stop: int) -> Tensor:
        ahead = self._reader()
        return self._apply(
            self._storage.read(start, stop) if ahead is None else ahead(start, stop)
        )

    def read_into(self, start: int, out: Tensor) -> None:
        """Fill ``out`` ``(n, d)``, of any floating dtype, with rows from ``start`` on.

        Functions are applied to pieces of 128 KiB, so that a pass over a large file makes no
        large temporary tensors, whose remains the allocator would collect.
        """
        step = self.block_size(_PIECE_BYTES) if self._functions else len(out)

        def take(position: int, raw: Tensor) -> None:
            for begin in range(0, len(raw), step):
                piece = self._apply(raw[begin : begin + step])
                at = position + begin
                out[at : at + len(piece)].copy_(piece.reshape(len(piece), self.features))

        ahead = self._reader()
        if ahead is None:
            take(0, self._storage.read(start, start + len(out)))
        else:
            ahead.copy(start, start + len(out), take)

    def _reader(self) -> ReadAhead | None:
        storage = self._storage
        if self._ahead is None and storage.on_disk and storage.sequential:
            span = max(1, SPAN_BYTES // self._row_bytes)
            span = 1 << (span.bit_length() - 1)  # blocks of powers of two do not straddle spans
            shape = (min(span, len(self)), *storage.row_shape)
            self._ahead = ReadAhead(storage.read_into, len(self), shape, storage.dtype)
        return self._ahead

    def gather(self, index: Tensor) -> Tensor:
        """The rows at ``index``, an int64 tensor ``(n,)``, with shape ``(n, d)``."""
        return self._apply(self._storage.gather(index)).reshape(len(index), self.features)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Tensor:
        """The rows at an index as a tensor in memory, with shape ``(n, *S)`` or ``S``."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1 and stop > start:
                return self._points(start, stop)
            index = torch.arange(len(self))[index] if step > 0 else list(range(start, stop, step))
        chosen = torch.as_tensor(index)
        if chosen.dtype == torch.bool:
            chosen = chosen.nonzero()[:, 0]
        if bool(((chosen < -len(self)) | (chosen >= len(self))).any()):
            raise IndexError(f"index is out of range for {len(self)} rows of {self.name}.")
        flat = chosen.reshape(-1).to(torch.int64) % len(self)
        return self._apply(self._storage.gather(flat)).reshape(*chosen.shape, *self.row_shape)

    def __iter__(self) -> Iterator[Tensor]:
        for block in self.split(1024):
            yield from block

    def split(self, size: int) -> Iterator[Tensor]:
        """All rows in their order, ``size`` at a time, each block with shape ``(n, *S)``."""
        for start in range(0, len(self), size):
            yield self._points(start, min(start + size, len(self)))

    def block_size(self, memory: int | None = None) -> int:
        """Number of rows, at least 1, whose float64 copies take ``memory`` bytes (or 1 MiB)."""
        return max(1, (BLOCK_BYTES if memory is None else memory) // (8 * self.features))

    def map(self, function: Callable[[Tensor], Tensor]) -> Rows:
        """The rows under a function, which is applied to each block as it is read.

        Args:
            function: From points ``(n, *S)`` to as many points, each for itself, of any shape. It
                must not write to its argument.

        Example:
            >>> Rows(torch.tensor([[1.0], [2.0]])).map(lambda x: 2 * x)[1]
            tensor([4.])
        """
        rows = copy.copy(self)
        rows._functions = (*self._functions, function)
        rows._prepare()
        return rows

    def select(self, index: Tensor) -> Rows:
        """The rows at ``index``, int64 ``(n,)`` with n at least 1, in that order; not copied."""
        rows = copy.copy(self)
        rows._storage = Selection(self._storage, index.cpu())
        rows._prepare()
        return rows

    @classmethod
    def joined(cls, parts: Sequence[RowData], name: str = "data") -> Rows:
        """Several sets of points as one, one after the other and each as a vector; not copied.

        Args:
            parts: The sets, of one row shape, at least one. Floating-point dtypes are promoted
                to the widest of them.
            name: What error messages call the whole.

        Raises:
            ValueError: If they differ in row shape, or only some are uint8.

        Example:
            >>> joined = Rows.joined([torch.zeros(2, 3), Rows(torch.ones(4, 3))])
            >>> len(joined), joined.gather(torch.tensor([5, 0]))[:, 0].tolist()
            (6, [1.0, 0.0])
        """
        sets = [Rows(part, name) for part in parts]
        widest = functools.reduce(torch.promote_types, (part.dtype for part in sets))
        views = [
            _Flat(
                part
                if part.dtype in (widest, torch.uint8)
                else part.map(functools.partial(_cast, dtype=widest))
            )
            for part in sets
        ]
        rows = copy.copy(views[0].rows)
        rows.name, rows._functions = name, ()
        rows._storage = Joined(views, rows.device)
        rows._prepare()
        return rows

    def flatten(self, start_dim: int = 1) -> Rows:
        """Points as vectors, ``(N, d)``; ``start_dim`` must be 1, as rows stay rows."""
        if start_dim != 1:
            raise ValueError(f"start_dim must be 1 for rows that are on disk, got {start_dim}.")
        return self if self.ndim == 2 else self.map(_flattened)

    def to(self, device: torch.device | str) -> Rows:
        """The same rows, arriving on another device."""
        return Rows(self, self.name, device)

    def tensor(self) -> Tensor:
        """All rows in memory, ``(N, *S)``."""
        return torch.cat(list(self.split(max(1, SPAN_BYTES // self._row_bytes))))

    def moments(self) -> Moments:
        """Mean, scatter and range of each coordinate, from one pass, which is made once.

        Raises:
            ValueError: If a value is not finite: how many rows are affected, and the first.
        """
        if self._moments is None:
            self._moments = self._survey()
        return self._moments

    def _survey(self) -> Moments:
        count, bad, first_bad = 0, 0, -1
        mean = torch.zeros(self.features, dtype=torch.float64, device=self.device)
        scatter = torch.zeros_like(mean)
        smallest, largest = mean + torch.inf, mean - torch.inf
        size = min(self.block_size(), len(self))
        buffer = torch.empty(size, self.features, dtype=torch.float64, device=self.device)
        for start in range(0, len(self), size):
            values = buffer[: min(size, len(self) - start)]
            self.read_into(start, values)
            finite = torch.isfinite(values).all(1)
            if not bool(finite.all()):
                if first_bad < 0:
                    first_bad = start + int((~finite).nonzero()[0])
                bad += int((~finite).sum())
                continue
            # Chan, Golub and LeVeque: two parts with their own means merge without cancellation.
            own = values.mean(0)
            total = count + len(values)
            step = own - mean
            scatter += (values - own).square().sum(0) + step.square() * (
                count * len(values) / total
            )
            mean += step * (len(values) / total)
            smallest = torch.minimum(smallest, values.amin(0))
            largest = torch.maximum(largest, values.amax(0))
            count = total
        if bad:
            raise ValueError(
                f"{self.name} must be finite, but {bad} of {len(self)} points hold NaN or "
                f"infinity, the first at index {first_bad}: remove or repair them."
            )
        return Moments(mean, scatter, smallest, largest)


class _Flat:
    """Rows as a storage of vectors, functions applied: what :meth:`Rows.joined` joins."""

    sequential = False

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.on_disk, self.dtype = rows.on_disk, rows.dtype
        self.row_shape = (rows.features,)
        self.row_bytes = rows.features * rows.dtype.itemsize
        self.read, self.gather, self.read_into = rows.read, rows.gather, rows.read_into

    def __len__(self) -> int:
        return len(self.rows)


def _cast(points: Tensor, dtype: torch.dtype) -> Tensor:
    return points.to(dtype)


def _flattened(points: Tensor) -> Tensor:
    return points.flatten(1)
