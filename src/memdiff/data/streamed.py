"""Data sets that stay on disk: ``.npy`` and ``.safetensors`` files, whole or in shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from memdiff.data.archives import find_labels, points_key
from memdiff.data.arrays import Layout, arrange, as_labels, observed_encoding, scale_to_signed
from memdiff.data.dataset import Dataset, Encoding
from memdiff.sources import ArrayFile, Rows

__all__ = ["StreamedDataset", "from_rows", "load_shards"]


_FLOAT32_INTEGERS = 2**24


@dataclass(frozen=True, eq=False, repr=False)
class StreamedDataset(Dataset):
    """A data set whose points are read from disk as they are wanted, and decoded in blocks.

    It is a :class:`Dataset` but for its points: ``x`` is a :class:`~memdiff.sources.Rows`, which
    has the length, shape, dtype, indexing and ``split`` of a tensor, and no arithmetic. What is
    indexed comes as a tensor. Labels are in memory.

    Attributes:
        x: The points with shape ``(N, *S)``, as in :class:`Dataset`.
    """

    # What reads points goes by index and block, which both offer; see in_memory() for the rest.
    x: Rows  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if not self.names:
            object.__setattr__(self, "names", _RowNames(range(len(self.x))))
        super().__post_init__()

    def describe(self) -> str:
        """As for every data set, and that it is on disk."""
        return f"{super().describe()}, on disk"

    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest value of all points, from one pass over the file."""
        found = self.x.moments()
        return float(found.smallest.min()), float(found.largest.max())

    def subset(self, index: Tensor | Sequence[int] | slice) -> StreamedDataset:
        """As for every data set; the points stay on disk."""
        chosen = self._positions(index)
        chosen = torch.where(chosen < 0, chosen + len(self), chosen)
        names = self.names
        return replace(
            self,
            x=self.x.select(chosen),
            labels=None if self.labels is None else self.labels[chosen],
            names=names.select(chosen)
            if isinstance(names, _RowNames)
            else tuple(names[i] for i in chosen.tolist()),
        )

    def in_memory(self) -> Dataset:
        """The same set, loaded."""
        kept = {field.name: getattr(self, field.name) for field in fields(Dataset)}
        return Dataset(**{**kept, "x": self.x.tensor(), "names": tuple(self.names)})


class _RowNames(Sequence[str]):
    """The names ``"row 17"`` of points, made when asked for: a million of them take 60 MB."""

    def __init__(self, rows: range | Tensor) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> _RowNames: ...
    def __getitem__(self, index: int | slice) -> str | _RowNames:
        if isinstance(index, slice):
            return _RowNames(self._rows[index])
        return f"row {int(self._rows[index])}"

    def __iter__(self) -> Iterator[str]:
        return (f"row {int(row)}" for row in self._rows)

    def select(self, index: Tensor) -> _RowNames:
        rows = self._rows
        return _RowNames(index + rows.start if isinstance(rows, range) else rows[index])


@dataclass(frozen=True)
class _Decoding:
    """From points as they are stored to points as a data set has them."""

    layout: Layout | None
    value_range: tuple[float, float] | None
    dtype: torch.dtype
    title: str

    def __call__(self, points: Tensor) -> Tensor:
        points = arrange(points, self.layout, self.title)[0]
        if self.value_range is not None:
            return scale_to_signed(points, self.value_range, self.title)
        return points.to(self.dtype).contiguous()


