"""Tables: ``.csv`` and ``.parquet``, in and out."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memdiff.data.dataset import Dataset
from memdiff.data.dates import DATE_FORMS, date_text
from memdiff.data.frames import from_frame, import_pandas, is_number, to_frame
from memdiff.data.missing import MissingRule
from memdiff.data.reading import reading
from memdiff.run.memory import require_memory
from memdiff.run.writing import replace_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TABLE_SUFFIXES", "load_table", "save_table"]

TABLE_SUFFIXES = (".csv", ".parquet")

GAPS = ("NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?")
"""What programs write for a number that is missing."""


def load_table(
    path: Path,
    *,
    name: str = "data",
    limit: int | None = None,
    header: bool = True,
    categorical: Sequence[str] = (),
    missing: MissingRule | None = None,
    like: Dataset | None = None,
) -> Dataset:
    """Load a table, numeric and categorical columns mixed, one point per row.

    A ``.csv`` is UTF-8, separated by commas, with one line of column names. Empty fields are
    missing; among numbers so are ``NA``, ``nan``, ``null``, ``?`` and the like (``GAPS``), which
    are categories elsewhere.

    Args:
        path: The file.
        name: What to call the set in messages.
        limit: Keep the first ``limit`` rows.
        header: Whether the first line of a ``.csv`` names the columns; without names they are
            called ``"0"``, ``"1"``, ...
        categorical: See :func:`~memdiff.data.from_frame`; their text is taken as the file has it.
        missing: See :func:`~memdiff.data.from_frame`.
        like: See :func:`~memdiff.data.from_frame`.

    Returns:
        The data set of :func:`~memdiff.data.from_frame`.

    Raises:
        ValueError: If the file is damaged or ragged, a name is missing or doubled, or a column
            is refused by :func:`~memdiff.data.from_frame`.
        ImportError: If pandas (or, for ``.parquet``, pyarrow) is not installed.
    """
    title = f"{name} ({path})"
    codes: dict[str, str] = {}
    pandas = import_pandas(title, parquet=path.suffix.lower() == ".parquet")
    with reading(title):
        require_memory(_size_in_memory(path), title, "give a part of it")
        if path.suffix.lower() == ".parquet":
            if not header:
                raise ValueError(f"header=False applies to .csv files, not to {title}.")
            frame = pandas.read_parquet(path)
        else:
            codes = _check_csv(path, title, header)
            # In text only an empty field is missing: "NA" may be Namibia.
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
                dtype=_texts(path, categorical, header),
            )
            _empty_gaps(frame, categorical)
    frame.columns = [str(column) for column in frame.columns]
    if limit is not None:
        frame = frame.iloc[:limit]
    data = from_frame(
        frame, name=name, source=str(path), categorical=categorical, missing=missing, like=like
    )
    notes = tuple(
        f"column {column!r} has numbers such as {code!r}, whose leading zeros are lost: pass "
        f"categorical=({column!r},) if they are codes"
        for column, code in codes.items()
        if column not in data.categories and data.forms.get(column) == "integer"
    )
    return replace(data, notes=(*data.notes, *notes))


def _texts(path: Path, categorical: Sequence[str], header: bool) -> dict[Any, type]:
    """Columns that stay text, as pandas calls them."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        first = next(row for row in csv.reader(stream, skipinitialspace=True) if row)
    names = first if header else [str(position) for position in range(len(first))]
    return {
        name if header else position: str
        for position, name in enumerate(names)
        if name.strip() in categorical
    }


def _empty_gaps(frame: pd.DataFrame, categorical: Sequence[str]) -> None:
    """Columns of numbers that are text for what stands where one is missing."""
    import pandas

    for position, name in enumerate(frame.columns):
        series = frame.iloc[:, position]
        if str(name) in categorical or not pandas.api.types.is_string_dtype(series):
            continue
        values = set(series.dropna().unique())
        numbers = values - set(GAPS)
        if numbers and numbers < values and all(is_number(str(value)) for value in numbers):
            frame.isetitem(position, pandas.to_numeric(series.mask(series.isin(GAPS))))


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


def _check_csv(path: Path, title: str, header: bool) -> dict[str, str]:
    """What pandas would mend in silence: names that are missing or doubled, ragged rows.

    Returns:
        For each column with numbers that begin with a zero the first of them.
    """
    codes: dict[int, str] = {}
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
            for place, field in enumerate(row):
                if field[:1] == "0" and len(field) > 1 and field.isdigit():
                    codes.setdefault(place, field)
    return {first[place].strip() if header else str(place): code for place, code in codes.items()}


def _check_names(names: list[str], title: str) -> None:
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise ValueError(
            f"{title} has the single column {names[0][:60]!r}, so it is not separated by commas; "
            f"save it with commas."
        )
    numbers = [name for name in names if is_number(name)]
    # Years are names of columns; a half of 32.1 and the like are values.
    broken = any(not float(name).is_integer() for name in numbers)
    if len(numbers) == len(names) or (broken and len(numbers) > len(names) / 2):
        raise ValueError(
            f"{title} has numbers where column names are expected ({', '.join(numbers[:3])}); "
            f"add a line of names, or pass header=False if it has none."
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


def save_table(path: str | Path, data: Dataset) -> Path:
    """Write a table as ``.csv`` or ``.parquet``, whole or not at all.

    What :func:`load_table` reads from the file, with the options that ``data`` was read with, is
    ``data`` again. Columns that were never named are written without a header.

    Args:
        path: Name of the file.
        data: Table or vectors.

    Returns:
        The path.

    Raises:
        ValueError: If the file has another suffix, or as :func:`~memdiff.data.to_frame`.
        ImportError: If pandas (or, for ``.parquet``, pyarrow) is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise ValueError(f"{str(path)!r} must end in {' or '.join(TABLE_SUFFIXES)}.")
    parquet = path.suffix.lower() == ".parquet"
    import_pandas(str(path), parquet=parquet)
    frame = to_frame(data)
    unnamed = all(column == str(place) for place, column in enumerate(frame.columns))
    with replace_file(path) as temporary:
        if parquet:
            frame.to_parquet(temporary, index=False)
            return path
        for name in frame.columns:
            if data.forms.get(name) in DATE_FORMS:
                here = frame[name].notna().to_numpy()
                text = np.full(len(frame), "", dtype=object)
                values = data.x[:, data.columns.index(name)].numpy()[here]
                text[here] = date_text(values, data.forms[name])
                frame[name] = text
        frame.to_csv(temporary, index=False, header=not unnamed, lineterminator="\n")
    return path
