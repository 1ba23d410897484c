r"""One posterior over training points that are dealt out among the processes of a run.

Every rank holds the points of one contiguous part and answers all queries with it. Two messages
join the answers: the largest logits are gathered, then the sums relative to the largest of all are
added up. The result is the same to the last bit on every rank, so that ranks which follow it, an
adaptive sampler for example, take the same steps.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from memdiff.kernel.engine import refuse_empty
from memdiff.kernel.points import Points, blocks
from memdiff.kernel.queries import Queries
from memdiff.kernel.softmax import PartialPosterior
from memdiff.kernel.trajectories import Trajectory
from memdiff.run.ranks import Ranks

__all__ = ["Engine", "ShardedEngine"]

_BLOCK = 2048


class Engine(Protocol):
    """What answers for a set of training points: one engine, or one per rank."""

    @property
    def radius(self) -> float:
        """Largest distance of a point from the mean of all, or a bound of it."""

    def __call__(
        self,
        queries: Queries,
        *,
        tolerance: float = 0.0,
        trajectory: Trajectory | None = None,
        entropy: bool = True,
    ) -> PartialPosterior:
        """Sums over all points."""

    def weights(self, queries: Queries) -> Tensor:
        """All weights."""

    def covariance_product(self, queries: Queries, vectors: Tensor) -> Tensor:
        """Product of the posterior covariance with one vector per query."""


class LocalEngine(Engine, Protocol):
    """An engine that holds its points: the part of one rank."""

    num: int
    dim: int
    log_prior: Tensor
    points: Points
    dropped_mass: float


class ShardedEngine:
    r"""The posterior over the points of all ranks; its methods are collective.

    Indices of points, in arguments and results, are those of the whole set. The answer is that of
    one :class:`PosteriorEngine` over all points up to rounding, and ``logit_error`` and
    ``sum_error`` bound the errors of the merged sums: the error of a merged mean is at most the
    largest one of its parts, and a logit is as wrong as the part that it comes from says.

    Args:
        local: The engine over the points of this rank, with the log prior weights of the whole
            set at them; None where there are fewer points than ranks and none is left for this
            one.
        points: The indices of those points in the whole set.
        total: Number of points in the whole set.
        dim: Dimension ``d`` of a point.
        ranks: The ranks, in the order of their points.
        device: Where the ranks compute.
    """

    def __init__(
        self,
        local: LocalEngine | None,
        points: range,
        total: int,
        dim: int,
        ranks: Ranks,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        if len(points) != (0 if local is None else local.num):
            raise ValueError(
                f"points must name the {0 if local is None else local.num} points of this rank, "
                f"got {len(points)}."
            )
        self.local, self.points, self.num, self.dim, self.ranks = local, points, total, dim, ranks
        mine = torch.zeros(dim + 3, dtype=torch.float64, device=device)
        if local is not None:
            mine[:dim] = local.points.centre
            mine[dim:] = mine.new_tensor([local.radius, local.num, local.dropped_mass])
        parts = torch.stack(ranks.gather(mine))
        centres, (radii, counts, dropped) = parts[:, :dim], parts[:, dim:].unbind(1)
        self.centre = (counts[:, None] * centres).sum(0) / counts.sum()
        reach = (centres - self.centre).norm(dim=1) + radii
        self.radius = float(reach[counts > 0].max())
        self.dropped_mass = float(dropped.max())

    def __call__(
        self,
        queries: Queries,
        *,
        tolerance: float = 0.0,
        trajectory: Trajectory | None = None,
        entropy: bool = True,
    ) -> PartialPosterior:
        """Sums over the points of all ranks; arguments as of :class:`PosteriorEngine`.

        A rank leaves out the ``tolerance`` of its own points' mass, and remembers in
        ``trajectory`` what it certified of them.

        Raises:
            ValueError: If no point is left for a query.
        """
        part, _ = self._part(queries, tolerance, trajectory, entropy)
        whole = self._joined(part)
        # A part says what leaving points out does to its own mean; their mass is also missing
        # against the other parts.
        missing = 2 * max(self.dropped_mass, tolerance) * self.radius
        whole.sum_error = whole.sum_error + missing * queries.scale
        return whole

    def weights(self, queries: Queries) -> Tensor:
        """All weights, float64 with shape ``(B, N)``, on every rank; for small B x N."""
        part, rows = self._part(queries)
        share = self._share(part, self._joined(part))
        weights = queries.x.new_zeros(len(self.points), len(queries))
        if self.local is not None and len(rows):
            found = self.local.weights(self._mine(queries, rows))
            weights[:, rows] = (share[rows, None] * found).T
        weights = self.ranks.concatenate(weights).T
        return torch.where(weights < 1e-300, 0.0, weights)  # no denormal numbers

    def covariance_product(self, queries: Queries, vectors: Tensor) -> Tensor:
        r"""Product of the posterior covariance with one vector per query, float64 ``(B, d)``.

        By the law of total covariance, with :math:`\pi_k` the weight, :math:`\mu_k` the mean and
        :math:`C_k` the covariance of the points of rank ``k``:
        :math:`C v = \sum_k \pi_k \big(C_k v + (\mu_k - \mu)\,(\mu_k - \mu) \cdot v\big)`.
        """
        part, rows = self._part(queries)
        whole = self._joined(part)
        share = self._share(part, whole)
        product = torch.zeros_like(queries.x)
        if self.local is not None and len(rows):
            inner = self.local.covariance_product(self._mine(queries, rows), vectors[rows])
            mine = part.residual_sum[rows] / part.total[rows, None]
            apart = mine - whole.residual_sum[rows] / whole.total[rows, None]
            apart = apart / queries.scale[rows, None]
            along = (apart * vectors[rows].to(torch.float64)).sum(1, keepdim=True)
            product[rows] = share[rows, None] * (inner + apart * along)
        return self.ranks.sum(product)

    def _part(
        self,
        queries: Queries,
        tolerance: float = 0.0,
        trajectory: Trajectory | None = None,
        entropy: bool = True,
    ) -> tuple[PartialPosterior, Tensor]:
        """Sums over the points of this rank, and the queries that any of them may answer."""
        part = PartialPosterior.empty(len(queries), self.dim, queries.x.device)
        rows = self._answered(queries)
        if self.local is not None and len(rows):
            found = self.local(
                self._mine(queries, rows),
                tolerance=tolerance,
                trajectory=trajectory if len(rows) == len(queries) else None,
                entropy=entropy,
            )
            found.top_index = found.top_index + self.points.start
            part.put(rows, found)
        return part, rows

    def _joined(self, part: PartialPosterior) -> PartialPosterior:
        """The sums of all ranks, the same on each."""
        # Indices below 2^53 are exact in float64.
        small = torch.stack(
            (
                part.top_logit,
                part.top_index.to(torch.float64),
                part.logit_error,
                part.sum_error,
            )
        )
        tops, indices, logit_errors, sum_errors = torch.stack(self.ranks.gather(small)).unbind(1)
        top = tops.amax(0)
        index = torch.where((tops == top) & (indices >= 0), indices, math.inf).amin(0)
        refuse_empty(index == math.inf)
        total, residual, entropy = part.rescaled(top)
        sums = self.ranks.sum(torch.cat((total[:, None], entropy[:, None], residual), 1))
        return PartialPosterior(
            top_logit=top,
            top_index=index.to(torch.int64),
            total=sums[:, 0],
            residual_sum=sums[:, 2:],
            entropy_sum=sums[:, 1],
            logit_error=logit_errors.amax(0),
            sum_error=sum_errors.amax(0),
        )

    def _share(self, part: PartialPosterior, whole: PartialPosterior) -> Tensor:
        """Weight of the points of this rank, shape ``(B,)``."""
        return part.rescaled(whole.top_logit)[0] / whole.total

    def _answered(self, queries: Queries) -> Tensor:
        """The queries for which a point of this rank is left, as indices."""
        rows = torch.arange(len(queries), device=queries.x.device)
        if self.local is None or not len(queries):
            return rows[:0]
        mine = self.local.log_prior > -math.inf
        prior = self._mine(queries, rows).under(self.local.log_prior).prior
        if prior.terms is None:
            left = mine.sum().expand(len(rows)).clone()
        else:
            left = torch.zeros_like(rows)
            for block in blocks(self.local.num, _BLOCK):
                for some in rows.split(_BLOCK):
                    terms = prior.terms(prior.rows[some], block)
                    left[some] += ((terms > -math.inf) & mine[block][None]).sum(1)
        if prior.exclude is not None:
            inside = (prior.exclude >= 0).nonzero()[:, 0]
            gone = prior.exclude[inside]
            counted = mine[gone]
            if prior.terms is not None:
                own = prior.terms(prior.rows[inside], gone[:, None])[:, 0]
                counted = counted & (own > -math.inf)
            left[inside] -= counted.to(torch.int64)
        return (left > 0).nonzero()[:, 0]

    def _mine(self, queries: Queries, rows: Tensor) -> Queries:
        """Queries ``rows`` with the conditions and exclusions of the points of this rank."""
        first, prior = self.points.start, queries.prior.take(rows)
        terms, exclude = prior.terms, prior.exclude
        if exclude is not None:
            here = exclude - first
            exclude = torch.where((here >= 0) & (here < len(self.points)), here, -1)

        def local(asked: Tensor, points: slice | Tensor) -> Tensor:
            assert terms is not None
            if isinstance(points, slice):
                return terms(asked, slice(points.start + first, points.stop + first))
            return terms(asked, points + first)

        prior = replace(prior, terms=None if terms is None else local, exclude=exclude)
        return Queries(queries.x[rows], queries.scale[rows], queries.sigma[rows], prior)
