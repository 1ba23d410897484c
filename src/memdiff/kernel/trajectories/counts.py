"""What an evaluation of the posterior did at each noise level: counts, not times."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

__all__ = ["Counts", "LevelCounts"]

# Levels are quarters of a decade of the noise-to-signal ratio.
_LEVELS_PER_DECADE = 4


@dataclass(frozen=True)
class LevelCounts:
    r"""Counts of the queries at one noise level.

    Attributes:
        ratio: Noise-to-signal ratio :math:`\sigma/m` at the middle of the level, which is a
            quarter of a decade; 0 for the level of no noise.
        queries: Queries answered.
        collapsed: Of these, queries that one training point answered by a bound of earlier gaps.
        pruned: Queries answered by candidates from a screen.
        reduced: Queries answered in fewer dimensions, the residual being negligible.
        dense: Queries that all training points were summed for.
        recycled: Of the dense ones, queries whose logits came from earlier ones of their
            trajectory by a product in few dimensions.
        candidates: Candidates of the pruned queries, together.
        products: Inner products of length ``d`` that this took, estimated.
        dense_products: Those of the same queries without pruning.
    """

    ratio: float
    queries: int
    collapsed: int
    pruned: int
    reduced: int
    dense: int
    recycled: int
    candidates: int
    products: float
    dense_products: float

    @property
    def share(self) -> float:
        """Work as a fraction of that without pruning."""
        return self.products / self.dense_products

    @property
    def candidates_per_query(self) -> float:
        """Mean number of candidates of the pruned queries; 0 if there are none."""
        return self.candidates / self.pruned if self.pruned else 0.0


class Counts:
    """Adds up the counts of many evaluations by noise level."""

    def __init__(self) -> None:
        self._levels: dict[int | None, dict[str, float]] = {}

    def add(self, ratio: Tensor, **counts: Tensor | float) -> None:
        """Add counts, one per query ``(B,)`` or the same for all, to the levels of the queries."""
        level = (ratio.clamp_min(1e-100).log10() * _LEVELS_PER_DECADE).floor()
        for value in level.unique().tolist():
            inside = level == value
            key = None if value <= -99 * _LEVELS_PER_DECADE else int(value)
            entry = self._levels.setdefault(key, {})
            for name, count in counts.items():
                each = torch.as_tensor(count, dtype=torch.float64, device=ratio.device)
                total = float(each.expand(ratio.shape)[inside].sum())
                entry[name] = entry.get(name, 0.0) + total

    def merge(self, other: Counts) -> None:
        """Add the counts of another counts."""
        for key, counts in other._levels.items():
            entry = self._levels.setdefault(key, {})
            for name, count in counts.items():
                entry[name] = entry.get(name, 0.0) + count

    def levels(self) -> tuple[LevelCounts, ...]:
        """The counts, from the largest ratio to the smallest."""
        real = {field.name for field in fields(LevelCounts) if "float" in str(field.type)}
        found = []
        for key in sorted(self._levels, key=lambda key: -math.inf if key is None else key):
            ratio = 0.0 if key is None else 10 ** ((key + 0.5) / _LEVELS_PER_DECADE)
            entry = {field.name: 0.0 for field in fields(LevelCounts)} | self._levels[key]
            values = {name: v if name in real else round(v) for name, v in entry.items()}
            found.append(LevelCounts(**values | {"ratio": ratio}))  # type: ignore[arg-type]
        return tuple(reversed(found))
