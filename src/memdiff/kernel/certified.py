r"""Answers that leave out what certifiably does not matter, where that costs less.

For each query the cheapest of four ways is taken, chosen by counts and never by time:

``locked``
    Earlier gaps certify that one training point still has all the weight: closed form, ``O(d)``.
``pruned``
    A screen keeps few points; their sums are taken by direct differences in float64.
``reduced``
    The data have fewer dimensions than coordinates: all points, in principal coordinates.
``dense``
    All points: with logits carried along the trajectory (see
    :mod:`~memdiff.kernel.carrying`) or by the engine's own routes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from memdiff.kernel.carrying import Carried, ProductMemory, summed
from memdiff.kernel.grouped import GroupSums
from memdiff.kernel.locking import Trajectory
from memdiff.kernel.merging import MergedPoints
from memdiff.kernel.partial import PartialPosterior
from memdiff.kernel.points import Points
from memdiff.kernel.prior import Prior
from memdiff.kernel.pruning import Kept, Pruner
from memdiff.kernel.reduction import lifted, missing
from memdiff.kernel.rounding import logit_error, typical_factor, unit_roundoff
from memdiff.kernel.splitting import SplitCoordinates

__all__ = ["CertifiedPosterior", "index_bytes"]

# One direct difference in float64 costs about this many inner products of a matrix product.
_GATHER_COST = 100
# The elementwise work of the softmax, in inner products of this length.
_SOFTMAX_COST = 16
# Queries that are asked first, where it is not known whether a screen pays.
_PROBE = 8
_DIRECTIONS = 128
# Bytes that products may take that are carried along the trajectories of one batch.
_CARRIED_BYTES = 2**28
# Logits may be off by the tolerance, within these limits.
_FINEST, _ROUGHEST = 2e-6, 1e-5

_Dense = Callable[[Tensor, Tensor, Tensor, Prior], PartialPosterior]

_building = threading.Lock()


def index_bytes(num: int, dim: int) -> int:
    """About what :class:`CertifiedPosterior` takes at its first use, in bytes.

    Args:
        num: Number of points.
        dim: Their dimension.
    """
    # Measured: the coordinates, and what is sorted to find duplicates.
    return num * (4 * (_most_directions(dim) + 37) + 640)


def _most_directions(dim: int) -> int:
    return min(_DIRECTIONS, max(16, dim // 5))


class CertifiedPosterior:
    """The posterior over a fixed set of training points, up to a tolerance.

    What it keeps besides the points: ``K + 37`` numbers of 4 bytes a point (``K`` is at most 128
    and at most a fifth of the dimension), where the points have fewer dimensions than coordinates
    a copy in those, and the groups of duplicates, 64 bytes a point. All is made at first use.

    Args:
        points: The training points.
        log_prior: Log prior weights, float64 ``(N,)``.
        reduced: Makes the routes through all points for other points, ``(N, K)`` of their dtype,
            given their log prior weights and the memory limit.
        memory_limit: Bound in bytes of temporary memory.
    """

    def __init__(
        self,
        points: Points,
        log_prior: Tensor,
        reduced: Callable[[Tensor, Tensor, int], _Dense],
        memory_limit: int,
    ) -> None:
        self.points, self.log_prior, self.memory_limit = points, log_prior, memory_limit
        self.unit = unit_roundoff(points.dtype)
        self._make_reduced = reduced
        self._pruner: Pruner | None = None
        self._reduced: _Dense | None = None

    @property
    def pruner(self) -> Pruner:
        """The screen, built at first use."""
        with _building:
            if self._pruner is None:
                self._pruner = self._build()
        return self._pruner

    def _build(self) -> Pruner:
        points, num = self.points, len(self.log_prior)
        labels = self.points.duplicates()
        merged = MergedPoints(labels, self.log_prior)
        directions = _most_directions(len(points.centre))
        split = SplitCoordinates.of(
            points.gather, merged.representative, points.centre, directions
        )
        if split.directions < directions:
            copy = torch.empty(num, split.directions, dtype=points.dtype)
            for rows in torch.arange(num).split(max(1, 2**22 // len(points.centre))):
                index = rows.to(labels.device)
                copy[rows] = ((points.gather(index) - points.centre) @ split.basis).to(copy)
            copy = copy.to(labels.device)
            self._reduced = self._make_reduced(copy, self.log_prior, self.memory_limit)
        self.sums = GroupSums(points, merged, split, self.memory_limit)
        return Pruner(points, merged, split)

    def __call__(
        self,
        dense: _Dense,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        prior: Prior,
        tolerance: float,
        trajectory: Trajectory | None = None,
        members: Tensor | None = None,
        *,
        entropy: bool = True,
    ) -> PartialPosterior:
        r"""Sums over all points but for ``tolerance`` of the mass.

        Args:
            dense: The routes through all points.
            x: Queries, float64 ``(B, d)``.
            scale: :math:`m`, ``(B,)``.
            sigma: :math:`\sigma`, ``(B,)``, positive.
            prior: Their prior.
            tolerance: Mass that may be left out, relative to that kept.
            trajectory: What is remembered of the queries, or None.
            members: Members of the trajectory that they are, ``(B,)``, or None.
            entropy: Whether the entropy is asked for; without, its sum may be NaN.
        """
        call = _Call(self, x, scale, sigma, prior, tolerance, trajectory, members)
        rest = call.locked()
        rest = call.pruned(rest)
        rest = call.reduced(rest)
        call.dense(rest, dense, entropy)
        return call.result


class _Call:
    """One evaluation: each step answers some of the queries and returns the others."""

    def __init__(
        self,
        parent: CertifiedPosterior,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        prior: Prior,
        tolerance: float,
        trajectory: Trajectory | None,
        members: Tensor | None,
    ) -> None:
        self.parent, self.pruner = parent, parent.pruner
        self.x, self.scale, self.sigma, self.prior = x, scale, sigma, prior
        self.tolerance, self.trajectory = tolerance, trajectory
        self.members = torch.zeros(0) if members is None else members
        self.ratio = sigma / scale
        self.result = PartialPosterior.empty(len(x), x.shape[1], x.device)
        # Conditions and exclusions may change from call to call: gaps are certified without.
        self.lockable = prior.extra is None and prior.exclude is None
        self.work = torch.zeros_like(scale)
        split = self.pruner.split
        self.full = 2.0 * len(parent.log_prior)
        self.small = self.full * (split.directions + _SOFTMAX_COST) / len(split.centre)
        self.reducible = self._reducible()
        self.memory = self._product_memory()
        self._combinations: Carried | None = None

    def _reducible(self) -> Tensor:
        split = self.pruner.split
        if self.parent._reduced is None:
            return torch.zeros_like(self.ratio, dtype=torch.bool)
        inside, length = split.project(self.x - self.scale[:, None] * split.centre)
        unit = self.parent.unit
        error = missing(inside, length[:, None], self.scale, self.sigma, split, unit)
        small = split.residual <= self.tolerance * split.radius
        return (error <= min(self.tolerance, _ROUGHEST)) & small

    def _product_memory(self) -> ProductMemory | None:
        """Where products are carried along; made at the first evaluation that has a use for it."""
        trajectory, pruner, points = self.trajectory, self.pruner, self.parent.points
        if trajectory is None or points.dtype != torch.float32:
            return None
        if trajectory.products is None:
            fits = 8 * trajectory.size * pruner.num <= _CARRIED_BYTES
            few = 4 * pruner.split.directions <= points.dim
            distinct = pruner.num == len(self.parent.log_prior)
            if fits and few and distinct and self.parent._reduced is None:
                trajectory.products = ProductMemory(trajectory.size, points, pruner.split)
        return trajectory.products

    def _carried(self, rows: Tensor) -> Carried | None:
        """Queries as combinations of those of earlier calls, taken once for all of them."""
        if self.memory is None:
            return None
        if self._combinations is None:
            centred = self.x - self.scale[:, None] * self.pruner.split.centre
            self._combinations = self.memory.carried(self.members, centred)
        # In the order of the rows: what was given up earlier may stand before the rest.
        return self._combinations.take(rows)

    def locked(self) -> Tensor:
        """Answer what one point is certified for."""
        everything = torch.arange(len(self.x), device=self.x.device)
        if self.trajectory is None or not self.lockable:
            return everything
        pruner, merged = self.pruner, self.pruner.merged
        near = self.trajectory.near(self.members)
        some = ((near >= 0) & self.trajectory.has_gap(self.members)).nonzero()[:, 0]
        if not len(some):
            return everything
        winner = self.parent.points.gather(merged.representative[near[some]])
        gap = self.trajectory.certified(
            self.members[some],
            self.x[some] / self.scale[some, None],
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
        self._count(rows, "locked")
        return everything[torch.isin(everything, rows, invert=True)]

    def pruned(self, rest: Tensor) -> Tensor:
        """Answer the queries that few points matter to."""
        trajectory = self.trajectory
        known = torch.full_like(rest, -1)
        if trajectory is not None:
            hopeless = trajectory.crowded(self.members[rest], self.ratio[rest])
            left, rest = rest[hopeless], rest[~hopeless]
            known = trajectory.near(self.members[rest])
        else:
            left = rest[:0]
        if len(rest) >= 4 * _PROBE and 2 * int((known < 0).sum()) > len(rest):
            probe = torch.linspace(0, len(rest) - 1, _PROBE, device=rest.device).long()
            if float(self._crowds(rest[probe], known[probe]).double().mean()) > 0.75:
                return self._crowded(torch.cat([left, rest]).sort().values)
        if not len(rest):
            return left
        kept = self._screen(rest, known)
        good = (~kept.crowded).nonzero()[:, 0]
        rows = rest[good]
        inverse = torch.full_like(rest, -1).index_copy(
            0, good, torch.arange(len(good), device=rest.device)
        )
        self._sum(rows, inverse[kept.queries], kept.groups, kept.dropped[good])
        self.work[rows] += _GATHER_COST * kept.counts[good]
        self._count(rows, "pruned", candidates=kept.counts[good])
        if trajectory is not None and self.lockable:
            single = kept.counts[good] == 1
            gap = torch.where(single, kept.gap[good], -math.inf)
            point = self.x[rows] / self.scale[rows, None]
            trajectory.record_gaps(self.members[rows], point, self.ratio[rows], gap)
        return torch.cat([left, self._crowded(rest[kept.crowded])]).sort().values

    def _limit(self, rows: Tensor) -> Tensor:
        """Groups that may be kept of each query before summing over all points is cheaper."""
        cost = torch.where(self.reducible[rows], self.small, self.full)
        return (cost / _GATHER_COST).long().clamp_min(4)

    def _crowds(self, rows: Tensor, near: Tensor) -> Tensor:
        arguments = (self.x[rows], self.scale[rows], self.sigma[rows], self.prior.take(rows))
        limit, carried = 4 * self._limit(rows), self._carried(rows)
        return self.pruner.crowds(*arguments, self.tolerance, limit, near, carried)

    def _screen(self, rows: Tensor, near: Tensor) -> Kept:
        limit = self._limit(rows)
        arguments = (self.x[rows], self.scale[rows], self.sigma[rows], self.prior.take(rows))
        carried = self._carried(rows)
        kept = self.pruner.screen(*arguments, self.tolerance, 4 * limit, near, carried)
        kept.restrict(limit)
        self.work[rows] += self.pruner.num * (self.pruner.split.directions + 3) / self.x.shape[1]
        return kept

    def _crowded(self, rows: Tensor) -> Tensor:
        if self.trajectory is not None:
            members = self.members[rows]
            self.trajectory.record_crowded(members, self.ratio[rows])
            gap = torch.full_like(self.ratio[rows], -math.inf)
            point = self.x[rows] / self.scale[rows, None]
            self.trajectory.record_gaps(members, point, self.ratio[rows], gap)
        return rows

    def reduced(self, rest: Tensor) -> Tensor:
        """Answer in principal coordinates what may be answered so."""
        rows, split = rest[self.reducible[rest]], self.pruner.split
        if len(rows):
            assert self.parent._reduced is not None
            scale, sigma = self.scale[rows], self.sigma[rows]
            centred = self.x[rows] - scale[:, None] * split.centre
            inside = centred @ split.basis
            part = self.parent._reduced(inside, scale, sigma, self.prior.take(rows))
            beyond = centred - inside @ split.basis.T
            unit = self.parent.unit
            self._put(rows, lifted(part, inside, beyond, scale, sigma, split, unit))
            self.work[rows] += self.small
            self._count(rows, "reduced")
        return rest[~self.reducible[rest]]

    def dense(self, rows: Tensor, route: _Dense, entropy: bool) -> None:
        """Answer the rest by all points."""
        if not len(rows):
            return
        carried = self._carried(rows)
        if self.memory is not None and carried is not None:
            points, split = self.parent.points, self.pruner.split
            x, scale, sigma = self.x[rows], self.scale[rows], self.sigma[rows]
            error = logit_error(points, x, scale, sigma, torch.float32)
            accuracy = min(max(self.tolerance, _FINEST), _ROUGHEST)
            typical = typical_factor(points.dim)
            single = error * typical <= accuracy
            known = (carried.factors != 0).any(1)
            known &= carried.error(points, scale) / sigma**2 * typical <= accuracy
            known &= scale * carried.rest * split.residual / sigma**2 <= min(
                self.tolerance, _ROUGHEST
            )
            for fresh, chosen in ((False, known), (True, single & ~known)):
                some = chosen.nonzero()[:, 0]
                if len(some):
                    arguments = (x[some], scale[some], sigma[some], self.prior.take(rows[some]))
                    part = summed(
                        points,
                        split,
                        *arguments,
                        self.memory,
                        carried.take(some),
                        fresh=fresh,
                        entropy=entropy,
                    )
                    self._put(rows[some], part)
                    cheap = 0.5 * (self.full + self.small)
                    self.work[rows[some]] += self.full if fresh else cheap
                    self._count(
                        rows[some], "dense", carried=torch.full_like(sigma[some], not fresh)
                    )
            rows = rows[~(known | single)]
        if len(rows):
            arguments = (self.x[rows], self.scale[rows], self.sigma[rows], self.prior.take(rows))
            self._put(rows, route(*arguments))
            self.work[rows] += self.full
            self._count(rows, "dense")

    def _sum(self, rows: Tensor, queries: Tensor, groups: Tensor, dropped: Tensor) -> None:
        if len(rows):
            arguments = (self.x[rows], self.scale[rows], self.sigma[rows], self.prior.take(rows))
            self._put(rows, self.parent.sums(*arguments, queries, groups, dropped))

    def _put(self, rows: Tensor, part: PartialPosterior) -> None:
        self.result.put(rows, part)
        if self.trajectory is not None:
            near = self.pruner.merged.group[part.top_index.clamp_min(0)]
            self.trajectory.record(self.members[rows], near)

    def _count(self, rows: Tensor, way: str, **counts: Tensor) -> None:
        if self.trajectory is not None and len(rows):
            self.trajectory.ledger.add(
                self.ratio[rows],
                queries=1.0,
                products=self.work[rows],
                dense_products=self.full,
                **{way: 1.0},
                **counts,
            )
