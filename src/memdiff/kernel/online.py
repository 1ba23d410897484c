"""The online softmax: sums over blocks of logits, relative to a shift that seldom moves."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from memdiff.kernel.logits import GroupedTop
from memdiff.kernel.partial import LOGIT_FLOOR, PartialPosterior

__all__ = ["LOG2E", "OnlineSums", "is_moderate"]

LOG2E = 1.0 / math.log(2.0)
# Logits may rise this far above the shift before it is renewed; float32 reaches to 127.
_HEADROOM = 30.0
# Logits in base 2 up to this size need no shift: nor do their weights times a point, less the size
# of that, leave the normal numbers of float32.
_MODERATE = 90.0


def is_moderate(largest: float, radius: float) -> bool:
    """Whether logits in base 2 are exponents as they are: no shift, and nothing underflows.

    Args:
        largest: Bound of their magnitude.
        radius: Largest coordinate of a point that they weigh.
    """
    return radius > 0.0 and largest + abs(math.log2(radius)) <= _MODERATE


class OnlineSums:
    """The running sums of some queries over blocks of points.

    Logits are in base 2, and relative to a shift that is renewed where they exceed it by far, so
    that most blocks leave the sums of earlier ones as they are.

    Args:
        scale: :math:`m`, float64 ``(B,)``.
        centred: Queries less the scaled centre of the points, float64 ``(B, d)``.
        product: ``(weights (B, K), points (K, d)) -> (B, d)``.
        dtype: Of the logits.
        moderate: Whether the logits are (:func:`is_moderate`), and none of them is ``-inf``.
        entropy: Whether the entropy is asked for; without, its sum is NaN.
    """

    def __init__(
        self,
        scale: Tensor,
        centred: Tensor,
        product: Callable[[Tensor, Tensor], Tensor],
        dtype: torch.dtype,
        *,
        moderate: bool,
        entropy: bool,
    ) -> None:
        self.scale, self.centred, self.product = scale, centred, product
        self.moderate, self.entropy = moderate, entropy
        self.top = torch.full_like(scale, -math.inf, dtype=dtype)
        self.index = torch.full_like(scale, -1, dtype=torch.int64)
        self.shift = torch.zeros_like(self.top) if moderate else self.top
        self.applied = torch.zeros_like(self.top)
        self.total, self.entropy_sum = torch.zeros_like(scale), torch.zeros_like(scale)
        self.weighted = torch.zeros_like(centred)

    def add(self, values: Tensor, start: int, points: Tensor, weights_dtype: torch.dtype) -> None:
        """Add a block of points.

        Args:
            values: Their logits ``(B, K)``, overwritten.
            start: Index of the first of them.
            points: The points less their centre, ``(K, d)``, in the dtype of the sums.
            weights_dtype: Of the weights.
        """
        grouped = GroupedTop(values)
        better = (grouped.top > self.top).nonzero()[:, 0]
        if len(better):
            self.index[better] = grouped.position(better) + start
            self.top = torch.maximum(self.top, grouped.top)
        if not self.moderate:
            self._renew_shift()
            values.sub_(self.applied[:, None])
        values = values.to(weights_dtype)
        if not self.moderate:
            values.clamp_(min=LOG2E * LOGIT_FLOOR)
        # The entropy needs both; without it the weights take the place of the logits.
        weights = torch.empty_like(values) if self.entropy else values
        torch.exp2(values, out=weights)
        # The total and the sum belong together: what is off in one alone moves the mean.
        mass = weights.to(points.dtype)
        self.total += mass.sum(1)
        self.weighted += self.product(mass, points)
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

    def part(self, offset: Tensor) -> PartialPosterior:
        """The sums, without the bounds of their errors.

        Args:
            offset: What was left out of all logits of a query, in natural units, ``(B,)``.
        """
        unseen = self.top == -math.inf
        moved = torch.where(unseen, 0.0, (self.applied - self.top).to(torch.float64))
        decay = (~unseen).to(torch.float64) * moved.exp2()
        entropy_sum = math.log(2.0) * decay * (self.entropy_sum + moved * self.total)
        total = decay * self.total
        weighted = (decay * self.scale)[:, None] * self.weighted
        return PartialPosterior(
            top_logit=math.log(2.0) * self.top.to(torch.float64) + offset,
            top_index=self.index,
            total=total,
            residual_sum=weighted - total[:, None] * self.centred,
            entropy_sum=entropy_sum if self.entropy else torch.full_like(total, math.nan),
            logit_error=torch.zeros_like(total),
            sum_error=torch.zeros_like(total),
        )
