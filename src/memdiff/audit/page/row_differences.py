"""In which columns two rows differ, in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memdiff.data import Dataset, StreamedDataset
from memdiff.report.html import format_number

__all__ = ["Difference", "Differences"]

_NEGLIGIBLE = 1e-3
"""Standard deviations of a column below which two numbers count as equal."""


@dataclass(frozen=True)
class Difference:
    """One column of two rows.

    Attributes:
        column: Its name.
        size: Absolute difference in standard deviations of the training column; 1 for different
            categories, and for different values of a constant column.
        differs: Whether it is more than a thousandth.
        first: Value of the first row, in words.
        second: Value of the second row.
        change: The difference, in words; empty where there is none.
    """

    column: str
    size: float
    differs: bool
    first: str
    second: str
    change: str


class Differences:
    """Compares rows by the units of a training set.

    Args:
        train: The training set: a table or vectors.
    """

    def __init__(self, train: Dataset) -> None:
        self._train = train
        if isinstance(train, StreamedDataset):
            found = train.x.moments()
            self._std = (found.scatter / len(train)).sqrt().numpy()
            self._std[(found.smallest == found.largest).numpy()] = 0.0
        else:
            rows = train.x.flatten(1).numpy().astype(np.float64)
            self._std = rows.std(0)
            self._std[(rows == rows[0]).all(0)] = 0.0
        self.columns = train.columns or tuple(f"x[{i}]" for i in range(len(self._std)))
        self._codes = [train.categories.get(column) for column in self.columns]

    def __call__(self, first: np.ndarray, second: np.ndarray) -> list[Difference]:
        """All columns of two rows, in order."""
        found = []
        for position, column in enumerate(self.columns):
            a, b = float(first[position]), float(second[position])
            codes = self._codes[position]
            if codes is not None:
                differs = a != b
                size = float(differs)
                change = "another category" if differs else ""
            else:
                scale = float(self._std[position])
                size = abs(a - b) / scale if scale > 0 else float(a != b)
                differs = size > _NEGLIGIBLE
                unit = "s.d." if scale > 0 else "where train is constant"
                signed = (b - a) / scale if scale > 0 else b - a
                change = f"{_signed(signed)} {unit}" if differs else ""
            found.append(
                Difference(
                    column,
                    size,
                    differs,
                    self.text(position, a),
                    self.text(position, b),
                    change,
                )
            )
        return found

    def text(self, position: int, value: float) -> str:
        """A value of a column: the name of a category, or a number."""
        codes = self._codes[position]
        return format_number(value) if codes is None else codes[round(value)]

    def summary(self, first: np.ndarray, second: np.ndarray, most: int = 3) -> str:
        """Where two rows differ, the largest differences first, to follow "differs"."""
        found = [one for one in self(first, second) if one.differs]
        if not found:
            same = bool((np.asarray(first) == np.asarray(second)).all())
            return "nowhere" if same else "by at most 0.001 s.d. in every column"
        found.sort(key=lambda one: -one.size)
        parts = [
            f"{one.column}: {one.first} against {one.second}"
            + (f" ({one.change})" if one.change.endswith("s.d.") else "")
            for one in found[:most]
        ]
        left = len(found) - most
        if left > 0:
            parts.append(f"{left} more of {len(self.columns)} columns")
        return "in " + "; ".join(parts)


def _signed(value: float) -> str:
    text = format_number(float(f"{value:.2g}"))
    return text if value < 0 else f"+{text}"
