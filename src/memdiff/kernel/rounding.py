"""How wrong a matrix product can be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from memdiff.kernel.points import Points

__all__ = ["logit_error", "rounding_factor", "typical_factor", "unit_roundoff"]


def rounding_factor(length: int) -> float:
    r"""Factor :math:`c = 8 + 4 \sqrt{n}` of the bound ``c u |a||b|`` on a dot product's error.

    For products of length ``n``, with probability above 0.999 (Higham and Mary, *A new approach
    to probabilistic rounding error analysis*, SIAM J. Sci. Comput. 41, 2019).
    """
    return 8.0 + 4.0 * math.sqrt(length)


def typical_factor(length: int) -> float:
    """Twice the root mean square of the error of a dot product, as a part of its bound.

    The bound counts on errors of the size of the largest; ``length`` of them that are independent
    add up to ``sqrt(length)`` times less. It serves to choose a route, never to certify one.
    """
    return 4.0 / (rounding_factor(length) * math.sqrt(length))


def unit_roundoff(dtype: torch.dtype) -> float:
    """Unit roundoff of a matrix product in ``dtype`` under torch's current precision setting."""
    if dtype == torch.float32:
        reduced = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}
        return reduced[torch.get_float32_matmul_precision()]
    return 2.0**-53


def logit_error(
    points: Points, x: Tensor, scale: Tensor, sigma: Tensor, dtype: torch.dtype
) -> Tensor:
    r"""Bound of the rounding error of a logit that comes from a matrix product in ``dtype``.

    Args:
        points: The training points.
        x: Queries ``(B, d)``, float64.
        scale: :math:`m`, shape ``(B,)``.
        sigma: :math:`\sigma`, shape ``(B,)``.
        dtype: Of the product.

    Returns:
        float64 tensor with shape ``(B,)``.
    """
    length = (x - scale[:, None] * points.centre).norm(dim=1)
    magnitude = scale * points.radius * (length + scale * points.radius)
    return rounding_factor(points.dim) * unit_roundoff(dtype) * magnitude / sigma**2
