"""Columns of tables in one unit."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from memdiff.data import Dataset, TableEncoding
from memdiff.data.dataset import Kind
from memdiff.features.descriptor import Descriptor
from memdiff.sources.hashing import sha256_of

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
    categories; see :attr:`columns`. It is the :class:`~memdiff.data.TableEncoding` by which tables
    are modelled, but for the constant columns.

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
        self._encoding: TableEncoding | None = None

    @property
    def name(self) -> str:
        """``"table"``."""
        return "table"

    @property
    def parameters(self) -> dict[str, Any]:
        """Weight of categories; names, categories and hash of means and deviations once fitted."""
        fitted: dict[str, Any] | None = None
        if self._encoding is not None:
            numbers = [one for one in self._encoding.columns if not one.categories]
            mean = torch.tensor([one.mean for one in numbers], dtype=torch.float64)
            std = torch.tensor([one.deviation for one in numbers], dtype=torch.float64)
            fitted = {
                "columns": list(self._encoding.names),
                "categories": {key: list(names) for key, names in self._categories.items()},
                "mean_sha256": sha256_of(mean),
                "std_sha256": sha256_of(std),
            }
        return {"mismatch": self.mismatch, "fitted": fitted}

    @property
    def _categories(self) -> dict[str, tuple[str, ...]]:
        columns = () if self._encoding is None else self._encoding.columns
        return {one.name: one.categories for one in columns if one.categories}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the features, ``"age"`` or ``"job=clerk"``; empty before :meth:`fit`."""
        return () if self._encoding is None else self._encoding.all_coordinates

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
        fitted._encoding = TableEncoding.fit(train, mismatch=self.mismatch)
        return fitted

    def check(self, data: Dataset) -> None:
        """Raise unless ``data`` has the columns and categories of the training set."""
        super().check(data)
        if self._encoding is None:
            raise ValueError(
                "features 'table' are not fitted: call fit(train), which returns the fitted "
                "descriptor."
            )
        names = self._encoding.names
        if data.x.shape[1] != len(names):
            raise ValueError(
                f"features 'table' were fitted on {len(names)} columns, but {data.title} "
                f"has {data.x.shape[1]}; give the same columns."
            )
        for expected, column in zip(names, data.columns, strict=False):
            if column != expected:
                raise ValueError(
                    f"features 'table' were fitted on the column {expected!r} where {data.title} "
                    f"has {column!r}; give the same columns in the same order."
                )
        if {**data.categories} != self._categories:
            raise ValueError(
                f"{data.title} has other categories than the table that features 'table' were "
                f"fitted on; pass the sets through align_categories first."
            )

    def _describe(self, x: Tensor) -> Tensor:
        assert self._encoding is not None  # by check
        return self._encoding.vectors(x, constants=True).to(x.dtype)
