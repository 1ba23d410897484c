r"""Inner products with all training points, recycled along trajectories.

A step of a sampler adds to a multiple of the query an average of training points, and these lie
nearly in the principal directions ``P``. With earlier queries :math:`x_j` of the batch, whose
inner products with all points are known, and any coefficients :math:`\beta_j`,

.. math::
    x \cdot X_n = \sum_j \beta_j\, x_j \cdot X_n + P^T e \cdot P^T X_n + R e \cdot R X_n,
    \qquad e = x - \sum_j \beta_j x_j ,

and the last term is at most :math:`|R e| |R X_n|`, which is computed. The coefficients that make
:math:`|R e|` small take the noise out of it. Where what is left cannot matter, a product in ``K``
dimensions replaces one in ``d``; elsewhere it makes the split bound sharper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from memdiff.kernel.points import Points, blocks
from memdiff.kernel.products import BLOCK, gemm_path
from memdiff.kernel.queries import Queries
from memdiff.kernel.rounding import (
    LogitRounding,
    certain_factor,
    probable_factor,
    unit_roundoff,
)
from memdiff.kernel.softmax import LOG2E, PartialPosterior, RunningSoftmax, is_moderate
from memdiff.kernel.trajectories.split import SplitCoordinates

__all__ = ["Recycled", "RecycledProducts", "recycled_sums"]

# Coefficients that cancel each other by more than this would lose digits.
_AMPLIFICATION = 30.0


@dataclass(frozen=True)
class Recycled:
    r"""Queries as combinations of earlier ones and a remainder.

    Attributes:
        rows: Members of the batch, ``(B,)``.
        factors: :math:`\beta_j`, ``(B, J)``.
        products: Inner products of the earlier queries of all members, ``J`` times one
            ``(M, K)`` for each block of points.
        inside: :math:`P^T e`, ``(B, K)``.
        rest: :math:`|R e|`, ``(B,)``.
        length: :math:`\sum_j |\beta_j| |x_j|`, ``(B,)``: what rounding is relative to.
        parts: :math:`P^T x` and :math:`R x` of all queries of the call, ``(C, K)``, ``(C, d)``.
        place: Which of these the queries are, ``(B,)``.
    """

    rows: Tensor
    factors: Tensor
    products: tuple[list[Tensor], ...]
    inside: Tensor
    rest: Tensor
    length: Tensor
    parts: tuple[Tensor, Tensor]
    place: Tensor

    def take(self, some: Tensor) -> Recycled:
        """The same for some of the queries."""
        return Recycled(
            self.rows[some],
            self.factors[some],
            self.products,
            self.inside[some],
            self.rest[some],
            self.length[some],
            self.parts,
            self.place[some],
        )

    def add(self, values: Tensor, block: slice, scale: Tensor) -> None:
        """Add ``scale`` times the combination of earlier products to ``(B, K)`` in place."""
        for factor, products in zip(self.factors.T, self.products, strict=True):
            part = products[block.start // BLOCK]
            if not self._everything:
                part = part[self.rows]
            values.addcmul_((scale * factor).to(values.dtype)[:, None], part)

    @cached_property
    def _everything(self) -> bool:
        """Whether these are all members, in order."""
        return _in_order(self.rows, len(self.products[0][0]))

    def certain_error(self, points: Points, scale: Tensor) -> Tensor:
        """Certain bound of the rounding of the combination times ``scale``, ``(B,)``."""
        factor = certain_factor(points.dim + 4, unit_roundoff(torch.float32))
        return factor * scale * self.length * points.radius

    def rounding(self, points: Points, queries: Queries) -> LogitRounding:
        """The rounding of the combination, as a part of the logits."""
        size = queries.scale * self.length * points.radius / queries.sigma**2
        return LogitRounding(size, 0.0, points.dim, unit_roundoff(torch.float32))


class RecycledProducts:
    """The first and the latest query of each member whose products with all points are known.

    Takes ``8 M N`` bytes for ``M`` members and ``N`` points, and ``16 M (d + K)``.

    Args:
        members: Number of members.
        points: The training points, all different.
        split: Their split coordinates.
    """

    def __init__(self, members: int, points: Points, split: SplitCoordinates) -> None:
        self._split = split
        device, double = points.device, torch.float64
        self._known = torch.zeros(2, members, dtype=torch.bool, device=device)
        # Of both queries: principal coordinates, the rest, and inner products of the rests.
        self._inside = torch.zeros(2, members, split.directions, dtype=double, device=device)
        self._rest = torch.zeros(2, members, points.dim, dtype=double, device=device)
        self._length = torch.zeros(2, members, dtype=double, device=device)
        self._inner = torch.zeros(3, members, dtype=double, device=device)
        self._products = tuple(
            [
                torch.zeros(members, block.stop - block.start, device=device, dtype=torch.float32)
                for block in blocks(points.num, BLOCK)
            ]
            for _ in range(2)
        )

    def recycled(self, members: Tensor, centred: Tensor) -> Recycled:
        """Queries ``(B, d)``, centred, as combinations of what is known of their members."""
        inside = centred @ self._split.basis
        rest = torch.addmm(centred, inside, self._split.basis.T, alpha=-1.0)
        some = slice(None) if _in_order(members, len(self._known[0])) else members
        first, last = self._rest[:, some]
        zero, one = self._known[:, some]
        square, mixed, latest = self._inner[:, some]
        # One after the other, orthogonalised: the two are nearly parallel.
        along, against = torch.linalg.vecdot(rest, first), torch.linalg.vecdot(rest, last)
        tilt = _quotient(mixed, square)
        second = _quotient(against - tilt * along, latest - tilt * mixed)
        second = torch.where(one, second, 0.0)
        factors = torch.stack([_quotient(along - second * mixed, square), second])
        factors[0] = torch.where(zero, factors[0], 0.0)
        lengths = self._length[:, some]
        wild = (factors.abs() * lengths).sum(0) > _AMPLIFICATION * centred.norm(dim=1)
        single = torch.where(one, _quotient(against, latest), 0.0)
        factors[0] = torch.where(wild, 0.0, factors[0])
        factors[1] = torch.where(wild, single, factors[1])
        moved, beyond = inside, rest
        for factor, old, other in zip(factors, self._inside[:, some], (first, last), strict=True):
            moved = torch.addcmul(moved, factor[:, None], old, value=-1.0)
            beyond = torch.addcmul(beyond, factor[:, None], other, value=-1.0)
        length = (factors.abs() * lengths).sum(0)
        place = torch.arange(len(members), device=members.device)
        known = (moved, beyond.norm(dim=1), length, (inside, rest), place)
        return Recycled(members, factors.T, self._products, *known)

    def start(self, recycled: Recycled) -> Tensor:
        """Choose where the products of queries will be kept; :meth:`multiply` is for them."""
        members, (inside, rest) = recycled.rows, recycled.parts
        slot = self._known[0, members].long()
        self._known[slot, members] = True
        self._inside[slot, members] = inside[recycled.place]
        self._rest[slot, members] = rest[recycled.place]
        square = self._inside[slot, members].square().sum(1)
        self._length[slot, members] = (square + rest[recycled.place].square().sum(1)).sqrt()
        first, last = self._rest[:, members]
        for place, (one, other) in enumerate(((first, first), (first, last), (last, last))):
            self._inner[place, members] = torch.linalg.vecdot(one, other)
        return slot

    def multiply(
        self, slot: Tensor, members: Tensor, block: slice, query: Tensor, near: Tensor
    ) -> Tensor:
        """Products ``query @ near.T`` with a block of points, which are kept, ``(B, K)``."""
        values = gemm_path(query.shape[1], query.dtype, query.device).logits(query, near, None)
        number = block.start // BLOCK
        everything = _in_order(members, len(self._known[0]))
        for place, products in enumerate(self._products):
            if everything and bool((slot == place).all()):
                products[number] = values
                return values
        for place, products in enumerate(self._products):
            rows = (slot == place).nonzero()[:, 0]
            products[number][members[rows]] = values[rows]
        return values


def recycled_sums(
    points: Points,
    split: SplitCoordinates,
    queries: Queries,
    memory: RecycledProducts,
    recycled: Recycled,
    *,
    fresh: bool,
    entropy: bool,
) -> PartialPosterior:
    r"""Sums over all points in float32 products, which accumulate in float64.

    Args:
        points: The training points, all different, in the order of ``split``.
        split: Their split coordinates.
        queries: The queries.
        memory: Where products are kept.
        recycled: The queries as combinations of earlier ones.
        fresh: Whether to take all products anew, and keep them, or to recycle them.
        entropy: Whether the entropy is asked for; without, its sum is NaN.
    """
    scale, prior, rows = queries.scale, queries.prior, recycled.rows
    centred, variance = queries.centred(points), queries.sigma**2
    factor = centred if fresh else recycled.inside
    query = (factor / (points.unit if fresh else 1.0)).to(torch.float32)
    slot = memory.start(recycled) if fresh else rows
    strength = (LOG2E * scale / variance).to(torch.float32)[:, None]
    curvature = scale**2 / variance
    length = factor.norm(dim=1) + (0 if fresh else recycled.length)
    reach = scale * points.radius
    largest = LOG2E * ((length + 0.5 * reach) * reach / variance + prior.log_prior.abs().max())
    moderate = is_moderate(float(largest.max()), points.unit * points.radius)
    path = gemm_path(points.dim, torch.float32, centred.device)
    sums = RunningSoftmax(
        scale / points.unit,
        centred,
        path.weighted,
        torch.float32,
        moderate=moderate and queries.is_plain,
        entropy=entropy,
    )
    shared = queries.is_uniform
    buffer = query.new_empty(len(query) * BLOCK)
    for block in blocks(points.num, BLOCK):
        size = block.stop - block.start
        values = buffer[: len(query) * size].view(-1, size)
        near = points.centred(block, torch.float32)
        if fresh:
            products = memory.multiply(slot, rows, block, query, near)
        else:
            products = path.logits(query, split.coordinates[block, :-1].contiguous(), None)
            recycled.add(products, block, torch.ones_like(scale))
        half_norm, log_prior = points.half_norm[block], prior.log_prior[block]
        if shared:
            bias = (LOG2E * (log_prior - curvature[0] * half_norm)).to(torch.float32)
            torch.addcmul(bias[None], products, strength, out=values)
        else:
            torch.mul(products, strength, out=values)
            values.sub_(torch.outer(LOG2E * curvature, half_norm).to(torch.float32))
            values.add_((LOG2E * log_prior).to(torch.float32)[None])
        prior.restrict(values, block, torch.full_like(scale, LOG2E), -math.inf)
        sums.add(values, block.start, near, torch.float32)
    # Also of the factor in front of the product, and of the sum with the bias.
    rounding = LogitRounding.of(points, queries, torch.float32)
    error = rounding.probable + 4.0 * rounding.unit * rounding.magnitude
    if not fresh:
        known = recycled.rounding(points, queries)
        error += known.probable + 4.0 * known.unit * known.magnitude
        error += scale * recycled.rest * split.residual / variance
    result = sums.part(-(centred**2).sum(1) / (2 * variance))
    result.logit_error = error
    result.sum_error = rounding.unit * probable_factor(BLOCK) * reach
    result.sum_error += 4 * unit_roundoff(torch.float64) * centred.norm(dim=1)
    return result


def _in_order(members: Tensor, count: int) -> bool:
    """Whether these are all ``count`` members, in order."""
    return len(members) == count and torch.equal(
        members, torch.arange(count, device=members.device)
    )


def _quotient(above: Tensor, below: Tensor) -> Tensor:
    """Coefficient of a projection; 0 along a vanishing direction."""
    return torch.where(below > 1e-300, above / below.clamp_min(1e-300), 0.0)
