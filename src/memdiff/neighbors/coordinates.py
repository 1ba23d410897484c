"""Rows as coordinates: the float64 numbers in which distances are defined."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.kernel.identical import row_hashes
from memdiff.sources import Rows

__all__ = ["Coordinates", "Survey", "squared_distances", "unit_rows"]


_CACHED_ROWS = 256


@dataclass(frozen=True)
class Survey:
    """What one pass over a set finds: the largest magnitude and the mean row ``(d,)``, float64."""

    largest: float
    mean: Tensor


class Coordinates:
    """Rows as float64 coordinates in which Euclidean distance is the distance asked for.

    Args:
        rows: The rows.
        name: What error messages call them.
        unit: Whether to divide each row by its norm (the cosine distance is half the squared
            Euclidean distance of unit vectors).
        block: Number of rows converted at a time.
    """

    def __init__(self, rows: Rows, name: str, *, unit: bool, block: int) -> None:
        self.rows = rows
        self.name = name
        self.unit = unit
        self.block = block
        self.scale = 1.0

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, start: int, stop: int) -> Tensor:
        """Coordinates of rows ``start`` to ``stop``, float64 ``(n, d)``."""
        return self._convert(self.rows.read(start, stop))

    def gather(self, index: Tensor) -> Tensor:
        """Coordinates of the rows at ``index``, float64 ``(n, d)``."""
        return self._convert(self.rows.gather(index))

    def centred(self, raw: Tensor, centre: Tensor, dtype: torch.dtype) -> Tensor:
        """Coordinates of raw rows less a centre, rounded once to ``dtype`` or float64.

        Args:
            raw: Rows as they are read, ``(n, d)``.
            centre: float64 ``(d,)``; of float32 numbers where :attr:`is_single`.
            dtype: float32 or float64.
        """
        if dtype == torch.float32 and self.is_single:
            # Scaling is exact, so that the difference is the one rounding.
            single = raw.to(dtype) if self.scale == 1.0 else raw.to(dtype) * self.scale
            return single.sub_(centre.to(dtype)) if single is not raw else raw - centre.to(dtype)
        return self._convert(raw) - centre

    @property
    def is_single(self) -> bool:
        """Whether the rows are numbers of float32, and stay so when they are scaled."""
        tame = 2.0**-100 <= self.scale <= 2.0**100
        return tame and not self.unit and self.rows.dtype != torch.float64

    def survey(self) -> Survey:
        """One pass over all rows; checks that they are finite and, for unit rows, non-zero.

        Raises:
            ValueError: Naming the first row that is not finite, or zero where a direction is
                needed.
        """
        largest = 0.0
        total = torch.zeros(self.rows.features, dtype=torch.float64, device=self.rows.device)
        for start in range(0, len(self), self.block):
            stop = min(start + self.block, len(self))
            raw = self.rows.read(start, stop)
            if not self.unit and raw.dtype != torch.float64:
                low, high = (float(end) for end in torch.aminmax(raw))
                if math.isfinite(low) and math.isfinite(high):
                    largest = max(largest, -low, high)
                    for part in raw.split(_CACHED_ROWS):  # faster than one sum
                        total += part.sum(0, dtype=torch.float64) / len(self)
                    continue
            raw = raw.to(torch.float64)
            size = raw.abs().amax(1)
            if not bool(torch.isfinite(size).all()):
                row = start + int((~torch.isfinite(size)).nonzero()[0])
                raise ValueError(
                    f"{self.name} must be finite, got NaN or infinity in row {row}: remove or "
                    f"repair it."
                )
            if self.unit:
                if bool((size == 0).any()):
                    row = start + int((size == 0).nonzero()[0])
                    raise ValueError(
                        f"{self.name} has a zero vector in row {row}, which has no direction: "
                        f"remove it or use metric='euclidean'."
                    )
                raw = unit_rows(raw)
                largest = 1.0
            else:
                largest = max(largest, float(size.max()))
            # A mean of huge float64 numbers must not overflow; any finite centre is a right one.
            total += (raw / len(self)).sum(0)
        return Survey(largest, total)

    def hashes(self) -> Tensor:
        """A 64-bit hash of each row, int64 ``(N,)``: equal rows have equal hashes."""
        # Scaling by a power of two keeps rows apart, a norm does not.
        return row_hashes(self.rows.map(unit_rows) if self.unit else self.rows)

    def _convert(self, raw: Tensor) -> Tensor:
        raw = raw.to(torch.float64)
        if self.unit:
            return unit_rows(raw)
        return raw if self.scale == 1.0 else raw * self.scale


def unit_rows(points: Tensor) -> Tensor:
    """Points ``(n, *S)``, none of them zero, as float64 vectors ``(n, d)`` of length 1."""
    raw = points.flatten(1).to(torch.float64)
    raw = raw / raw.abs().amax(1, keepdim=True)  # so that no square overflows
    return raw / torch.linalg.vector_norm(raw, dim=1, keepdim=True)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances of paired rows by direct differences, float64.

    Each value depends on its own two rows only, not on how many are computed together.

    Args:
        x: float64 ``(n, d)``.
        y: float64 ``(n, d)`` or ``(1, d)``.

    Returns:
        float64 ``(n,)``.
    """
    difference = x - y
    difference *= difference
    if len(difference) == 1:  # torch splits a single long sum over threads
        return difference.expand(2, -1).contiguous().sum(1)[:1]
    return difference.sum(1)
