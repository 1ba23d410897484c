"""One array on disk, read a range of rows at a time.

Files are read, not mapped: pages of a mapping count as memory of the process for as long as the
system likes, while a read fills one buffer that is ours to free.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["STREAMED_SUFFIXES", "ArrayFile"]

STREAMED_SUFFIXES = (".npy", ".safetensors")
"""Formats whose rows lie one after the other, so that any of them can be read alone."""

_NUMPY_DTYPES = (
    *("bool", "uint8", "int8", "uint16", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
)
_SAFETENSORS_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_RUN_BYTES = 2**20  # rows that are gathered are read together up to this span
_GAP_BYTES = 2**14  # unwanted bytes that cost less to read than to skip


@dataclass(frozen=True)
class ArrayFile:
    """An array with shape ``(N, *S)`` in a ``.npy`` file, or a tensor of a ``.safetensors`` file.

    Nothing of the file is kept, not even open: the object is a few numbers, which may be copied,
    pickled and used after a fork.

    Attributes:
        path: The file.
        name: What error messages call the data.
        shape: Shape of the whole array.
        dtype: Element type of the storage.
        offset: Position of the first element in the file, in bytes.
        swapped: Whether the bytes are in the other order than this machine's.

    Example:
        >>> import tempfile, numpy as np
        >>> path = Path(tempfile.mkdtemp()) / "train.npy"
        >>> np.save(path, np.arange(6.0).reshape(3, 2))
        >>> ArrayFile.open(path).read(1, 3).tolist()
        [[2.0, 3.0], [4.0, 5.0]]
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    swapped: bool = False

    @classmethod
    def open(cls, path: str | Path, name: str = "data", key: str | None = None) -> ArrayFile:
        """Look at the header of a file.

        Args:
            path: A ``.npy`` or ``.safetensors`` file.
            name: What error messages call the data.
            key: The tensor of a ``.safetensors`` file; may be left out if there is one only.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, truncated, of another format, in column order, or holds
                no numbers.
        """
        path = Path(path)
        if path.suffix.lower() == ".npy":
            if key is not None:
                raise ValueError(
                    f"key={key!r} was given, but {name} ({path}) holds a single array; leave it "
                    f"out."
                )
            return _of_npy(path, name)
        arrays = cls.open_all(path, name)
        if key is None and len(arrays) == 1:
            return next(iter(arrays.values()))
        if key is None or key not in arrays:
            held = ", ".join(map(repr, arrays)) or "none"
            raise ValueError(
                f"{name} ({path}) has the arrays {held}; pass key= with one of these names."
            )
        return arrays[key]

    @classmethod
    def open_all(cls, path: str | Path, name: str = "data") -> dict[str, ArrayFile]:
        """Every tensor of a ``.safetensors`` file by its name; arguments as :meth:`open`."""
        path = Path(path)
        if path.suffix.lower() != ".safetensors":
            raise ValueError(
                f"{name} ({path}) cannot be read in blocks: give a "
                f"{' or '.join(STREAMED_SUFFIXES)} file."
            )
        return _of_safetensors(path, name)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of dimensions of the whole array."""
        return len(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        size = self.dtype.itemsize
        for length in self.shape[1:]:
            size *= length
        return size

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``, a new tensor ``(stop - start, *S)`` of the stored dtype."""
        out = torch.empty((stop - start, *self.shape[1:]), dtype=self.dtype)
        self.read_into(start, out)
        return out

    def read_into(self, start: int, out: Tensor) -> None:
        """Fill ``out``, contiguous ``(n, *S)`` of the stored dtype, with rows from ``start`` on.

        Raises:
            FileNotFoundError: If the file has gone.
            ValueError: If it has become too short.
        """
        buffer = out.reshape(-1).view(torch.uint8)
        with self._opened() as file:
            self._fill(file, start, buffer)
        if self.swapped and self.dtype.itemsize > 1:
            buffer.copy_(buffer.view(-1, self.dtype.itemsize).flip(1).reshape(-1))

    def gather(self, index: Tensor) -> Tensor:
        """The rows at ``index``, int64 ``(n,)`` in any order, with shape ``(n, *S)``.

        Rows that lie close together are read together. Beside the result, memory for the distinct
        rows is taken, and for 1 MiB or one row.
        """
        wanted, place = index.cpu().unique(return_inverse=True)
        found = torch.empty(len(wanted) * self.row_bytes, dtype=torch.uint8)
        if len(wanted) and self.row_bytes:
            with self._opened() as file:
                for begin, end in self._runs(wanted):
                    part = slice(begin * self.row_bytes, end * self.row_bytes)
                    first, last = int(wanted[begin]), int(wanted[end - 1])
                    if last - first == end - begin - 1:
                        self._fill(file, first, found[part])
                        continue
                    span = torch.empty((last - first + 1) * self.row_bytes, dtype=torch.uint8)
                    self._fill(file, first, span)
                    rows = span.view(-1, self.row_bytes)[wanted[begin:end] - first]
                    found[part] = rows.reshape(-1)
        return self._decoded(found, len(wanted))[place]

    def _runs(self, wanted: Tensor) -> list[tuple[int, int]]:
        """Ranges of the sorted indices ``wanted`` that one read each fetches."""
        gap = wanted[1:] - wanted[:-1]
        cut = gap > 1 + _GAP_BYTES // self.row_bytes
        # A span is also cut where it crosses into another mebibyte.
        mebibyte = wanted // max(1, _RUN_BYTES // self.row_bytes)
        cut |= mebibyte[1:] != mebibyte[:-1]
        ends = [*(cut.nonzero()[:, 0] + 1).tolist(), len(wanted)]
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def _opened(self) -> FileIO:
        try:
            return FileIO(str(self.path), "rb")
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self.name} ({self.path}) has gone: put the file back and run again."
            ) from error

    def _fill(self, file: FileIO, start: int, buffer: Tensor) -> None:
        """Read bytes from row ``start`` on until ``buffer`` is full."""
        view = buffer.numpy().data
        file.seek(self.offset + start * self.row_bytes)
        done = 0
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise ValueError(
                    f"{self.name} ({self.path}) ends in row {start + done // self.row_bytes} of "
                    f"{len(self)}: it was truncated; replace it by a whole file."
                )
            done += count

    def _decoded(self, buffer: Tensor, count: int) -> Tensor:
        if self.swapped and self.dtype.itemsize > 1:
            buffer = buffer.view(-1, self.dtype.itemsize).flip(1).reshape(-1)
        return buffer.view(self.dtype).reshape(count, *self.shape[1:])


