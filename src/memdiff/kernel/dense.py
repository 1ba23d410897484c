"""All points by blocked matrix products: logits, a running softmax, sums."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.kernel.points import Points, blocks
from memdiff.kernel.products import BLOCK, gemm_path
from memdiff.kernel.queries import Queries
from memdiff.kernel.rounding import LogitRounding, probable_factor, unit_roundoff
from memdiff.kernel.softmax import LOG2E, PartialPosterior, RunningSoftmax, is_moderate

__all__ = ["BlockLogits", "Precision", "dense"]

# The logits of a block and some of the queries: they stay in the cache of a processor. Chunks of
# 128 coordinates take 1.5 floors so, and 1.9 in tiles of 1 MiB (case of table `chunks`, sigma 3).
_TILE_BYTES = 2**22
# Points of at most so many coordinates are taken two blocks at a time by few queries.
_SHORT_ROWS = 1024


@dataclass(frozen=True)
class Precision:
    """Dtypes of a pass over all points.

    Attributes:
        logits: Of the logits.
        weights: Of the weights, the same or less.
        sums: Of the products of weights and points, at least that of the weights.
        chunk: Coordinates that one float32 product sums; float64 adds up the products. 0 where
            one product in the dtype of the logits takes all coordinates.
    """

    logits: torch.dtype
    weights: torch.dtype
    sums: torch.dtype
    chunk: int = 0

    @property
    def product(self) -> torch.dtype:
        """Dtype of the product that the logits come from."""
        return torch.float32 if self.chunk else self.logits


class BlockLogits:
    r"""Logits of blocks of points from matrix products, times a factor and less an offset.

    Where all queries are at one noise level, everything but the conditions and exclusions is the
    bias of one fused product.

    Args:
        points: The training points.
        queries: The queries.
        precision: How the product is taken.
        base: Natural logits are multiplied by this.

    Attributes:
        offset: What is left out of all logits of a query, so that fewer digits are lost: the
            part of the bias that points have in common, float64 ``(B,)``.
    """

    def __init__(
        self, points: Points, queries: Queries, precision: Precision, base: float = 1.0
    ) -> None:
        self.points, self.prior = points, queries.prior
        self.dtype, self.chunk = precision.logits, precision.chunk
        strength = base * queries.scale / queries.sigma**2
        exact = strength[:, None] * queries.centred(points)
        self.length = exact.norm(dim=1)
        query = (exact / points.unit).to(precision.product)
        self.parts = [part.contiguous() for part in query.split(self.chunk or points.dim, 1)]
        self.curvature, self.base = strength * queries.scale, base
        half_norm, log_prior = points.half_norm, self.prior.log_prior
        self.common = (float(half_norm.mean()), float(log_prior.max()))
        self.offset = base * self.common[1] - self.curvature * self.common[0]
        self.path = gemm_path(self.chunk or points.dim, precision.product, query.device)
        self.is_uniform = queries.is_uniform

    def largest(self) -> float:
        """Bound of the magnitude of all logits; infinite with conditions and exclusions."""
        if self.prior.terms is not None or self.prior.exclude is not None:
            return math.inf
        radius, spread = self.points.radius, self.common[1] - float(self.prior.log_prior.min())
        bound = self.length * radius + 0.5 * self.curvature * radius**2 + self.base * spread
        return float(bound.max()) if len(bound) else 0.0

    def operands(self, centred: Tensor) -> list[Tensor]:
        """A block of points ``(K, d)`` as :meth:`__call__` takes it: the same for all queries."""
        if not self.chunk:
            return [centred]
        return [part.contiguous() for part in centred.split(self.chunk, 1)]

    def bias(self, block: slice) -> Tensor | None:
        """What a block adds to the products of queries at one noise level, ``(K,)``."""
        if not self.is_uniform:
            return None
        half_norm = self.points.half_norm[block] - self.common[0]
        log_prior = self.prior.log_prior[block] - self.common[1]
        return (self.base * log_prior - self.curvature[:1] * half_norm).to(self.dtype)

    def __call__(self, block: slice, operands: list[Tensor], bias: Tensor | None) -> Tensor:
        """Logits of a block, ``(B, K)``.

        Args:
            block: The points.
            operands: What :meth:`operands` makes of them.
            bias: What :meth:`bias` gives.
        """
        if bias is not None and not self.chunk:
            values = self.path.logits(self.parts[0], operands[0], bias)
        else:
            values = self.products(operands)
            if bias is not None:
                values.add_(bias)
        if bias is None:
            half_norm = self.points.half_norm[block] - self.common[0]
            log_prior = self.prior.log_prior[block] - self.common[1]
            unit = self.points.radius**2 or 1.0  # the squares of some data overflow float32
            rows = (unit * self.curvature).to(self.dtype)[:, None]
            values.addcmul_(rows, (half_norm / unit).to(self.dtype)[None], value=-1.0)
            values.add_((self.base * log_prior).to(self.dtype)[None])
        if self.prior.terms is not None or self.prior.exclude is not None:
            factor = torch.full_like(self.curvature, self.base)
            self.prior.restrict(values, block, factor, -math.inf)
        return values

    def products(self, operands: list[Tensor]) -> Tensor:
        """The products alone, ``(B, K)``."""
        values = self.path.logits(self.parts[0], operands[0], None).to(self.dtype)
        for query, near in zip(self.parts[1:], operands[1:], strict=True):
            values.add_(self.path.logits(query, near, None))
        return values

    def terms(self, index: Tensor) -> Tensor:
        """What points ``(K,)`` add to the products, without conditions, float64 ``(B, K)``."""
        half_norm = self.points.half_norm[index] - self.common[0]
        log_prior = self.base * (self.prior.log_prior[index] - self.common[1])
        return log_prior - self.curvature[:, None] * half_norm


def dense(
    points: Points,
    queries: Queries,
    precision: Precision,
    *,
    entropy: bool = True,
    block: int = BLOCK,
) -> PartialPosterior:
    """Sums over all points.

    Sums over a block are in the dtype of the sums, float64 adds up the blocks. A block of points
    meets the queries in tiles whose logits stay in the cache: in few dimensions the passes over
    them take longer than the products.

    Args:
        points: The training points.
        queries: The queries.
        precision: Of logits, weights and sums.
        entropy: Whether the entropy is asked for; without, its sum is NaN.
        block: Points that a product takes at a time.
    """
    result = PartialPosterior.empty(len(queries), points.dim, queries.x.device)
    row_bytes = precision.logits.itemsize * block
    # Few queries take two blocks at a time, of points that are neither long nor converted.
    few = 2 * row_bytes * len(queries) <= _TILE_BYTES and points.dim <= _SHORT_ROWS
    few = few and precision.logits == precision.sums == points.dtype
    size = min(2 * block if few else block, points.num)
    rows = torch.arange(len(queries), device=queries.x.device)
    tiles = list(rows.split(max(1, _TILE_BYTES // row_bytes)))
    parts = [_Tile(points, queries.take(some), precision, entropy) for some in tiles]
    shared = queries.is_uniform
    for some in blocks(points.num, size):
        centred = points.centred(some, precision.product)
        summed = centred.to(precision.sums)
        operands = parts[0].logits.operands(centred)
        bias = parts[0].logits.bias(some) if shared else None
        for tile in parts:
            values = tile.logits(some, operands, bias if shared else tile.logits.bias(some))
            tile.sums.add(values, some.start, summed, precision.weights)
    for some, tile in zip(tiles, parts, strict=True):
        result.put(some, tile.sums.part(math.log(2.0) * tile.logits.offset - tile.constant))
    rounding = LogitRounding.of(points, queries, precision.product)
    # Of a weight that counts: its shifted logit and exp2 add this.
    result.logit_error = rounding.probable + 32.0 * unit_roundoff(precision.weights)
    # The product over a block sums as many terms of the size of the radius.
    roundoff = unit_roundoff(precision.sums) * probable_factor(size)
    length = queries.distance(points)
    result.sum_error = roundoff * queries.scale * points.radius
    result.sum_error += 4 * unit_roundoff(torch.float64) * length
    return result


class _Tile:
    """Some of the queries, few enough that what a block adds stays in the cache."""

    def __init__(
        self, points: Points, queries: Queries, precision: Precision, entropy: bool
    ) -> None:
        centred = queries.centred(points)
        self.logits = BlockLogits(points, queries, precision, LOG2E)
        self.constant = (centred**2).sum(1) / (2 * queries.sigma**2)
        path = gemm_path(points.dim, precision.sums, centred.device)
        self.sums = RunningSoftmax(
            queries.scale / points.unit,
            centred,
            path.weighted,
            precision.logits,
            moderate=is_moderate(self.logits.largest(), points.unit * points.radius),
            entropy=entropy,
        )
