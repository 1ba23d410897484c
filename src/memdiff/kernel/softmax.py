"""The running softmax: sums over blocks of logits, and sums over disjoint points that merge.

References:
    Milakov, Gimelshein, *Online normalizer calculation for softmax*, arXiv:1805.02867.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from memdiff.kernel.screen import GROUP

__all__ = ["LOG2E", "LOGIT_FLOOR", "PartialPosterior", "RunningSoftmax", "is_moderate"]

# Shifted logits are clamped here before exp: weights below 1e-30 change no digit, and denormal
# numbers, which would follow, slow the weighted sum by an order of magnitude.
LOGIT_FLOOR = -69.0
LOG2E = 1.0 / math.log(2.0)
# Logits may rise this far above the shift before it is renewed; float32 reaches to 127.
_HEADROOM = 30.0
# Logits in base 2 up to this size need no shift: nor do their weights times a point, less the size
# of that, leave the normal numbers of float32.
_MODERATE = 90.0


@dataclass
class PartialPosterior:
    """Sums over some of the training points, relative to the largest logit among them.

    Attributes:
        top_logit: Largest logit, shape ``(B,)``; ``-inf`` while no point has been seen.
        top_index: Index of the point that has it (the smallest one of several), shape ``(B,)``.
        total: Sum of ``exp(logit - top_logit)``, shape ``(B,)``.
        residual_sum: Sum of ``exp(logit - top_logit) (m x_n - x)``, shape ``(B, d)``.
        entropy_sum: Sum of ``exp(logit - top_logit) (logit - top_logit)``, shape ``(B,)``.
        logit_error: Bound of the absolute error of every logit, shape ``(B,)``.
        sum_error: Bound of what rounding and left-out points add to the Euclidean error of
            ``residual_sum / total``, shape ``(B,)``.
    """

    top_logit: Tensor
    top_index: Tensor
    total: Tensor
    residual_sum: Tensor
    entropy_sum: Tensor
    logit_error: Tensor
    sum_error: Tensor

    @classmethod
    def empty(cls, num: int, dim: int, device: torch.device) -> PartialPosterior:
        """The neutral element of :meth:`merge` for ``num`` queries in ``dim`` dimensions."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(
            top_logit=torch.full((num,), -math.inf, dtype=torch.float64, device=device),
            top_index=torch.full((num,), -1, dtype=torch.int64, device=device),
            total=zeros(num),
            residual_sum=zeros(num, dim),
            entropy_sum=zeros(num),
            logit_error=zeros(num),
            sum_error=zeros(num),
        )

    def merge(self, other: PartialPosterior) -> PartialPosterior:
        """Combine two disjoint sets of points; associative and commutative up to rounding."""
        top = torch.maximum(self.top_logit, other.top_logit)
        index = torch.where(other.top_logit > self.top_logit, other.top_index, self.top_index)
        tie = (other.top_logit == self.top_logit) & (other.top_index >= 0) & (self.top_index >= 0)
        index = torch.where(tie, torch.minimum(self.top_index, other.top_index), index)
        mine, others = self.rescaled(top), other.rescaled(top)
        return PartialPosterior(
            top_logit=top,
            top_index=index,
            total=mine[0] + others[0],
            residual_sum=mine[1] + others[1],
            entropy_sum=mine[2] + others[2],
            logit_error=torch.maximum(self.logit_error, other.logit_error),
            sum_error=torch.maximum(self.sum_error, other.sum_error),
        )

    def rescaled(self, top: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Total, residual sum and entropy sum relative to a logit ``top``, ``(B,)``."""
        # An empty part has zero sums, and -inf - -inf must not reach them: any finite shift does.
        shift = torch.where(self.top_logit == -math.inf, LOGIT_FLOOR, self.top_logit - top)
        factor = shift.exp()
        entropy = factor * (self.entropy_sum + shift.clamp_min(-700.0) * self.total)
        return factor * self.total, factor[:, None] * self.residual_sum, entropy

    def put(self, rows: Tensor, part: PartialPosterior) -> None:
        """Write the sums of some of the queries, in place."""
        whole = len(rows) == len(self.total) and bool((rows[1:] > rows[:-1]).all())
        for field in fields(self):
            value = getattr(part, field.name)
            if whole:
                setattr(self, field.name, value)
            else:
                getattr(self, field.name)[rows] = value


def is_moderate(largest: float, radius: float) -> bool:
    """Whether logits in base 2 are exponents as they are: no shift, and nothing underflows.

    Args:
        largest: Bound of their magnitude.
        radius: Largest norm of a point that they weigh.
    """
    return radius > 0.0 and largest + abs(math.log2(radius)) <= _MODERATE


class GroupedTop:
    """Largest values of the rows of a block, by groups of columns, so that few are looked at.

    Args:
        values: ``(B, K)``.

    Attributes:
        top: Largest value of each row, ``(B,)``.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.size = GROUP if values.shape[1] % GROUP == 0 else values.shape[1]
        self.groups = values.view(len(values), -1, self.size).amax(2)
        self.top, self.group = self.groups.max(1)

    def position(self, rows: Tensor) -> Tensor:
        """Column of the (first) largest value of some rows."""
        group = self.group[rows]
        members = self.values.view(len(self.values), -1, self.size)[rows, group]
        return group * self.size + members.argmax(1)


class RunningSoftmax:
    """The running sums of some queries over blocks of points.

    Logits are in base 2, and relative to a shift that is renewed where they exceed it by far, so
    that most blocks leave the sums of earlier ones as they are.

    Args:
        scale: :math:`m` over the unit of the points that are added, float64 ``(B,)``.
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
