"""The pairs that a screen cannot rule out, kept while the points pass by in blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from memdiff.neighbors.screen import Screen

__all__ = ["Candidates"]


class Candidates:
    """Pairs of one block of queries that may belong to the ``k`` nearest.

    Args:
        queries: Number of queries ``q``.
        k: Number of neighbours.
        capacity: Most candidates kept for a query. One that has more is given up: it is marked
            in ``overflowed`` and has none.
        like: A tensor of the dtype and on the device of the scores.
    """

    def __init__(self, queries: int, k: int, capacity: int, like: Tensor) -> None:
        self.k = k
        self.capacity = capacity
        # The k smallest upper bounds, one a group of points: the last bounds the k-th distance.
        self._uppers = like.new_full((queries, k), torch.inf)
        self._threshold = like.new_full((queries,), torch.inf)
        self.overflowed = torch.zeros(queries, dtype=torch.bool, device=like.device)
        self.all_overflowed = False
        self._parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._pending = 0
        self._kept = 0

    def absorb(self, screen: Screen) -> None:
        """Take what one block of points adds."""
        lower, upper = screen.group_bounds()
        if self.k == 1:
            upper = upper.amin(1, keepdim=True)
            self._uppers = torch.minimum(self._uppers, upper)
        else:
            self._uppers = torch.cat([self._uppers, upper], 1).topk(
                self.k, dim=1, largest=False, sorted=True
            )[0]
        self._threshold = torch.minimum(self._threshold, self._uppers[:, -1])
        pairs = screen.pairs_below(self._threshold, lower)
        if len(pairs[0]):
            self._parts.append(pairs)
            self._pending += len(pairs[0])
        if self._pending > 2 * self._kept + len(self.overflowed) * (4 * self.k + 16):
            self._prune()

    def _prune(self) -> None:
        query, point, lower, upper = (torch.cat(part) for part in zip(*self._parts, strict=True))
        if not len(query):  # every query was given up
            return
        number = len(self.overflowed)
        order = upper.argsort()
        order = order[query[order].argsort(stable=True)]
        counts = torch.bincount(query, minlength=number)
        last = counts.cumsum(0) - counts + self.k - 1
        enough = counts >= self.k
        kth = upper[order[last.clamp_max(len(query) - 1)]]
        self._threshold = torch.where(enough, torch.minimum(self._threshold, kth), self._threshold)
        keep = lower <= self._threshold[query]
        over = torch.bincount(query[keep], minlength=number) > self.capacity
        self.overflowed |= over
        self.all_overflowed = bool(self.overflowed.all())
        self._threshold.masked_fill_(over, -torch.inf)
        keep &= ~over[query]
        self._parts = [(query[keep], point[keep], lower[keep], upper[keep])]
        self._pending = self._kept = int(keep.sum())

    def result(self) -> tuple[Tensor, Tensor]:
        """Query in the block and index of the point, each ``(pairs,)``."""
        self._prune()
        return self._parts[0][0], self._parts[0][1]
