"""All points by blocked matrix products: the online softmax."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from memdiff.posterior.partial import LOGIT_FLOOR, PartialPosterior
from memdiff.posterior.points import Points, blocks
from memdiff.posterior.prior import Prior
from memdiff.posterior.products import BLOCK, block_logits
from memdiff.posterior.rounding import logit_error, rounding_factor, unit_roundoff

__all__ = ["dense"]


def dense(
    points: Points,
    x: Tensor,
    scale: Tensor,
    sigma: Tensor,
    prior: Prior,
    dtype: torch.dtype,
) -> PartialPosterior:
    """Sums over all points, the logits from a product in ``dtype``.

    Args:
        points: The training points.
        x: Queries ``(B, d)``, float64.
        scale: ``(B,)``.
        sigma: ``(B,)``, positive.
        prior: The terms of the logits besides the distance.
        dtype: Of both products; float64 accumulates the blocks.
    """
    centred_x = x - scale[:, None] * points.centre
    query = ((scale / sigma**2)[:, None] * centred_x).to(dtype)
    curvature = (scale / sigma) ** 2
    top = torch.full_like(scale, -math.inf, dtype=dtype)
    index = torch.full_like(scale, -1, dtype=torch.int64)
    total, entropy = torch.zeros_like(scale), torch.zeros_like(scale)
    weighted = torch.zeros_like(x)
    for block in blocks(points.num, BLOCK):
        logits, centred = block_logits(points, block, query, curvature, prior)
        block_top = logits.amax(1)
        better = (block_top > top).nonzero()[:, 0]
        index[better] = logits[better].argmax(1) + block.start
        new_top = torch.maximum(top, block_top)
        # While nothing has been seen, both are -inf: shift by 0, and the sums stay empty.
        shift = torch.where(new_top == -math.inf, 0.0, new_top)
        moved = (top - shift).to(torch.float64)
        factor = moved.exp()
        logits.sub_(shift[:, None]).clamp_(min=LOGIT_FLOOR)
        block_weights = logits.exp()
        seen = (new_top != -math.inf).to(torch.float64)
        moved = torch.where(moved == -math.inf, 0.0, moved)
        entropy = factor * (entropy + moved * total)
        entropy += seen * torch.linalg.vecdot(logits, block_weights)
        total = factor * total + seen * block_weights.sum(1)
        weighted = factor[:, None] * weighted + seen[:, None] * (block_weights @ centred)
        top = new_top
    constant = (centred_x**2).sum(1) / (2 * sigma**2)
    # The product over a block sums up to BLOCK terms of the size of the radius.
    roundoff = unit_roundoff(dtype) * rounding_factor(BLOCK)
    return PartialPosterior(
        top_logit=top.to(torch.float64) - constant,
        top_index=index,
        total=total,
        residual_sum=scale[:, None] * weighted - total[:, None] * centred_x,
        entropy_sum=entropy,
        logit_error=logit_error(points, x, scale, sigma, dtype)
        + unit_roundoff(dtype) * prior.bound,
        sum_error=roundoff * scale * points.radius
        + 4 * unit_roundoff(torch.float64) * centred_x.norm(dim=1),
    )
