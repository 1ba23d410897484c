"""Pairs of a query and a point that a search leaves out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Exclusion"]


@dataclass(frozen=True)
class Exclusion:
    """The excluded pairs of one block of points: its labels in order, and who excludes them."""

    labels: Tensor
    order: Tensor
    excluded: Tensor

    @classmethod
    def of(
        cls, labels: Tensor | None, excluded: Tensor | None, begin: int, end: int
    ) -> Exclusion | None:
        """For points ``begin`` to ``end``; None where nothing is excluded.

        Args:
            labels: int64 ``(N,)``, the label of each point.
            excluded: int64 ``(m, r)``, the labels that each query leaves out, -1 for none.
            begin: First point of the block.
            end: End of the block.
        """
        if labels is None or excluded is None:
            return None
        ordered, order = labels[begin:end].sort()
        return cls(ordered, order, excluded)

    def apply(self, values: Tensor, rows: Tensor) -> None:
        """Set ``values[i, j]`` to infinity where query ``rows[i]`` excludes point ``j``."""
        wanted = self.excluded[rows]
        first = torch.searchsorted(self.labels, wanted)
        counts = (torch.searchsorted(self.labels, wanted, right=True) - first).flatten()
        total = int(counts.sum())
        if total == 0:
            return
        query = torch.arange(len(rows), device=rows.device)
        query = query.repeat_interleave(wanted.shape[1]).repeat_interleave(counts)
        offset = torch.arange(total, device=rows.device)
        offset -= (counts.cumsum(0) - counts).repeat_interleave(counts)
        values[query, self.order[first.flatten().repeat_interleave(counts) + offset]] = torch.inf
