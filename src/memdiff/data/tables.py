"""Tables: ``.csv`` and ``.parquet``."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memdiff.data.arrays import from_array
from memdiff.data.dataset import Dataset
from memdiff.data.reading import reading
from memdiff.memory import require_memory

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TABLE_SUFFIXES", "from_frame", "load_table"]

TABLE_SUFFIXES = (".csv", ".parquet")


def load_table(
    path: Path,
    *,
    name: str = "data",
    limit: int | None = None,
    header: bool = True,
    categorical: Sequence[str] = (),
) -> Dataset:
    """Load a table, numeric and categorical columns mixed, one point a row.

    A ``.csv`` is UTF-8, separated by commas, with one line of column names.

    Args:
        path: The file.
        name: What to call the set in messages.
        limit: Keep the first ``limit`` rows.
        header: Whether the first line of a ``.csv`` names the columns; without names they are
            called ``"0"``, ``"1"``, ...
        categorical: Columns to treat as categories although they hold numbers.

    Returns:
        The data set of :func:`from_frame`.

    Raises:
        ValueError: If the file is damaged or ragged, a name is missing or doubled, or a column
            is refused by :func:`from_frame`.
        ImportError: If pandas (or, for ``.parquet``, pyarrow) is not installed.
    """
    title = f"{name} ({path})"
    pandas = _import_pandas(title, parquet=path.suffix.lower() == ".parquet")
    with reading(title):
        require_memory(_size_in_memory(path), title, "give a part of it")
        if path.suffix.lower() == ".parquet":
            if not header:
                raise ValueError(f"header=False applies to .csv files, not to {title}.")
            frame = pandas.read_parquet(path)
        else:
            _check_csv(path, title, header)
            # Only an empty field is missing: "NA" and "None" are categories of their own right.
            frame = pandas.read_csv(
                path,
                **_exact_floats(pandas.__version__),
                header=0 if header else None,
                keep_default_na=False,
                na_values=[""],
                index_col=False,
                skipinitialspace=True,
                low_memory=False,
                skip_blank_lines=True,
            )
    frame.columns = [str(column) for column in frame.columns]
    if limit is not None:
        frame = frame.iloc[:limit]
    return from_frame(frame, name=name, source=str(path), categorical=categorical)


def _import_pandas(title: str, *, parquet: bool) -> Any:  # noqa: ANN401
    try:
        import pandas

        if parquet:
            import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{title} needs pandas and pyarrow to be read; run: pip install 'memdiff[tables]'"
        ) from error
    return pandas


def _size_in_memory(path: Path) -> int:
    """Bytes that a table takes at least: a few in a compressed file may be many rows."""
    if path.suffix.lower() == ".csv":
        return path.stat().st_size
    from pyarrow import parquet

    found = parquet.ParquetFile(path).metadata
    return 8 * found.num_rows * found.num_columns


def _exact_floats(version: str) -> dict[str, str]:
    """Before pandas 3.1 its default reads floats to within a last digit; since then exactly."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return {} if (major, minor) >= (3, 1) else {"float_precision": "round_trip"}