def _of_npy(path: Path, name: str) -> ArrayFile:
    import numpy as np

    title = f"{name} ({path})"
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = header(file)
            offset = file.tell()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{title} does not exist; give a .npy file.") from error
    except (ValueError, SyntaxError, UnicodeDecodeError) as error:
        raise _damaged(title) from error
    if dtype.hasobject:
        raise ValueError(
            f"{title} holds pickled Python objects, which are never loaded; save numbers of one "
            f"dtype."
        )
    if dtype.name not in _NUMPY_DTYPES:
        raise ValueError(f"{title} has dtype {dtype}; expected bool, integers or floats.")
    if fortran and sum(length > 1 for length in shape) > 1:
        raise ValueError(
            f"{title} is stored column by column, so that its rows cannot be read in blocks; "
            f"save it again with numpy.save(path, numpy.ascontiguousarray(array))."
        )
    found = ArrayFile(
        path,
        name,
        tuple(int(length) for length in shape),
        getattr(torch, dtype.name),
        offset,
        swapped=dtype != dtype.newbyteorder("="),
    )
    return _whole(found, title)


def _of_safetensors(path: Path, name: str) -> dict[str, ArrayFile]:
    title = f"{name} ({path})"
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > os.path.getsize(path):
                raise _damaged(title)
            header: dict[str, Any] = json.loads(file.read(length))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{title} does not exist; give a .safetensors file.") from error
    except (struct.error, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _damaged(title) from error
    found = {}
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        dtype = _SAFETENSORS_DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ValueError(
                f"array {key!r} of {title} has dtype {entry['dtype']}; expected bool, integers or "
                f"floats."
            )
        offset = 8 + length + entry["data_offsets"][0]
        found[key] = _whole(ArrayFile(path, name, tuple(entry["shape"]), dtype, offset), title)
    return found


def _whole(file: ArrayFile, title: str) -> ArrayFile:
    """The file, if it is as long as its header says and holds rows."""
    if file.ndim:
        expected = file.offset + len(file) * file.row_bytes
        size = os.path.getsize(file.path)
        if size < expected:
            raise ValueError(
                f"{title} is truncated: its header asks for {expected:,} bytes, it has {size:,}; "
                f"replace it by a whole file."
            )
    return file


def _damaged(title: str) -> ValueError:
    return ValueError(
        f"{title} cannot be read: it is damaged, truncated or of another format; remove it or "
        f"replace it by a whole file."
    )
