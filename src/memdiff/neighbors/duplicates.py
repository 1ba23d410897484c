"""Groups of duplicated points: identical rows, and rows within a tolerance of each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.kernel.identical import identical_rows, numbered
from memdiff.kernel.points import power_of_two
from memdiff.kernel.screen import GROUP, FloatProduct, Operand, PointBlock, Screen
from memdiff.neighbors.coordinates import Coordinates, squared_distances
from memdiff.neighbors.search import MEMORY_LIMIT, Blocks
from memdiff.run.ranks import Ranks
from memdiff.sources import RowData, Rows

__all__ = ["DuplicateGroups", "duplicate_groups"]


@dataclass(frozen=True)
class DuplicateGroups:
    """A partition of points into groups of duplicates; a point without a duplicate is a group.

    Attributes:
        labels: int64 ``(N,)``, the group of each point. Groups are numbered by their first point.
        sizes: int64 ``(num_groups,)``, points in each group.
    """

    labels: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, labels: Tensor) -> DuplicateGroups:
        """The groups of any integer labels ``(N,)``, numbered by their first points."""
        order = numbered(labels)
        return cls(order, torch.bincount(order))

    @property
    def num_groups(self) -> int:
        """Number of groups; ``N`` if nothing is duplicated."""
        return len(self.sizes)

    @property
    def num_redundant(self) -> int:
        """Points that would go if one of each group were kept: ``N - num_groups``."""
        return len(self.labels) - len(self.sizes)

    def representatives(self) -> Tensor:
        """Index of the first point of each group, int64 ``(num_groups,)``."""
        order = self.labels.argsort(stable=True)
        return order[self.sizes.cumsum(0) - self.sizes]


def duplicate_groups(
    points: RowData,
    tolerance: float = 0.0,
    *,
    memory_limit: int = MEMORY_LIMIT,
    ranks: Ranks | None = None,
) -> DuplicateGroups:
    """Group points that are identical, or linked by distances of at most ``tolerance``.

    Identical rows are found by hashing (and compared, so that a collision does no harm). With a
    positive tolerance, groups are the connected components of the graph whose edges join points
    at a Euclidean distance of at most ``tolerance``; a chain of near duplicates is one group.
    Distances that decide are computed by direct differences in float64.

    Args:
        points: ``(N, *S)`` as in :func:`memdiff.neighbors.nearest`.
        tolerance: Distance in the units of the points, at least 0.
        memory_limit: Bytes allocated beside the points, at most (a few rows at least).
        ranks: Processes among which the search is shared; each makes the same call, and gets the
            whole result. By default this process does it all.

    Returns:
        DuplicateGroups on the device of the points.

    Raises:
        ValueError: If the tolerance is negative or not finite, or the points are not finite.

    Example:
        >>> groups = duplicate_groups(torch.tensor([[0.0], [5.0], [0.0], [5.1]]), tolerance=0.2)
        >>> groups.labels.tolist(), groups.sizes.tolist()
        ([0, 1, 0, 1], [2, 2])
    """
    if not 0.0 <= tolerance < float("inf"):
        raise ValueError(f"tolerance must be a distance of at least 0, got {tolerance}.")
    rows = Rows(points, "points")
    blocks = Blocks.plan(rows.features, memory_limit, None, None)
    coordinates = Coordinates(rows, "points", unit=False, block=blocks.points)
    survey = coordinates.survey()
    coordinates.scale = power_of_two(survey.largest, rows.features)
    labels = identical_rows(rows)
    if tolerance > 0.0:
        labels = _linked(
            coordinates,
            blocks,
            survey.mean * coordinates.scale,
            tolerance,
            labels,
            Ranks() if ranks is None else ranks,
        )
    return DuplicateGroups.of(labels)


class _Components:
    """Connected components of a growing graph, with a bounded list of edges."""

    def __init__(self, labels: Tensor, capacity: int) -> None:
        self.labels = labels
        self._capacity = capacity
        self._edges: list[tuple[Tensor, Tensor]] = []
        self._pending = 0

    def join(self, one: Tensor, other: Tensor) -> None:
        self._edges.append((one, other))
        self._pending += len(one)
        if self._pending > self._capacity:
            self.settle()

    def settle(self) -> None:
        if not self._pending:
            return
        import numpy as np
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        one, other = (torch.cat(ends) for ends in zip(*self._edges, strict=True))
        n = len(self.labels)
        own = self.labels.cpu().numpy()
        ends = (
            np.concatenate([np.arange(n), one.cpu().numpy()]),
            np.concatenate([own, other.cpu().numpy()]),
        )
        graph = coo_matrix((np.ones(len(ends[0]), dtype=bool), ends), shape=(n, n))
        found = torch.from_numpy(connected_components(graph, directed=False)[1]).long()
        # A label is the index of a point of its group, so that groups stay edges to it.
        leader = torch.full((int(found.max()) + 1,), n)
        leader.scatter_reduce_(0, found, torch.arange(n), "amin")
        self.labels = leader[found].to(self.labels.device)
        self._edges.clear()
        self._pending = 0


def _linked(
    coordinates: Coordinates,
    blocks: Blocks,
    centre: Tensor,
    tolerance: float,
    labels: Tensor,
    ranks: Ranks,
) -> Tensor:
    """Join groups that have points within ``tolerance``; identical points are looked at once."""
    device = coordinates.rows.device
    n = len(coordinates)
    redundant = labels != torch.arange(n, device=device)
    scaled = tolerance * coordinates.scale
    components = _Components(labels, max(blocks.candidates, n))
    product = FloatProduct(coordinates.rows.features, torch.float32, device)
    group = GROUP if blocks.points >= GROUP else 1
    begins = range(0, n, blocks.points)
    for begin in begins[ranks.rank :: ranks.count]:
        end = min(begin + blocks.points, n)
        read = coordinates.read(begin, end)
        block = PointBlock.of(
            read - centre, product, start=begin, group=group, skip=redundant[begin:end]
        )
        for start in range(0, end, blocks.queries):
            stop = min(start + blocks.queries, end)
            mine = coordinates.read(start, stop)
            operand = product.operand(mine - centre)
            screen = Screen.of(operand, block, product)
            # Norms are rounded up, so the threshold can only be too generous.
            threshold = scaled**2 * (1.0 + 1e-6) - _squares_below(operand)
            threshold.masked_fill_(redundant[start:stop], -torch.inf)
            query, point, _, _ = screen.pairs_below(threshold, screen.groups_below(threshold))
            query = query + start
            wanted = query < point
            query, point = query[wanted], point[wanted]
            for part in torch.arange(len(query), device=device).split(blocks.pairs):
                one, other = query[part], point[part]
                apart = components.labels[one] != components.labels[other]
                one, other = one[apart], other[apart]
                squared = squared_distances(mine[one - start], read[other - begin])
                near = squared.sqrt() / coordinates.scale <= tolerance
                components.join(one[near], other[near])
        components.settle()
    for theirs in ranks.gather(components.labels) if ranks.count > 1 else []:
        components.join(torch.arange(n, device=device), theirs)
    components.settle()
    return components.labels


def _squares_below(operand: Operand) -> Tensor:
    """Squared norms of the rows, rounded down."""
    return (operand.square * (1.0 - 2e-6)).to(operand.info.dtype)