def _check_csv(path: Path, title: str, header: bool) -> None:
    """What pandas would mend in silence: names that are missing or doubled, ragged rows."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = (
            (number, row)
            for number, row in enumerate(csv.reader(stream, skipinitialspace=True), 1)
            if row
        )
        _, first = next(rows, (0, []))
        if not first:
            raise ValueError(f"{title} is empty; expected a line of column names and rows.")
        if header:
            _check_names([field.strip() for field in first], title)
        for record, row in rows:
            if len(row) != len(first):
                raise ValueError(
                    f"{title} is ragged: record {record} has {len(row)} fields but the first has "
                    f"{len(first)}; mend that line."
                )


def _check_names(names: list[str], title: str) -> None:
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise ValueError(
            f"{title} has the single column {names[0][:60]!r}, so it is not separated by commas; "
            f"save it with commas."
        )
    if all(_is_number(name) for name in names):
        raise ValueError(
            f"{title} has numbers where column names are expected ({', '.join(names[:3])}); add a "
            f"line of names, or pass header=False if it has none."
        )
    for position, column in enumerate(names, 1):
        if not column:
            raise ValueError(
                f"column {position} of {title} has no name (perhaps an index that was saved with "
                f"the table); name it or remove it."
            )
        if column in names[: position - 1]:
            raise ValueError(
                f"{title} has two columns called {column!r}; give every column its own name."
            )


def _is_number(text: str) -> bool:
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
) -> Dataset:
    """Make a data set of a pandas table.

    Text, pandas categories and the columns of ``categorical`` become codes 0, 1, ... of their
    sorted distinct values; numbers and booleans stay numbers. ``x`` is float64, so that no
    integer up to 2^53 loses digits.

    Args:
        frame: The table, one point a row.
        name: What to call the set in messages.
        source: Where it came from.
        categorical: Columns to treat as categories although they hold numbers.

    Returns:
        Data set of kind ``"table"`` with ``columns`` and ``categories``.

    Raises:
        ValueError: If there is no row or column, a value is missing or not finite, a column is
            neither numbers nor text, or a text column holds numbers for the most part.
    """
    title = name if source == "tensor" else f"{name} ({source})"
    columns = tuple(str(column) for column in frame.columns)
    if frame.shape[0] == 0 or not columns:
        raise ValueError(
            f"{title} has {frame.shape[0]} rows and {len(columns)} columns; at least one of each "
            f"is needed."
        )
    unknown = [column for column in categorical if column not in columns]
    if unknown:
        raise ValueError(
            f"categorical names the column {unknown[0]!r}, which {title} does not have; it has "
            f"{', '.join(map(repr, columns[:8]))}."
        )
    values = np.empty(frame.shape)
    categories: dict[str, tuple[str, ...]] = {}
    for position, column in enumerate(columns):
        codes, names = _column(frame.iloc[:, position], column, column in categorical, title)
        values[:, position] = codes
        if names is not None:
            categories[column] = names
    data = from_array(values, name=name, source=source)
    return replace(data, kind="table", stored="table", columns=columns, categories=categories)


def _column(
    series: pd.Series, column: str, categorical: bool, title: str
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Numbers and None, or codes and the names of the categories."""
    import pandas.api.types as types

    missing = series.isna().to_numpy()
    if missing.all():
        raise ValueError(f"column {column!r} of {title} is empty; remove it.")
    if missing.any():
        raise ValueError(
            f"column {column!r} of {title} has {int(missing.sum())} missing values, first in row "
            f"{int(missing.argmax())}; remove these rows or fill the values in."
        )
    is_text = types.is_string_dtype(series) or isinstance(series.dtype, types.CategoricalDtype)
    if not is_text and not categorical:
        if not types.is_numeric_dtype(series) or types.is_complex_dtype(series):
            raise ValueError(
                f"column {column!r} of {title} has type {series.dtype}; convert it to numbers or "
                f"text."
            )
        return _numbers(series, column, title), None
    text = series.astype(str).to_numpy(dtype=object)
    if types.is_string_dtype(series) and not categorical:
        _refuse_dirty_numbers(text, column, title)
    names, codes = np.unique(text.astype(str), return_inverse=True)
    return codes.astype(np.float64), tuple(names.tolist())


def _numbers(series: pd.Series, column: str, title: str) -> np.ndarray:
    values = series.to_numpy(dtype=np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        raise ValueError(
            f"column {column!r} of {title} has {int(bad.sum())} infinite values, first in row "
            f"{int(bad.argmax())}; remove these rows or mend the values."
        )
    return values


def _refuse_dirty_numbers(text: np.ndarray, column: str, title: str) -> None:
    """A number column with some `?` in it must not become one category a number.

    Text that is all numbers was declared text by whoever wrote the file: codes, such as postal
    ones.
    """
    is_number = np.array([_is_number(value) for value in text])
    if 0.5 < is_number.mean() < 1.0:
        row = int((~is_number).argmax())
        raise ValueError(
            f"column {column!r} of {title} holds numbers, but {int((~is_number).sum())} values "
            f"are not, first {text[row]!r} in row {row}; mend them or pass "
            f"categorical=({column!r},)."
        )
