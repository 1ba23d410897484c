"""Folders that Hugging Face ``datasets`` wrote with ``save_to_disk``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memdiff.data.arrays import Layout, from_array
from memdiff.data.dataset import Dataset
from memdiff.data.frames import from_frame
from memdiff.data.images import Mode, Size, stack_images
from memdiff.data.missing import MissingRule
from memdiff.data.reading import reading

__all__ = ["is_saved_dataset", "load_saved_dataset"]

_ARRAYS = ("Array2D", "Array3D", "Array4D", "List", "LargeList", "Sequence")


def is_saved_dataset(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote this folder (one split, or several)."""
    try:
        one = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
        return one or (folder / "dataset_dict.json").is_file()
    except PermissionError as error:  # name what was given, not a file that need not exist
        raise PermissionError(error.errno, error.strerror, str(folder)) from error


def load_saved_dataset(
    folder: Path,
    *,
    name: str = "data",
    limit: int | None = None,
    key: str | None = None,
    size: Size | None = None,
    mode: Mode | None = None,
    categorical: Sequence[str] = (),
    missing: MissingRule | None = None,
    like: Dataset | None = None,
    value_range: tuple[float, float] | None = None,
    layout: Layout | None = None,
) -> Dataset:
    """Load a saved dataset: its one image column, else its one array column, else the table.

    The one ``ClassLabel`` column, if there is one next to images or arrays, gives the labels.

    Args:
        folder: The folder.
        name: What to call the set in messages.
        limit: Keep the first ``limit`` rows.
        key: Name of the split, where there are several.
        size: Resize images, as for :func:`~memdiff.data.images.load_images`.
        mode: Convert images, as for :func:`~memdiff.data.images.load_images`.
        categorical: As for :func:`~memdiff.data.from_frame`.
        missing: As for :func:`~memdiff.data.from_frame`.
        like: As for :func:`~memdiff.data.from_frame`.
        value_range: As for :func:`~memdiff.data.from_array`, for an array column.
        layout: As for :func:`~memdiff.data.from_array`, for an array column.

    Returns:
        The data set.

    Raises:
        ValueError: If the folder is damaged, the split is not named or unknown, several columns
            hold images or arrays, or the content is refused as in other formats.
        ImportError: If ``datasets`` is not installed.
    """
    title = f"{name} ({folder})"
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"{title} was saved by Hugging Face datasets; run: pip install 'memdiff[datasets]'"
        ) from error
    with reading(title):
        saved = datasets.load_from_disk(str(folder))
    rows = _choose_split(saved, key, title)
    if limit is not None:
        rows = rows.select(range(min(limit, len(rows))))
    if len(rows) == 0:
        raise ValueError(f"{title} has no rows; at least one is needed.")
    images = _columns_of(rows, ("Image",))
    column = _only(images, "images", title) or _only(_columns_of(rows, _ARRAYS), "arrays", title)
    given = {
        *(() if size is None else ("size",)),
        *(() if mode is None else ("mode",)),
        *(() if value_range is None else ("value_range",)),
        *(() if layout is None else ("layout",)),
        *(("categorical",) if categorical else ()),
        *(() if missing is None else ("missing",)),
    }
    what, fitting = (
        ("a table", {"categorical", "missing"})
        if column is None
        else ("images", {"size", "mode", "value_range"})
        if column in images
        else ("arrays", {"value_range", "layout"})
    )
    for option in sorted(given - fitting):
        raise ValueError(f"{option}= does not apply to {title}, which holds {what}; leave it out.")
    if column is None:
        with reading(title):
            frame = _text_labels(rows).to_pandas()
        return from_frame(
            frame,
            name=name,
            source=str(folder),
            categorical=categorical,
            missing=missing,
            like=like,
        )
    labels, label_names = _class_labels(rows)
    if column in images:
        data = stack_images(
            _open_each(rows, column, title),
            len(rows),
            name=name,
            source=str(folder),
            size=size,
            mode=mode,
            value_range=value_range,
        )
    else:
        dtype = _dtype_of(rows.features[column], column, title)
        with reading(title):
            # The plain numpy format would turn float64 into float32.
            arrays = rows.with_format("numpy", dtype=dtype)[column][:]
            values = np.stack([np.asarray(row, dtype=dtype) for row in arrays])
        data = from_array(
            values, name=name, source=str(folder), value_range=value_range, layout=layout
        )
    return replace(data, labels=labels, label_names=label_names)


def _open_each(rows: Any, column: str, title: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    for position in range(len(rows)):
        with reading(f"{title} row {position}"):
            picture = rows[position][column]
        if picture is None:
            raise ValueError(f"{title} has no image in row {position}; remove the row.")
        yield f"row {position}", picture


def _choose_split(saved: Any, key: str | None, title: str) -> Any:  # noqa: ANN401
    if not isinstance(saved, dict):
        if key is not None:
            raise ValueError(f"key={key!r} was given, but {title} has no splits; leave it out.")
        return saved
    if key is None and len(saved) == 1:
        return next(iter(saved.values()))
    if key in saved:
        return saved[key]
    raise ValueError(
        f"{title} has the splits {', '.join(map(repr, saved))}; pass key= with one of these names"
        f"{'' if key is None else f' instead of {key!r}'}."
    )


def _columns_of(rows: Any, kinds: tuple[str, ...]) -> list[str]:  # noqa: ANN401
    return [column for column, feature in rows.features.items() if type(feature).__name__ in kinds]


def _only(columns: list[str], what: str, title: str) -> str | None:
    if len(columns) > 1:
        raise ValueError(
            f"{title} has several columns of {what} ({', '.join(map(repr, columns))}); keep one "
            f"with select_columns and save it again."
        )
    return columns[0] if columns else None


def _dtype_of(feature: Any, column: str, title: str) -> np.dtype:  # noqa: ANN401
    """The stored dtype at the bottom of nested lists."""
    while hasattr(feature, "feature"):
        feature = feature.feature
    try:
        return np.dtype(feature.dtype)
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"column {column!r} of {title} holds lists of {feature}; expected lists of numbers."
        ) from error


def _class_labels(rows: Any) -> tuple[Tensor | None, tuple[str, ...]]:  # noqa: ANN401
    columns = _columns_of(rows, ("ClassLabel",))
    if len(columns) != 1:
        return None, ()
    return torch.tensor(rows[columns[0]][:]), tuple(rows.features[columns[0]].names)


def _text_labels(rows: Any) -> Any:  # noqa: ANN401
    """Class labels by their names: their codes are no numbers."""
    for column in _columns_of(rows, ("ClassLabel",)):
        feature = rows.features[column]
        names = [feature.int2str(code) for code in rows[column][:]]
        rows = rows.remove_columns(column).add_column(column, names)
    return rows
