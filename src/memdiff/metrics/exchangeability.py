r"""Are train and held-out exchangeable, as the tests suppose?

If the two sets were split at random, the labels of the pool say nothing of where points lie. The
statistic is the number of edges of the nearest-neighbour graph of the pool (3 neighbours per
point, none of its own kin) that join points of the same set; random relabellings of the units
give its law. Too many such edges mean one of two things:

- the sets are of different law: another scanner, a later time, the other half of a photograph;
- points belong together and were split together (patients, videos, bursts), and no groups were
  given.

Either way every sample may look closer to one set than to the other with no copying at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from memdiff.metrics.distances import Distances
from memdiff.neighbors import Neighbors, Rows, nearest_distinct

__all__ = ["Exchangeability", "exchangeability"]

_ASKED = 4000
_NEIGHBOURS = 3


@dataclass(frozen=True)
class Exchangeability:
    """Result of :func:`exchangeability`.

    Attributes:
        p_value: One-sided, from random relabelling of units.
        agreement: Share of neighbours that are of the same set.
        expected: The same under random labels.
        within: Median distance to the nearest point of the own set, of training and of held-out
            points.
        across: Median distance to the nearest point of the other set, likewise.
        asked: Number of points whose neighbours were looked at.
    """

    p_value: float
    agreement: float
    expected: float
    within: tuple[float, float]
    across: tuple[float, float]
    asked: int


def exchangeability(found: Distances, *, draws: int = 999, seed: int = 0) -> Exchangeability:
    """Test whether the labels of the pool are exchangeable.

    Points of the same kin (duplicates, or the same group) are no neighbours of each other, and
    groups are relabelled as a whole. Of each set at most 4000 points are asked.

    Args:
        found: Distances with held-out points. The samples play no part.
        draws: Number of random relabellings.
        seed: Seed of the choice of points and of the relabellings.

    Returns:
        Exchangeability. Where points of both sets tie (categories), the test errs to the side of
        no rejection.

    Raises:
        ValueError: If there are no held-out points.

    References:
        Schilling, *Multivariate two-sample tests based on nearest neighbors*, JASA 81 (1986);
        with groups and relabelling, reconstructed.
    """
    found.require_heldout("exchangeability")
    rng = np.random.default_rng(seed)
    sizes = {name: found.size(name) for name in ("train", "heldout")}
    offset = {"train": 0, "heldout": sizes["train"]}
    starts: list[np.ndarray] = []
    ends: list[np.ndarray] = []
    within: list[float] = []
    across: list[float] = []
    for name, other in (("train", "heldout"), ("heldout", "train")):
        asked = np.sort(rng.permutation(sizes[name])[:_ASKED])
        own, theirs = _neighbours(found, name, name, asked), _neighbours(found, name, other, asked)
        distance = np.concatenate([own[0], theirs[0]], 1)
        point = np.concatenate([own[1] + offset[name], theirs[1] + offset[other]], 1)
        # Ties in random order: the order of the sets must not decide.
        order = np.lexsort((rng.random(distance.shape), distance), axis=1)[:, :_NEIGHBOURS]
        valid = np.isfinite(np.take_along_axis(distance, order, 1))
        starts.append(np.repeat(asked + offset[name], valid.sum(1)))
        ends.append(np.take_along_axis(point, order, 1)[valid])
        for medians, found_distances in ((within, own[0]), (across, theirs[0])):
            first = found_distances[:, 0]
            medians.append(float(np.median(first)) if np.isfinite(first).all() else float("inf"))
    unit, is_train = _units(found)
    one, two = unit[np.concatenate(starts)], unit[np.concatenate(ends)]
    if not len(one):
        return Exchangeability(1.0, 0.0, 0.0, (0.0, 0.0), (0.0, 0.0), 0)
    same = is_train[one] == is_train[two]
    simulated = np.empty(draws)
    for draw in range(draws):
        labels = rng.permutation(is_train)
        simulated[draw] = np.count_nonzero(labels[one] == labels[two])
    observed = int(np.count_nonzero(same))
    return Exchangeability(
        p_value=(1 + int((simulated >= observed).sum())) / (draws + 1),
        agreement=observed / len(one),
        expected=float(simulated.mean()) / len(one),
        within=(within[0], within[1]),
        across=(across[0], across[1]),
        asked=sum(min(size, _ASKED) for size in sizes.values()),
    )


def _units(found: Distances) -> tuple[np.ndarray, np.ndarray]:
    """The unit of each pool point, and whether each unit is a training unit."""
    is_train = np.arange(found.size("train") + found.size("heldout")) < found.size("train")
    if not found.groups:
        return np.arange(len(is_train)), is_train
    labels = np.concatenate([found.groups[name].numpy() for name in ("train", "heldout")])
    labels = np.unique(labels, return_inverse=True)[1].reshape(-1)
    keys, unit = np.unique(2 * labels + is_train, return_inverse=True)
    return unit.reshape(-1), (keys % 2).astype(bool)


def _neighbours(
    found: Distances, name: str, target: str, asked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest points of other kin, inf where there are none: ``(n, 3)`` each."""
    labels = found.kin(target)
    chosen = torch.from_numpy(asked)
    rows = Rows(found.data(name), name).select(chosen)
    available = len(labels.unique())
    # In the other set, the point's own value (or group) may come first and does not count.
    own = name == target
    k = min(_NEIGHBOURS + (not own), available - own)
    distance = np.full((len(asked), _NEIGHBOURS + 1), np.inf)
    index = np.zeros((len(asked), _NEIGHBOURS + 1), dtype=np.int64)
    if k > 0:
        near: Neighbors = nearest_distinct(
            rows,
            found.data(target),
            labels,
            k,
            metric=found.metric,
            exclude=labels[chosen] if own else None,
            memory_limit=found.memory_limit,
            ranks=found.ranks,
        )
        distance[:, :k] = near.distances.cpu().numpy()
        index[:, :k] = near.indices.cpu().numpy()
    if not own:
        same = labels.numpy()[index] == found.kin(name).numpy()[asked][:, None]
        distance[same] = np.inf
        order = distance.argsort(1, kind="stable")
        distance = np.take_along_axis(distance, order, 1)
        index = np.take_along_axis(index, order, 1)
    return distance[:, :_NEIGHBOURS], index[:, :_NEIGHBOURS]
