"""All points by blocked matrix products: the online softmax."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from memdiff.posterior.logits import BlockLogits, GroupedTop
from memdiff.posterior.partial import LOGIT_FLOOR, PartialPosterior
from memdiff.posterior.points import Points, blocks
from memdiff.posterior.prior import Prior
from memdiff.posterior.products import BLOCK, gemm_path
from memdiff.posterior.rounding import logit_error, rounding_factor, unit_roundoff

__all__ = ["dense"]

_LOG2E = 1.0 / math.log(2.0)
# Logits may rise this far above the shift before it is renewed; float32 reaches to 127.
_HEADROOM = 30.0


def dense(
    points: Points,
    x: Tensor,
    scale: Tensor,
    sigma: Tensor,
    prior: Prior,
    dtype: torch.dtype,
    weights_dtype: torch.dtype,
    sums_dtype: torch.dtype,
    *,
    careful: bool = False,
    entropy: bool = True,
) -> PartialPosterior:
    """Sums over all points, the logits from a product in ``dtype``.

    Sums over a block are in ``sums_dtype``, float64 adds up the blocks. Logits are in base 2, and
    relative to a shift that is renewed where they exceed it by far, so that most blocks leave the
    sums of earlier ones as they are.

    Args:
        points: The training points.
        x: Queries ``(B, d)``, float64.
        scale: ``(B,)``.
        sigma: ``(B,)``, positive.
        prior: The terms of the logits besides the distance.
        dtype: Of the logits, that of the points or float64.
        weights_dtype: Of the weights, the same or less.
        sums_dtype: Of their products with the points, the same or more.
        careful: Whether the product is the careful one of :class:`BlockLogits`.
        entropy: Whether the entropy is asked for; without, its sum is NaN.
    """
    centred_x = x - scale[:, None] * points.centre
    query = ((_LOG2E * scale / sigma**2)[:, None] * centred_x).to(dtype)
    factor = torch.full_like(scale, _LOG2E)
    curvature = _LOG2E * (scale / sigma) ** 2
    logits = BlockLogits(points, query, curvature, prior, factor, careful=careful)
    weighted_product = gemm_path(points.dim, sums_dtype, x.device).weighted
    top = torch.full_like(scale, -math.inf, dtype=dtype)
    shift = top.clone()
    applied = torch.zeros_like(top)
    index = torch.full_like(scale, -1, dtype=torch.int64)
    total, entropy_sum = torch.zeros_like(scale), torch.zeros_like(scale)
    weighted = torch.zeros_like(x)
    buffer = query.new_empty(len(x) * min(BLOCK, points.num), dtype=weights_dtype)
    for block in blocks(points.num, BLOCK):
        centred = points.centred(block, dtype)
        values = logits(block, centred)
        grouped = GroupedTop(values)
        better = (grouped.top > top).nonzero()[:, 0]
        if len(better):
            index[better] = grouped.position(better) + block.start
        top = torch.maximum(top, grouped.top)
        high = top > shift + _HEADROOM
        if bool(high.any()):
            renewed = torch.where(high, top, shift)
            moved = (shift - renewed).to(torch.float64)
            # Rows that have seen no point yet hold the sums of floored weights: they end at 0.
            moved = torch.where(renewed == -math.inf, 0.0, moved)
            decay = moved.exp2()
            entropy_sum = decay * (entropy_sum + moved.clamp_min(-1e3) * total)
            total *= decay
            weighted *= decay[:, None]
            shift = renewed
            applied = torch.where(shift == -math.inf, 0.0, shift)
        values = values.sub_(applied[:, None]).to(weights_dtype)
        weights = buffer[: values.numel()].view_as(values)
        torch.exp2(values.clamp_(min=_LOG2E * LOGIT_FLOOR), out=weights)
        # The total and the sum belong together: what is off in one alone moves the mean.
        summed = weights.to(sums_dtype)
        total += summed.sum(1)
        weighted += weighted_product(summed, centred.to(sums_dtype))
        if entropy:
            entropy_sum += torch.linalg.vecdot(values, weights)
        # Freed before the next block is made: two of them would be returned to the system.
        del values, grouped
    seen = (top != -math.inf).to(torch.float64)
    moved = torch.where(top == -math.inf, 0.0, (applied - top).to(torch.float64))
    decay = seen * moved.exp2()
    entropy_sum = math.log(2.0) * decay * (entropy_sum + moved * total)
    total, weighted = decay * total, decay[:, None] * weighted
    constant = (centred_x**2).sum(1) / (2 * sigma**2)
    # The product over a block sums up to BLOCK terms of the size of the radius.
    roundoff = unit_roundoff(sums_dtype) * rounding_factor(BLOCK)
    return PartialPosterior(
        top_logit=math.log(2.0) * (top.to(torch.float64) + logits.offset) - constant,
        top_index=index,
        total=total,
        residual_sum=scale[:, None] * weighted - total[:, None] * centred_x,
        entropy_sum=entropy_sum if entropy else torch.full_like(total, math.nan),
        logit_error=logit_error(points, x, scale, sigma, dtype)
        + unit_roundoff(dtype) * prior.bound
        + _weight_error(weights_dtype),
        sum_error=roundoff * scale * points.radius
        + 4 * unit_roundoff(torch.float64) * centred_x.norm(dim=1),
    )


def _weight_error(dtype: torch.dtype) -> float:
    """Bound of the relative error of a weight that counts, from its shifted logit and exp2."""
    return 32.0 * unit_roundoff(dtype)
