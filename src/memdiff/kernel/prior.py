"""The terms of the logits besides the distance: prior weights, conditions, exclusions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["LogPrior", "Prior"]

LogPrior = Callable[[Tensor, slice | Tensor], Tensor]


class Prior:
    """All terms of the logits besides the distance, for the queries ``rows``."""

    def __init__(
        self,
        log_prior: Tensor,
        extra: LogPrior | None,
        exclude: Tensor | None,
        rows: Tensor,
        bound: float = 0.0,
    ) -> None:
        self.log_prior, self.extra, self.rows, self.bound = log_prior, extra, rows, bound
        self.all_exclude = exclude
        self.exclude = None if exclude is None else exclude[rows]

    def take(self, rows: Tensor) -> Prior:
        """The same for some of the queries."""
        return Prior(self.log_prior, self.extra, self.all_exclude, self.rows[rows], self.bound)

    def block(self, block: slice) -> Tensor:
        """Terms of a block of points, float64 with shape ``(B, K)`` or ``(1, K)``."""
        terms = self.log_prior[block][None]
        if self.extra is not None:
            terms = terms + self.extra(self.rows, block)
        if self.exclude is not None:
            index = torch.arange(block.start, block.stop, device=terms.device)
            terms = torch.where(self.exclude[:, None] == index[None], -math.inf, terms)
        return terms

    def at(self, index: Tensor) -> Tensor:
        """Terms of the points ``index`` ``(B, K)``, float64; ``-inf`` where it is -1."""
        terms = self.log_prior[index.clamp_min(0)]
        if self.extra is not None:
            terms = terms + self.extra(self.rows, index.clamp_min(0))
        left_out = index < 0
        if self.exclude is not None:
            left_out = left_out | (index == self.exclude[:, None])
        return torch.where(left_out, -math.inf, terms)

    def restrict(self, logits: Tensor, block: slice, factor: Tensor | None = None) -> None:
        """Add what differs between queries, conditions and exclusions, to logits in place.

        Args:
            logits: Logits of a block of points, ``(B, K)``, without those terms.
            block: The points.
            factor: Multiplies the terms, ``(B,)``; None for 1.
        """
        if self.extra is not None:
            terms = self.extra(self.rows, block)
            if factor is not None:
                terms = factor[:, None] * terms
            logits.add_(terms.to(logits.dtype))
        if self.exclude is not None:
            inside = (self.exclude >= block.start) & (self.exclude < block.stop)
            rows = inside.nonzero()[:, 0]
            logits[rows, self.exclude[rows] - block.start] = -math.inf
