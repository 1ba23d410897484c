r"""Exact nearest neighbours of any number of points in bounded memory.

Memorisation is decided by the smallest distances, which the usual expansion
:math:`|x|^2 - 2 x \cdot y + |y|^2` in float32 loses. Here that product only *screens*: with the
error bound :math:`E` of :mod:`memdiff.kernel.screen`, every point whose lower bound is within
reach of the ``k``-th smallest upper bound is a candidate, candidates are recomputed by direct
differences in float64, and these decide. The result equals a float64 double loop; a copy has
distance exactly 0.

Queries with so many candidates that recomputing them costs more than a better screen are screened
again in float64, and those that still have too many (ties among thousands of points) are searched
without a screen.

>>> points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
>>> found = nearest(torch.tensor([[0.0, 0.0]]), points, k=2)
>>> found.distances.tolist(), found.indices.tolist()
([[0.0, 1.0]], [[0, 2]])
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from memdiff.neighbors.search import MEMORY_LIMIT, Neighbors, Search
from memdiff.run.ranks import Ranks
from memdiff.sources import RowData, Rows

__all__ = ["nearest", "nearest_distinct", "self_nearest"]


def nearest(
    queries: RowData,
    points: RowData,
    k: int = 1,
    *,
    metric: str = "euclidean",
    exclude: Tensor | None = None,
    memory_limit: int = MEMORY_LIMIT,
    query_block: int | None = None,
    point_block: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    ranks: Ranks | None = None,
) -> Neighbors:
    r"""The ``k`` nearest points of each query, exactly.

    Takes :math:`O(M N d)` time, nearly all of it one matrix product; see the module for why the
    result is exact all the same. It does not depend on the block sizes.

    Args:
        queries: ``(M, *S)``: a tensor, an array, a memory map, or a sequence of such shards; any
            floating-point dtype or uint8.
        points: ``(N, *S)``, likewise; both uint8 or both floating point.
        k: Number of neighbours, from 1 to the number of points left.
        metric: ``"euclidean"``, or ``"cosine"`` for :math:`1 - \cos`, computed as
            :math:`|\hat x - \hat y|^2 / 2` from unit vectors so that small values keep their
            digits.
        exclude: int64 ``(M,)``: the index of a point to leave out for each query, -1 for none.
            Exclusion goes by index, so the duplicates of that point stay.
        memory_limit: Bytes allocated beside inputs and result, at most (a few rows at least).
        query_block: Queries in one product; by default from ``memory_limit``.
        point_block: Points in one product; by default from ``memory_limit``.
        progress: Called with the number of distances screened and their total.
        ranks: Processes among which the queries are shared; each makes the same call, and gets
            the whole result. By default this process does it all.

    Returns:
        Neighbors with shape ``(M, k)`` on the device of the queries.

    Raises:
        ValueError: If an argument is out of range, shapes or dtypes do not match, an element is
            not finite, or a vector is zero and the metric is cosine.
    """
    search = Search(
        queries,
        points,
        metric=metric,
        memory_limit=memory_limit,
        query_block=query_block,
        point_block=point_block,
        progress=progress,
        ranks=ranks,
    )
    if exclude is None:
        return search.run(k)
    labels = torch.arange(len(search.points), device=search.device)
    excluded = _integers("exclude", exclude, len(search.queries), search.device)
    if int(excluded.min()) < -1 or int(excluded.max()) >= len(labels):
        raise ValueError(
            f"exclude must hold indices below the number of points {len(labels)}, or -1 for "
            f"none, got values from {int(excluded.min())} to {int(excluded.max())}."
        )
    return search.run(k, labels, excluded[:, None])


def self_nearest(
    points: RowData,
    k: int = 1,
    *,
    metric: str = "euclidean",
    memory_limit: int = MEMORY_LIMIT,
    progress: Callable[[int, int], None] | None = None,
    ranks: Ranks | None = None,
) -> Neighbors:
    """The ``k`` nearest *other* points of each point: leave one out, by index.

    Args:
        points: ``(N, *S)`` as in :func:`nearest`, at least ``k + 1`` of them.
        k: Number of neighbours.
        metric: As in :func:`nearest`.
        memory_limit: As in :func:`nearest`.
        progress: As in :func:`nearest`.
        ranks: As in :func:`nearest`.

    Returns:
        Neighbors with shape ``(N, k)``. A duplicated point has its twin at distance 0.

    Raises:
        ValueError: As :func:`nearest`.
    """
    return nearest(
        points,
        points,
        k,
        metric=metric,
        exclude=torch.arange(len(Rows(points, "points"))),
        memory_limit=memory_limit,
        progress=progress,
        ranks=ranks,
    )


def nearest_distinct(
    queries: RowData,
    points: RowData,
    groups: Tensor,
    k: int = 2,
    *,
    metric: str = "euclidean",
    exclude: Tensor | None = None,
    memory_limit: int = MEMORY_LIMIT,
    progress: Callable[[int, int], None] | None = None,
    ranks: Ranks | None = None,
) -> Neighbors:
    """The nearest point of each of the ``k`` nearest groups of points.

    With the groups of :func:`memdiff.neighbors.duplicate_groups`, column 1 is the distance to the
    first point that is no duplicate of the nearest one: the denominator of the ratio test.

    Args:
        queries: ``(M, *S)`` as in :func:`nearest`.
        points: ``(N, *S)`` as in :func:`nearest`.
        groups: int64 ``(N,)``, the group of each point, non-negative.
        k: Number of groups, at most the number that exist.
        metric: As in :func:`nearest`.
        exclude: int64 ``(M,)``: a group to leave out for each query, -1 for none.
        memory_limit: As in :func:`nearest`.
        progress: As in :func:`nearest`; the total grows when a further pass is needed.
        ranks: As in :func:`nearest`.

    Returns:
        Neighbors with shape ``(M, k)``: distance and index of the nearest point of each group.

    Raises:
        ValueError: As :func:`nearest`, or if there are fewer than ``k`` groups.

    Example:
        >>> points = torch.tensor([[1.0], [1.0], [3.0]])
        >>> found = nearest_distinct(torch.tensor([[0.0]]), points, torch.tensor([0, 0, 1]))
        >>> found.distances.tolist(), found.indices.tolist()
        ([[1.0, 3.0]], [[0, 2]])
    """
    search = Search(
        queries,
        points,
        metric=metric,
        memory_limit=memory_limit,
        progress=progress,
        ranks=ranks,
    )
    m, n = len(search.queries), len(search.points)
    labels = _integers("groups", groups, n, search.device)
    if int(labels.min()) < 0:
        raise ValueError(f"groups must be non-negative, got {int(labels.min())}.")
    taken = labels.new_full((m, 1), -1)
    if exclude is not None:
        taken = _integers("exclude", exclude, m, search.device)[:, None]
    sizes = labels.unique(return_counts=True)[1]
    most = len(sizes) - (exclude is not None)
    if not 1 <= k <= most:
        raise ValueError(f"k must lie between 1 and the number of groups left {most}, got {k}.")
    # A few neighbours more than needed settle all but the queries near a large group.
    left = n - int(sizes.max()) * (exclude is not None)
    wide = search.run(k if len(sizes) == n else min(2 * k, left), labels, taken)
    found = labels[wide.indices]
    ordered, order = found.sort(dim=1, stable=True)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    fresh = torch.empty_like(starts).scatter_(1, order, starts)  # the first of its group
    first = torch.where(fresh, fresh.cumsum(1), k + 1)
    done = (fresh.sum(1) >= k).nonzero()[:, 0]
    place = first[done].argsort(dim=1, stable=True)[:, :k]
    distances = wide.distances.new_empty(m, k)
    indices = labels.new_empty(m, k)
    distances[done] = wide.distances[done].gather(1, place)
    indices[done] = wide.indices[done].gather(1, place)
    rest = (fresh.sum(1) < k).nonzero()[:, 0]
    taken = taken[rest]
    for column in range(k if len(rest) else 0):
        if column == 0:
            distances[rest, 0] = wide.distances[rest, 0]
            indices[rest, 0] = wide.indices[rest, 0]
        else:
            once = search.run(1, labels, taken, rest)
            distances[rest, column] = once.distances[:, 0]
            indices[rest, column] = once.indices[:, 0]
        taken = torch.cat([taken, labels[indices[rest, column]][:, None]], 1)
    return Neighbors(distances, indices)


def _integers(name: str, values: Tensor, length: int, device: torch.device) -> Tensor:
    values = torch.as_tensor(values)
    if values.shape != (length,) or values.is_floating_point() or values.is_complex():
        raise ValueError(
            f"{name} must be an integer tensor with shape ({length},), got {values.dtype} with "
            f"shape {tuple(values.shape)}."
        )
    return values.to(device=device, dtype=torch.int64)
