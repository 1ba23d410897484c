r"""The pairs of a query and a point that a screen cannot rule out, while points pass by.

:class:`Candidates` keeps the pairs whose lower bound is within ``reach`` of the ``k``-th smallest
upper bound of their query: nearest neighbours at ``reach = 0``, the points that can carry weight
at :math:`k = 1` and a reach of :math:`2 \sigma^2 \log(N / \epsilon)` (:func:`weight_candidates`).
Their bounds are certain, and so is what is left out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from memdiff.kernel.points import Points, blocks
from memdiff.kernel.queries import Queries
from memdiff.kernel.screen import PointBlock, Product, Screen

__all__ = ["Candidates", "weight_candidates"]

# Terms of a logit that differ by more leave a point out whatever its distance.
_FINITE = 1e4
# Of so many queries one is not worth a pass of its own, where all the others need another one
# (table `chunks`, images at sigma 2.5).
_FEW = 16


class Candidates:
    """Pairs of one block of queries that the screen cannot rule out, while points pass by.

    Args:
        queries: Number of queries ``q``.
        k: Number of neighbours.
        capacity: Most candidates kept for each query. One that has more is given up: it is marked
            in ``overflowed`` and has none.
        like: A tensor of the dtype and on the device of the scores.
        reach: What a square may exceed the ``k``-th smallest by, ``(q,)``; None for nothing.
    """

    def __init__(
        self, queries: int, k: int, capacity: int, like: Tensor, reach: Tensor | None = None
    ) -> None:
        self.k = k
        self.capacity = capacity
        self._reach = like.new_zeros(queries) if reach is None else reach.to(like.dtype)
        # The k smallest upper bounds, one a group of points: the last bounds the k-th distance.
        self._uppers = like.new_full((queries, k), torch.inf)
        self._threshold = like.new_full((queries,), torch.inf)
        self.overflowed = torch.zeros(queries, dtype=torch.bool, device=like.device)
        self.all_overflowed = False
        self._parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._pending = 0
        self._kept = 0

    def absorb(self, screen: Screen, most: float = math.inf) -> None:
        """Take what one block of points adds.

        Args:
            screen: The block.
            most: Groups of the block that may have a candidate; a query with more is given up.
        """
        if self.k == 1:
            # Where no group comes below, the smallest upper bound stays what it is.
            groups = screen.groups_below(self._threshold)
            if not bool(groups.any()):
                return
            upper = screen.largest_of_nearest()
            self._threshold = torch.minimum(self._threshold, upper + self._reach)
            groups = screen.groups_below(self._threshold)
        else:
            lower, upper = screen.group_bounds()
            self._uppers = torch.cat([self._uppers, upper], 1).topk(
                self.k, dim=1, largest=False, sorted=True
            )[0]
            self._threshold = torch.minimum(self._threshold, self._uppers[:, -1] + self._reach)
            groups = (lower <= self._threshold[:, None]) & (lower < torch.inf)
        if most < groups.shape[1]:
            over = groups.sum(1) > most
            self._give_up(over)
            groups &= ~over[:, None]
        pairs = screen.pairs_below(self._threshold, groups)
        if len(pairs[0]):
            self._parts.append(pairs)
            self._pending += len(pairs[0])
        if self._pending > 2 * self._kept + len(self.overflowed) * (4 * self.k + 16):
            self._prune()

    def _give_up(self, over: Tensor) -> None:
        self.overflowed |= over
        self.all_overflowed = bool(self.overflowed.all())
        self._threshold.masked_fill_(over, -torch.inf)

    def _prune(self) -> None:
        if not self._parts:
            return
        query, point, lower, upper = (torch.cat(part) for part in zip(*self._parts, strict=True))
        if not len(query):  # every query was given up
            return
        number = len(self.overflowed)
        if self.k == 1:
            kth = upper.new_full((number,), torch.inf).scatter_reduce(0, query, upper, "amin")
        else:
            order = upper.argsort()
            order = order[query[order].argsort(stable=True)]
            counts = torch.bincount(query, minlength=number)
            last = counts.cumsum(0) - counts + self.k - 1
            kth = upper[order[last.clamp_max(len(query) - 1)]]
            kth = torch.where(counts >= self.k, kth, torch.inf)
        self._threshold = torch.minimum(self._threshold, kth + self._reach)
        keep = lower <= self._threshold[query]
        over = torch.bincount(query[keep], minlength=number) > self.capacity
        self._give_up(over)
        keep &= ~over[query]
        self._parts = [(query[keep], point[keep], lower[keep], upper[keep])]
        self._pending = self._kept = int(keep.sum())

    def result(self) -> tuple[Tensor, Tensor]:
        """Query in the block and index of the point, each ``(pairs,)``."""
        self._prune()
        if not self._parts:
            nothing = torch.empty(0, dtype=torch.int64, device=self.overflowed.device)
            return nothing, nothing
        return self._parts[0][0], self._parts[0][1]


def weight_candidates(
    points: Points,
    queries: Queries,
    product: Product,
    dropped_mass: float,
    block: int,
    most: float = math.inf,
) -> tuple[Tensor, Tensor, Tensor]:
    """Points that can carry weight: all others carry less than ``dropped_mass`` of it together.

    Args:
        points: The training points.
        queries: The queries.
        product: What screens.
        dropped_mass: Share of the weight that what is left out may carry.
        block: Points that are screened at a time.
        most: Points of the first block that may be kept; a query with more is given up.

    Returns:
        Pairs (query, point), each ``(M,)``, in no order, and which queries were given up ``(B,)``.
    """
    unit = points.unit
    position = queries.centred(points) * (unit / queries.scale[:, None])
    operand = product.operand(position)
    factor = 2.0 * (queries.sigma * unit / queries.scale) ** 2
    size = (operand.info[:, 0].double() + unit * points.radius) ** 2
    step = 8.0 * torch.finfo(operand.info.dtype).eps  # of the few sums that follow
    reach = factor * math.log(points.num / dropped_mass) * (1.0 + 1e-6) + step * size
    prior = queries.prior
    varied = bool((prior.log_prior != prior.log_prior[0]).any())
    highest, lowest = float(prior.log_prior.max()), float(prior.log_prior.min())
    slack = None
    if varied or prior.terms is not None:
        spread = min(highest - lowest, _FINITE) + 2.0 * prior.bound
        slack = (step * (factor * spread + reach + size)).to(operand.info.dtype)
    found = Candidates(len(queries), 1, points.num, operand.info, reach)
    given_up = torch.zeros_like(queries.scale, dtype=torch.bool)
    for some in blocks(points.num, block):
        screen = Screen.of(operand, PointBlock.of_points(points, product, some), product)
        # Added terms are not negative, so that the intervals of integers hold.
        if varied:
            terms = (highest - prior.log_prior[some]).to(screen.values.dtype)
            screen.values.add_(factor.to(terms.dtype)[:, None] * terms)
        if prior.terms is not None:
            screen.values.add_((factor * prior.bound).to(screen.values.dtype)[:, None])
        prior.restrict(screen.values, some, -factor, math.inf)
        first = some.start == 0 and most < some.stop
        screen = Screen(screen.values, operand, screen.block, product, slack)
        found.absorb(screen, most if first else math.inf)
        if first:
            rows, _ = found.result()
            given_up = found.overflowed | (torch.bincount(rows, minlength=len(queries)) > most)
            if bool(given_up.any()):
                break
    else:
        return (*found.result(), given_up)
    left = (~given_up).nonzero()[:, 0]
    if _FEW * len(left) < len(queries):
        return left[:0], left[:0], torch.ones_like(given_up)
    rows, columns, _ = weight_candidates(points, queries.take(left), product, dropped_mass, block)
    return left[rows], columns, given_up
