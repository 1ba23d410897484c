r"""Which training points can matter to a query, with a certificate of what the others carry.

The split bound of :mod:`~memdiff.kernel.splitting` gives an upper bound of every logit from
one matrix product in ``K + 3`` dimensions. A point is kept where it reaches
:math:`T - \log(N / \epsilon)`, with ``T`` the exact logit of one point that is near, so that what
is left out carries less than :math:`\epsilon` of the mass; of the points that are kept, those
with the smallest bounds are left out too, as long as the sum of the bounds allows it. That sum
over all that was left out, relative to :math:`e^T`, is the certificate.

One pass suffices where a near point is known, as it is along a trajectory; else a first pass
finds one. Only the maxima over groups of columns are looked at in full.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from memdiff.kernel.carrying import Carried
from memdiff.kernel.merging import MergedPoints
from memdiff.kernel.partial import LOGIT_FLOOR
from memdiff.kernel.points import Points
from memdiff.kernel.prior import Prior
from memdiff.kernel.products import gemm_path
from memdiff.kernel.rounding import rounding_factor, unit_roundoff
from memdiff.kernel.splitting import SplitCoordinates

__all__ = ["Kept", "Pruner"]

_BLOCK, _COLUMNS = 2048, 64
# Directions in which a near point is looked for first.
_ROUGH_DIRECTIONS = 32
# Blocks after which the count of the rest is foreseen.
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
        dropped: Certified bound of the mass left out, relative to that kept, ``(B,)``.
        gap: How far the logits of all groups but the best lie below it, at least; ``(B,)``.
        best: The group of largest bound, ``(B,)``.
        crowded: Queries that too many points matter to; nothing is kept for them. ``(B,)``.
    """

    queries: Tensor
    groups: Tensor
    counts: Tensor
    dropped: Tensor
    gap: Tensor
    best: Tensor
    crowded: Tensor

    def restrict(self, limit: Tensor) -> None:
        """Count queries with more pairs than ``limit`` ``(B,)`` as crowded too, in place."""
        self.crowded = self.crowded | (self.counts > limit)
        keep = ~self.crowded[self.queries]
        self.queries, self.groups = self.queries[keep], self.groups[keep]
        self.counts = torch.where(self.crowded, 0, self.counts)


@dataclass(frozen=True)
class _Screened:
    """Queries with what their bounds are made of."""

    query: Tensor
    scale: Tensor
    sigma: Tensor
    prior: Prior
    carried: Carried | None

    def take(self, rows: Tensor) -> _Screened:
        return _Screened(
            self.query[rows],
            self.scale[rows],
            self.sigma[rows],
            self.prior.take(rows),
            None if self.carried is None else self.carried.take(rows),
        )


