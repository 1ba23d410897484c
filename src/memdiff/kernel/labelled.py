r"""One posterior for each label: queries see the points that share theirs, and no others.

Under a label the weights are those of the points that have it alone. Every label that is asked for
gets an engine over its own points, which does only their part of the work, and to which pruning
and what is remembered along trajectories apply as to any other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memdiff.kernel.engine import PosteriorEngine
from memdiff.kernel.locking import Trajectory
from memdiff.kernel.partial import PartialPosterior

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
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        *,
        labels: Tensor,
        exclude: Tensor | None = None,
        tolerance: float = 0.0,
        trajectory: Trajectory | None = None,
        entropy: bool = True,
    ) -> PartialPosterior:
        """Sums over the points of the labels ``(B,)`` of the queries.

        Other arguments as of :class:`~memdiff.kernel.PosteriorEngine`.

        Raises:
            ValueError: If no point is left for a query.
        """
        result = PartialPosterior.empty(len(x), x.shape[1], x.device)
        parts = None
        if trajectory is not None and tolerance > 0.0:
            parts = trajectory.by_label(labels, x.shape[1], x.device)
        for label, rows in self._groups(labels):
            engine = self._engine(label, rows, exclude)
            part = engine(
                x[rows],
                scale[rows],
                sigma[rows],
                exclude=self._exclusion(label, rows, exclude),
                tolerance=tolerance,
                trajectory=None if parts is None else parts[label],
                entropy=entropy,
            )
            part.top_index = self._members[label][part.top_index]
            result.put(rows, part)
        return result

    def weights(
        self,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        *,
        labels: Tensor,
        exclude: Tensor | None = None,
    ) -> Tensor:
        """All weights, float64 ``(B, N)``; for small B x N."""
        result = torch.zeros(len(x), len(self.labels), dtype=torch.float64, device=x.device)
        for label, rows in self._groups(labels):
            gone = self._exclusion(label, rows, exclude)
            engine = self._engine(label, rows, exclude)
            found = engine.weights(x[rows], scale[rows], sigma[rows], exclude=gone)
            result[rows[:, None], self._members[label][None]] = found
        return result

    def covariance_product(
        self,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        vectors: Tensor,
        *,
        labels: Tensor,
        exclude: Tensor | None = None,
    ) -> Tensor:
        """Product of the posterior covariance with one vector a query, float64 ``(B, d)``."""
        result = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
        for label, rows in self._groups(labels):
            gone = self._exclusion(label, rows, exclude)
            engine = self._engine(label, rows, exclude)
            arguments = (x[rows], scale[rows], sigma[rows], vectors[rows])
            result[rows] = engine.covariance_product(*arguments, exclude=gone)
        return result

    def radius(self, labels: Tensor) -> Tensor:
        """Largest distance of a point from the mean of those of its label, float64 ``(B,)``."""
        result = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
        for label, rows in self._groups(labels):
            result[rows] = self._engine(label, rows, None).radius
        return result

    def _groups(self, labels: Tensor) -> list[tuple[int, Tensor]]:
        """The labels that occur, and the queries that have each."""
        return [(label, (labels == label).nonzero()[:, 0]) for label in labels.unique().tolist()]

    def _engine(self, label: int, rows: Tensor, exclude: Tensor | None) -> PosteriorEngine:
        """The engine of a label, for queries some of whose points may be left out."""
        members = self._members[label]
        left = torch.full_like(rows, int((self.log_prior[members] > -torch.inf).sum()))
        gone = self._exclusion(label, rows, exclude)
        if gone is not None:
            counted = self.log_prior[members[gone.clamp_min(0)]] > -torch.inf
            left -= ((gone >= 0) & counted).to(torch.int64)
        if bool((left == 0).any()):
            query = int(rows[(left == 0).nonzero()[0, 0]])
            raise ValueError(
                f"no training point is left for query {query}: its condition or exclusion "
                "removes all of them. Give training points that share the condition."
            )
        if label not in self._engines:
            self._engines[label] = PosteriorEngine(
                self.points[members], self.log_prior[members], memory_limit=self.memory_limit
            )
        return self._engines[label]

    def _exclusion(self, label: int, rows: Tensor, exclude: Tensor | None) -> Tensor | None:
        """Points of a label that the queries ``rows`` leave out; -1 for none of them."""
        if exclude is None:
            return None
        gone = exclude[rows]
        mine = (gone >= 0) & (self.labels[gone.clamp_min(0)] == label)
        return torch.where(mine, self._place[gone.clamp_min(0)], -1)
