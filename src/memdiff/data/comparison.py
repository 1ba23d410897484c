"""Whether data sets may be compared, and how to bring tables to common codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from memdiff.data.dataset import Dataset
from memdiff.data.dates import DATE_FORMS

__all__ = ["align_categories", "check_comparable", "common_dates"]


def check_comparable(*datasets: Dataset) -> None:
    """Raise unless distances between points of these sets mean something.

    Kind, shape of a point, range of the pixels, and the columns and categories of tables must
    agree. A table of numbers may be compared with vectors of the same width. Pixels of ``"free"``
    encoding (latents, standardised pixels) are compared with any but bytes.

    Args:
        *datasets: Two or more sets; each is compared with the first.

    Raises:
        ValueError: One sentence that says which set is which, and what to pass.

    Example:
        >>> a = Dataset(torch.zeros(2, 1, 4, 4), "images", "signed", name="train")
        >>> b = Dataset(torch.zeros(2, 1, 4, 4), "images", "byte", name="generated")
        >>> check_comparable(b, a)
        Traceback (most recent call last):
        ValueError: generated has pixels in [0, 255] but train in [-1, 1]; load generated with ...
    """
    if not datasets:
        raise ValueError("check_comparable needs at least one data set, got none.")
    first = datasets[0]
    for other in datasets[1:]:
        _check_kind(first, other)
        _check_shape(first, other)
        _check_range(first, other)
        _check_table(first, other)


def _check_kind(a: Dataset, b: Dataset) -> None:
    tabular = {"vectors", "table"}
    if a.kind != b.kind and not (
        {a.kind, b.kind} == tabular and not a.categories and not b.categories
    ):
        mixed = {a.kind, b.kind} == tabular
        why = "; a table with categorical columns compares only with a table" if mixed else ""
        raise ValueError(
            f"{a.title} holds {_noun(a)} but {b.title} holds {_noun(b)}{why}; give sets of one "
            f"kind."
        )


def _check_shape(a: Dataset, b: Dataset) -> None:
    if a.shape == b.shape:
        return
    remedy = "give sets of one shape"
    folders = [data for data in (a, b) if Path(data.source).is_dir()]
    if a.kind in ("images", "video") and folders:
        remedy = _image_remedy(folders[0], b if folders[0] is a else a)
    elif a.columns and b.columns:
        missing = sorted(set(a.columns) ^ set(b.columns))
        remedy = f"give both the same columns (only one has {', '.join(map(repr, missing[:5]))})"
    raise ValueError(
        f"{a.title} has points of shape {tuple(a.shape)} but {b.title} of shape "
        f"{tuple(b.shape)}; {remedy}."
    )


def _image_remedy(folder: Dataset, other: Dataset) -> str:
    """How the images or clips of a folder come to the shape of another set."""
    *frames, channels, height, width = other.shape
    if folder.shape[-2:] != other.shape[-2:]:
        return f"load {folder.title} with size=({height}, {width})"
    if folder.shape[-3] != channels and channels in (1, 3):
        return f"load {folder.title} with mode={'L' if channels == 1 else 'RGB'!r}"
    if frames and folder.shape[0] > frames[0]:
        return f"load {folder.title} with frames={frames[0]}"
    return "give sets of one shape"


def _check_range(a: Dataset, b: Dataset) -> None:
    if a.encoding == b.encoding:
        return
    if "free" in (a.encoding, b.encoding):
        free, other = (a, b) if a.encoding == "free" else (b, a)
        if other.encoding != "byte":
            return
        low, high = free.extremes()
        if max(-low, high) > 8.0:
            return
        raise ValueError(
            f"{other.title} has integer values in [0, 255] but {free.title} values within "
            f"{low:.3g} .. {high:.3g}; scale them alike."
        )
    wrong, right = (a, b) if a.encoding != "signed" else (b, a)
    low, high = wrong.value_range or (0.0, 1.0)
    also = ""
    if right.encoding != "signed":
        also = " and the other with value_range=({:g}, {:g})".format(*(right.value_range or ()))
    raise ValueError(
        f"{a.title} has pixels in {_range(a)} but {b.title} in {_range(b)}; load {wrong.title} "
        f"with value_range=({low:g}, {high:g}){also} (the stored range, mapped to [-1, 1]), or "
        f"state a range that was guessed wrongly."
    )


def _check_table(a: Dataset, b: Dataset) -> None:
    if not (a.columns and b.columns):
        return
    for position, (left, right) in enumerate(zip(a.columns, b.columns, strict=True)):
        if left != right:
            raise ValueError(
                f"column {position} is {left!r} in {a.title} but {right!r} in {b.title}; give "
                f"both the same columns in the same order."
            )
        if (left in a.categories) != (left in b.categories):
            text, numeric = (a, b) if left in a.categories else (b, a)
            raise ValueError(
                f"column {left!r} is categorical in {text.title} but numeric in {numeric.title}; "
                f"load both with categorical=({left!r},)."
            )
        if _is_date(a, left) != _is_date(b, left):
            dated, plain = (a, b) if _is_date(a, left) else (b, a)
            raise ValueError(
                f"column {left!r} holds dates in {dated.title} but numbers in {plain.title}; "
                f"write them alike."
            )
        if _is_date(a, left) and a.forms[left] != b.forms[left]:
            raise ValueError(
                f"column {left!r} holds {a.forms[left]} in {a.title} but {b.forms[left]} in "
                f"{b.title}; write both with a time of day and a time zone, or both without."
            )
        if a.categories.get(left) != b.categories.get(left):
            raise ValueError(
                f"column {left!r} has other categories in {a.title} than in {b.title}, so their "
                f"codes differ; pass the sets through align_categories first."
            )


def _is_date(data: Dataset, column: str) -> bool:
    return data.forms.get(column) in DATE_FORMS


def common_dates(*datasets: Dataset) -> tuple[Dataset, ...]:
    """Give tables common units of dates: seconds where one of them has times of day.

    Args:
        *datasets: Tables; others come back as they are.
    """
    timed = {
        column for data in datasets for column, form in data.forms.items() if form == "seconds"
    }
    return tuple(_in_seconds(data, timed) for data in datasets)


def _in_seconds(data: Dataset, timed: set[str]) -> Dataset:
    columns = [column for column, form in data.forms.items() if form == "days" and column in timed]
    if not columns:
        return data
    x = data.x.clone()
    x[:, [data.columns.index(column) for column in columns]] *= 86_400.0
    return replace(data, x=x, forms={**data.forms, **dict.fromkeys(columns, "seconds")})


def align_categories(*datasets: Dataset) -> tuple[Dataset, ...]:
    """Give tables common codes: code k of a column means the same category in every set.

    The categories of a column become the sorted union over the sets, and dates are counted in
    common units. Sets without such columns come back as they are.

    Args:
        *datasets: Tables with the same categorical columns.

    Returns:
        The sets, re-coded, in the order given.

    Raises:
        ValueError: If a column is categorical in one table and not in another.
    """
    datasets = common_dates(*datasets)
    tables = [data for data in datasets if data.categories]
    columns = sorted({column for data in tables for column in data.categories})
    union: dict[str, tuple[str, ...]] = {}
    for column in columns:
        for data in datasets:
            if column in data.columns and column not in data.categories:
                raise ValueError(
                    f"column {column!r} is numeric in {data.title} but categorical in "
                    f"{tables[0].title}; load both with categorical=({column!r},)."
                )
        found = (data.categories[column] for data in tables if column in data.categories)
        union[column] = tuple(sorted(set().union(*found)))
    return tuple(_recode(data, union) if data.categories else data for data in datasets)


def _recode(data: Dataset, union: dict[str, tuple[str, ...]]) -> Dataset:
    x = data.x.clone()
    categories = {column: union[column] for column in data.categories}
    for column, names in data.categories.items():
        code = {category: position for position, category in enumerate(union[column])}
        lookup = torch.tensor([code[category] for category in names], dtype=x.dtype)
        position = data.columns.index(column)
        x[:, position] = lookup[data.x[:, position].long()]
    return replace(data, x=x, categories=categories)


def _noun(data: Dataset) -> str:
    return {"video": "video clips", "table": "a table"}.get(data.kind, data.kind)


def _range(data: Dataset) -> str:
    return "[{:g}, {:g}]".format(*(data.value_range or (0.0, 0.0)))
