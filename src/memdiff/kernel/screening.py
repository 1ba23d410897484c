"""One product finds the points that can carry weight; direct differences sum over them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from memdiff.kernel.direct import direct
from memdiff.kernel.logits import BlockLogits, GroupedTop, IntegerLogits
from memdiff.kernel.partial import PartialPosterior
from memdiff.kernel.points import Points, blocks
from memdiff.kernel.prior import Prior
from memdiff.kernel.products import BLOCK
from memdiff.kernel.rounding import logit_error, unit_roundoff

__all__ = ["crowd", "screen", "screened"]


def screened(
    points: Points,
    x: Tensor,
    scale: Tensor,
    sigma: Tensor,
    prior: Prior,
    dropped_mass: float,
    memory_limit: int,
    *,
    integers: bool = False,
    most: float = math.inf,
) -> tuple[PartialPosterior, Tensor]:
    """Sums over the points that :func:`screen` keeps, and which queries are crowded, ``(B,)``.

    Args:
        points: The training points.
        x: Queries ``(B, d)``, float64.
        scale: ``(B,)``.
        sigma: ``(B,)``, positive.
        prior: The terms of the logits besides the distance.
        dropped_mass: Share of the weight that what is left out may carry.
        memory_limit: Bound in bytes of temporary memory.
        integers: Whether the product is of 8-bit integers; only if the points have them.
        most: Points of the first block that may be kept; queries with more are crowded, and get
            empty sums.
    """
    result = PartialPosterior.empty(len(x), points.dim, x.device)
    everything = blocks(points.num, BLOCK)
    reach = _Reach(points, x, scale, sigma, prior, dropped_mass, integers)
    first = reach.keep(everything[0])
    crowded = torch.bincount(first[0], minlength=len(x)) > most
    if bool(crowded.any()):
        rows = (~crowded).nonzero()[:, 0]
        if len(rows):
            some = (x[rows], scale[rows], sigma[rows], prior.take(rows))
            limits = (dropped_mass, memory_limit)
            result.put(rows, screened(points, *some, *limits, integers=integers)[0])
        return result, crowded
    rows, columns = _screened(reach, [first], everything[1:], memory_limit)
    counts = torch.bincount(rows, minlength=len(x))
    # Queries of similar candidate counts go together, padded to the largest of them.
    bucket = counts.clamp_min(1).log2().ceil()
    for size in bucket.unique():
        members = (bucket == size).nonzero()[:, 0]
        arguments = (x[members], scale[members], sigma[members], prior.take(members))
        candidates = _padded(members, rows, columns, counts)
        result.put(members, direct(points, *arguments, memory_limit, candidates))
    result.sum_error = result.sum_error + 2 * dropped_mass * scale * points.radius
    return result, crowded


def screen(
    points: Points,
    x: Tensor,
    scale: Tensor,
    sigma: Tensor,
    prior: Prior,
    some: list[slice],
    dropped_mass: float,
    memory_limit: int,
    *,
    integers: bool = False,
) -> tuple[Tensor, Tensor]:
    """Pairs (query, point) within reach of the largest logit among the blocks ``some``.

    All points that are left out carry less than ``dropped_mass`` of the weight together, by a
    margin that covers the rounding of the product.
    """
    reach = _Reach(points, x, scale, sigma, prior, dropped_mass, integers)
    return _screened(reach, [], some, memory_limit)


def _screened(
    reach: _Reach,
    found: list[tuple[Tensor, Tensor, Tensor]],
    some: list[slice],
    memory_limit: int,
) -> tuple[Tensor, Tensor]:
    """Pairs within reach, of those found before and of further blocks."""
    for block in some:
        found.append(reach.keep(block))
        if sum(len(part[0]) for part in found) * 32 > memory_limit:
            found = [_filter(found, reach.bound)]
    rows, columns, _ = _filter(found, reach.bound)
    return rows, columns


def crowd(
    points: Points,
    x: Tensor,
    scale: Tensor,
    sigma: Tensor,
    prior: Prior,
    block: slice,
    dropped_mass: float,
) -> Tensor:
    """How many points of one block :func:`screen` would keep of each query, ``(B,)``."""
    reach = _Reach(points, x, scale, sigma, prior, dropped_mass, integers=False)
    values, _ = reach.look(block)
    return (values >= reach.bound[:, None]).sum(1)


class _Reach:
    """Which logits are within reach of the largest one; arguments as of :func:`screen`.

    Attributes:
        bound: The smallest value within reach of the largest logit so far, ``(B,)``.
    """

    def __init__(
        self,
        points: Points,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        prior: Prior,
        dropped_mass: float,
        integers: bool,
    ) -> None:
        # Of logits times sigma^2, in units of the squared radius: they neither overflow as
        # sigma -> 0 nor in any unit of the data.
        unit = points.radius**2 or 1.0
        centred = x - scale[:, None] * points.centre
        arguments = (scale**2 / unit, prior, sigma**2 / unit)
        self.points = points
        self.product: BlockLogits | IntegerLogits
        if integers:
            self.product = IntegerLogits(points, centred, scale / unit, *arguments)
        else:
            query = ((scale / unit)[:, None] * centred).to(points.dtype)
            self.product = BlockLogits(points, query, *arguments)
            error = logit_error(points, x, scale, sigma, points.dtype)
            error = error + unit_roundoff(points.dtype) * prior.bound
            self.error = sigma**2 / unit * error
        self.margin = sigma**2 / unit * math.log(points.num / dropped_mass)
        dtype = torch.float32 if integers else points.dtype
        self.top = torch.full_like(scale, -math.inf, dtype=dtype)
        self.bound = torch.full_like(self.top, math.inf)

    def look(self, block: slice) -> tuple[Tensor, GroupedTop]:
        """The logits of a block, by which the bound rises; their groups."""
        if isinstance(self.product, IntegerLogits):
            values = self.product(block)
        else:
            values = self.product(block, self.points.centred(block, self.points.dtype))
        grouped = GroupedTop(values)
        if not bool((grouped.top > self.top).any()):
            return values, grouped
        self.top = torch.maximum(self.top, grouped.top)
        # At least so much is the largest logit; at least that, a value of one within reach of it.
        reached = self._lowered(self.top.to(torch.float64))
        bound = self._lowered(reached - self.margin).to(self.top.dtype)
        # Rounded down, so that the margin is never cut short.
        bound = torch.nextafter(bound, torch.full_like(bound, -math.inf))
        self.bound = torch.where(self.top == -math.inf, math.inf, bound)
        return values, grouped

    def keep(self, block: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs (query, point) of a block within reach, and their values."""
        values, grouped = self.look(block)
        rows, columns = grouped.reaching(self.bound)
        return rows, columns + block.start, values[rows, columns]

    def _lowered(self, value: Tensor) -> Tensor:
        """What is certain of one of a logit and its value, of which the other is given."""
        if isinstance(self.product, IntegerLogits):
            return self.product.lowered(value)
        return value - self.error


def _filter(
    found: list[tuple[Tensor, Tensor, Tensor]], bound: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates (query, point, value) that still reach the bound of their query."""
    rows, columns, values = (torch.cat(parts) for parts in zip(*found, strict=True))
    keep = values >= bound[rows]
    return rows[keep], columns[keep], values[keep]


def _padded(members: Tensor, rows: Tensor, columns: Tensor, counts: Tensor) -> Tensor:
    """Candidates of some of the queries as a matrix ``(len(members), K)``, padded with -1."""
    order = rows.argsort(stable=True)
    columns = columns[order]
    starts = counts.cumsum(0) - counts
    width = int(counts[members].max())
    position = torch.arange(width, device=rows.device)[None]
    source = (starts[members, None] + position).clamp_max(max(len(columns) - 1, 0))
    if not len(columns):
        return torch.full((len(members), 1), -1, dtype=torch.int64, device=rows.device)
    return torch.where(position < counts[members, None], columns[source], -1)
