"""The search behind :func:`memdiff.neighbors.nearest`: blocks, candidates, refinement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.kernel.candidates import Candidates
from memdiff.kernel.identical import equal_to_first
from memdiff.kernel.integers import integers_pay
from memdiff.kernel.points import power_of_two
from memdiff.kernel.screen import (
    GROUP,
    FloatProduct,
    IntegerProduct,
    Operand,
    PointBlock,
    Product,
    Screen,
)
from memdiff.neighbors.coordinates import Coordinates, squared_distances
from memdiff.neighbors.exclusion import Exclusion
from memdiff.run.ranks import Ranks
from memdiff.sources import RowData, Rows

__all__ = ["MEMORY_LIMIT", "Blocks", "Neighbors", "Search"]

MEMORY_LIMIT = 2**30
"""Default bound, in bytes, on what a search allocates beside its inputs and its result."""

# From so many on a screen of integers comes first.
_INTEGER_QUERIES, _INTEGER_POINTS = 16, 8192


@dataclass(frozen=True)
class Neighbors:
    """Nearest points of each query, nearest first, ties in the order of their index.

    Attributes:
        distances: float64 ``(M, k)``.
        indices: int64 ``(M, k)``, rows of the points.
    """

    distances: Tensor
    indices: Tensor


@dataclass(frozen=True)
class Blocks:
    """How many rows are held at a time.

    Attributes:
        query_chunk: Queries kept in the precision of the product over one pass of the points.
        queries: Queries in one product.
        points: Points in one product.
        pairs: Pairs recomputed in float64 together.
        candidates: Candidates kept over all queries of a chunk.
    """

    query_chunk: int
    queries: int
    points: int
    pairs: int
    candidates: int

    @classmethod
    def plan(
        cls, features: int, memory_limit: int, queries: int | None, points: int | None
    ) -> Blocks:
        """Sizes whose buffers stay within ``memory_limit`` bytes, each an eighth or a quarter."""
        for name, size in (
            ("memory_limit", memory_limit),
            ("query_block", queries),
            ("point_block", points),
        ):
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}.")
        share = memory_limit // 8
        row = 24 * features  # storage, float64 coordinates and their centred copy
        rows = max(share // row, 1)
        points = points or max(min(4096, rows) // GROUP * GROUP, min(rows, GROUP))
        # A score takes 4 bytes; bounds, masks and hits of a bad block ten times that.
        queries = queries or max(min(1024, rows, share // (40 * points)), 1)
        return cls(
            query_chunk=max(share // (5 * features), queries),
            queries=queries,
            points=points,
            pairs=max(share // row, 1),
            candidates=max(share // 80, 1),
        )


class Search:
    """Queries and points brought to common coordinates, ready for several searches.

    Args:
        queries: As in :func:`memdiff.neighbors.nearest`.
        points: As there.
        metric: As there.
        memory_limit: As there.
        query_block: As there.
        point_block: As there.
        progress: As there.
        ranks: As there.
    """

    def __init__(
        self,
        queries: RowData,
        points: RowData,
        *,
        metric: str,
        memory_limit: int = MEMORY_LIMIT,
        query_block: int | None = None,
        point_block: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        if metric not in ("euclidean", "cosine"):
            raise ValueError(f"metric must be 'euclidean' or 'cosine', got {metric!r}.")
        self.unit = metric == "cosine"
        query_rows = Rows(queries, "queries")
        self.device = query_rows.device
        point_rows = Rows(points, "points", self.device)
        _check_match(query_rows, point_rows)
        self.blocks = Blocks.plan(query_rows.features, memory_limit, query_block, point_block)
        self.queries = Coordinates(query_rows, "queries", unit=self.unit, block=self.blocks.points)
        self.points = Coordinates(point_rows, "points", unit=self.unit, block=self.blocks.points)
        self.progress = progress
        self.ranks = Ranks() if ranks is None else ranks
        largest = self.queries.survey().largest
        survey = self.points.survey()
        self.scale = power_of_two(max(largest, survey.largest), query_rows.features)
        if self.unit:
            self.scale = 1.0
        self.queries.scale = self.points.scale = self.scale
        self.centre = survey.mean * self.scale
        if self.points.is_single:
            self.centre = self.centre.to(torch.float32).to(torch.float64)
        self._hashes: Tensor | None = None

    def run(
        self,
        k: int,
        labels: Tensor | None = None,
        excluded: Tensor | None = None,
        which: Tensor | None = None,
    ) -> Neighbors:
        """The ``k`` nearest points of each query.

        Args:
            k: Number of neighbours.
            labels: int64 ``(N,)``, labels of the points by which they can be excluded.
            excluded: int64 ``(m, r)``, for each query ``r`` distinct labels to leave out or -1.
            which: int64 ``(m,)``, the queries to search for; all by default.

        Returns:
            Neighbors with shape ``(m, k)``.
        """
        if which is None:
            which = torch.arange(len(self.queries), device=self.device)
        self._check_count(k, labels, excluded)
        redundant = self._redundant(k, labels, excluded)
        mine = self.ranks.part(len(which))
        here = slice(mine.start, mine.stop)
        excluded = None if excluded is None else excluded[here]
        found = self._run(_Task(k, which[here], labels, excluded, redundant))
        return Neighbors(
            self.ranks.concatenate(found.distances), self.ranks.concatenate(found.indices)
        )

    def _run(self, task: _Task) -> Neighbors:
        k, which = task.k, task.which
        shape = (len(which), k)
        result = Neighbors(
            torch.empty(shape, dtype=torch.float64, device=self.device),
            torch.empty(shape, dtype=torch.int64, device=self.device),
        )
        pending = torch.arange(len(which), device=self.device)
        for number, product in enumerate(self._products(len(which))):
            if not len(pending):
                return result
            chunks = pending.split(self.blocks.query_chunk)
            left = []
            for place, chunk in enumerate(chunks):
                before = place * self.blocks.query_chunk if number == 0 else None
                left.append(self._search_chunk(task, chunk, product, result, before))
            pending = torch.cat(left)
        self._search_directly(task, pending, result)
        return result

    def _products(self, queries: int) -> list[Product]:
        """What screens, one after the other, each for what the last one gave up."""
        features, device = self.points.rows.features, self.device
        found: list[Product] = [
            FloatProduct(features, dtype, device) for dtype in (torch.float32, torch.float64)
        ]
        many = queries >= _INTEGER_QUERIES and len(self.points) >= _INTEGER_POINTS
        if many and integers_pay(features, device):
            found.insert(0, IntegerProduct())
        return found

    def _check_count(self, k: int, labels: Tensor | None, excluded: Tensor | None) -> None:
        left = len(self.points)
        if labels is not None and excluded is not None and excluded.numel():
            present, counts = labels.unique(return_counts=True)
            place = torch.searchsorted(present, excluded).clamp_max(len(present) - 1)
            gone = torch.where(present[place] == excluded, counts[place], 0).sum(1)
            left -= int(gone.max())
        if not 1 <= k <= left:
            raise ValueError(
                f"k must lie between 1 and the number of points left {left}, got {k}."
            )

    def _redundant(self, k: int, labels: Tensor | None, excluded: Tensor | None) -> Tensor | None:
        """Points that have so many identical predecessors that they cannot be a neighbour.

        Without this, thousands of copies of one point would all be candidates.
        """
        if self._hashes is None:
            self._hashes = self.points.hashes()
        keys = self._hashes
        spare = 0 if excluded is None else excluded.shape[1]
        if labels is not None and len(labels.unique()) < len(labels):
            keys = keys ^ (labels * -7046029254386353131)
            spare = 0
        _, group, counts = keys.unique(return_inverse=True, return_counts=True)
        if int(counts.max()) <= k + spare:
            return None
        order = group.argsort(stable=True)
        order = order[counts[group[order]] > k + spare]
        group = group[order]
        features = self.points.rows.features
        leader, same = equal_to_first(order, group, self.points.gather, features)
        if labels is not None and spare == 0:
            same &= labels[order] == labels[leader]
        starts = torch.ones_like(group, dtype=torch.bool)
        starts[1:] = group[1:] != group[:-1]
        first = starts.nonzero()[:, 0][starts.cumsum(0) - 1]
        rank = same.cumsum(0)
        rank = rank - rank[first] + 1  # the first of a group equals itself
        redundant = torch.zeros(len(self.points), dtype=torch.bool, device=self.device)
        redundant[order[same & (rank > k + spare)]] = True
        return redundant

    def _search_chunk(
        self,
        task: _Task,
        chunk: Tensor,
        product: Product,
        result: Neighbors,
        before: int | None,
    ) -> Tensor:
        """Search for the queries at positions ``chunk``; return those that were given up.

        With ``before``, the queries searched before, progress is reported.
        """
        size, n = self.blocks.queries, len(self.points)
        operand = self._operand(task.which[chunk], product)
        starts = range(0, len(chunk), size)
        capacity = self._capacity(task.k, len(chunk), product)
        found = [
            Candidates(len(operand[start : start + size]), task.k, capacity, operand.info)
            for start in starts
        ]
        group = GROUP
        while group > 1 and (group * 8 * task.k > n or group * 4 * task.k > self.blocks.points):
            group //= 2
        for begin in range(0, n, self.blocks.points):
            end = min(begin + self.blocks.points, n)
            block = PointBlock.of(
                self.points.centred(self.points.rows.read(begin, end), self.centre, product.dtype),
                product,
                start=begin,
                group=group,
                skip=None if task.skip is None else task.skip[begin:end],
            )
            mask = Exclusion.of(task.labels, task.excluded, begin, end)
            for start, candidates in zip(starts, found, strict=True):
                if candidates.all_overflowed:
                    continue
                screen = Screen.of(operand[start : start + size], block, product)
                if mask is not None:
                    mask.apply(screen.values, chunk[start : start + size])
                candidates.absorb(screen)
            if self.progress is not None and before is not None:
                done = before * n + len(chunk) * end
                self.progress(done, len(task.which) * n)
        for start, candidates in zip(starts, found, strict=True):
            query, point = candidates.result()
            self._refine(task, chunk[start : start + size], query, point, result)
        return chunk[torch.cat([candidates.overflowed for candidates in found])]

    def _capacity(self, k: int, queries: int, product: Product) -> int:
        """Candidates per query beyond which a better screen is cheaper."""
        n, room = len(self.points), self.blocks.candidates // max(queries, 1)
        # One gathered float64 distance costs about 130 products of a screen in float32; a product
        # in float64 costs about 3.
        if isinstance(product, IntegerProduct):
            return max(4 * k, min(n // 130, room))
        return max(4 * k + 64, min(n // 40, room))

    def _operand(self, which: Tensor, product: Product) -> Operand:
        parts = [
            product.operand(
                self.queries.centred(self.queries.rows.gather(part), self.centre, product.dtype)
            )
            for part in which.split(self.blocks.queries)
        ]
        return Operand.joined(parts)

    def _refine(
        self, task: _Task, chunk: Tensor, query: Tensor, point: Tensor, result: Neighbors
    ) -> None:
        """Recompute candidates by direct differences, sort them and keep the first ``k``."""
        coordinates = self.queries.gather(task.which[chunk])
        distance = torch.empty(len(query), dtype=torch.float64, device=self.device)
        for part in torch.arange(len(query), device=self.device).split(self.blocks.pairs):
            distance[part] = self.distance(
                squared_distances(coordinates[query[part]], self.points.gather(point[part]))
            )
        # Candidates come in the order of their index, and stable sorts keep it among ties.
        order = distance.argsort(stable=True)
        order = order[query[order].argsort(stable=True)]
        counts = torch.bincount(query, minlength=len(chunk))
        done = counts > 0
        first = (counts.cumsum(0) - counts)[done]
        take = order[first[:, None] + torch.arange(task.k, device=self.device)]
        result.distances[chunk[done]] = distance[take]
        result.indices[chunk[done]] = point[take]

    def _search_directly(self, task: _Task, pending: Tensor, result: Neighbors) -> None:
        """Every distance by direct differences, for queries that no screen can help."""
        result.distances[pending] = torch.inf
        for begin in range(0, len(self.points), self.blocks.points):
            end = min(begin + self.blocks.points, len(self.points))
            points = self.points.read(begin, end)
            index = torch.arange(begin, end, device=self.device)
            mask = Exclusion.of(task.labels, task.excluded, begin, end)
            for row in pending.tolist():
                query = self.queries.gather(task.which[row : row + 1])
                distance = self.distance(squared_distances(points, query))
                if task.skip is not None:
                    distance.masked_fill_(task.skip[begin:end], torch.inf)
                if mask is not None:
                    mask.apply(distance[None], torch.tensor([row], device=self.device))
                # Earlier points come first and the sort is stable: ties keep their order.
                distance = torch.cat([result.distances[row], distance])
                best = distance.argsort(stable=True)[: task.k]
                result.indices[row] = torch.cat([result.indices[row], index])[best]
                result.distances[row] = distance[best]

    def distance(self, squared: Tensor) -> Tensor:
        """The distance asked for, from squared distances of coordinates."""
        return 0.5 * squared if self.unit else squared.sqrt() / self.scale


def _check_match(queries: Rows, points: Rows) -> None:
    """Refuse to compare rows of different shapes, or bytes with real numbers."""
    if queries.row_shape != points.row_shape:
        raise ValueError(
            f"queries and points must have rows of one shape, got {queries.row_shape} and "
            f"{points.row_shape}."
        )
    if (queries.dtype == torch.uint8) != (points.dtype == torch.uint8):
        raise ValueError(
            f"queries and points must both be uint8 or both floating point, got {queries.dtype} "
            f"and {points.dtype}: bring both to one range."
        )


@dataclass(frozen=True)
class _Task:
    """What one call of :meth:`Search.run` asks for."""

    k: int
    which: Tensor
    labels: Tensor | None
    excluded: Tensor | None
    skip: Tensor | None
