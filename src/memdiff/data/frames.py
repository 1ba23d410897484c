"""Data sets of pandas tables, and pandas tables of data sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from memdiff.data.arrays import from_array
from memdiff.data.dataset import Dataset, Form
from memdiff.data.dates import DATE_FORMS, dates_of_series, dates_of_text, is_date
from memdiff.data.missing import MISSING, RULES, MissingRule, ReadColumn, complete

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["from_frame", "import_pandas", "is_number", "to_frame"]

_FEW = 20
"""Rows below which it says nothing that all values of a column differ."""


def import_pandas(title: str, *, parquet: bool) -> Any:  # noqa: ANN401
    """Pandas, and pyarrow with it for ``.parquet``; ImportError with the command if not."""
    try:
        import pandas

        if parquet:
            import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{title} needs pandas and pyarrow to be read; run: pip install 'memdiff[tables]'"
        ) from error
    return pandas


def is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return math.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False


def from_frame(
    frame: pd.DataFrame,
    *,
    name: str = "data",
    source: str = "tensor",
    categorical: Sequence[str] = (),
    missing: MissingRule | None = None,
    like: Dataset | None = None,
) -> Dataset:
    """Make a data set of a pandas table.

    Text, pandas categories and the columns of ``categorical`` become codes 0, 1, ... of their
    sorted distinct values; numbers and booleans stay numbers. Dates and times (pandas dates, or
    text as ISO 8601 has it) become days or seconds since 1970-01-01, so that they are ordered.
    ``x`` is float64, so that no integer up to 2^53 loses digits.

    Args:
        frame: The table, one point per row.
        name: What to call the set in messages.
        source: Where it came from.
        categorical: Columns to treat as categories although they hold numbers or dates.
        missing: What to do about missing values: ``"drop"`` leaves out their rows, ``"mean"`` puts
            the mean of the column or its most frequent category, ``"category"`` makes them a
            category of their own, and for numbers puts the mean and a column beside it that says
            whether it is one. None refuses them.
        like: A table that was read with the same ``missing``: what stands in for missing values is
            taken from there. Give the training set where sets are to be compared.

    Returns:
        Data set of kind ``"table"`` with ``columns``, ``categories``, ``forms``, ``completion``,
        and a note on every column that looks like an identifier.

    Raises:
        ValueError: If there is no row or column, a value is missing (and not dealt with) or not
            finite, a column is empty or neither numbers, text nor dates, or a text column holds
            numbers or dates for the most part.
    """
    title = name if source == "tensor" else f"{name} ({source})"
    given = tuple(str(column) for column in frame.columns)
    if frame.shape[0] == 0 or not given:
        raise ValueError(
            f"{title} has {frame.shape[0]} rows and {len(given)} columns; at least one of each "
            f"is needed."
        )
    if missing is not None and missing not in RULES:
        raise ValueError(f"missing must be one of {', '.join(RULES)}, got {missing!r}.")
    unknown = [column for column in categorical if column not in given]
    if unknown:
        raise ValueError(
            f"categorical=({unknown[0]!r},) names a column that {title} does not have; it has "
            f"{', '.join(map(repr, given[:8]))}."
        )
    columns = [
        _column(frame.iloc[:, position], column, column in categorical, title)
        for position, column in enumerate(given)
    ]
    gaps = np.stack([column.missing for column in columns], axis=1)
    names, notes = [f"row {i}" for i in range(len(frame))], []
    completion = None
    if missing == "drop":
        keep = np.asarray(~gaps.any(axis=1))
        if not keep.any():
            raise ValueError(
                f"every row of {title} has a missing value; fill them in, or pass missing='mean' "
                f"or missing='category'."
            )
        if not keep.all():
            columns = [_kept(column, keep) for column in columns]
            names = [one for one, kept in zip(names, keep, strict=True) if kept]
            notes.append(f"{int((~keep).sum())} rows with missing values left out")
    elif missing is not None:
        known = None if like is None else like.completion
        columns, completion = complete(columns, missing, known, title)
        if gaps.any():
            notes.append(f"{int(gaps.sum())} missing values filled in ({missing})")
    else:
        _refuse_missing(columns, title)
    notes.extend(_identifiers(columns))
    data = from_array(np.stack([one.values for one in columns], 1), name=name, source=source)
    return replace(
        data,
        kind="table",
        stored="table",
        names=tuple(names),
        columns=tuple(one.name for one in columns),
        categories={one.name: one.categories for one in columns if one.categories is not None},
        forms={one.name: cast(Form, one.form) for one in columns if one.form is not None},
        completion=completion,
        notes=tuple(notes),
    )


def _refuse_missing(columns: Sequence[ReadColumn], title: str) -> None:
    for column in columns:
        missing = column.missing
        if missing.any():
            raise ValueError(
                f"column {column.name!r} of {title} has {int(missing.sum())} missing values, "
                f"first in row {int(missing.argmax())}; remove these rows, fill the values in, or "
                f"pass missing='drop', missing='mean' or missing='category'."
            )


def _kept(column: ReadColumn, keep: np.ndarray) -> ReadColumn:
    """Some rows of a column; categories that have gone with the others are no longer listed."""
    values, names = column.values[keep], column.categories
    if names is not None:
        codes, values = np.unique(values, return_inverse=True)
        values, names = values.astype(np.float64), tuple(names[int(code)] for code in codes)
    return replace(column, values=values, categories=names)


def _identifiers(columns: Sequence[ReadColumn]) -> list[str]:
    """A note on every column of text or integers all of whose values differ."""
    return [
        f"column {column.name!r} looks like an identifier, as all its values differ: leave it out "
        f"unless it is data"
        for column in columns
        if (column.categories is not None or column.form == "integer")
        and len(column.values) >= _FEW
        and len(np.unique(column.values)) == len(column.values)
    ]


def _column(series: pd.Series, column: str, categorical: bool, title: str) -> ReadColumn:
    """Numbers, or codes and the names of the categories."""
    import pandas.api.types as types

    missing = series.isna().to_numpy()
    if missing.all():
        raise ValueError(f"column {column!r} of {title} is empty; remove it.")
    present, rows = series[~missing], np.flatnonzero(~missing)
    values = np.full(len(series), np.nan)
    if types.is_object_dtype(series):
        if all(isinstance(value, bool) for value in present):  # some of them are missing
            present = present.astype(bool)
        elif all(is_date(value) for value in present):
            present = present.astype(str).astype("string")
    is_text = types.is_string_dtype(present) or isinstance(series.dtype, types.CategoricalDtype)
    form: Form | None = None
    if not categorical:
        if types.is_datetime64_any_dtype(present):
            values[rows], form = dates_of_series(present)
            return ReadColumn(column, values, form=form)
        if not is_text:
            if not types.is_numeric_dtype(present) or types.is_complex_dtype(present):
                raise ValueError(
                    f"column {column!r} of {title} has type {series.dtype}; convert it to "
                    f"numbers, dates or text."
                )
            values[rows] = _numbers(present, rows, column, title)
            if types.is_bool_dtype(present):
                form = "boolean"
            elif types.is_integer_dtype(present) or (
                # Integers of which some are missing are read as floats.
                missing.any() and np.array_equal(values[rows], np.rint(values[rows]))
            ):
                form = "integer"
            return ReadColumn(column, values, form=form)
    text = present.astype(str).to_numpy(dtype=object)
    if types.is_string_dtype(present) and not categorical:
        dates = dates_of_text(text, rows, column, title)
        if dates is not None:
            values[rows], form = dates
            return ReadColumn(column, values, form=form)
        _refuse_dirty_numbers(text, rows, column, title)
    names, codes = np.unique(text.astype(str), return_inverse=True)
    values[rows] = codes
    return ReadColumn(column, values, tuple(names.tolist()))


def _numbers(series: pd.Series, rows: np.ndarray, column: str, title: str) -> np.ndarray:
    values = series.to_numpy(dtype=np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        raise ValueError(
            f"column {column!r} of {title} has {int(bad.sum())} infinite values, first in row "
            f"{rows[int(bad.argmax())]}; remove these rows or mend the values."
        )
    return values


def _refuse_dirty_numbers(text: np.ndarray, rows: np.ndarray, column: str, title: str) -> None:
    """A number column with some `?` in it must not become one category a number.

    Text that is all numbers was declared text by whoever wrote the file: codes, such as postal
    ones.
    """
    numeric = np.array([is_number(value) for value in text])
    if 0.5 < numeric.mean() < 1.0:
        first = int((~numeric).argmax())
        raise ValueError(
            f"column {column!r} of {title} holds numbers, but {int((~numeric).sum())} values "
            f"are not, first {text[first]!r} in row {rows[first]}; mend them or pass "
            f"categorical=({column!r},)."
        )


def to_frame(data: Dataset) -> pd.DataFrame:
    """Make a pandas table of a data set: the inverse of :func:`from_frame`.

    Categories have their names, integers, booleans and dates their types, and values that were
    missing are missing again where the data say which (``missing="category"``).

    Args:
        data: Table or vectors, whose columns are then called ``"0"``, ``"1"``, ...

    Raises:
        ValueError: If the points are no rows of numbers.
        ImportError: If pandas is not installed.
    """
    pandas = import_pandas(data.title, parquet=False)
    if data.x.ndim != 2:
        raise ValueError(f"{data.title} has points of shape {tuple(data.shape)}; expected rows.")
    names = data.columns or tuple(str(position) for position in range(data.x.shape[1]))
    x = data.x.numpy().astype(np.float64)
    completion = data.completion
    indicators: Mapping[str, str] = {} if completion is None else completion.indicators
    gaps = {column: x[:, names.index(indicator)] == 1 for indicator, column in indicators.items()}
    return pandas.DataFrame(
        {
            name: _written(data, name, x[:, position], gaps.get(name))
            for position, name in enumerate(names)
            if name not in indicators
        }
    )


def _written(data: Dataset, name: str, values: np.ndarray, gaps: np.ndarray | None) -> Any:  # noqa: ANN401
    """A column in the form in which it came."""
    import pandas

    if name in data.categories:
        emptied = data.completion is not None and name in data.completion.categories
        names = [None if emptied and one == MISSING else one for one in data.categories[name]]
        return pandas.Series([names[int(code)] for code in values], dtype=object)
    gaps = np.zeros(len(values), dtype=bool) if gaps is None else gaps
    form = data.forms.get(name)
    if form == "integer":
        whole = pandas.Series(np.rint(values).astype(np.int64))
        return whole.astype("Int64").mask(gaps) if gaps.any() else whole
    if form == "boolean":
        truth = pandas.Series(values > 0.5)
        return truth.astype("boolean").mask(gaps) if gaps.any() else truth
    if form in DATE_FORMS:
        unit = 86_400e6 if form == "days" else 1e6
        moments = np.rint(values * unit).astype(np.int64).astype("datetime64[us]")
        dates = pandas.Series(moments).mask(gaps)
        return dates.dt.tz_localize("UTC") if form == "seconds UTC" else dates
    return pandas.Series(np.where(gaps, np.nan, values))
