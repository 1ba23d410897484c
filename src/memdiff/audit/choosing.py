"""Which descriptors an audit uses where none are named."""

from __future__ import annotations

from collections.abc import Sequence

from memdiff.data import Dataset
from memdiff.features import Descriptor, Pixels, TableColumns, Thumbnail, parse_descriptor

__all__ = ["choose"]


def choose(
    asked: str | Descriptor | Sequence[str | Descriptor], train: Dataset
) -> list[Descriptor]:
    """The descriptors that were asked for; those that fit the data in place of ``"auto"``.

    - images: pixels, and standardised thumbnails with registration, for edited copies;
    - tables: standardised columns with categories, also where pixels are asked for;
    - vectors, series and clips: the values as they are.

    Args:
        asked: Descriptors, or texts as ``memdiff.features.parse_descriptor`` takes them.
        train: The training data.

    Returns:
        The descriptors, not fitted.

    Raises:
        ValueError: If a text is no descriptor.
    """
    names = (asked,) if isinstance(asked, (str, Descriptor)) else tuple(asked)
    chosen: list[Descriptor] = []
    for one in names:
        if one == "auto":
            chosen += _fitting(train)
            continue
        descriptor = one if isinstance(one, Descriptor) else parse_descriptor(one)
        if train.kind == "table" and isinstance(descriptor, Pixels):
            # Columns of a table have units of their own: raw distances are of the largest one.
            descriptor = TableColumns()
        chosen.append(descriptor)
    return chosen


def _fitting(train: Dataset) -> list[Descriptor]:
    if train.kind == "table":
        return [TableColumns()]
    if train.kind == "images":
        return [Pixels(), Thumbnail()]
    return [Pixels()]
