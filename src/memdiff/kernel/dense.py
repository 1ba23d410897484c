"""All points by blocked matrix products: the online softmax."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from memdiff.kernel.logits import BlockLogits
from memdiff.kernel.online import LOG2E, OnlineSums, is_moderate
from memdiff.kernel.partial import PartialPosterior
from memdiff.kernel.points import Points, blocks
from memdiff.kernel.prior import Prior
from memdiff.kernel.products import BLOCK, gemm_path
from memdiff.kernel.rounding import logit_error, rounding_factor, unit_roundoff

__all__ = ["dense"]

# The logits of a block and some of the queries: they stay in the cache of a processor.
_TILE_BYTES = 2**22
_MODERATE_LENGTH = 1024


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

    Sums over a block are in ``sums_dtype``, float64 adds up the blocks. A block of points meets
    the queries in tiles whose logits stay in the cache: in few dimensions the passes over them
    take longer than the products.

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
    result = PartialPosterior.empty(len(x), points.dim, x.device)
    row_bytes = torch.finfo(dtype).bits // 8 * BLOCK
    # Few queries take two blocks at a time, of points that are neither long nor converted.
    few = 2 * row_bytes * len(x) <= _TILE_BYTES
    few = few and points.dim <= _MODERATE_LENGTH and dtype == sums_dtype == points.dtype
    block_size = min(2 * BLOCK if few else BLOCK, points.num)
    size = max(1, _TILE_BYTES // row_bytes)
    tiles = list(torch.arange(len(x), device=x.device).split(size))
    dtypes = (dtype, weights_dtype, sums_dtype)
    parts = []
    for rows in tiles:
        some = (x[rows], scale[rows], sigma[rows], prior.take(rows))
        parts.append(_Tile(points, *some, dtypes, careful=careful, entropy=entropy))
    uniform = bool((scale == scale[:1]).all() & (sigma == sigma[:1]).all())
    for block in blocks(points.num, block_size):
        centred = points.centred(block, dtype)
        summed, bias = centred.to(sums_dtype), parts[0].logits.bias(block) if uniform else None
        for tile in parts:
            tile.add(block, centred, summed, bias)
    for rows, tile in zip(tiles, parts, strict=True):
        result.put(rows, tile.part())
    result.logit_error = (
        logit_error(points, x, scale, sigma, dtype)
        + unit_roundoff(dtype) * prior.bound
        + _weight_error(weights_dtype)
    )
    # The product over a block sums as many terms of the size of the radius.
    roundoff = unit_roundoff(sums_dtype) * rounding_factor(block_size)
    length = (x - scale[:, None] * points.centre).norm(dim=1)
    result.sum_error = roundoff * scale * points.radius + 4 * unit_roundoff(torch.float64) * length
    return result


class _Tile:
    """Some of the queries, few enough that what a block adds stays in the cache.

    Arguments as of :func:`dense`.
    """

    def __init__(
        self,
        points: Points,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        prior: Prior,
        dtypes: tuple[torch.dtype, torch.dtype, torch.dtype],
        *,
        careful: bool,
        entropy: bool,
    ) -> None:
        dtype, self.weights_dtype, sums_dtype = dtypes
        centred = x - scale[:, None] * points.centre
        query = ((LOG2E * scale / sigma**2)[:, None] * centred).to(dtype)
        factor = torch.full_like(scale, LOG2E)
        curvature = LOG2E * (scale / sigma) ** 2
        self.logits = BlockLogits(points, query, curvature, prior, factor, careful=careful)
        self.constant = (centred**2).sum(1) / (2 * sigma**2)
        product = gemm_path(points.dim, sums_dtype, x.device).weighted
        moderate = is_moderate(self.logits.largest(), points.radius)
        self.sums = OnlineSums(scale, centred, product, dtype, moderate=moderate, entropy=entropy)

    def add(self, block: slice, centred: Tensor, summed: Tensor, bias: Tensor | None) -> None:
        """Add the points of a block, ``(K, d)``, in the dtypes of the logits and of the sums."""
        values = self.logits(block, centred, bias)
        self.sums.add(values, block.start, summed, self.weights_dtype)

    def part(self) -> PartialPosterior:
        """The sums, without the bounds of their errors."""
        return self.sums.part(math.log(2.0) * self.logits.offset - self.constant)


def _weight_error(dtype: torch.dtype) -> float:
    """Bound of the relative error of a weight that counts, from its shifted logit and exp2."""
    return 32.0 * unit_roundoff(dtype)
