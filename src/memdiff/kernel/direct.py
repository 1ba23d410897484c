"""Direct differences in float64: exact at any noise level, for few points."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from memdiff.kernel.partial import LOGIT_FLOOR, PartialPosterior
from memdiff.kernel.points import Points
from memdiff.kernel.prior import Prior
from memdiff.kernel.rounding import rounding_factor, unit_roundoff

__all__ = ["direct", "exact_logits"]


def direct(
    points: Points,
    x: Tensor,
    scale: Tensor,
    sigma: Tensor,
    prior: Prior,
    memory_limit: int,
    candidates: Tensor | None = None,
) -> PartialPosterior:
    """Sums over all points, or over some for each query.

    Args:
        points: The training points.
        x: Queries ``(B, d)``, float64.
        scale: ``(B,)``.
        sigma: ``(B,)``, positive.
        prior: The terms of the logits besides the distance.
        memory_limit: Bound in bytes of temporary memory.
        candidates: Indices ``(B, K)`` of the points to sum over, filled up with -1.
    """
    count = points.num if candidates is None else candidates.shape[1]
    width = min(count, max(1, memory_limit // (32 * points.dim)))
    height = max(1, memory_limit // (32 * points.dim * width))
    result = PartialPosterior.empty(len(x), points.dim, x.device)
    for rows in torch.arange(len(x), device=x.device).split(height):
        part = PartialPosterior.empty(len(rows), points.dim, x.device)
        some = prior.take(rows)
        for first in range(0, count, width):
            block = slice(first, min(first + width, count))
            if candidates is None:
                index = torch.arange(block.start, block.stop, device=x.device)[None]
                near, log_prior = points.exact(block)[None], some.block(block)
            else:
                index = candidates[rows, block]
                near, log_prior = points.gather(index.clamp_min(0)), some.at(index)
            difference = scale[rows, None, None] * near - x[rows, None]
            logits = log_prior - _square(difference) / (2 * sigma[rows, None] ** 2)
            part = part.merge(_summed(logits, difference, index))
        result.put(rows, part)
    # What decides is the rounding of the logits within reach of the largest one.
    reach = result.top_logit.abs() + math.log(points.num) + 40.0
    result.logit_error = unit_roundoff(torch.float64) * (points.dim + 8) * reach
    length = x.norm(dim=1) + scale * (points.radius + points.centre.norm())
    result.sum_error = rounding_factor(count) * unit_roundoff(torch.float64) * length
    return result


def exact_logits(
    points: Points,
    x: Tensor,
    scale: Tensor,
    sigma: Tensor,
    prior: Prior,
    block: slice,
    memory_limit: int,
) -> Tensor:
    """Logits of one block from direct differences, float64 with shape ``(B, K)``."""
    logits = prior.block(block).expand(len(x), -1).clone()
    near = points.exact(block)
    height = max(1, memory_limit // (32 * points.dim * len(near)))
    for rows in torch.arange(len(x), device=x.device).split(height):
        difference = scale[rows, None, None] * near[None] - x[rows, None]
        logits[rows] -= _square(difference) / (2 * sigma[rows, None] ** 2)
    return logits


def _square(difference: Tensor) -> Tensor:
    """Squared norms over the last axis; a reduction over a few numbers is slower than a loop."""
    if difference.shape[-1] > 8:
        return (difference**2).sum(-1)
    first, *others = difference.unbind(-1)
    total = first * first
    for coordinate in others:
        total.addcmul_(coordinate, coordinate)
    return total


def _summed(logits: Tensor, difference: Tensor, index: Tensor) -> PartialPosterior:
    """Sums over the points of one block: logits ``(B, K)``, difference ``(B, K, d)``."""
    top, position = logits.max(1)
    shift = torch.where(top == -math.inf, 0.0, top)
    shifted = (logits - shift[:, None]).clamp_min(10 * LOGIT_FLOOR)
    weights = torch.where(logits == -math.inf, 0.0, shifted.exp())
    chosen = index.expand(len(top), -1).gather(1, position[:, None])[:, 0]
    return PartialPosterior(
        top_logit=top,
        top_index=torch.where(top == -math.inf, -1, chosen),
        total=weights.sum(1),
        residual_sum=torch.einsum("bk,bkd->bd", weights, difference),
        entropy_sum=(weights * shifted).sum(1),
        logit_error=torch.zeros_like(top),
        sum_error=torch.zeros_like(top),
    )
