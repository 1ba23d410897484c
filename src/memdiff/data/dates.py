"""Dates as numbers: days or seconds since 1970, so that they are ordered and have distances."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import numpy as np

from memdiff.data.dataset import Form

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DATE_FORMS", "date_text", "dates_of_series", "dates_of_text"]

DATE_FORMS: tuple[Form, ...] = ("days", "seconds", "seconds UTC")
"""Forms of the columns that hold dates."""

_ISO = re.compile(
    r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?", re.ASCII
)
_OTHER = re.compile(r"\d{1,2}([./-])\d{1,2}\1(\d{4}|\d{2})|\d{4}([./])\d{1,2}\3\d{1,2}", re.ASCII)
_DAY = 86_400_000_000
_EPOCH = datetime(1970, 1, 1)


def dates_of_text(
    text: np.ndarray, rows: np.ndarray, column: str, title: str
) -> tuple[np.ndarray, Form] | None:
    """Read a column of text as dates, if it holds them.

    Dates are written as ISO 8601 has them: ``2024-01-31``, ``2024-01-31 17:05``, with a time zone
    or without.

    Args:
        text: The values that are not missing, with shape ``(n,)``.
        rows: Their rows, for messages.
        column: Name of the column.
        title: The set's name in messages.

    Returns:
        Days (no value has a time) or seconds since 1970-01-01, float64 ``(n,)``, and the form; or
        None where the text is no dates.

    Raises:
        ValueError: If more than half of the values are dates but not all, they are written in an
            order that can be misread, or some have a time zone and some have none.
    """
    found = [_ISO.fullmatch(value) for value in text]
    share = sum(match is not None for match in found) / len(text)
    if share <= 0.5:
        odd = [position for position, value in enumerate(text) if _OTHER.fullmatch(value)]
        if len(odd) + share * len(text) > 0.5 * len(text):
            raise ValueError(
                f"column {column!r} of {title} holds dates such as {text[odd[0]]!r} in row "
                f"{rows[odd[0]]}, whose order can be misread; write them as 2024-01-31 or pass "
                f"categorical=({column!r},)."
            )
        return None
    moments = np.zeros(len(text), dtype=np.int64)
    zoned = 0
    bad: list[int] = []
    for position, (value, match) in enumerate(zip(text, found, strict=True)):
        try:
            moment = datetime.fromisoformat(value.replace(",", ".")) if match else None
        except ValueError:
            moment = None
        if moment is None:
            bad.append(position)
            continue
        if moment.tzinfo is not None:
            zoned += 1
            moment = moment.astimezone(UTC).replace(tzinfo=None)
        moments[position] = _microseconds(moment)
    if bad:
        raise ValueError(
            f"column {column!r} of {title} holds dates, but {len(bad)} values are none, first "
            f"{text[bad[0]]!r} in row {rows[bad[0]]}; mend them (as 2024-01-31) or pass "
            f"categorical=({column!r},)."
        )
    if 0 < zoned < len(text):
        raise ValueError(
            f"column {column!r} of {title} holds {zoned} times with a time zone and "
            f"{len(text) - zoned} without; write all of them alike."
        )
    timed = any(match is not None and match[1] is not None for match in found)
    return _in_unit(moments, timed, zoned > 0)


def dates_of_series(series: pd.Series) -> tuple[np.ndarray, Form]:
    """Dates of a pandas column of dates or times without missing values.

    Args:
        series: Column of type ``datetime64``, with a time zone or without.

    Returns:
        As :func:`dates_of_text`; days where every time is midnight.
    """
    zoned = getattr(series.dtype, "tz", None) is not None
    plain = series.dt.tz_convert("UTC").dt.tz_localize(None) if zoned else series
    moments = plain.to_numpy().astype("datetime64[us]").astype(np.int64)
    return _in_unit(moments, bool((moments % _DAY != 0).any()), zoned)


def _microseconds(moment: datetime) -> int:
    passed = moment - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds


def _in_unit(moments: np.ndarray, timed: bool, zoned: bool) -> tuple[np.ndarray, Form]:
    if zoned:
        return moments / 1e6, "seconds UTC"
    return (moments / 1e6, "seconds") if timed else (moments // _DAY * 1.0, "days")


def date_text(values: np.ndarray, form: Form) -> list[str]:
    """Write dates as ISO 8601.

    Args:
        values: Days or seconds since 1970-01-01 with shape ``(n,)``.
        form: ``"days"``, ``"seconds"`` or ``"seconds UTC"``.

    Example:
        >>> date_text(np.array([19753.0]), "days"), date_text(np.array([60.0]), "seconds UTC")
        (['2024-01-31'], ['1970-01-01 00:01:00+00:00'])
    """
    if form == "days":
        days = np.rint(values).astype(np.int64).astype("datetime64[D]")
        return np.datetime_as_string(days).tolist()
    moments = np.rint(values * 1e6).astype(np.int64)
    exact = moments.astype("datetime64[us]")
    written = (
        np.datetime_as_string(exact, unit="us")
        if (moments % 1_000_000).any()
        else np.datetime_as_string(exact, unit="s")
    )
    zone = "+00:00" if form == "seconds UTC" else ""
    return [f"{one.replace('T', ' ')}{zone}" for one in written.tolist()]


def is_date(value: object) -> bool:
    """Whether a value is a calendar date of Python."""
    return isinstance(value, date)
