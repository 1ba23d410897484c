r"""Tables as vectors and back: every column in one unit, and samples in the form of the data.

A number becomes :math:`(x - \mu) / s` with the mean and standard deviation (divisor N) of the
training table, a category one coordinate for each name, of which one is :math:`m / \sqrt 2`: two
different categories are :math:`m` standard deviations apart. Scores, noise levels and strengths
of regularisers act on these vectors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from memdiff.data.comparison import check_comparable, common_dates
from memdiff.data.dataset import Dataset, Form
from memdiff.data.decimals import decimals_of, round_to
from memdiff.data.missing import Completion
from memdiff.data.streamed import StreamedDataset

__all__ = ["ColumnEncoding", "TableEncoding"]

_LARGEST = 2**32


@dataclass(frozen=True)
class ColumnEncoding:
    """How one column is encoded.

    Attributes:
        name: Its name.
        mean: Mean of a number; its value where it is constant.
        deviation: Standard deviation (divisor N) of a number; 0 where it is constant.
        low: Smallest value of a number in the training table.
        high: Largest value.
        decimals: Decimals with which all its values are written, or None.
        form: As in :class:`memdiff.data.Dataset`; None for plain numbers and categories.
        categories: Names of the categories; empty for a number.
    """

    name: str
    mean: float = 0.0
    deviation: float = 0.0
    low: float = 0.0
    high: float = 0.0
    decimals: int | None = None
    form: Form | None = None
    categories: tuple[str, ...] = ()

    @property
    def constant(self) -> bool:
        """Whether it has one value only."""
        return len(self.categories) == 1 if self.categories else self.deviation == 0.0


@dataclass(frozen=True)
class TableEncoding:
    r"""The map between the rows of a table and vectors in one unit; see this module.

    Numbers come first, in their order, then the categories. Columns that are constant in the
    training table have no coordinate, and come back as they were. Decoding takes the nearest
    category, rounds numbers to the decimals of the training column (integers to integers, dates to
    days) and keeps them in its range.

    Attributes:
        columns: The columns in the order of the table.
        mismatch: Distance :math:`m` of two different categories.
        completion: What stood in for missing values of the training table.

    Example:
        >>> x = torch.tensor([[10.0, 0.0], [30.0, 1.0]], dtype=torch.float64)
        >>> train = Dataset(x, "table", columns=("age", "job"), categories={"job": ("a", "b")})
        >>> encoding = TableEncoding.fit(train)
        >>> encoding.coordinates, encoding.encode(train).x[:, 0].tolist()
        (('age', 'job=a', 'job=b'), [-1.0, 1.0])
        >>> encoding.decode(torch.tensor([[0.5, 0.1, 0.6]])).x.tolist()
        [[25.0, 1.0]]
    """

    columns: tuple[ColumnEncoding, ...]
    mismatch: float = 1.0
    completion: Completion | None = None

    @classmethod
    def fit(cls, train: Dataset, *, mismatch: float = 1.0) -> TableEncoding:
        """Take units, ranges and categories from a training table.

        Args:
            train: Table, or vectors, whose columns are then called ``"0"``, ``"1"``, ...
            mismatch: Distance of two different categories, positive.

        Raises:
            ValueError: If the points are no rows.
        """
        if len(train.shape) != 1:
            raise ValueError(
                f"{train.title} has points of shape {tuple(train.shape)}; expected a table."
            )
        names = train.columns or tuple(str(place) for place in range(train.x.shape[1]))
        if isinstance(train, StreamedDataset):  # vectors: every column is a number
            return cls(_streamed_columns(train, names), mismatch)
        columns = tuple(
            ColumnEncoding(name, categories=tuple(train.categories[name]))
            if name in train.categories
            else _number(name, train.x[:, place], train.forms.get(name))
            for place, name in enumerate(names)
        )
        return cls(columns, mismatch, train.completion)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of the coordinates of the vectors: ``"age"`` or ``"job=clerk"``."""
        return self._coordinates(constants=False)

    @property
    def all_coordinates(self) -> tuple[str, ...]:
        """Those of the vectors in which constant columns have a coordinate too."""
        return self._coordinates(constants=True)

    def _coordinates(self, *, constants: bool) -> tuple[str, ...]:
        numbers = (one.name for _, one in self._numbers(constants))
        hot = (
            f"{one.name}={name}"
            for _, one in self._categorical(constants)
            for name in one.categories
        )
        return (*numbers, *hot)

    def _numbers(self, constants: bool) -> list[tuple[int, ColumnEncoding]]:
        return [
            (place, one)
            for place, one in enumerate(self.columns)
            if not one.categories and (constants or not one.constant)
        ]

    def _categorical(self, constants: bool) -> list[tuple[int, ColumnEncoding]]:
        return [
            (place, one)
            for place, one in enumerate(self.columns)
            if one.categories and (constants or not one.constant)
        ]

    def require_model(self, train: Dataset) -> TableEncoding:
        """The encoding itself, if its vectors can be modelled.

        Args:
            train: The training table, for messages.

        Raises:
            ValueError: If all rows are equal, or the vectors would be larger than 4 GiB.
        """
        width = len(self.coordinates)
        if width == 0:
            what = "only one row" if len(train) == 1 else "the same values in all its rows"
            raise ValueError(
                f"{train.title} has {what}: there is nothing to model; give a table whose rows "
                f"differ."
            )
        if len(train) * width * 8 > _LARGEST:
            widest = max(self.columns, key=lambda one: len(one.categories))
            raise ValueError(
                f"{train.title} would have {width} coordinates, one for each of "
                f"{len(widest.categories)} categories of {widest.name!r}: leave that column out."
            )
        return self

    def conform(self, data: Dataset) -> Dataset:
        """Give a table the codes and the units of dates of the training table.

        Args:
            data: Table with the same columns.

        Raises:
            ValueError: If columns differ, or a category is not one of the training table.
        """
        if not data.columns and data.shape == (len(self.names),):
            data = replace(data, kind="table", columns=self.names)
        if data.columns != self.names:
            missing = [name for name in self.names if name not in data.columns]
            extra = [name for name in data.columns if name not in self.names]
            what = (
                f"lacks the column {missing[0]!r}"
                if missing
                else f"has a column {extra[0]!r} more"
                if extra
                else f"has its columns in another order, {data.columns[0]!r} first"
            )
            raise ValueError(
                f"{data.title} {what}; give the columns of the training table in their order: "
                f"{', '.join(self.names[:8])}{', ...' if len(self.names) > 8 else ''}."
            )
        model = self._empty()
        _, data = common_dates(model, data)
        x, categories = data.x.clone(), dict(data.categories)
        for place, one in enumerate(self.columns):
            if not one.categories or one.name not in data.categories:
                continue
            code = {name: float(position) for position, name in enumerate(one.categories)}
            used = data.x[:, place].long()
            names = data.categories[one.name]
            unknown = [names[i] for i in used.unique().tolist() if names[i] not in code]
            if unknown:
                row = int((used == names.index(unknown[0])).nonzero()[0])
                identifier = len(names) == len(data) >= 2 and len(unknown) > len(data) / 2
                raise ValueError(
                    f"column {one.name!r} of {data.title} has the category {unknown[0]!r} in "
                    f"{data.names[row]}, which the training table does not have; "
                    + (
                        "it looks like an identifier: leave the column out of all tables."
                        if identifier
                        else "leave such rows out."
                    )
                )
            x[:, place] = torch.tensor([code.get(name, 0.0) for name in names]).to(x)[used]
            categories[one.name] = one.categories
        data = replace(data, x=x, categories=categories)
        check_comparable(data, model)
        return data

    def _empty(self) -> Dataset:
        """The training table as far as it has to be compared: one row."""
        return Dataset(
            torch.tensor([[one.mean for one in self.columns]], dtype=torch.float64),
            "table",
            name="the training table",
            columns=self.names,
            categories={one.name: one.categories for one in self.columns if one.categories},
            forms={one.name: one.form for one in self.columns if one.form is not None},
            completion=self.completion,
        )

    def encode(self, data: Dataset) -> Dataset:
        """Encode a table.

        Args:
            data: Table with the columns of the training table; see :meth:`conform`.

        Returns:
            Vectors ``(N, e)``, float64, of kind ``"vectors"``, e the number of
            :attr:`coordinates`.

        Raises:
            ValueError: As :meth:`conform`.
        """
        x = self.vectors(self.conform(data).x)
        return Dataset(x, "vectors", name=data.name, source=data.source, names=data.names)

    def vectors(self, x: Tensor, *, constants: bool = False) -> Tensor:
        """Encode rows whose columns and codes are those of the training table.

        Args:
            x: Rows with shape ``(N, d)``.
            constants: Whether constant columns have a coordinate too: -1, 0 or 1 for a number
                below, at or above the constant.

        Returns:
            float64 vectors ``(N, e)``.
        """
        numbers = self._numbers(constants)
        mean = torch.tensor([one.mean for _, one in numbers], dtype=torch.float64).to(x.device)
        unit = torch.tensor([one.deviation for _, one in numbers], dtype=torch.float64)
        unit = unit.to(x.device)
        centred = x[:, [place for place, _ in numbers]].to(torch.float64) - mean
        parts = [torch.where(unit > 0, centred / unit.where(unit > 0, 1.0), centred.sign())]
        for place, one in self._categorical(constants):
            hot = one_hot(x[:, place].long(), len(one.categories)).to(torch.float64)
            parts.append(hot * (self.mismatch / math.sqrt(2)))
        return torch.cat(parts, dim=1)

    def decode(self, vectors: Tensor, *, name: str = "samples", source: str = "tensor") -> Dataset:
        """Decode vectors into rows of the form of the training table.

        Args:
            vectors: Vectors ``(M, e)`` without the coordinates of constant columns, finite.
            name: What to call the set in messages.
            source: Where it lies.

        Returns:
            Table, float64 on the CPU.

        Raises:
            ValueError: If the shape does not fit, or a value is not finite.
        """
        width = len(self.coordinates)
        if vectors.ndim != 2 or vectors.shape[1] != width:
            raise ValueError(f"vectors must have shape (M, {width}), got {tuple(vectors.shape)}.")
        values = vectors.detach().to("cpu", torch.float64)
        if not bool(values.isfinite().all()):
            raise ValueError(
                f"{name}: {int((~values.isfinite()).any(1).sum())} of {len(values)} vectors are "
                f"not finite: the sampler or the model has diverged."
            )
        x = self._empty().x.repeat(len(values), 1)
        position = 0
        for place, one in self._numbers(False):
            x[:, place] = _read(values[:, position], one)
            position += 1
        for place, one in self._categorical(False):
            hot = values[:, position : position + len(one.categories)]
            x[:, place] = hot.argmax(1).to(torch.float64)
            position += len(one.categories)
        if self.completion is not None:
            for indicator, column in self.completion.indicators.items():
                missing = x[:, self.names.index(indicator)] == 1
                x[missing, self.names.index(column)] = float(self.completion.values[column])
        return replace(self._empty(), x=x, name=name, source=source, names=(), stored="table")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "columns": [
                {"name": one.name, "categories": list(one.categories)}
                if one.categories
                else {k: v for k, v in asdict(one).items() if k != "categories" and v is not None}
                for one in self.columns
            ],
            "mismatch": self.mismatch,
            "completion": None if self.completion is None else self.completion.to_dict(),
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> TableEncoding:
        """The encoding that :meth:`to_dict` described.

        Raises:
            ValueError: If it describes none.
        """
        try:
            columns = tuple(
                ColumnEncoding(**{**one, "categories": tuple(one.get("categories", ()))})
                for one in entry["columns"]
            )
            completion = entry["completion"]
            return cls(
                columns,
                entry["mismatch"],
                None if completion is None else Completion.from_dict(completion),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no description of a table encoding: {error!r}.") from error


def _number(name: str, column: Tensor, form: Form | None) -> ColumnEncoding:
    values = column.to(torch.float64)
    low, high = (float(value) for value in torch.aminmax(values))
    if low == high:  # the deviation of a constant column may be rounding
        return ColumnEncoding(name, low, 0.0, low, high, decimals_of(values[:1].numpy()), form)
    deviation, mean = torch.std_mean(values, correction=0)
    return ColumnEncoding(
        name, float(mean), float(deviation), low, high, decimals_of(values.numpy()), form
    )


def _streamed_columns(train: StreamedDataset, names: Sequence[str]) -> tuple[ColumnEncoding, ...]:
    found = train.x.moments()
    rows = zip(
        names,
        found.mean.tolist(),
        (found.scatter / len(train)).sqrt().tolist(),
        found.smallest.tolist(),
        found.largest.tolist(),
        strict=True,
    )
    return tuple(
        ColumnEncoding(name, low, 0.0, low, high)
        if low == high
        else ColumnEncoding(name, mean, deviation, low, high)
        for name, mean, deviation, low, high in rows
    )


def _read(values: Tensor, column: ColumnEncoding) -> Tensor:
    """Standardised numbers in their unit, with the decimals and the range of their column."""
    numbers = values.numpy() * column.deviation + column.mean
    if column.decimals is not None:
        rounded = round_to(numbers, column.decimals)
        numbers = np.where(np.isnan(rounded), numbers, rounded)
    return torch.from_numpy(np.clip(numbers, column.low, column.high))
