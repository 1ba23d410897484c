"""Direct differences in float64: exact at any noise level, for few points."""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor

from memdiff.kernel.merged import GroupTerms, MergedPoints
from memdiff.kernel.points import Points, blocks
from memdiff.kernel.queries import Queries
from memdiff.kernel.rounding import probable_factor, unit_roundoff
from memdiff.kernel.softmax import LOGIT_FLOOR, PartialPosterior

__all__ = ["exact_at", "exact_logits", "sum_all", "sum_pairs"]


def sum_all(points: Points, queries: Queries, memory_limit: int) -> PartialPosterior:
    """Sums over all points.

    Args:
        points: The training points.
        queries: The queries.
        memory_limit: Bound in bytes of temporary memory.
    """
    result = PartialPosterior.empty(len(queries), points.dim, queries.x.device)
    width = min(points.num, max(1, memory_limit // (32 * points.dim)))
    height = max(1, memory_limit // (32 * points.dim * width))
    for rows in torch.arange(len(queries), device=queries.x.device).split(height):
        some = queries.take(rows)
        parts = []
        for block in blocks(points.num, width):
            near = points.exact(block)[None]
            index = torch.arange(block.start, block.stop, device=near.device)[None]
            parts.append(_summed(some, near, _single(some.prior.block(block), index)))
            parts = [reduce(PartialPosterior.merge, parts)]
        result.put(rows, parts[0])
    _bound(result, points, queries, points.num)
    return result


def sum_pairs(
    points: Points,
    queries: Queries,
    pairs: tuple[Tensor, Tensor],
    memory_limit: int,
    merged: MergedPoints | None = None,
) -> PartialPosterior:
    """Sums over some points for each query.

    Args:
        points: The training points.
        queries: The queries.
        pairs: Query and point (or group) of each pair, ``(M,)``; every query has one at least.
        memory_limit: Bound in bytes of temporary memory.
        merged: Groups of identical points, where the pairs are of these.
    """
    order = pairs[0].argsort(stable=True)
    members = torch.cat([pairs[1][order], order.new_full((1,), -1)])
    counts = torch.bincount(pairs[0], minlength=len(queries))
    starts = counts.cumsum(0) - counts
    result = PartialPosterior.empty(len(queries), points.dim, queries.x.device)
    most = max(1, memory_limit // (40 * points.dim))
    # Queries of similar counts go together, padded to the largest of them.
    bucket = counts.clamp_min(1).log2().ceil()
    for size in bucket.unique():
        same = (bucket == size).nonzero()[:, 0]
        width = max(1, int(counts[same].max()))
        for rows in same.split(max(1, most // width)):
            some = queries.take(rows)
            parts = []
            for block in blocks(width, most):
                position = torch.arange(block.start, block.stop, device=rows.device)[None]
                source = (starts[rows, None] + position).clamp_max(len(members) - 1)
                chosen = torch.where(position < counts[rows, None], members[source], -1)
                parts.append(_summed(some, *_gathered(points, some, chosen, merged)))
                parts = [reduce(PartialPosterior.merge, parts)]
            if len(rows) == len(queries):
                result = parts[0]
            else:
                result.put(rows, parts[0])
    _bound(result, points, queries, int(counts.max()) if len(counts) else 0)
    return result


def exact_logits(points: Points, queries: Queries, block: slice, memory_limit: int) -> Tensor:
    """Logits of one block of points, float64 with shape ``(B, K)``."""
    logits = queries.prior.block(block).expand(len(queries), -1).clone()
    near = points.exact(block)
    height = max(1, memory_limit // (32 * points.dim * len(near)))
    for rows in torch.arange(len(queries), device=near.device).split(height):
        difference = queries.scale[rows, None, None] * near[None] - queries.x[rows, None]
        logits[rows] -= _square(difference) / (2 * queries.sigma[rows, None] ** 2)
    return logits


def exact_at(points: Points, queries: Queries, index: Tensor) -> Tensor:
    """Logits of one point for each query, ``index (B,)``; ``-inf`` where it is -1."""
    difference = queries.scale[:, None] * points.gather(index.clamp_min(0)) - queries.x
    square = torch.linalg.vecdot(difference, difference)
    return queries.prior.at(index[:, None])[:, 0] - square / (2 * queries.sigma**2)


def _gathered(
    points: Points, queries: Queries, chosen: Tensor, merged: MergedPoints | None
) -> tuple[Tensor, GroupTerms]:
    """Points and terms of pairs ``(B, K)``, -1 for none."""
    inside = chosen.clamp_min(0)
    if merged is None:
        return points.gather(inside), _single(queries.prior.at(chosen), chosen)
    pair = torch.arange(len(queries), device=chosen.device).repeat_interleave(chosen.shape[1])
    terms = merged.terms_of(pair, inside.flatten(), queries.prior).view_as(chosen)
    near = points.gather(merged.representative[inside])
    return near, terms.where(chosen >= 0)


def _single(log_prior: Tensor, index: Tensor) -> GroupTerms:
    """The terms of points that are no groups."""
    return GroupTerms(log_prior, torch.zeros_like(log_prior), log_prior, index)


def _summed(queries: Queries, near: Tensor, terms: GroupTerms) -> PartialPosterior:
    """Sums over points ``(B, K, d)`` or ``(1, K, d)`` with the given terms."""
    difference = (queries.scale[:, None, None] * near).sub_(queries.x[:, None])
    base = -_square(difference) / (2 * queries.sigma[:, None] ** 2)
    heaviest = base + terms.top
    top = heaviest.amax(1)
    shift = torch.where(top == -math.inf, 0.0, top)[:, None]
    logits = base + terms.mass
    moved = (logits - shift).clamp_min(10 * LOGIT_FLOOR)
    weights = torch.where(logits == -math.inf, 0.0, moved.exp())
    index = terms.index.expand(len(top), -1)
    # Of several heaviest points the first.
    tied = (heaviest == top[:, None]) & (index >= 0)
    last = torch.iinfo(torch.int64).max
    first = torch.where(tied, index, last).amin(1)
    return PartialPosterior(
        top_logit=top,
        top_index=torch.where(top == -math.inf, -1, first),
        total=weights.sum(1),
        residual_sum=torch.bmm(weights[:, None], difference)[:, 0],
        entropy_sum=(weights * (moved - terms.entropy)).sum(1),
        logit_error=torch.zeros_like(top),
        sum_error=torch.zeros_like(top),
    )


def _bound(result: PartialPosterior, points: Points, queries: Queries, count: int) -> None:
    """Put in the bounds of rounding."""
    # What decides is the rounding of the logits within reach of the largest one.
    reach = result.top_logit.abs() + math.log(points.num) + 40.0
    unit = unit_roundoff(torch.float64)
    result.logit_error = unit * (points.dim + 8) * reach
    length = queries.x.norm(dim=1) + queries.scale * (points.radius + points.centre.norm())
    result.sum_error = probable_factor(count) * unit * length


def _square(difference: Tensor) -> Tensor:
    """Squared norms over the last axis; a reduction over a few numbers is slower than a loop."""
    if difference.shape[-1] > 8:
        return torch.linalg.vecdot(difference, difference)
    first, *others = difference.unbind(-1)
    total = first * first
    for coordinate in others:
        total.addcmul_(coordinate, coordinate)
    return total
