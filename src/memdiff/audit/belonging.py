"""Points that belong together: a patient's scans, the frames of a video, a household's rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from memdiff.data import Dataset

__all__ = ["GroupsSource", "take_groups"]

GroupsSource = str | Mapping[str, "Sequence[object] | np.ndarray | Tensor"]


def take_groups(
    sets: Mapping[str, Dataset], groups: GroupsSource
) -> tuple[dict[str, Dataset], dict[str, Tensor]]:
    """Labels of the groups, and the sets without the column that held them.

    Args:
        sets: ``generated``, ``train`` and, if there is one, ``heldout``.
        groups: The name of a column of a table, which is then no feature; ``"folder"`` for the
            folder that holds each file; a regular expression whose first group (or whole match)
            in the name of each point is its label; or one sequence of labels for each set
            (samples need none).

    Returns:
        The sets, and int64 labels of ``train`` and ``heldout`` that are shared between them.

    Raises:
        ValueError: If there is no such column, a name does not match, or labels are missing or
            of another number than the points.
    """
    real = [name for name in ("train", "heldout") if name in sets]
    kept = dict(sets)
    if not isinstance(groups, str):
        if missing := [name for name in real if name not in groups]:
            raise ValueError(
                f"groups must have labels for {' and '.join(real)}, got none for "
                f"{' and '.join(missing)}."
            )
        labels = {name: _texts(groups[name]) for name in real}
    elif sets["train"].kind == "table" and groups != "folder":
        for name in real:
            if groups not in sets[name].columns:
                raise ValueError(
                    f"groups {groups!r} must be a column of {sets[name].title}, which has "
                    f"{', '.join(sets[name].columns)}."
                )
        labels = {name: _column(sets[name], groups) for name in real}
        kept = {name: _without(data, groups) for name, data in sets.items()}
    else:
        labels = {name: _from_names(sets[name], groups) for name in real}
    for name in real:
        if len(labels[name]) != len(sets[name]):
            raise ValueError(
                f"groups must have one label for each of the {len(sets[name])} points of "
                f"{sets[name].title}, got {len(labels[name])}."
            )
    texts = dict.fromkeys(text for name in real for text in labels[name])
    codes = {text: code for code, text in enumerate(texts)}
    coded = {name: torch.tensor([codes[text] for text in labels[name]]) for name in real}
    for name in real:
        if len(coded[name].unique()) < 2:
            raise ValueError(
                f"groups must divide {sets[name].title} into at least 2 groups, got one: whole "
                f"groups are what the tests exchange."
            )
    return kept, coded


def _texts(labels: Sequence[object] | np.ndarray | Tensor) -> list[str]:
    values = labels.tolist() if isinstance(labels, (Tensor, np.ndarray)) else labels
    return [str(value) for value in values]


def _column(data: Dataset, column: str) -> list[str]:
    values = data.x[:, data.columns.index(column)].tolist()
    names = data.categories.get(column)
    return [f"{value:g}" if names is None else names[round(value)] for value in values]


def _without(data: Dataset, column: str) -> Dataset:
    if column not in data.columns:
        return data
    keep = [i for i, name in enumerate(data.columns) if name != column]
    if not keep:
        raise ValueError(f"{data.title} has no column beside the groups {column!r}.")
    return replace(
        data,
        x=data.x[:, keep],
        columns=tuple(data.columns[i] for i in keep),
        categories={name: values for name, values in data.categories.items() if name != column},
    )


def _from_names(data: Dataset, groups: str) -> list[str]:
    if all(name.startswith("row ") for name in data.names):
        raise ValueError(
            f"groups {groups!r} are read from file names, but {data.title} has rows without "
            "names: give a folder of files or a column of a table, or from Python one label per "
            "point."
        )
    if groups == "folder":
        return [name.replace("\\", "/").rpartition("/")[0] for name in data.names]
    try:
        pattern = re.compile(groups)
    except re.error as error:
        raise ValueError(
            f"groups {groups!r} must be a column, 'folder' or a regular expression: {error}."
        ) from error
    found = []
    for name in data.names:
        match = pattern.search(name)
        if match is None:
            raise ValueError(
                f"groups {groups!r} must match the name of every point, but not {name!r} of "
                f"{data.title}."
            )
        found.append(match.group(1) if pattern.groups else match.group(0))
    return found
