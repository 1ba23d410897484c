"""How wrong the matrix products of one call are: measured on a few of its pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from memdiff.kernel.logits import BlockLogits
from memdiff.kernel.points import Points
from memdiff.kernel.prior import Prior
from memdiff.kernel.products import BLOCK
from memdiff.kernel.rounding import logit_error, rounding_factor, unit_roundoff

__all__ = ["exact_at", "measured_error"]

_QUERIES, _POINTS = 16, 64
# The largest of all errors over the largest of those that are measured.
_SAFETY = 2.0


def measured_error(
    points: Points,
    x: Tensor,
    scale: Tensor,
    sigma: Tensor,
    prior: Prior,
    *,
    careful: bool = False,
) -> Tensor:
    """Estimate of the largest error of a logit from a product in the dtype of the points.

    Errors of a real product are well below their bound, by how much depends on the data and on
    the library. They are taken for a few queries, at points spread over the first block and at
    the nearest ones there, and carried to all queries in proportion to the bound.

    Args:
        points: The training points.
        x: Queries ``(B, d)``, float64.
        scale: ``(B,)``.
        sigma: ``(B,)``.
        prior: The terms of the logits besides the distance.
        careful: Whether the product is the careful one of :class:`BlockLogits`.

    Returns:
        float64 tensor with shape ``(B,)``; a measurement, not a bound.
    """
    bound = logit_error(points, x, scale, sigma, points.dtype)
    bound = bound / rounding_factor(points.dim) + unit_roundoff(points.dtype) * prior.bound
    rows = torch.linspace(0, len(x) - 1, min(_QUERIES, len(x)), device=x.device).long()
    some, m, s = prior.take(rows), scale[rows], sigma[rows]
    block = slice(0, min(BLOCK, points.num))
    centred_x = x[rows] - m[:, None] * points.centre
    query = (m / s**2)[:, None] * centred_x
    ones = torch.ones_like(m)
    single, curvature = query.to(points.dtype), (m / s) ** 2
    product = BlockLogits(points, single, curvature, some, ones, careful=careful)
    values = product(block, points.centred(block, points.dtype))
    spread = torch.linspace(0, block.stop - 1, min(_POINTS, block.stop), device=x.device).long()
    columns = torch.cat([spread, values.argmax(1)])
    exact = query @ (points.gather(columns) - points.centre).T
    exact -= curvature[:, None] * points.half_norm[columns]
    exact += some.at(columns[None].expand(len(rows), -1))
    exact -= product.offset[:, None]
    error = (values[:, columns].to(torch.float64) - exact).abs()
    error = torch.where(torch.isfinite(exact), error, 0.0)
    return _SAFETY * (error.amax(1) / bound[rows]).max() * bound


def exact_at(
    points: Points, x: Tensor, scale: Tensor, sigma: Tensor, prior: Prior, index: Tensor
) -> Tensor:
    """Logits of one point a query, ``index (B,)``, from direct differences in float64."""
    difference = scale[:, None] * points.gather(index.clamp_min(0)) - x
    square = torch.linalg.vecdot(difference, difference)
    return prior.at(index[:, None])[:, 0] - square / (2 * sigma**2)
