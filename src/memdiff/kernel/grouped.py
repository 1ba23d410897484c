"""Sums over groups of identical points, by direct differences in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from memdiff.kernel.merging import MergedPoints
from memdiff.kernel.partial import LOGIT_FLOOR, PartialPosterior
from memdiff.kernel.points import Points
from memdiff.kernel.prior import Prior
from memdiff.kernel.rounding import rounding_factor, unit_roundoff
from memdiff.kernel.splitting import SplitCoordinates

__all__ = ["GroupSums"]


class GroupSums:
    """Sums over some groups for each query.

    Args:
        points: The training points.
        merged: Their groups of identical points.
        split: Split coordinates of the representatives.
        memory_limit: Bound in bytes of temporary memory.
    """

    def __init__(
        self, points: Points, merged: MergedPoints, split: SplitCoordinates, memory_limit: int
    ) -> None:
        self.points, self.merged, self.split = points, merged, split
        self.memory_limit = memory_limit

    def __call__(
        self,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        prior: Prior,
        queries: Tensor,
        groups: Tensor,
        dropped: Tensor,
    ) -> PartialPosterior:
        r"""Sums over pairs (query, group), distances by direct differences in float64.

        Args:
            x: Queries, float64 ``(B, d)``.
            scale: :math:`m`, ``(B,)``.
            sigma: :math:`\sigma`, ``(B,)``.
            prior: Their prior.
            queries: Query of each pair, ascending; every query has one at least.
            groups: Group of each pair.
            dropped: Mass left out relative to that kept, ``(B,)``.
        """
        counts = torch.bincount(queries, minlength=len(x))
        starts = counts.cumsum(0) - counts
        result = PartialPosterior.empty(len(x), x.shape[1], x.device)
        bucket = counts.clamp_min(1).log2().ceil()
        for size in bucket.unique():
            same = (bucket == size).nonzero()[:, 0]
            width = int(counts[same].max())
            height = max(1, self.memory_limit // (40 * x.shape[1] * width))
            for rows in same.split(height):
                position = torch.arange(width, device=x.device)[None]
                real = position < counts[rows, None]
                source = (starts[rows, None] + position).clamp_max(len(groups) - 1)
                candidates = torch.where(real, groups[source], -1)
                arguments = (x[rows], scale[rows], sigma[rows], prior.take(rows))
                result.put(rows, self._padded(*arguments, candidates))
        reach = result.top_logit.abs() + math.log(len(self.merged.group)) + 40.0
        double = unit_roundoff(torch.float64)
        result.logit_error = double * (x.shape[1] + 8) * reach
        length = x.norm(dim=1) + scale * (self.split.radius + self.split.centre.norm())
        result.sum_error = rounding_factor(int(counts.max())) * double * length
        result.sum_error = result.sum_error + 2.0 * dropped * scale * self.split.radius
        return result

    def _padded(
        self, x: Tensor, scale: Tensor, sigma: Tensor, prior: Prior, candidates: Tensor
    ) -> PartialPosterior:
        width = candidates.shape[1]
        groups = candidates.clamp_min(0)
        difference = self.points.gather(self.merged.representative[groups])
        difference = difference.mul_(scale[:, None, None]).sub_(x[:, None])
        base = -torch.linalg.vecdot(difference, difference) / (2 * sigma[:, None] ** 2)
        pair = torch.arange(len(x), device=x.device).repeat_interleave(width)
        terms = self.merged.terms_of(pair, groups.flatten(), prior)
        real = candidates >= 0
        mass = torch.where(real, terms.mass.view_as(base), -math.inf)
        heaviest = torch.where(real, base + terms.top.view_as(base), -math.inf)
        top = heaviest.amax(1)
        shift = torch.where(top == -math.inf, 0.0, top)[:, None]
        moved = (base + mass - shift).clamp_min(10 * LOGIT_FLOOR)
        weights = torch.where(mass == -math.inf, 0.0, moved.exp())
        last = torch.iinfo(torch.int64).max
        tied = (heaviest == top[:, None]) & real & (mass > -math.inf)
        index = torch.where(tied, terms.index.view_as(groups), last).amin(1)
        return PartialPosterior(
            top_logit=top,
            top_index=torch.where(index == last, -1, index),
            total=weights.sum(1),
            residual_sum=torch.bmm(weights[:, None], difference)[:, 0],
            entropy_sum=(weights * (moved - terms.entropy.view_as(base))).sum(1),
            logit_error=torch.zeros_like(top),
            sum_error=torch.zeros_like(top),
        )
