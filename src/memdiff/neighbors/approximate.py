"""Approximate neighbours from a graph index, with the recall measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memdiff.neighbors.coordinates import squared_distances
from memdiff.neighbors.search import MEMORY_LIMIT, Neighbors, Search
from memdiff.sources import RowData

__all__ = ["ApproximateNeighbors", "nearest_approximate"]


@dataclass(frozen=True)
class ApproximateNeighbors(Neighbors):
    """Neighbours among the candidates of an index; the distances themselves are exact.

    Attributes:
        recall: Share of the exact neighbours that were found, over ``recall_trials`` pairs of a
            query and one of its exact neighbours.
        recall_hits: How many of them were found.
        recall_trials: How many were looked for.
    """

    recall_hits: int
    recall_trials: int

    @property
    def recall(self) -> float:
        """``recall_hits / recall_trials``."""
        return self.recall_hits / self.recall_trials


def nearest_approximate(
    queries: RowData,
    points: RowData,
    k: int = 1,
    *,
    metric: str = "euclidean",
    spare: int = 8,
    links: int = 32,
    breadth: int = 64,
    recall_queries: int = 256,
    seed: int = 0,
    memory_limit: int = MEMORY_LIMIT,
) -> ApproximateNeighbors:
    """Neighbours among the candidates of a faiss HNSW index.

    For sets so large that :func:`memdiff.neighbors.nearest` takes too long. The index holds all
    points in float32 in memory. Candidates are recomputed by direct differences in float64, so a
    distance is never wrong, only a neighbour may be missed; how many is measured by an exact
    search for some of the queries.

    Args:
        queries: ``(M, *S)`` as in :func:`memdiff.neighbors.nearest`.
        points: ``(N, *S)`` as there.
        k: Number of neighbours.
        metric: As there.
        spare: Candidates per query beyond ``k``.
        links: Links of a node of the graph (``M`` of HNSW).
        breadth: Breadth of the search (``efSearch``); larger is slower and misses less.
        recall_queries: Queries, drawn at random, whose exact neighbours are searched to measure
            the recall; all if there are fewer.
        seed: Seed of that draw.
        memory_limit: Bytes allocated beside the inputs, the index and the result, at most.

    Returns:
        ApproximateNeighbors with shape ``(M, k)``.

    Raises:
        ImportError: If faiss is not installed.
        ValueError: As :func:`memdiff.neighbors.nearest`; or if the index returned fewer than
            ``k`` neighbours of a query.

    References:
        Malkov, Yashunin, *Efficient and robust approximate nearest neighbor search using
        Hierarchical Navigable Small World graphs*, arXiv:1603.09320.
    """
    for name, number in (
        ("links", links),
        ("breadth", breadth),
        ("recall_queries", recall_queries),
    ):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")
    if spare < 0:
        raise ValueError(f"spare must be at least 0, got {spare}.")
    faiss = _faiss()
    search = Search(queries, points, metric=metric, memory_limit=memory_limit)
    m, n = len(search.queries), len(search.points)
    if not 1 <= k <= n:
        raise ValueError(f"k must lie between 1 and the number of points {n}, got {k}.")
    index = faiss.IndexHNSWFlat(search.points.rows.features, links)
    index.hnsw.efSearch = max(breadth, k + spare)
    for start in range(0, n, search.blocks.points):
        stop = min(start + search.blocks.points, n)
        index.add(_float32(search.points.read(start, stop) - search.centre))
    width = min(k + spare, n)
    distances = torch.empty(m, k, dtype=torch.float64, device=search.device)
    indices = torch.empty(m, k, dtype=torch.int64, device=search.device)
    step = max(search.blocks.pairs // width, 1)
    for start in range(0, m, step):
        x = search.queries.read(start, min(start + step, m))
        found = torch.from_numpy(index.search(_float32(x - search.centre), width)[1])
        found = found.to(search.device).sort(1)[0]
        y = search.points.gather(found.clamp_min(0).flatten())
        squared = squared_distances(x.repeat_interleave(width, 0), y).view(-1, width)
        apart = search.distance(squared).masked_fill_(found < 0, torch.inf)
        order = apart.argsort(dim=1, stable=True)[:, :k]
        distances[start : start + step] = apart.gather(1, order)
        indices[start : start + step] = found.gather(1, order)
    if bool(torch.isinf(distances).any()):
        raise ValueError(
            f"breadth must be large enough for the index to return k = {k} neighbours of every "
            f"query, got {breadth}: raise it."
        )
    which = torch.randperm(m, generator=torch.Generator().manual_seed(seed))[:recall_queries]
    which = which.to(search.device)
    exact = search.run(k, which=which)
    # By distance and not by index: of two points that are equally far either one will do.
    hits = int((distances[which] <= exact.distances).sum())
    return ApproximateNeighbors(distances, indices, hits, exact.distances.numel())


def _float32(rows: Tensor) -> Any:  # noqa: ANN401 - an array of NumPy, imported by faiss
    return rows.to("cpu", torch.float32).contiguous().numpy()


def _faiss() -> Any:  # noqa: ANN401 - an untyped module
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "nearest_approximate needs faiss, which is not installed: pip install faiss-cpu "
            "(nearest finds exact neighbours without it)."
        ) from error
    return faiss
