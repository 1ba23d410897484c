"""A data set in memory: the tensor, and what is known about it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from memdiff.data.missing import Completion
from memdiff.sources.hashing import sha256_of

__all__ = ["Dataset", "Encoding", "Form", "Kind"]

Kind = Literal["images", "vectors", "table", "video"]
Encoding = Literal["signed", "unit", "byte", "free"]
Form = Literal["integer", "boolean", "days", "seconds", "seconds UTC"]

_RANGES: dict[str, tuple[float, float] | None] = {
    "signed": (-1.0, 1.0),
    "unit": (0.0, 1.0),
    "byte": (0.0, 255.0),
    "free": None,
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Data points with their labels, names and provenance.

    Attributes:
        x: The points with shape ``(N, *S)``: images ``(N, C, H, W)``, clips ``(N, F, C, H, W)``,
            vectors and tables ``(N, d)``; float32 or float64, finite, on the CPU.
        kind: ``"images"``, ``"video"``, ``"vectors"`` or ``"table"``.
        encoding: Range in which pixels lie: ``"signed"`` [-1, 1], ``"unit"`` [0, 1], ``"byte"``
            [0, 255], or ``"free"`` (anything else, and vectors and tables).
        stored: How the source stores the values, e.g. ``"uint8"``: provenance only.
        name: What the caller calls the set in messages, e.g. ``"train"``.
        source: Where it came from: a path, the name of a built-in, or ``"tensor"``.
        names: N names, one per point: the file within the folder, or ``"row 17"`` (from 0).
        labels: One label per point, ``(N,)`` int64, or conditions ``(N,)`` or ``(N, k)`` float; or
            None.
        label_names: Names of the labels 0, 1, ... where they have names, else empty.
        columns: Names of the d columns of a table, else empty.
        categories: For each categorical column of a table the names of its codes 0, 1, ...
        forms: How the numbers of a column of a table are written, where they are not written as
            plain numbers: ``"integer"``, ``"boolean"``, or as dates, which are ``"days"`` or
            ``"seconds"`` (``"seconds UTC"`` with a time zone) since 1970-01-01.
        completion: What stands in for the missing values of a table, or None.
        notes: What a reader should know, e.g. files that were passed over.
    """

    x: Tensor
    kind: Kind
    encoding: Encoding = "free"
    stored: str = "float32"
    name: str = "data"
    source: str = "tensor"
    names: tuple[str, ...] = ()
    labels: Tensor | None = None
    label_names: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    forms: Mapping[str, Form] = field(default_factory=dict)
    completion: Completion | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = self.x.shape[0] if self.x.ndim else 0
        if self.x.ndim < 2 or self.x.numel() == 0:
            raise ValueError(
                f"{self.title} has shape {tuple(self.x.shape)}; expected (N, *S) with at least "
                f"one point and one value per point."
            )
        if not self.names:
            object.__setattr__(self, "names", tuple(f"row {i}" for i in range(count)))
        for what, size in (("names", len(self.names)), ("labels", _length(self.labels, count))):
            if size != count:
                raise ValueError(f"{self.title} has {count} points but {size} {what}.")
        if self.columns and len(self.columns) != self.x[0].numel():
            raise ValueError(
                f"{self.title} has {self.x[0].numel()} columns but {len(self.columns)} names."
            )

    def __len__(self) -> int:
        return self.x.shape[0]

    def __repr__(self) -> str:
        return f"Dataset({self.describe()})"

    @property
    def title(self) -> str:
        """Name and source, as error messages call the set."""
        return self.name if self.source == "tensor" else f"{self.name} ({self.source})"

    @property
    def shape(self) -> torch.Size:
        """Shape ``S`` of one point."""
        return self.x.shape[1:]

    @property
    def value_range(self) -> tuple[float, float] | None:
        """The range that ``encoding`` states, or None where it is free.

        It is nominal: generated images overshoot it a little.
        """
        return _RANGES[self.encoding]

    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest value of all points."""
        low, high = torch.aminmax(self.x)
        return float(low), float(high)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the points in their order (dtype, shape, values) and of the category names.

        File names, format and labels do not enter: a folder of images and an ``.npz`` of the same
        pixels hash equally, and a renamed file changes the hash only if it changes the order.
        Computed at first use, in one pass over the data.
        """
        content = sha256_of(self.x)
        if not self.categories:
            return content
        described = repr([(key, tuple(self.categories[key])) for key in sorted(self.categories)])
        return hashlib.sha256(f"{content}\n{described}".encode()).hexdigest()

    def describe(self) -> str:
        """One line: count, kind, shape, dtype, range, labels, source and notes.

        Example:
            >>> Dataset(torch.zeros(3, 2), "vectors", name="train").describe()
            'train: 3 vectors of shape (2,), float32'
        """
        noun = {"video": "clips", "table": "rows"}.get(self.kind, self.kind)
        parts = [f"{len(self)} {noun} of shape {tuple(self.shape)}"]
        parts.append(str(self.x.dtype).removeprefix("torch."))
        if self.value_range is not None:
            parts.append("in [{:g}, {:g}]".format(*self.value_range))
        if self.labels is not None:
            distinct = torch.unique(self.labels, dim=0).shape[0]
            parts.append(f"{distinct} distinct labels")
        if self.categories:
            parts.append(f"{len(self.categories)} categorical columns")
        return f"{self.title}: " + ", ".join([*parts, *self.notes])

    def subset(self, index: Tensor | Sequence[int] | slice) -> Dataset:
        """The points at ``index``, in that order, with their labels and names.

        Args:
            index: Integers (repeats allowed), a boolean mask with shape ``(N,)``, or a slice.

        Returns:
            A new set that owns its points.

        Raises:
            ValueError: If no point is left, an index is outside ``[-N, N)``, or it has another
                type or shape.
        """
        chosen = self._positions(index)
        return replace(
            self,
            x=self.x[chosen],
            labels=None if self.labels is None else self.labels[chosen],
            names=tuple(self.names[i] for i in chosen.tolist()),
        )

    def _positions(self, index: Tensor | Sequence[int] | slice) -> Tensor:
        count = len(self)
        if isinstance(index, slice):
            chosen = torch.arange(count)[index] if (index.step or 1) > 0 else None
            if chosen is None:
                chosen = torch.tensor(range(count)[index], dtype=torch.int64)
        else:
            chosen = torch.as_tensor(index).cpu()
        if chosen.numel() == 0:
            raise ValueError(f"index selects no point of {self.title}; select at least one.")
        if chosen.dtype == torch.bool and chosen.shape == (count,):
            chosen = chosen.nonzero().flatten()
            if chosen.numel() == 0:
                raise ValueError(f"index selects no point of {self.title}; select at least one.")
        if chosen.ndim != 1 or chosen.dtype == torch.bool or chosen.is_floating_point():
            raise ValueError(
                f"index must be integers with shape (k,) or a mask with shape ({count},), got "
                f"{str(chosen.dtype).removeprefix('torch.')} with shape {tuple(chosen.shape)}."
            )
        chosen = chosen.to(torch.int64)
        outside = chosen[(chosen < -count) | (chosen >= count)]
        if outside.numel():
            raise ValueError(
                f"index {int(outside[0])} is outside {self.title}, which has {count} points."
            )
        return chosen

    def split(self, size: float | int, *, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Two disjoint random parts that together are the whole set.

        Each part keeps the order of the set. The parts depend on ``seed`` and N alone.

        Args:
            size: Size of the first part: a share in (0, 1) if it is a float (rounded, at least
                one point in each part), or a number of points in ``[1, N - 1]`` if an int.
            seed: Seed of the permutation.

        Returns:
            The part of that size, and the rest.

        Raises:
            ValueError: If the set has fewer than 2 points or ``size`` is out of range.

        Example:
            >>> train, heldout = Dataset(torch.zeros(10, 2), "vectors").split(0.7)
            >>> len(train), len(heldout)
            (7, 3)
        """
        self.require_at_least(2, "to split it")
        count = len(self)
        if isinstance(size, float) and 0.0 < size < 1.0:
            first = min(max(round(size * count), 1), count - 1)
        elif isinstance(size, int) and not isinstance(size, bool) and 1 <= size < count:
            first = size
        else:
            raise ValueError(
                f"size must be a share in (0, 1) or a number of points from 1 to {count - 1}, got "
                f"{size!r} for {self.title}."
            )
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        return self.subset(order[:first].sort().values), self.subset(order[first:].sort().values)

    def require_at_least(self, count: int, purpose: str = "") -> Dataset:
        """The set itself, if it has at least ``count`` points.

        Args:
            count: The number needed.
            purpose: Ends the message, e.g. ``"for a nearest-neighbour ratio"``.

        Raises:
            ValueError: If there are fewer points.
        """
        if len(self) < count:
            noun = "point" if len(self) == 1 else "points"
            raise ValueError(
                f"{self.title} has {len(self)} {noun}; at least {count} are needed"
                f"{' ' + purpose if purpose else ''}."
            )
        return self

    def renamed(self, name: str) -> Dataset:
        """The same points under another name for messages."""
        return replace(self, name=name)


def _length(labels: Any, count: int) -> int:  # noqa: ANN401
    return count if labels is None else len(labels)
