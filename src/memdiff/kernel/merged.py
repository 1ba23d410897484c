"""Groups of identical points, each taken as one point with a weight.

The distance to a group of identical points is taken once. What the statistics of a posterior
need of the group besides, its mass, the entropy of the shares in it and its heaviest point, are
numbers of the group; they are taken anew for a query that excludes one of its points, or whose
condition tells its points apart. Results are those of the unmerged points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.kernel.queries import Prior

__all__ = ["GroupTerms", "MergedPoints"]

_PIECE = 2**20


@dataclass(frozen=True)
class GroupTerms:
    r"""What groups of identical points add to the logit of their distance, all of one shape.

    Attributes:
        mass: :math:`\log \sum_i \pi_i` over the group; ``-inf`` if nothing of it is left.
        entropy: Entropy of the shares :math:`\pi_i / \sum_j \pi_j`.
        top: Largest :math:`\log \pi_i`.
        index: Smallest index of a point that has it.
    """

    mass: Tensor
    entropy: Tensor
    top: Tensor
    index: Tensor

    def __getitem__(self, groups: Tensor) -> GroupTerms:
        """The terms of some of the groups, of the shape of their numbers."""
        parts = (self.mass, self.entropy, self.top, self.index)
        return GroupTerms(*(part[groups] for part in parts))

    def view_as(self, like: Tensor) -> GroupTerms:
        """The same in the shape of another tensor."""
        parts = (self.mass, self.entropy, self.top, self.index)
        return GroupTerms(*(part.view_as(like) for part in parts))

    def where(self, real: Tensor) -> GroupTerms:
        """The terms where ``real``, and those of nothing elsewhere."""
        none = -math.inf
        return GroupTerms(
            torch.where(real, self.mass, none),
            self.entropy,
            torch.where(real, self.top, none),
            torch.where(real, self.index, -1),
        )


class MergedPoints:
    """A partition of the points of positive prior weight into groups of identical ones.

    Args:
        labels: Group of each point, int64 ``(N,)``; any numbers.
        log_prior: Log prior weight of each point, float64 ``(N,)``.

    Attributes:
        group: Group of each point, ``(N,)``, -1 for a point without weight.
        representative: First point of each group, ``(U,)``.
        terms: Their terms without conditions and exclusions, ``(U,)``.
        single: Whether the group is one point, ``(U,)``.
    """

    def __init__(self, labels: Tensor, log_prior: Tensor) -> None:
        alive = (log_prior > -math.inf).nonzero()[:, 0]
        _, group = labels[alive].unique(return_inverse=True)
        order = group.argsort(stable=True)
        self._members = alive[order]
        self._sizes = torch.bincount(group)
        self._starts = self._sizes.cumsum(0) - self._sizes
        self.group = torch.full_like(labels, -1)
        self.group[alive] = group
        self.representative = self._members[self._starts]
        self.single = self._sizes == 1
        self._log_prior = log_prior
        self.terms = _reduced(group[order], len(self._sizes), log_prior, self._members)

    def __len__(self) -> int:
        """Number of groups U."""
        return len(self._sizes)

    def terms_of(self, queries: Tensor, groups: Tensor, prior: Prior) -> GroupTerms:
        """Terms of pairs (query, group), with the conditions and exclusions of the query.

        Args:
            queries: Positions among the queries of ``prior``, int64 ``(M,)``.
            groups: int64 ``(M,)``.
            prior: The prior of the queries.
        """
        terms = self.terms[groups]
        if prior.terms is not None:
            affected = torch.arange(len(groups), device=groups.device)
        elif prior.exclude is not None:
            excluded = prior.exclude[queries]
            own = torch.where(excluded >= 0, self.group[excluded.clamp_min(0)], -1)
            affected = (own == groups).nonzero()[:, 0]
        else:
            return terms
        sizes = self._sizes[groups[affected]]
        pieces = (sizes.cumsum(0) - sizes) // _PIECE
        for piece in pieces.unique():
            some = affected[pieces == piece]
            fresh = self._fresh(queries[some], groups[some], prior)
            for name in ("mass", "entropy", "top", "index"):
                getattr(terms, name)[some] = getattr(fresh, name)
        return terms

    def _fresh(self, queries: Tensor, groups: Tensor, prior: Prior) -> GroupTerms:
        sizes = self._sizes[groups]
        pair = torch.arange(len(groups), device=groups.device).repeat_interleave(sizes)
        inside = torch.arange(len(pair), device=groups.device) - (sizes.cumsum(0) - sizes)[pair]
        members = self._members[self._starts[groups][pair] + inside]
        values = prior.take(queries[pair]).at(members[:, None])[:, 0]
        return _reduced(pair, len(groups), values, members, aligned=True)


def _reduced(
    group: Tensor, num: int, values: Tensor, members: Tensor, *, aligned: bool = False
) -> GroupTerms:
    """Terms of ``num`` groups from their members; ``values`` of the members if ``aligned``."""
    if not aligned:
        values = values[members]
    top = values.new_full((num,), -math.inf).scatter_reduce(0, group, values, "amax")
    shift = torch.where(top == -math.inf, 0.0, top)
    shares = (values - shift[group]).exp()
    total = values.new_zeros(num).scatter_add(0, group, shares)
    moved = torch.where(shares > 0, shares * (values - shift[group]), 0.0)
    weighted = values.new_zeros(num).scatter_add(0, group, moved)
    safe = total.clamp_min(1.0)
    first = torch.where(values == top[group], members, torch.iinfo(torch.int64).max)
    index = torch.full((num,), torch.iinfo(torch.int64).max, device=group.device)
    return GroupTerms(
        mass=torch.where(total > 0, shift + safe.log(), -math.inf),
        entropy=(safe.log() - weighted / safe).clamp_min(0.0),
        top=top,
        index=index.scatter_reduce(0, group, first, "amin"),
    )
