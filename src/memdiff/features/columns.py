"""Columns of tables in one unit."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from memdiff.data import Dataset, StreamedDataset, sha256_of
from memdiff.data.dataset import Kind
from memdiff.features.descriptor import Descriptor

__all__ = ["TableColumns"]


class TableColumns(Descriptor):
    r"""Standardised numbers and one-hot categories, so that columns of mixed units compare.

    The unit of distance is one standard deviation of one column:

    - a number becomes :math:`(x - \mu) / s` with mean and standard deviation (divisor N) of the
      training set;
    - a number whose column is constant in the training set becomes -1, 0 or 1: below, equal,
      above. Any departure counts as one standard deviation, as there is no scale to measure it by;
    - a category becomes a one-hot vector times :math:`m / \sqrt 2`, so that a mismatch has
      distance :math:`m` (``mismatch``), by default one standard deviation too.

    Fitted by :meth:`fit` on the training set. Numbers come first, in their order, then the
    categories; see :attr:`columns`.

    Args:
        mismatch: Distance of two different categories, positive.

    Raises:
        ValueError: If ``mismatch`` is not a positive number.

    Example:
        >>> from memdiff.data import Dataset
        >>> x = torch.tensor([[10.0, 0.0], [30.0, 1.0]], dtype=torch.float64)
        >>> table = Dataset(x, "table", columns=("age", "job"), categories={"job": ("a", "b")})
        >>> rows = TableColumns().fit(table).features(table)
        >>> rows[:, 0].tolist(), round(float((rows[0, 1:] - rows[1, 1:]).norm()), 12)
        ([-1.0, 1.0], 1.0)
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("table", "vectors")

    def __init__(self, *, mismatch: float = 1.0) -> None:
        if not (isinstance(mismatch, int | float) and 0 < mismatch < math.inf):
            raise ValueError(f"mismatch must be a positive number, got {mismatch!r}.")
        self.mismatch = float(mismatch)
        self._scaling: tuple[Tensor, Tensor] | None = None
        self._numeric: list[int] = []
        self._names: tuple[str, ...] = ()
        self._categories: Mapping[str, tuple[str, ...]] = {}

    @property
    def name(self) -> str:
        """``"table"``."""
        return "table"

    @property
    def parameters(self) -> dict[str, Any]:
        """Weight of categories; names, categories and hash of means and deviations once fitted."""
        fitted: dict[str, Any] | None = None
        if self._scaling is not None:
            fitted = {
                "columns": list(self._names),
                "categories": {key: list(value) for key, value in self._categories.items()},
                "mean_sha256": sha256_of(self._scaling[0]),
                "std_sha256": sha256_of(self._scaling[1]),
            }
        return {"mismatch": self.mismatch, "fitted": fitted}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the features, ``"age"`` or ``"job=clerk"``; empty before :meth:`fit`."""
        categorical = (
            f"{column}={category}"
            for column in self._names
            for category in self._categories.get(column, ())
        )
        return (*(self._names[position] for position in self._numeric), *categorical)

    def fit(self, train: Dataset) -> TableColumns:
        """Take means, deviations and categories from the training set.

        Args:
            train: A table, or vectors, whose columns are then called ``"0"``, ``"1"``, ...

        Returns:
            The fitted descriptor.

        Raises:
            ValueError: If ``train`` holds neither.
        """
        Descriptor.check(self, train)
        fitted = copy.copy(self)
        fitted._names = train.columns or tuple(str(i) for i in range(train.x.shape[1]))
        fitted._categories = {
            column: tuple(train.categories[column])
            for column in fitted._names
            if column in train.categories
        }
        fitted._numeric = [
            position
            for position, column in enumerate(fitted._names)
            if column not in train.categories
        ]
        if isinstance(train, StreamedDataset):  # vectors: every column is a number
            found = train.x.moments()
            constant = found.smallest == found.largest
            std = (found.scatter / len(train)).sqrt()
            fitted._scaling = (
                torch.where(constant, found.smallest, found.mean),
                torch.where(constant, 0.0, std),
            )
            return fitted
        x = train.x[:, fitted._numeric].to(torch.float64)
        std, mean = torch.std_mean(x, dim=0, correction=0)
        # Equality decides what is constant: the deviation of a constant column may be rounding.
        constant = (x == x[0]).all(0)
        fitted._scaling = torch.where(constant, x[0], mean), torch.where(constant, 0.0, std)
        return fitted

    def check(self, data: Dataset) -> None:
        """Raise unless ``data`` has the columns and categories of the training set."""
        super().check(data)
        if self._scaling is None:
            raise ValueError(
                "features 'table' are not fitted: call fit(train), which returns the fitted "
                "descriptor."
            )
        if data.x.shape[1] != len(self._names):
            raise ValueError(
                f"features 'table' were fitted on {len(self._names)} columns, but {data.title} "
                f"has {data.x.shape[1]}; give the same columns."
            )
        for expected, column in zip(self._names, data.columns, strict=False):
            if column != expected:
                raise ValueError(
                    f"features 'table' were fitted on the column {expected!r} where {data.title} "
                    f"has {column!r}; give the same columns in the same order."
                )
        if {**data.categories} != {**self._categories}:
            raise ValueError(
                f"{data.title} has other categories than the table that features 'table' were "
                f"fitted on; pass the sets through align_categories first."
            )

    def _describe(self, x: Tensor) -> Tensor:
        assert self._scaling is not None  # by check
        mean, std = (values.to(x.device) for values in self._scaling)
        centred = x[:, self._numeric].to(torch.float64) - mean
        parts = [torch.where(std > 0, centred / std.where(std > 0, 1.0), centred.sign())]
        for column, categories in self._categories.items():
            codes = x[:, self._names.index(column)].long()
            hot = one_hot(codes, len(categories)).to(torch.float64)
            parts.append(hot * (self.mismatch / math.sqrt(2)))
        return torch.cat(parts, dim=1).to(x.dtype)