@dataclass
class _Start:
    """What a screen begins with.

    Attributes:
        screened: The queries.
        slack: Bound of the rounding of their values, ``(B,)``.
        near: A group near each query, ``(B,)``.
        reached: Its exact value, ``(B,)``.
        bar: The least value that is kept, ``(B,)``.
        crowded: Queries that look crowded by one block, or have no group at all, ``(B,)``.
    """

    screened: _Screened
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
        padded = -(-num // _BLOCK) * _BLOCK
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
        self._order = _scattered(padded // _BLOCK)
        self._prior_size = float(merged.terms.mass.abs().max())

    def values(
        self, x: Tensor, scale: Tensor, sigma: Tensor, prior: Prior, groups: Tensor
    ) -> Tensor:
        r""":math:`\sigma^2` times the exact logit of one group a query, up to a constant."""
        representative = self.merged.representative[groups]
        difference = scale[:, None] * self.points.gather(representative) - x
        mass = self.merged.terms_of(torch.arange(len(x), device=x.device), groups, prior).mass
        constant = _square(x - scale[:, None] * self.split.centre)
        return sigma**2 * mass + 0.5 * (constant - _square(difference))

    def screen(
        self,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        prior: Prior,
        tolerance: float,
        limit: Tensor,
        near: Tensor,
        carried: Carried | None = None,
    ) -> Kept:
        r"""Keep what carries all but ``tolerance`` of the mass.

        Args:
            x: Queries, float64 ``(B, d)``.
            scale: :math:`m`, ``(B,)``.
            sigma: :math:`\sigma`, ``(B,)``, positive.
            prior: Their prior.
            tolerance: Mass that may be left out, relative to that kept.
            limit: Pairs a query beyond which it counts as crowded, ``(B,)``.
            near: A group near each query, ``(B,)``, -1 where none is known.
            carried: The queries as combinations of earlier ones, which makes the bounds sharper;
                only where no two points are the same.
        """
        start = self._start(x, scale, sigma, prior, tolerance, limit, near, carried)
        slack, near, reached = start.slack, start.near, start.reached
        kept = self._pass(start, limit)
        queries, groups, found, dropped, beneath, crowded = kept
        best = _best(queries, groups, found, near)
        better = ((best != near) & ~crowded).nonzero()[:, 0]
        some = (x[better], scale[better], sigma[better], prior.take(better))
        raised = torch.maximum(reached[better], self._reached(*some, best[better]))
        dropped[better] *= ((reached[better] - raised) / sigma[better] ** 2).exp()
        reached = reached.index_copy(0, better, raised)
        # The weights of what was kept, bounded from above and relative to one exact weight.
        excess = (found.to(torch.float64) + slack[queries] - reached[queries]) / (
            sigma[queries] ** 2
        )
        order = excess.argsort()
        order = order[queries[order].argsort(stable=True)]
        queries, groups, found, excess = (part[order] for part in (queries, groups, found, excess))
        counts = torch.bincount(queries, minlength=len(x))
        running = excess.clamp(max=0.0).exp().clamp(max=2 * tolerance).cumsum(0)
        before = torch.nn.functional.pad(running, (1, 0))[counts.cumsum(0) - counts]
        left_out = running - before[queries] + dropped[queries]
        keep = left_out > tolerance
        dropped = dropped.scatter_reduce(
            0, queries[~keep], left_out[~keep], "amax", include_self=True
        )
        beneath = beneath.scatter_reduce(
            0, queries[~keep], found[~keep].to(torch.float64), "amax", include_self=True
        )
        queries, groups = queries[keep], groups[keep]
        return Kept(
            queries=queries,
            groups=groups,
            counts=torch.bincount(queries, minlength=len(x)),
            dropped=dropped,
            gap=(reached - slack - beneath) / sigma**2,
            best=best,
            crowded=crowded,
        )

    def crowds(
        self,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        prior: Prior,
        tolerance: float,
        limit: Tensor,
        near: Tensor,
        carried: Carried | None = None,
    ) -> Tensor:
        """Which queries look crowded by a block of the points; arguments as of :meth:`screen`."""
        return self._start(x, scale, sigma, prior, tolerance, limit, near, carried).crowded

    def _start(
        self,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        prior: Prior,
        tolerance: float,
        limit: Tensor,
        near: Tensor,
        carried: Carried | None,
    ) -> _Start:
        query, slack = self._operand(x, scale, sigma, prior, carried)
        screened = _Screened(query, scale, sigma, prior, carried)
        reached = self._reached(x, scale, sigma, prior, near)
        cut = math.log(self.num / tolerance)
        crowded = reached == -math.inf
        known, unknown = (~crowded).nonzero()[:, 0], crowded.nonzero()[:, 0]
        if len(known):
            bar = self._bar(reached[known], slack[known], cut, sigma[known])
            crowded[known] = self._looks_crowded(screened.take(known), bar, limit[known])
        for find in (self._roughly_nearest, self._nearest):
            if len(unknown):
                lost = screened.take(unknown)
                found = find(lost)
                arguments = (x[unknown], scale[unknown], sigma[unknown], lost.prior)
                values = self._reached(*arguments, found)
                near = near.index_copy(0, unknown, found)
                reached = reached.index_copy(0, unknown, values)
                # A point that is not near enough shows: too many others are within reach of it.
                bar = self._bar(values, slack[unknown], cut, sigma[unknown])
                far = self._looks_crowded(lost, bar, limit[unknown]) | (values == -math.inf)
                crowded[unknown] = far
                unknown = unknown[far]
        bar = self._bar(reached, slack, cut, sigma)
        return _Start(screened, slack, near, reached, bar, crowded)

    def _bar(self, reached: Tensor, slack: Tensor, cut: float, sigma: Tensor) -> Tensor:
        bar = _below(reached - slack - cut * sigma**2)
        return torch.where(reached == -math.inf, math.inf, bar)

    def _looks_crowded(self, screened: _Screened, bar: Tensor, limit: Tensor) -> Tensor:
        """Whether one block, counted and no more, holds more than its part of the limit."""
        values = self._product(screened, self._order[0] * _BLOCK)
        return (values >= bar[:, None]).sum(1) > 4.0 * limit / len(self._order) + 64

    def _reached(
        self, x: Tensor, scale: Tensor, sigma: Tensor, prior: Prior, near: Tensor
    ) -> Tensor:
        values = self.values(x, scale, sigma, prior, near.clamp_min(0))
        return torch.where(near >= 0, values, -math.inf)

    def _operand(
        self, x: Tensor, scale: Tensor, sigma: Tensor, prior: Prior, carried: Carried | None
    ) -> tuple[Tensor, Tensor]:
        """Left factor of the product, and the bound of the rounding of its values."""
        centred = x - scale[:, None] * self.split.centre
        if carried is None:
            projected, residual = self.split.project(centred)
        else:
            projected, residual = carried.inside, carried.rest
        columns = [
            scale[:, None] * projected,
            (scale * residual)[:, None],
            (scale**2)[:, None],
            (sigma**2)[:, None],
        ]
        radius, length = self.split.radius, centred.norm(dim=1)
        roundoff = unit_roundoff(torch.float32)
        factor = (rounding_factor(self._table.shape[1]) + 8.0) * roundoff
        slack = factor * scale * radius * (length + scale * radius)
        slack += sigma**2 * 8.0 * roundoff * (self._prior_size + prior.bound)
        if carried is not None:
            slack += carried.error(self.points, scale)
        return torch.cat(columns, 1).to(torch.float32), slack

    def _product(self, screened: _Screened, first: int) -> Tensor:
        """Bounds of one block of groups, ``(B, _BLOCK)``."""
        table = self._table[first : first + _BLOCK]
        values = self._path.logits(screened.query, table, None)
        last = min(first + _BLOCK, self.num)
        sigma, prior, carried = screened.sigma, screened.prior, screened.carried
        if carried is not None:
            carried.add(values[:, : last - first], slice(first, last), screened.scale)
        if prior.extra is not None:
            members = self.merged.representative[first:last][None]
            terms = prior.extra(prior.rows, members)
            terms = torch.where(self.merged.single[None, first:last], terms, prior.bound)
            terms = torch.where(terms == -math.inf, -_FAR, (sigma**2)[:, None] * terms)
            values[:, : last - first] += terms.to(values.dtype)
        if prior.exclude is not None:
            own = torch.where(
                prior.exclude >= 0, self.merged.group[prior.exclude.clamp_min(0)], -1
            )
            rows = ((own >= first) & (own < last)).nonzero()[:, 0]
            rows = rows[self.merged.single[own[rows]]]
            values[rows, own[rows] - first] = -_FAR
        return values

    def _roughly_nearest(self, screened: _Screened) -> Tensor:
        """A near group, found in the first few directions."""
        if self._rough is None or screened.carried is not None:
            return self._nearest(screened)
        few = self._rough.shape[1] - 2
        query = torch.cat([screened.query[:, :few], screened.query[:, -2:]], 1)
        top = query.new_full((len(query),), -math.inf)
        found = torch.full((len(query),), -1, device=query.device)
        for first in range(0, self.num, _BLOCK):
            values = self._path.logits(query, self._rough[first : first + _BLOCK], None)
            block_top = values.amax(1)
            better = (block_top > top).nonzero()[:, 0]
            found[better] = values[better].argmax(1) + first
            top = torch.maximum(top, block_top)
        return found

    def _nearest(self, screened: _Screened) -> Tensor:
        """The group of the largest bound of each query."""
        query = screened.query
        top = query.new_full((len(query),), -math.inf)
        found = torch.full((len(query),), -1, device=query.device)
        for first in range(0, self.num, _BLOCK):
            values = self._product(screened, first)
            block_top = values.amax(1)
            better = (block_top > top).nonzero()[:, 0]
            found[better] = values[better].argmax(1) + first
            top = torch.maximum(top, block_top)
        return torch.where(top > -1e-3 * _FAR, found, -1)

    def _pass(
        self, start: _Start, limit: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Pairs at or above the bar; mass and largest value of what lies below; crowded ones.

        Blocks come in scattered order, so that the first ones tell which queries are crowded;
        these are not followed further.
        """
        screened, bar, crowded = start.screened, start.bar, start.crowded
        query, sigma, reached = screened.query, screened.sigma, start.reached - start.slack
        counts = torch.zeros_like(limit)
        dropped = torch.zeros_like(sigma)
        beneath = torch.full_like(sigma, -math.inf)
        live = torch.arange(len(query), device=query.device)
        depth = _BLOCK // _COLUMNS
        pairs = [(live[:0], live[:0], query[:0, 0])]
        for done, place in enumerate(self._order, start=1):
            first = place * _BLOCK
            if 2 * int(crowded[live].sum()) >= len(live):
                going = (~crowded[live]).nonzero()[:, 0]
                live, screened = live[going], screened.take(going)
            if not len(live):
                break
            variance, zero = sigma[live, None] ** 2, reached[live, None]
            values = self._product(screened, first)
            stacked = values.view(-1, depth, _COLUMNS)
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
            pairs.append((queries, first + level * _COLUMNS + columns[some], inside[some, level]))
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
    """In float32, rounded down."""
    single = value.to(torch.float32)
    return torch.nextafter(single, torch.full_like(single, -math.inf))


def _best(queries: Tensor, groups: Tensor, found: Tensor, near: Tensor) -> Tensor:
    """The group of the largest value of each query; ``near`` for a query without pairs."""
    top = found.new_full((len(near),), -math.inf).scatter_reduce(0, queries, found, "amax")
    winners = found == top[queries]
    return near.index_copy(0, queries[winners], groups[winners])