def from_rows(
    rows: Rows,
    *,
    name: str = "data",
    source: str = "rows",
    labels: Tensor | None = None,
    value_range: tuple[float, float] | None = None,
    encoding: Encoding | None = None,
    layout: Layout | None = None,
) -> StreamedDataset:
    """Make a data set of rows on disk, by the rules of :func:`~memdiff.data.from_array`.

    One pass checks that the values are finite, and finds their range where it decides on dtype or
    scale; otherwise points are decoded in the blocks in which they are read.

    Args:
        rows: The points as they are stored, ``(N, *S)``.
        name: As in :func:`~memdiff.data.from_array`.
        source: As there.
        labels: As there.
        value_range: As there.
        encoding: As there.
        layout: As there.

    Returns:
        The data set.

    Raises:
        ValueError: As there.
    """
    title = f"{name} ({source})"
    rows = Rows(rows, title)
    stored = str(rows.dtype).removeprefix("torch.")
    _, kind = arrange(rows[:1], layout, title)
    dtype = rows.dtype if rows.dtype in (torch.float32, torch.float64) else torch.float32
    known: Encoding
    if kind == "vectors":
        if value_range is not None:
            raise ValueError(
                f"value_range applies to pixels, but {title} holds vectors; leave it out."
            )
        known = encoding or ("byte" if stored == "uint8" else "free")
        if rows.dtype not in (torch.bool, torch.uint8):
            found = rows.moments()
            if not rows.dtype.is_floating_point:
                largest = float(torch.maximum(found.largest, -found.smallest).max())
                dtype = torch.float32 if largest <= _FLOAT32_INTEGERS else torch.float64
    else:
        if encoding is not None and value_range is not None:
            raise ValueError(f"pass value_range or encoding for {title}, not both.")
        if value_range is None and encoding is None:
            value_range = _stored_range(rows, stored, title)
        if rows.dtype.is_floating_point:
            rows.moments()
        known = "signed" if value_range is not None else encoding or "free"
    plain = rows.ndim == 2 and dtype == rows.dtype
    decoded = rows if plain else rows.map(_Decoding(layout, value_range, dtype, title))
    if kind != "vectors" and value_range is None and encoding is None:
        known = observed_encoding(decoded)
    return StreamedDataset(
        x=decoded,
        kind=kind,
        encoding=known,
        stored=stored,
        name=name,
        source=source,
        labels=None if labels is None else as_labels(labels, len(rows), title),
    )


def _stored_range(rows: Rows, stored: str, title: str) -> tuple[float, float] | None:
    """The range of the integer dtypes in which pixels are kept."""
    if stored == "bool":
        return (0, 1)
    if stored not in ("uint8", "uint16"):
        return None
    top = 0
    for block in rows.split(rows.block_size()):
        top = max(top, int(block.to(torch.int32).max()))
        if top > 1:
            return (0, 255 if stored == "uint8" else 65535)
    raise ValueError(
        f"{title} holds {stored} images whose largest value is {top}: binary, or almost black; "
        f"pass value_range=(0, 1) or value_range=(0, 255)."
    )


def load_shards(
    paths: Sequence[Path],
    *,
    name: str = "data",
    source: str | None = None,
    stream_above: int | None = None,
    limit: int | None = None,
    key: str | None = None,
    value_range: tuple[float, float] | None = None,
    layout: Layout | None = None,
) -> Dataset:
    """Load ``.npy`` and ``.safetensors`` files as one set, one after the other.

    Args:
        paths: The files in their order.
        name: What to call the set in messages.
        source: Where it came from, as reports say; the first path by default.
        stream_above: See :func:`memdiff.data.load`.
        limit: Keep the first ``limit`` points.
        key: The array of ``.safetensors`` files that hold several; otherwise as
            :func:`~memdiff.data.archives.load_arrays` chooses. Labels beside it are taken.
        value_range: See :func:`~memdiff.data.arrays.from_array`.
        layout: See :func:`~memdiff.data.arrays.from_array`.

    Returns:
        The data set, a :class:`StreamedDataset` if it is above ``stream_above``.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If one is damaged, they differ in row shape or dtype, some have labels and
            others none, or the values are refused by :func:`~memdiff.data.arrays.from_array`.
    """
    source = str(paths[0]) if source is None else source
    shards, labels = [], []
    for path in paths:
        points, own = _open_shard(path, name, key)
        shards.append(points)
        if own is not None:
            labels.append(own.read(0, len(own)))
    title = f"{name} ({source})"
    rows = Rows(shards, title)
    if labels and len(labels) < len(shards):
        raise ValueError(
            f"{title} has labels in {len(labels)} of {len(shards)} shards; give them to all or "
            f"to none."
        )
    joined = torch.cat(labels) if labels else None
    if limit is not None and limit < len(rows):
        rows = rows.select(torch.arange(limit))
        joined = None if joined is None else joined[:limit]
    data = from_rows(
        rows, name=name, source=source, labels=joined, value_range=value_range, layout=layout
    )
    size = data.x.numel() * data.x.dtype.itemsize
    return data if stream_above is not None and size > stream_above else data.in_memory()


def _open_shard(path: Path, name: str, key: str | None) -> tuple[ArrayFile, ArrayFile | None]:
    """The points of a file, and its labels if it has any."""
    if path.suffix.lower() == ".npy":
        return ArrayFile.open(path, name, key), None
    arrays = ArrayFile.open_all(path, name)
    chosen = points_key(arrays, key, f"{name} ({path})")
    return arrays[chosen], find_labels(arrays, chosen)
