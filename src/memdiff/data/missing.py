"""Missing values of a table, and what stands in for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from memdiff.data.decimals import decimals_of, round_to

__all__ = ["MISSING", "RULES", "Completion", "MissingRule", "ReadColumn", "complete"]

MissingRule = Literal["drop", "mean", "category"]
"""What to do about missing values: see :func:`memdiff.data.from_frame`."""

RULES = get_args(MissingRule)

MISSING = "missing"
"""The category of missing values, and the end of the name of an indicator."""

_SHOWN = ("no", "yes")


@dataclass(frozen=True)
class Completion:
    """What stands in for the missing values of a table.

    Other tables that are compared with it must be completed by the same values: rows that were
    filled with means of their own would tell the sets apart.

    Attributes:
        rule: ``"mean"`` or ``"category"``.
        values: For each column its mean, or its most frequent category.
        indicators: For each column that says ``"yes"`` where a number is missing, the column of
            that number.
        categories: Text columns that have the category ``"missing"``.
    """

    rule: MissingRule
    values: Mapping[str, float | str] = field(default_factory=dict)
    indicators: Mapping[str, str] = field(default_factory=dict)
    categories: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "categories": list(self.categories)}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Completion:
        """The completion that :meth:`to_dict` described."""
        return cls(**{**entry, "categories": tuple(entry["categories"])})


@dataclass(frozen=True)
class ReadColumn:
    """A column as it was read.

    Attributes:
        name: Its name.
        values: Numbers or codes of categories, float64 ``(N,)``, NaN where a value is missing.
        categories: Names of the codes, or None for numbers.
        form: See :class:`memdiff.data.Dataset`; None for plain numbers and categories.
    """

    name: str
    values: np.ndarray
    categories: tuple[str, ...] | None = None
    form: str | None = None

    @property
    def missing(self) -> np.ndarray:
        """Where a value is missing, ``(N,)``."""
        return np.isnan(self.values)


def complete(
    columns: Sequence[ReadColumn],
    rule: MissingRule,
    like: Completion | None,
    title: str,
) -> tuple[list[ReadColumn], Completion]:
    """Fill in missing values.

    Args:
        columns: The columns.
        rule: ``"mean"``: numbers by the mean of their column (with its number of decimals),
            categories by the most frequent one. ``"category"``: the same for numbers, with a
            column beside them that says whether they were missing, and the category
            ``"missing"``.
        like: Take the values, and the columns that have an indicator, from here: those of the
            training set.
        title: The set's name in messages.

    Returns:
        The columns, with indicators behind their columns, and what was filled in.

    Raises:
        ValueError: If a name that is to be added is taken.
    """
    if like is None or like.rule != rule:
        told = {} if rule == "mean" else {one.name for one in columns if one.missing.any()}
        like = Completion(
            rule,
            {one.name: _stand_in(one) for one in columns},
            {
                f"{one.name} {MISSING}": one.name
                for one in columns
                if one.name in told and one.categories is None
            },
        )
    indicated = {column: name for name, column in like.indicators.items()}
    taken = {one.name for one in columns}
    filled: list[ReadColumn] = []
    marked = set(like.categories)
    for one in columns:
        missing = one.missing
        if one.categories is not None and rule == "category":
            if missing.any() or one.name in marked:
                marked.add(one.name)
                filled.append(_with_category(one, title))
            else:
                filled.append(one)
            continue
        value = like.values.get(one.name)
        if value is None or isinstance(value, str) != (one.categories is not None):
            value = _stand_in(one)
        filled.append(_filled(one, value))
        if one.name in indicated:
            name = indicated[one.name]
            if name in taken:
                raise ValueError(
                    f"{title} has a column {name!r}, the name of the indicator of missing values "
                    f"of {one.name!r}; rename it."
                )
            filled.append(ReadColumn(name, missing.astype(np.float64), _SHOWN))
    return filled, replace(like, categories=tuple(sorted(marked)))


def _stand_in(column: ReadColumn) -> float | str:
    present = column.values[~column.missing]
    if column.categories is not None:
        codes, counts = np.unique(present, return_counts=True)
        return column.categories[int(codes[counts.argmax()])]
    mean, decimals = np.array([present.mean()]), decimals_of(present)
    return float(mean[0] if decimals is None else round_to(mean, decimals)[0])


def _filled(column: ReadColumn, value: float | str) -> ReadColumn:
    if not column.missing.any():
        return column
    if isinstance(value, str):
        column = _with_name(column, value)
        assert column.categories is not None
        code: float = column.categories.index(value)
    else:
        code = value
    return replace(column, values=np.where(column.missing, code, column.values))


def _with_name(column: ReadColumn, name: str) -> ReadColumn:
    """The column with one more category, in the order of the names."""
    assert column.categories is not None
    if name in column.categories:
        return column
    names = tuple(sorted((*column.categories, name)))
    shift = np.array([float(names.index(old)) for old in column.categories])
    values = column.values.copy()
    present = ~column.missing
    values[present] = shift[values[present].astype(np.int64)]
    return replace(column, values=values, categories=names)


def _with_category(column: ReadColumn, title: str) -> ReadColumn:
    assert column.categories is not None
    if MISSING in column.categories and column.missing.any():
        raise ValueError(
            f"column {column.name!r} of {title} has a category called {MISSING!r} and missing "
            f"values as well; rename the category."
        )
    return _filled(_with_name(column, MISSING), MISSING)
