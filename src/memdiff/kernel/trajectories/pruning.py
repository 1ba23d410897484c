r"""Which training points can matter to a query, with a certificate of what the others carry.

The split bound of :mod:`~memdiff.kernel.trajectories.split` gives an upper bound of every logit
from one matrix product in ``K + 3`` dimensions. A point is kept where it reaches
:math:`T - \log(N / \epsilon)`, with ``T`` the exact logit of one point that is near, so that what
is left out carries less than :math:`\epsilon` of the mass; of the points that are kept, those
with the smallest bounds are left out too, as long as the sum of the bounds allows it. That sum
over all that was left out, relative to :math:`e^T`, is the certificate. It is certain: the
rounding of the product enters by its certain bound.

One pass suffices where a near point is known, as it is along a trajectory; else a first pass
finds one. Only the maxima over groups of columns are looked at in full.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from memdiff.kernel.merged import MergedPoints
from memdiff.kernel.points import Points
from memdiff.kernel.products import BLOCK, gemm_path
from memdiff.kernel.queries import Queries
from memdiff.kernel.rounding import certain_factor, unit_roundoff
from memdiff.kernel.screen import GROUP
from memdiff.kernel.softmax import LOGIT_FLOOR
from memdiff.kernel.trajectories.recycling import Recycled
from memdiff.kernel.trajectories.split import SplitCoordinates

__all__ = ["Kept", "Pruner"]

# Directions in which a near point is looked for first.
_ROUGH_DIRECTIONS = 32
# Blocks after which the count of the rest is foreseen (test_pruning, work where all matter).
_LOOK = 4
# Stands for -inf in products, where infinity times zero is not a number.
_FAR = 1e30


@dataclass
class Kept:
    """What a screen keeps for ``B`` queries.

    Attributes:
        queries: Query of each pair that is kept, int64 ``(M,)``, ascending.
        groups: Group of points of each pair, ``(M,)``.
        counts: Groups kept for each query, ``(B,)``.
        dropped: Certain bound of the mass left out, relative to that kept, ``(B,)``.
        gap: How far the logits of all groups but the best lie below it, at least; ``(B,)``.
        crowded: Queries that too many points matter to; nothing is kept for them. ``(B,)``.
    """

    queries: Tensor
    groups: Tensor
    counts: Tensor
    dropped: Tensor
    gap: Tensor
    crowded: Tensor

    def restrict(self, limit: Tensor) -> None:
        """Count queries with more pairs than ``limit`` ``(B,)`` as crowded too, in place."""
        self.crowded = self.crowded | (self.counts > limit)
        keep = ~self.crowded[self.queries]
        self.queries, self.groups = self.queries[keep], self.groups[keep]
        self.counts = torch.where(self.crowded, 0, self.counts)


@dataclass(frozen=True)
class _Operand:
    """Queries with the left factor of their product, and what is carried over from others."""

    factor: Tensor
    queries: Queries
    recycled: Recycled | None

    def take(self, rows: Tensor) -> _Operand:
        recycled = None if self.recycled is None else self.recycled.take(rows)
        return _Operand(self.factor[rows], self.queries.take(rows), recycled)


@dataclass
class _Start:
    """What a screen begins with.

    Attributes:
        operand: The queries.
        slack: Certain bound of the rounding of their values, ``(B,)``.
        near: A group near each query, ``(B,)``.
        reached: Its exact value, ``(B,)``.
        bar: The least value that is kept, ``(B,)``.
        crowded: Queries that look crowded by one block, or have no group at all, ``(B,)``.
    """

    operand: _Operand
    slack: Tensor
    near: Tensor
    reached: Tensor
    bar: Tensor
    crowded: Tensor


class Pruner:
    """Screens the points by their split coordinates.

    Args:
        points: The training points.
        merged: Their groups of identical points.
        split: Split coordinates of the representatives.
    """

    def __init__(self, points: Points, merged: MergedPoints, split: SplitCoordinates) -> None:
        self.points, self.merged = points, merged
        num, width = split.coordinates.shape
        self.num = num
        padded = -(-num // BLOCK) * BLOCK
        self._table = split.coordinates.new_zeros(padded, width + 2)
        self._table[:num, :width] = split.coordinates
        self._table[:num, width] = -split.half_norm
        self._table[num:, width] = -_FAR
        self._table[:num, width + 1] = merged.terms.mass
        # One copy of the coordinates is enough.
        self.split = replace(split, coordinates=self._table[:num, :width])
        self._path = gemm_path(width + 2, torch.float32, self._table.device)
        self._rough: Tensor | None = None
        if width > 2 * _ROUGH_DIRECTIONS:
            few = self._table[:, :_ROUGH_DIRECTIONS]
            half_norm = self._table[:, -2:-1].clone()
            half_norm[:num] = -0.5 * (few[:num] ** 2).sum(1, keepdim=True)
            self._rough = torch.cat([few, half_norm, self._table[:, -1:]], 1)
        self._order = _scattered(padded // BLOCK)
        self._prior_size = float(merged.terms.mass.abs().max())

    def screen(
        self,
        queries: Queries,
        tolerance: float,
        limit: Tensor,
        near: Tensor,
        recycled: Recycled | None = None,
    ) -> Kept:
        r"""Keep what carries all but ``tolerance`` of the mass.

        Args:
            queries: The queries.
            tolerance: Mass that may be left out, relative to that kept.
            limit: Pairs per query beyond which it counts as crowded, ``(B,)``.
            near: A group near each query, ``(B,)``, -1 where none is known.
            recycled: The queries as combinations of earlier ones, which makes the bounds sharper;
                only where no two points are the same.
        """
        start = self._start(queries, tolerance, limit, near, recycled)
        slack, near, reached = start.slack, start.near, start.reached
        variance = queries.sigma**2
        rows, groups, found, dropped, beneath, crowded = self._pass(start, limit)
        best = _best(rows, groups, found, near)
        better = ((best != near) & ~crowded).nonzero()[:, 0]
        raised = self._reached(queries.take(better), best[better])
        raised = torch.maximum(reached[better], raised)
        dropped[better] *= ((reached[better] - raised) / variance[better]).exp()
        reached = reached.index_copy(0, better, raised)
        # The weights of what was kept, bounded from above and relative to one exact weight.
        excess = (found.to(torch.float64) + slack[rows] - reached[rows]) / variance[rows]
        order = excess.argsort()
        order = order[rows[order].argsort(stable=True)]
        rows, groups, found, excess = (part[order] for part in (rows, groups, found, excess))
        counts = torch.bincount(rows, minlength=len(queries))
        running = excess.clamp(max=0.0).exp().clamp(max=2 * tolerance).cumsum(0)
        before = torch.nn.functional.pad(running, (1, 0))[counts.cumsum(0) - counts]
        left_out = running - before[rows] + dropped[rows]
        keep = left_out > tolerance
        dropped = dropped.scatter_reduce(0, rows[~keep], left_out[~keep], "amax")
        below = found[~keep].to(torch.float64)
        beneath = beneath.scatter_reduce(0, rows[~keep], below, "amax")
        rows, groups = rows[keep], groups[keep]
        return Kept(
            queries=rows,
            groups=groups,
            counts=torch.bincount(rows, minlength=len(queries)),
            dropped=dropped,
            gap=(reached - slack - beneath) / variance,
            crowded=crowded,
        )

    def look_crowded(
        self,
        queries: Queries,
        tolerance: float,
        limit: Tensor,
        near: Tensor,
        recycled: Recycled | None,
    ) -> Tensor:
        """Which queries look crowded by a block of the points; arguments as of :meth:`screen`."""
        return self._start(queries, tolerance, limit, near, recycled).crowded

    def _start(
        self,
        queries: Queries,
        tolerance: float,
        limit: Tensor,
        near: Tensor,
        recycled: Recycled | None,
    ) -> _Start:
        operand, slack = self._operand(queries, recycled)
        reached = self._reached(queries, near)
        cut = math.log(self.num / tolerance) * queries.sigma**2
        crowded = reached == -math.inf
        known, unknown = (~crowded).nonzero()[:, 0], crowded.nonzero()[:, 0]
        if len(known):
            bar = _below(reached[known] - slack[known] - cut[known])
            crowded[known] = self._looks_crowded(operand.take(known), bar, limit[known])
        for table in (self._rough if recycled is None else None, self._table):
            if len(unknown) and table is not None:
                lost = operand.take(unknown)
                found = self._nearest(lost, table)
                values = self._reached(lost.queries, found)
                near = near.index_copy(0, unknown, found)
                reached = reached.index_copy(0, unknown, values)
                # A point that is not near enough shows: too many others are within reach of it.
                bar = _below(values - slack[unknown] - cut[unknown])
                far = self._looks_crowded(lost, bar, limit[unknown]) | (values == -math.inf)
                crowded[unknown] = far
                unknown = unknown[far]
        # Where nothing is certain of the product, nothing is left out.
        crowded |= ~slack.isfinite()
        return _Start(operand, slack, near, reached, _below(reached - slack - cut), crowded)

    def _looks_crowded(self, operand: _Operand, bar: Tensor, limit: Tensor) -> Tensor:
        """Whether one block, counted and no more, holds more than its part of the limit."""
        values = self._values(operand, self._order[0] * BLOCK)
        return (values >= bar[:, None]).sum(1) > 4.0 * limit / len(self._order) + 64

    def _reached(self, queries: Queries, near: Tensor) -> Tensor:
        r""":math:`\sigma^2` times the exact logit of one group per query, up to a constant."""
        groups = near.clamp_min(0)
        point = self.points.gather(self.merged.representative[groups])
        difference = queries.scale[:, None] * point - queries.x
        rows = torch.arange(len(queries), device=near.device)
        mass = self.merged.terms_of(rows, groups, queries.prior).mass
        constant = _square(queries.x - queries.scale[:, None] * self.split.centre)
        values = queries.sigma**2 * mass + 0.5 * (constant - _square(difference))
        return torch.where(near >= 0, values, -math.inf)

    def _operand(self, queries: Queries, recycled: Recycled | None) -> tuple[_Operand, Tensor]:
        """Left factor of the product, and the certain bound of the rounding of its values."""
        scale, variance = queries.scale, queries.sigma**2
        centred = queries.x - scale[:, None] * self.split.centre
        if recycled is None:
            projected, residual = self.split.project(centred)
        else:
            projected, residual = recycled.inside, recycled.rest
        columns = [
            scale[:, None] * projected,
            (scale * residual)[:, None],
            (scale**2)[:, None],
            variance[:, None],
        ]
        reach, unit = scale * self.split.radius, unit_roundoff(torch.float32)
        # The product, and the rounding of its factors.
        factor = certain_factor(self._table.shape[1] + 8, unit)
        slack = factor * reach * (centred.norm(dim=1) + reach)
        slack += variance * 8.0 * unit * (self._prior_size + queries.prior.bound)
        if recycled is not None:
            slack += recycled.certain_error(self.points, scale)
        return _Operand(torch.cat(columns, 1).to(torch.float32), queries, recycled), slack

    def _values(self, operand: _Operand, first: int) -> Tensor:
        """Bounds of one block of groups, ``(B, BLOCK)``."""
        queries, prior = operand.queries, operand.queries.prior
        values = self._path.logits(operand.factor, self._table[first : first + BLOCK], None)
        last = min(first + BLOCK, self.num)
        if operand.recycled is not None:
            operand.recycled.add(values[:, : last - first], slice(first, last), queries.scale)
        if prior.terms is not None:
            members = self.merged.representative[first:last][None]
            terms = prior.terms(prior.rows, members)
            terms = torch.where(self.merged.single[None, first:last], terms, prior.bound)
            terms = torch.where(terms == -math.inf, -_FAR, (queries.sigma**2)[:, None] * terms)
            values[:, : last - first] += terms.to(values.dtype)
        if prior.exclude is not None:
            own = torch.where(
                prior.exclude >= 0, self.merged.group[prior.exclude.clamp_min(0)], -1
            )
            rows = ((own >= first) & (own < last)).nonzero()[:, 0]
            rows = rows[self.merged.single[own[rows]]]
            values[rows, own[rows] - first] = -_FAR
        return values

    def _nearest(self, operand: _Operand, table: Tensor) -> Tensor:
        """The group of the largest bound of each query, in all or the first few directions."""
        factor, rough = operand.factor, table is not self._table
        if rough:
            factor = torch.cat([factor[:, : table.shape[1] - 2], factor[:, -2:]], 1)
        top = factor.new_full((len(factor),), -math.inf)
        found = torch.full((len(factor),), -1, device=factor.device)
        for first in range(0, self.num, BLOCK):
            if rough:
                values = self._path.logits(factor, table[first : first + BLOCK], None)
            else:
                values = self._values(operand, first)
            block_top = values.amax(1)
            better = (block_top > top).nonzero()[:, 0]
            found[better] = values[better].argmax(1) + first
            top = torch.maximum(top, block_top)
        return torch.where(top > -1e-3 * _FAR, found, -1)

    def _pass(self, start: _Start, limit: Tensor) -> tuple[Tensor, ...]:
        """Pairs at or above the bar; mass and largest value of what lies below; crowded ones.

        Blocks come in scattered order, so that the first ones tell which queries are crowded;
        these are not followed further.
        """
        operand, bar, crowded = start.operand, start.bar, start.crowded
        sigma, reached = operand.queries.sigma, start.reached - start.slack
        counts = torch.zeros_like(limit)
        dropped = torch.zeros_like(sigma)
        beneath = torch.full_like(sigma, -math.inf)
        live = torch.arange(len(sigma), device=sigma.device)
        depth = BLOCK // GROUP
        pairs = [(live[:0], live[:0], operand.factor[:0, 0])]
        for done, place in enumerate(self._order, start=1):
            first = place * BLOCK
            if 2 * int(crowded[live].sum()) >= len(live):
                going = (~crowded[live]).nonzero()[:, 0]
                live, operand = live[going], operand.take(going)
            if not len(live):
                break
            variance, zero = sigma[live, None] ** 2, reached[live, None]
            stacked = self._values(operand, first).view(-1, depth, GROUP)
            tops = stacked.amax(1)
            hit = tops >= torch.where(crowded[live], math.inf, bar[live])[:, None]
            rows, columns = hit.nonzero(as_tuple=True)
            below = tops.to(torch.float64).masked_fill(hit, -math.inf)
            beneath[live] = torch.maximum(beneath[live], below.amax(1))
            weights = ((below - zero) / variance).clamp(10 * LOGIT_FLOOR, 1.0).exp()
            dropped[live] += depth * weights.sum(1)
            inside = stacked[rows, :, columns]
            chosen = inside >= bar[live[rows], None]
            some, level = chosen.nonzero(as_tuple=True)
            queries = live[rows[some]]
            pairs.append((queries, first + level * GROUP + columns[some], inside[some, level]))
            rest = inside.to(torch.float64).masked_fill(chosen, -math.inf)
            weights = ((rest - zero[rows]) / variance[rows]).clamp(10 * LOGIT_FLOOR, 1.0).exp()
            dropped = dropped.index_add(0, live[rows], weights.sum(1))
            beneath = beneath.scatter_reduce(0, live[rows], rest.amax(1), "amax")
            counts += torch.bincount(queries, minlength=len(counts))
            crowded |= counts > limit
            if done >= _LOOK:
                crowded |= counts > 1.5 * limit * done / len(self._order) + 32
        queries, groups, found = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        keep = ~crowded[queries]
        queries, groups, found = queries[keep], groups[keep], found[keep]
        order = queries.argsort(stable=True)
        return queries[order], groups[order], found[order], dropped, beneath, crowded


def _scattered(num: int) -> list[int]:
    """All of ``0 .. num - 1`` such that the first few are spread over the whole."""
    step = max(1, round(num * 0.618))
    while math.gcd(step, num) > 1:
        step += 1
    return [(place * step) % num for place in range(num)]


def _square(difference: Tensor) -> Tensor:
    return torch.linalg.vecdot(difference, difference)


def _below(value: Tensor) -> Tensor:
    """In float32, rounded down; infinite where nothing is known."""
    single = value.to(torch.float32)
    single = torch.nextafter(single, torch.full_like(single, -math.inf))
    return torch.where(value == -math.inf, math.inf, single)


def _best(queries: Tensor, groups: Tensor, found: Tensor, near: Tensor) -> Tensor:
    """The group of the largest value of each query; ``near`` for a query without pairs."""
    top = found.new_full((len(near),), -math.inf).scatter_reduce(0, queries, found, "amax")
    winners = found == top[queries]
    return near.index_copy(0, queries[winners], groups[winners])
