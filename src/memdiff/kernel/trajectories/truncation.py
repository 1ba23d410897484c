r"""Answers that leave out what certainly does not matter, where that costs less.

For each query the cheapest of four ways is taken, chosen by counts and never by time:

``collapsed``
    Earlier gaps certify that one training point still has all the weight: closed form, ``O(d)``.
``pruned``
    A screen keeps few points; their sums are taken by direct differences in float64.
``reduced``
    The data have fewer dimensions than coordinates: all points, in principal coordinates.
``dense``
    All points: with inner products recycled along the trajectory (see
    :mod:`~memdiff.kernel.trajectories.recycling`) or by the engine's own routes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from memdiff.kernel.choice import ROUGHEST
from memdiff.kernel.differences import sum_pairs
from memdiff.kernel.merged import MergedPoints
from memdiff.kernel.points import Points, blocks
from memdiff.kernel.queries import Queries
from memdiff.kernel.rounding import LogitRounding, unit_roundoff
from memdiff.kernel.softmax import PartialPosterior
from memdiff.kernel.trajectories.batch import Trajectory
from memdiff.kernel.trajectories.pruning import Pruner
from memdiff.kernel.trajectories.recycling import Recycled, RecycledProducts, recycled_sums
from memdiff.kernel.trajectories.split import SplitCoordinates, lifted, missing

__all__ = ["TruncatedPosterior", "index_bytes"]

# One direct difference in float64 costs about this many inner products of a matrix product.
_GATHER_COST = 100
# The elementwise work of the softmax, in inner products of this length.
_SOFTMAX_COST = 16
# Queries that are asked first, where it is not known whether a screen pays.
_PROBE = 8
_DIRECTIONS = 128
# Bytes that products may take that are kept along the trajectories of one batch.
_RECYCLED_BYTES = 2**28
# Logits may be off by the tolerance, but no more is asked of them.
_FINEST = 2e-6

_building = threading.Lock()


def index_bytes(num: int, dim: int) -> int:
    """About what :class:`TruncatedPosterior` takes at its first use, in bytes.

    Args:
        num: Number of points.
        dim: Their dimension.
    """
    # Measured: the coordinates, and what is sorted to find duplicates.
    return num * (4 * (_most_directions(dim) + 37) + 640)


def _most_directions(dim: int) -> int:
    return min(_DIRECTIONS, max(16, dim // 5))


class Everything(Protocol):
    """The engine whose points these are: all of them, by its own routes."""

    points: Points
    log_prior: Tensor
    memory_limit: int

    def everything(
        self, queries: Queries, tolerance: float, entropy: bool, *, integers: bool = True
    ) -> PartialPosterior:
        """Sums over all points."""


class TruncatedPosterior:
    """The posterior over a fixed set of training points, up to a tolerance.

    What it keeps besides the points: ``K + 37`` numbers of 4 bytes for each point (``K`` is at
    most 128 and at most a fifth of the dimension), where the points have fewer dimensions than
    coordinates a copy in those, and the groups of duplicates, 64 bytes for each point. All is
    made at first use.

    Args:
        engine: The engine over all points.
        make: Makes such an engine of other points, given their log prior weights.
    """

    def __init__(self, engine: Everything, make: Callable[..., Everything]) -> None:
        self.engine, self.points = engine, engine.points
        self.unit = unit_roundoff(engine.points.dtype)
        self._make = make
        self._pruner: Pruner | None = None
        self.reduced: Everything | None = None

    @property
    def pruner(self) -> Pruner:
        """The screen, built at first use."""
        with _building:
            if self._pruner is None:
                self._pruner = self._build()
        return self._pruner

    def _build(self) -> Pruner:
        points, engine = self.points, self.engine
        merged = MergedPoints(points.duplicates(), engine.log_prior)
        directions = _most_directions(points.dim)
        index = merged.representative
        split = SplitCoordinates.of(points.gather, index, points.centre, directions)
        if split.directions < directions:
            copy = torch.empty(points.num, split.directions, dtype=points.dtype)
            copy = copy.to(points.device)
            for block in blocks(points.num, max(1, 2**22 // points.dim)):
                copy[block] = ((points.exact(block) - points.centre) @ split.basis).to(copy)
            limit = engine.memory_limit
            self.reduced = self._make(copy, engine.log_prior, memory_limit=limit)
        return Pruner(points, merged, split)

    def __call__(
        self,
        queries: Queries,
        tolerance: float,
        entropy: bool,
        trajectory: Trajectory | None = None,
        members: Tensor | None = None,
        *,
        integers: bool = True,
    ) -> PartialPosterior:
        r"""Sums over all points but for ``tolerance`` of the mass.

        Args:
            queries: The queries, under the prior of these points.
            tolerance: Mass that may be left out, relative to that kept.
            entropy: Whether the entropy is asked for; without, its sum may be NaN.
            trajectory: What is remembered of the queries, or None.
            members: Members of the trajectory that they are, ``(B,)``, or None.
            integers: Whether screens of integers are worth a try.
        """
        call = _Call(self, queries, tolerance, trajectory, members)
        rest = call.collapsed()
        rest = call.pruned(rest)
        rest = call.reduced(rest, entropy)
        rest = call.recycled(rest, entropy)
        if len(rest):
            some = queries.take(rest)
            call.dense(rest, self.engine.everything(some, tolerance, entropy, integers=integers))
        return call.result


class _Call:
    """One evaluation: each step answers some of the queries and returns the others."""

    def __init__(
        self,
        parent: TruncatedPosterior,
        queries: Queries,
        tolerance: float,
        trajectory: Trajectory | None,
        members: Tensor | None,
    ) -> None:
        self.parent, self.pruner, self.points = parent, parent.pruner, parent.points
        self.queries, self.tolerance, self.trajectory = queries, tolerance, trajectory
        self.members = torch.zeros(0) if members is None else members
        self.ratio = queries.sigma / queries.scale
        self.result = PartialPosterior.empty(len(queries), self.points.dim, queries.x.device)
        self.work = torch.zeros_like(queries.scale)
        split = self.pruner.split
        self.full = 2.0 * self.points.num
        self.small = self.full * (split.directions + _SOFTMAX_COST) / self.points.dim
        self.reducible = self._reducible()
        self.memory = self._product_memory()
        self._combinations: Recycled | None = None

    def _reducible(self) -> Tensor:
        split, queries = self.pruner.split, self.queries
        if self.parent.reduced is None:
            return torch.zeros_like(self.ratio, dtype=torch.bool)
        inside, length = split.project(queries.centred(self.points))
        error = missing(inside, length, queries, split, self.parent.unit)
        small = split.residual <= self.tolerance * split.radius
        return (error <= min(self.tolerance, ROUGHEST)) & small

    def _product_memory(self) -> RecycledProducts | None:
        """Where products are kept; made at the first evaluation that has a use for it."""
        trajectory, pruner, points = self.trajectory, self.pruner, self.points
        if trajectory is None or points.dtype != torch.float32:
            return None
        if trajectory.products is None:
            fits = 8 * trajectory.size * pruner.num <= _RECYCLED_BYTES
            few = 4 * pruner.split.directions <= points.dim
            if fits and few and pruner.num == points.num and self.parent.reduced is None:
                trajectory.products = RecycledProducts(trajectory.size, points, pruner.split)
        return trajectory.products

    def _recycled(self, rows: Tensor) -> Recycled | None:
        """Queries as combinations of those of earlier calls, taken once for all of them."""
        if self.memory is None:
            return None
        if self._combinations is None:
            centred = self.queries.centred(self.points)
            self._combinations = self.memory.recycled(self.members, centred)
        # In the order of the rows: what was given up earlier may stand before the rest.
        return self._combinations.take(rows)

    def collapsed(self) -> Tensor:
        """Answer what one point is certified for."""
        everything = torch.arange(len(self.queries), device=self.ratio.device)
        # Conditions and exclusions may change from call to call: gaps are certified without.
        if self.trajectory is None or not self.queries.is_plain:
            return everything
        pruner, merged = self.pruner, self.pruner.merged
        near = self.trajectory.near(self.members)
        some = ((near >= 0) & self.trajectory.has_gap(self.members)).nonzero()[:, 0]
        if not len(some):
            return everything
        winner = self.points.gather(merged.representative[near[some]])
        gap = self.trajectory.gap_bound(
            self.members[some],
            self.queries.x[some] / self.queries.scale[some, None],
            winner,
            self.ratio[some],
            float(merged.terms.mass.max() - merged.terms.mass.min()),
            (winner - pruner.split.centre).norm(dim=1) + pruner.split.radius,
        )
        dropped = (pruner.num - 1) * (-gap).exp()
        held = dropped <= self.tolerance
        rows = some[held]
        self._sum(rows, torch.arange(len(rows), device=rows.device), near[rows], dropped[held])
        self.work[rows] = _GATHER_COST
        self._count(rows, "collapsed")
        return everything[torch.isin(everything, rows, invert=True)]

    def pruned(self, rest: Tensor) -> Tensor:
        """Answer the queries that few points matter to."""
        trajectory = self.trajectory
        known = torch.full_like(rest, -1)
        left = rest[:0]
        if trajectory is not None:
            hopeless = trajectory.crowded(self.members[rest], self.ratio[rest])
            left, rest = rest[hopeless], rest[~hopeless]
            known = trajectory.near(self.members[rest])
        limit = self._limit(rest)
        if len(rest) >= 4 * _PROBE and 2 * int((known < 0).sum()) > len(rest):
            probe = torch.linspace(0, len(rest) - 1, _PROBE, device=rest.device).long()
            crowded = self.pruner.look_crowded(
                self.queries.take(rest[probe]),
                self.tolerance,
                4 * limit[probe],
                known[probe],
                self._recycled(rest[probe]),
            )
            if float(crowded.double().mean()) > 0.75:
                return self._crowded(torch.cat([left, rest]).sort().values)
        if not len(rest):
            return left
        some, recycled = self.queries.take(rest), self._recycled(rest)
        kept = self.pruner.screen(some, self.tolerance, 4 * limit, known, recycled)
        kept.restrict(limit)
        self.work[rest] += self.pruner.num * (self.pruner.split.directions + 3) / self.points.dim
        good = (~kept.crowded).nonzero()[:, 0]
        rows = rest[good]
        place = torch.full_like(rest, -1)
        place[good] = torch.arange(len(good), device=rest.device)
        self._sum(rows, place[kept.queries], kept.groups, kept.dropped[good])
        self.work[rows] += _GATHER_COST * kept.counts[good]
        self._count(rows, "pruned", candidates=kept.counts[good])
        if trajectory is not None and self.queries.is_plain:
            gap = torch.where(kept.counts[good] == 1, kept.gap[good], -math.inf)
            self._record_gaps(trajectory, rows, gap)
        return torch.cat([left, self._crowded(rest[kept.crowded])]).sort().values

    def _limit(self, rows: Tensor) -> Tensor:
        """Groups that may be kept of each query before summing over all points is cheaper."""
        cost = torch.where(self.reducible[rows], self.small, self.full)
        return (cost / _GATHER_COST).long().clamp_min(4)

    def _crowded(self, rows: Tensor) -> Tensor:
        if self.trajectory is not None:
            self.trajectory.record_crowded(self.members[rows], self.ratio[rows])
            self._record_gaps(self.trajectory, rows, torch.full_like(self.ratio[rows], -math.inf))
        return rows

    def _record_gaps(self, trajectory: Trajectory, rows: Tensor, gap: Tensor) -> None:
        point = self.queries.x[rows] / self.queries.scale[rows, None]
        trajectory.record_gaps(self.members[rows], point, self.ratio[rows], gap)

    def reduced(self, rest: Tensor, entropy: bool) -> Tensor:
        """Answer in principal coordinates what may be answered so."""
        rows, split, engine = rest[self.reducible[rest]], self.pruner.split, self.parent.reduced
        if engine is not None and len(rows):
            some = self.queries.take(rows)
            centred = some.centred(self.points)
            inside = centred @ split.basis
            part = engine.everything(replace(some, x=inside), 0.0, entropy)
            beyond = centred - inside @ split.basis.T
            self._put(rows, lifted(part, inside, beyond, some, split, self.parent.unit))
            self.work[rows] += self.small
            self._count(rows, "reduced")
        return rest[~self.reducible[rest]]

    def recycled(self, rest: Tensor, entropy: bool) -> Tensor:
        """Answer by all points what float32 products, new or recycled, are accurate for."""
        recycled = self._recycled(rest) if len(rest) else None
        if self.memory is None or recycled is None:
            return rest
        points, split, some = self.points, self.pruner.split, self.queries.take(rest)
        accuracy = min(max(self.tolerance, _FINEST), ROUGHEST)
        single = LogitRounding.of(points, some, torch.float32).typical <= accuracy
        known = (recycled.factors != 0).any(1)
        known &= recycled.rounding(points, some).typical <= accuracy
        missed = some.scale * recycled.rest * split.residual / some.sigma**2
        known &= missed <= min(self.tolerance, ROUGHEST)
        for fresh, chosen in ((False, known), (True, single & ~known)):
            place = chosen.nonzero()[:, 0]
            if len(place):
                now, rows = some.take(place), rest[place]
                how = (self.memory, recycled.take(place))
                part = recycled_sums(points, split, now, *how, fresh=fresh, entropy=entropy)
                self._put(rows, part)
                self.work[rows] += self.full if fresh else 0.5 * (self.full + self.small)
                self._count(rows, "dense", recycled=torch.full_like(now.sigma, not fresh))
        return rest[~(known | single)]

    def dense(self, rows: Tensor, part: PartialPosterior) -> None:
        """Take the answers of the engine's own routes."""
        self._put(rows, part)
        self.work[rows] += self.full
        self._count(rows, "dense")

    def _sum(self, rows: Tensor, queries: Tensor, groups: Tensor, dropped: Tensor) -> None:
        """Sums over pairs (query among ``rows``, group)."""
        if not len(rows):
            return
        some, merged, limit = (
            self.queries.take(rows),
            self.pruner.merged,
            self.parent.engine.memory_limit,
        )
        part = sum_pairs(self.points, some, (queries, groups), limit, merged)
        part.sum_error += 2.0 * dropped * some.scale * self.points.radius
        self._put(rows, part)

    def _put(self, rows: Tensor, part: PartialPosterior) -> None:
        self.result.put(rows, part)
        if self.trajectory is not None:
            near = self.pruner.merged.group[part.top_index.clamp_min(0)]
            self.trajectory.record(self.members[rows], near)

    def _count(self, rows: Tensor, way: str, **counts: Tensor) -> None:
        if self.trajectory is not None and len(rows):
            self.trajectory.counts.add(
                self.ratio[rows],
                queries=1.0,
                products=self.work[rows],
                dense_products=self.full,
                **{way: 1.0},
                **counts,
            )
