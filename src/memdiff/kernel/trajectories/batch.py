r"""What is remembered of a batch between the evaluations along its trajectories.

In :math:`u = x/m` and :math:`\rho = \sigma/m`, the gap of a point :math:`X_n` to a winner
:math:`X_*`,

.. math::
    g_n(u) = |u - X_n|^2 - |u - X_*|^2 ,

is affine in ``u``, and :math:`g_n(X_*) \ge 0`. For
:math:`u' = (1 - a)\, u_0 + a X_* + e` with ``a`` in [0, 1],

.. math::
    g_n(u') \ge (1 - a)\, g_n(u_0) - 2 |e|\, |X_n - X_*| ,

so that gaps certified once, at :math:`u_0`, bound the logits of all other points at every later
query. Nothing is assumed about how it was reached: a query that is far from the segment between
:math:`u_0` and the winner is simply not certified. A step of a deterministic sampler moves on that
segment as soon as one point has all the weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from memdiff.kernel.trajectories.counts import Counts
from memdiff.kernel.trajectories.recycling import RecycledProducts

__all__ = ["Batch", "Trajectory", "followed", "unfollowed"]

# Noise levels within this factor tell about each other.
_COMPARABLE = 2.0


class Trajectory:
    """Winners and certified gaps of a batch of queries that move; for one thread at a time.

    Args:
        counts: Where to count what was done; a count of its own by default.

    Attributes:
        rows: Members of the batch that the next queries belong to, int64; None for all of them,
            in order. Whoever drops finished members sets it.
        counts: What was done at each noise level.
        products: Inner products that are recycled, where there is memory for them.
    """

    def __init__(self, counts: Counts | None = None) -> None:
        self.rows: Tensor | None = None
        self.counts = Counts() if counts is None else counts
        self.products: RecycledProducts | None = None
        self._near: Tensor | None = None
        self._labels: Tensor | None = None
        self._parts: dict[int, Trajectory] = {}

    def members(self, queries: int, dim: int, device: torch.device) -> Tensor | None:
        """Members that the queries belong to; None if they are not those of the first call."""
        num = queries
        if self._near is None:
            if self.rows is not None and num:
                num = int(self.rows.max()) + 1
            self._near = torch.full((num,), -1, device=device)
            self._anchor = torch.zeros(num, dim, dtype=torch.float64, device=device)
            self._ratio = torch.ones(num, dtype=torch.float64, device=device)
            self._gap = torch.full((num,), -math.inf, dtype=torch.float64, device=device)
            self._crowded = torch.full((num,), math.inf, dtype=torch.float64, device=device)
        rows = self.rows
        if rows is None:
            rows = torch.arange(queries, device=device)
        fits = (
            len(rows) == queries and dim == self._anchor.shape[1] and device == self._near.device
        )
        if not fits or (queries and int(rows.max()) >= len(self._near)):
            return None
        return rows

    def by_label(
        self, labels: Tensor, dim: int, device: torch.device
    ) -> dict[int, Trajectory] | None:
        """A trajectory for the members of each label, ``(B,)``; they share the counts.

        None where the members are not those of the first call, or have changed their labels.
        """
        members = self.members(len(labels), dim, device)
        if members is None:
            return None
        if self._labels is None:
            self._labels = torch.full((self.size,), -1, device=device)
            self._labels[members] = labels
            for label in labels.unique().tolist():
                self._parts[label] = Trajectory(self.counts)
        if not torch.equal(self._labels[members], labels):
            return None
        for label, part in self._parts.items():
            place = (self._labels == label).cumsum(0) - 1
            part.rows = place[members[labels == label]]
        return self._parts

    @property
    def size(self) -> int:
        """Number of members."""
        return 0 if self._near is None else len(self._near)

    def near(self, members: Tensor) -> Tensor:
        """The group that weighed most at the last evaluation, -1 where there was none."""
        assert self._near is not None
        return self._near[members]

    def crowded(self, members: Tensor, ratio: Tensor) -> Tensor:
        """Whether the last screen was in vain, at this noise or somewhat less.

        Samplers that try steps come back from much less noise, where a screen was in vain because
        they were far from all points.
        """
        last = self._crowded[members]
        return (ratio >= last) & (ratio <= _COMPARABLE * last)

    def has_gap(self, members: Tensor) -> Tensor:
        """Whether one group has all the weight at the last evaluation that looked."""
        return self._gap[members] > 0

    def gap_bound(
        self,
        members: Tensor,
        point: Tensor,
        winner: Tensor,
        ratio: Tensor,
        spread: float,
        reach: Tensor,
    ) -> Tensor:
        r"""Lower bound of the logit gap between the winner and every other group.

        Args:
            members: Members of the batch, ``(B,)``.
            point: Their positions :math:`u' = x/m`, float64 ``(B, d)``.
            winner: The point :math:`X_*` of each, float64 ``(B, d)``.
            ratio: :math:`\sigma/m`, ``(B,)``.
            spread: Largest difference between the log prior weights of two groups.
            reach: Largest distance between the winner and a point, ``(B,)``.
        """
        start = self._anchor[members]
        direction, moved = winner - start, point - start
        along = torch.linalg.vecdot(moved, direction)
        length = torch.linalg.vecdot(direction, direction).clamp_min(1e-300)
        along = (along / length).clamp(0.0, 1.0)
        aside = (moved - along[:, None] * direction).norm(dim=1)
        growth = (1.0 - along) * (self._ratio[members] / ratio) ** 2
        bound = growth * self._gap[members] - (1.0 - growth).abs() * spread
        bound = bound - aside * reach / ratio**2
        return torch.where(self._gap[members] > 0, bound.nan_to_num(-math.inf), -math.inf)

    def record(self, members: Tensor, near: Tensor) -> None:
        """Winners of an evaluation."""
        assert self._near is not None
        self._near[members] = near

    def record_crowded(self, members: Tensor, ratio: Tensor) -> None:
        """Noise levels at which a screen was in vain."""
        self._crowded[members] = ratio

    def record_gaps(self, members: Tensor, point: Tensor, ratio: Tensor, gap: Tensor) -> None:
        """Certified gaps; ``-inf`` where more than one group has weight."""
        self._anchor[members] = point
        self._ratio[members] = ratio
        self._gap[members] = gap


class Batch:
    """Samples that move together, of which exact scores may remember what helps them.

    The one thing that a sampler has to know: it evaluates its score inside :meth:`follow`. A
    score that can make use of it asks :func:`followed`; no other takes notice.

    Attributes:
        counts: What was done at each noise level.
    """

    def __init__(self) -> None:
        self.counts = Counts()
        self._known: list[tuple[object, Trajectory]] = []
        self._rows: Tensor | None = None

    @contextmanager
    def follow(self, rows: Tensor | None) -> Iterator[None]:
        """Evaluate the members ``rows``, int64 ``(B,)``, or all of them in order."""
        self._rows = rows
        token = _batch.set(self)
        try:
            yield
        finally:
            _batch.reset(token)

    def of(self, owner: object) -> Trajectory:
        """What ``owner`` remembers of this batch."""
        found = next((memory for known, memory in self._known if known is owner), None)
        if found is None:
            found = Trajectory(self.counts)
            self._known.append((owner, found))
        found.rows = self._rows
        return found


_batch: ContextVar[Batch | None] = ContextVar("batch", default=None)


def followed(owner: object) -> Trajectory | None:
    """What ``owner`` remembers of the batch that is evaluated now, None outside of samplers."""
    batch = _batch.get()
    return None if batch is None else batch.of(owner)


@contextmanager
def unfollowed() -> Iterator[None]:
    """Evaluate points that belong to no batch: their order or number changes from call to call."""
    token = _batch.set(None)
    try:
        yield
    finally:
        _batch.reset(token)
