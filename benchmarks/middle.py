"""Would an order of blocks pay in the middle range? What groups of queries need, by counts.

Training points are put in the order of clusters of their principal coordinates, and queries of
sampling runs in groups that are near each other. A dense kernel that left out whole blocks could
leave out those that no query of its group needs: here is how many are left. Nothing is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from benchmarks.trajectory import DIMENSION, _digits, _surface
from memdiff.processes import EDM
from memdiff.samplers import Heun, sample
from memdiff.scores import EmpiricalScore

__all__ = ["run"]

POINTS = {"small": 6000, "full": 60000}
QUERIES = {"small": 64, "full": 256}
BLOCK, CLUSTERS, DIRECTIONS = 128, 256, 32
GROUPS = (1, 16, 64)
TOLERANCE = 1e-5
# Levels at which some points matter and others do not.
LEVELS = (0.5, 6.0)


def run(size: str = "full", repeats: int = 1) -> list[dict[str, Any]]:
    """Rows of the table, one a data set and noise level of an 18-step run.

    Args:
        size: ``"small"`` or ``"full"``.
        repeats: Nothing is timed: one run is enough.

    Returns:
        ``needed``: mean share of the points that carry all but 1e-5 of the weight of a query;
        ``blocks of 1`` and so on: share of the blocks of 128 points that hold some of these for a
        query of the group, with groups of so many.
    """
    rows = []
    cases: dict[str, Callable[[int], Tensor]] = {"digits": _digits, "noisy surface": _noisy}
    for name, make in cases.items():
        data = make(POINTS[size])
        order, cluster = _by_cluster(data)
        latents = torch.randn(QUERIES[size], DIMENSION, generator=torch.Generator().manual_seed(1))
        score = EmpiricalScore(data, EDM(), tolerance=TOLERANCE)
        record = sample(score, latents, sampler=Heun(18), trajectory=True)
        assert record.times is not None and record.trajectory is not None
        for time, x in zip(record.times.tolist(), record.trajectory, strict=True):
            if LEVELS[0] < time < LEVELS[1]:
                needed, top = _needed(x.reshape(len(x), -1), data, time)
                near = cluster[top].argsort(stable=True)
                shares = {
                    f"blocks of {num}": _share(needed[near][:, order], num) for num in GROUPS
                }
                rows.append(
                    {
                        "data": name,
                        "queries": len(x),
                        "points": len(data),
                        "sigma": time,
                        "needed": float(needed.double().mean()),
                        **shares,
                    }
                )
    return rows


def _noisy(num: int) -> Tensor:
    """The surface of eight dimensions with a little noise in all of them."""
    generator = torch.Generator().manual_seed(5)
    return _surface(num) + 0.02 * torch.randn(num, DIMENSION, generator=generator)


def _by_cluster(data: Tensor) -> tuple[Tensor, Tensor]:
    """An order of the points in which near ones stand together; the cluster of each, in order."""
    centred = data - data.mean(0)
    directions = torch.linalg.svd(centred[:4000], full_matrices=False).Vh[:DIRECTIONS]
    inside = centred @ directions.T
    found = MiniBatchKMeans(CLUSTERS, random_state=0, n_init=1).fit(inside.numpy())
    centres = torch.from_numpy(found.cluster_centers_).float()
    # Clusters along a walk from each to the nearest that is left.
    left, walk = set(range(1, CLUSTERS)), [0]
    distances = torch.cdist(centres, centres)
    while left:
        rest = torch.tensor(sorted(left))
        walk.append(int(rest[distances[walk[-1]][rest].argmin()]))
        left.remove(walk[-1])
    place = torch.empty(CLUSTERS, dtype=torch.int64)
    place[torch.tensor(walk)] = torch.arange(CLUSTERS)
    cluster = place[torch.from_numpy(found.labels_).long()]
    return cluster.argsort(stable=True), cluster


def _needed(x: Tensor, data: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """The fewest points of each query that carry all but the tolerance; the heaviest of them."""
    squares = torch.cdist(x.double(), data.double()) ** 2
    weights = (-squares / (2 * sigma**2)).softmax(1)
    sorted_, order = weights.sort(1)
    needed = torch.zeros_like(weights, dtype=torch.bool)
    needed.scatter_(1, order, sorted_.cumsum(1) > TOLERANCE)
    return needed, weights.argmax(1)


def _share(needed: Tensor, group: int) -> float:
    """Mean share of the blocks that a group of so many queries needs."""
    short = -needed.shape[1] % BLOCK
    blocks = torch.nn.functional.pad(needed, (0, short)).view(len(needed), -1, BLOCK).any(2)
    return sum(float(part.any(0).sum()) * len(part) for part in blocks.split(group)) / (
        blocks.numel()
    )
