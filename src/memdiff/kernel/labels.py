r"""One posterior for each label: queries see the points that share theirs, and no others.

Under a label the weights are those of the points that have it alone. Every label that is asked for
gets an engine over its own points, which does only their part of the work, and to which pruning
and what is remembered along trajectories apply as to any other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memdiff.kernel.engine import PosteriorEngine, refuse_empty
from memdiff.kernel.queries import Queries
from memdiff.kernel.softmax import PartialPosterior
from memdiff.kernel.trajectories import Trajectory

__all__ = ["LabelledEngine"]


class LabelledEngine:
    r"""The posterior over the points that share the label of a query.

    Of the points of each label that was asked for, two copies are kept (one of them centred), so
    that all labels take twice the memory of the points.

    Args:
        points: Training points ``(N, d)``, float32 or float64.
        labels: Label of each point, int64 ``(N,)``, in ``0 .. L - 1``.
        log_prior: :math:`\log \pi_n`, ``(N,)``.
        memory_limit: Bound in bytes of temporary memory.
    """

    def __init__(
        self, points: Tensor, labels: Tensor, log_prior: Tensor, *, memory_limit: int
    ) -> None:
        self.points, self.log_prior, self.memory_limit = points, log_prior, memory_limit
        order = labels.argsort(stable=True)
        counts = torch.bincount(labels)
        self._members = order.split(counts.tolist())
        # Position of each point among those of its label.
        first = (counts.cumsum(0) - counts)[labels[order]]
        self._place = torch.empty_like(order)
        self._place[order] = torch.arange(len(order), device=order.device) - first
        self.labels = labels
        self._engines: dict[int, PosteriorEngine] = {}

    def __call__(
        self,
        queries: Queries,
        labels: Tensor,
        *,
        tolerance: float = 0.0,
        trajectory: Trajectory | None = None,
        entropy: bool = True,
    ) -> PartialPosterior:
        """Sums over the points of the labels ``(B,)`` of the queries.

        Other arguments as of :class:`~memdiff.kernel.PosteriorEngine`.

        Raises:
            ValueError: If no point is left for a query.
        """
        dim = queries.x.shape[1]
        result = PartialPosterior.empty(len(queries), dim, labels.device)
        parts = None
        if trajectory is not None and tolerance > 0.0:
            parts = trajectory.by_label(labels, dim, labels.device)
        for label, rows in self._groups(labels):
            engine, some = self._part(label, rows, queries)
            memory = None if parts is None else parts[label]
            part = engine(some, tolerance=tolerance, trajectory=memory, entropy=entropy)
            part.top_index = self._members[label][part.top_index]
            result.put(rows, part)
        return result

    def weights(self, queries: Queries, labels: Tensor) -> Tensor:
        """All weights, float64 ``(B, N)``; for small B x N."""
        result = queries.x.new_zeros(len(queries), len(self.labels))
        for label, rows in self._groups(labels):
            engine, some = self._part(label, rows, queries)
            result[rows[:, None], self._members[label][None]] = engine.weights(some)
        return result

    def covariance_product(self, queries: Queries, vectors: Tensor, labels: Tensor) -> Tensor:
        """Product of the posterior covariance with one vector per query, float64 ``(B, d)``."""
        result = torch.zeros_like(queries.x)
        for label, rows in self._groups(labels):
            engine, some = self._part(label, rows, queries)
            result[rows] = engine.covariance_product(some, vectors[rows])
        return result

    def radius(self, labels: Tensor) -> Tensor:
        """Largest distance of a point from the mean of those of its label, float64 ``(B,)``."""
        result = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
        for label, rows in self._groups(labels):
            result[rows] = self._engine(label).radius
        return result

    def _groups(self, labels: Tensor) -> list[tuple[int, Tensor]]:
        """The labels that occur, and the queries that have each."""
        return [(label, (labels == label).nonzero()[:, 0]) for label in labels.unique().tolist()]

    def _part(self, label: int, rows: Tensor, queries: Queries) -> tuple[PosteriorEngine, Queries]:
        """The engine of a label, and the queries ``rows`` as it knows them."""
        members, exclude = self._members[label], queries.prior.exclude
        left = torch.full_like(rows, int((self.log_prior[members] > -torch.inf).sum()))
        if exclude is not None:
            gone = exclude[rows]
            mine = (gone >= 0) & (self.labels[gone.clamp_min(0)] == label)
            exclude = torch.where(mine, self._place[gone.clamp_min(0)], -1)
            left -= (mine & (self.log_prior[gone.clamp_min(0)] > -torch.inf)).to(torch.int64)
        empty = torch.zeros(len(queries), dtype=torch.bool, device=rows.device)
        empty[rows] = left == 0
        refuse_empty(empty)
        some = (queries.x[rows], queries.scale[rows], queries.sigma[rows])
        return self._engine(label), Queries.of(*some, exclude=exclude)

    def _engine(self, label: int) -> PosteriorEngine:
        if label not in self._engines:
            members = self._members[label]
            self._engines[label] = PosteriorEngine(
                self.points[members], self.log_prior[members], memory_limit=self.memory_limit
            )
        return self._engines[label]
