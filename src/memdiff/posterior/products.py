"""Logits of a block of points from one matrix product."""

from __future__ import annotations

import torch
from torch import Tensor

from memdiff.posterior.points import Points
from memdiff.posterior.prior import Prior

__all__ = ["BLOCK", "block_logits"]

BLOCK = 2048
"""Training points that a product takes at a time."""


def block_logits(
    points: Points,
    block: slice,
    query: Tensor,
    curvature: Tensor,
    prior: Prior,
    factor: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``query @ centred.T - curvature * half_norm + factor * terms`` with shape ``(B, K)``.

    Where all queries are at one noise level, everything but the conditions and exclusions is the
    bias of one fused product.

    Args:
        points: The training points.
        block: The ``K`` of them.
        query: Centred and scaled queries ``(B, d)``; its dtype is that of the product.
        curvature: Factor of half the squared norms, ``(B,)``.
        prior: The other terms.
        factor: Their factor, ``(B,)``; None for 1.

    Returns:
        The logits, and the centred points ``(K, d)`` that they were taken with.
    """
    centred = points.centred(block, query.dtype)
    half_norm, log_prior = points.half_norm[block], prior.log_prior[block]
    if bool((curvature == curvature[0]).all()) and (
        factor is None or bool((factor == factor[0]).all())
    ):
        weight = 1.0 if factor is None else factor[0]
        bias = weight * log_prior - curvature[0] * half_norm
        values = torch.addmm(bias.to(query.dtype), query, centred.T)
    else:
        values = query @ centred.T
        rows = curvature.to(query.dtype)[:, None]
        values.addcmul_(rows, half_norm.to(query.dtype)[None], value=-1.0)
        scaled = log_prior[None] if factor is None else factor[:, None] * log_prior[None]
        values.add_(scaled.to(query.dtype))
    prior.restrict(values, block, factor)
    return values, centred
