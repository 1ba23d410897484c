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
# Logits in base 2 up to this size need no shift: nor do their weights times a point, less the size
# of that, leave the normal numbers of float32.
_MODERATE = 90.0
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

    Sums over a block are in ``sums_dtype``, float64 adds up the blocks. Logits are in base 2, and
    relative to a shift that is renewed where they exceed it by far, so that most blocks leave the
    sums of earlier ones as they are. A block of points meets the queries in tiles whose logits
    stay in the cache: in few dimensions the passes over them take longer than the products.

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
    # Few queries, and points of moderate length, take two blocks at a time.
    few = 2 * row_bytes * len(x) <= _TILE_BYTES and points.dim <= _MODERATE_LENGTH
    block_size = min(2 * BLOCK if few else BLOCK, points.num)
    size = max(1, _TILE_BYTES // row_bytes)
    tiles = list(torch.arange(len(x), device=x.device).split(size))
    dtypes = (dtype, weights_dtype, sums_dtype)
    sums = []
    for rows in tiles:
        some = (x[rows], scale[rows], sigma[rows], prior.take(rows))
        sums.append(_Sums(points, *some, dtypes, careful=careful, entropy=entropy))
    length = min(size, len(x)) * block_size if entropy else 0
    buffer = torch.empty(length, dtype=weights_dtype, device=x.device)
    uniform = bool((scale == scale[:1]).all() & (sigma == sigma[:1]).all())
    for block in blocks(points.num, block_size):
        centred = points.centred(block, dtype)
        summed, bias = centred.to(sums_dtype), sums[0].logits.bias(block) if uniform else None
        for tile in sums:
            tile.add(block, centred, summed, bias, buffer)
    for rows, tile in zip(tiles, sums, strict=True):
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


class _Sums:
    """The running sums of some queries, few enough that what a block adds stays in the cache.

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
        dtype, self.weights_dtype, self.sums_dtype = dtypes
        self.x, self.scale, self.sigma, self.entropy = x, scale, sigma, entropy
        self.centred_x = x - scale[:, None] * points.centre
        query = ((_LOG2E * scale / sigma**2)[:, None] * self.centred_x).to(dtype)
        factor = torch.full_like(scale, _LOG2E)
        curvature = _LOG2E * (scale / sigma) ** 2
        self.logits = BlockLogits(points, query, curvature, prior, factor, careful=careful)
        self.product = gemm_path(points.dim, self.sums_dtype, x.device).weighted
        self.top = torch.full_like(scale, -math.inf, dtype=dtype)
        self.index = torch.full_like(scale, -1, dtype=torch.int64)
        # Logits of moderate size are exponents as they are: no shift, and nothing underflows.
        size = abs(math.log2(points.radius)) if points.radius > 0.0 else math.inf
        self.moderate = self.logits.largest() + size <= _MODERATE
        self.shift = torch.zeros_like(self.top) if self.moderate else self.top
        self.applied = torch.zeros_like(self.top)
        self.total, self.entropy_sum = torch.zeros_like(scale), torch.zeros_like(scale)
        self.weighted = torch.zeros_like(x)

    def add(
        self,
        block: slice,
        centred: Tensor,
        summed: Tensor,
        bias: Tensor | None,
        buffer: Tensor,
    ) -> None:
        """Add the points of a block, ``(K, d)``, in the dtypes of the logits and of the sums."""
        values = self.logits(block, centred, bias)
        grouped = GroupedTop(values)
        better = (grouped.top > self.top).nonzero()[:, 0]
        if len(better):
            self.index[better] = grouped.position(better) + block.start
            self.top = torch.maximum(self.top, grouped.top)
        if not self.moderate:
            self._renew_shift()
            values.sub_(self.applied[:, None])
        values = values.to(self.weights_dtype)
        # The entropy needs both; without it the weights take the place of the logits.
        weights = buffer[: values.numel()].view_as(values) if self.entropy else values
        if not self.moderate:
            values.clamp_(min=_LOG2E * LOGIT_FLOOR)
        torch.exp2(values, out=weights)
        # The total and the sum belong together: what is off in one alone moves the mean.
        mass = weights.to(self.sums_dtype)
        self.total += mass.sum(1)
        self.weighted += self.product(mass, summed)
        if self.entropy:
            self.entropy_sum += torch.linalg.vecdot(values, weights)

    def _renew_shift(self) -> None:
        """Raise the shift where logits exceed it by far, and what has been summed with it."""
        high = self.top > self.shift + _HEADROOM
        if not bool(high.any()):
            return
        renewed = torch.where(high, self.top, self.shift)
        moved = (self.shift - renewed).to(torch.float64)
        # Rows that have seen no point yet hold the sums of floored weights: they end at 0.
        moved = torch.where(renewed == -math.inf, 0.0, moved)
        decay = moved.exp2()
        self.entropy_sum = decay * (self.entropy_sum + moved.clamp_min(-1e3) * self.total)
        self.total *= decay
        self.weighted *= decay[:, None]
        self.shift = renewed
        self.applied = torch.where(self.shift == -math.inf, 0.0, self.shift)

    def part(self) -> PartialPosterior:
        """The sums, without the bounds of their errors."""
        seen = (self.top != -math.inf).to(torch.float64)
        moved = torch.where(
            self.top == -math.inf, 0.0, (self.applied - self.top).to(torch.float64)
        )
        decay = seen * moved.exp2()
        entropy_sum = math.log(2.0) * decay * (self.entropy_sum + moved * self.total)
        total = decay * self.total
        constant = (self.centred_x**2).sum(1) / (2 * self.sigma**2)
        weighted = (decay * self.scale)[:, None] * self.weighted
        return PartialPosterior(
            top_logit=math.log(2.0) * (self.top.to(torch.float64) + self.logits.offset) - constant,
            top_index=self.index,
            total=total,
            residual_sum=weighted - total[:, None] * self.centred_x,
            entropy_sum=entropy_sum if self.entropy else torch.full_like(total, math.nan),
            logit_error=torch.zeros_like(total),
            sum_error=torch.zeros_like(total),
        )


def _weight_error(dtype: torch.dtype) -> float:
    """Bound of the relative error of a weight that counts, from its shifted logit and exp2."""
    return 32.0 * unit_roundoff(dtype)
