r"""Competition: whom is each sample nearest to, a training point or a held-out decoy?

Training and held-out points make one *pool*. If the model knows nothing of which pool points were
trained on, their labels are exchangeable given the samples, **whatever the model does** (collapse,
too little variance, one class only) and whatever the data are (ties, atoms, several scales). A
statistic that orders pool points without looking at their labels then has an exact permutation
law, and held-out points are decoys: what falls on them by chance tells what falls on training
points by chance.

For a sample :math:`g`: :math:`d_1` is its smallest distance to the pool, :math:`d_2` the smallest
distance to a pool point outside the tie at :math:`d_1` and outside the kin of the points of the
tie (their duplicates, or their groups), and :math:`r_g = d_1/d_2`, of lengths: under the cosine,
the root of the ratio of :math:`1 - \cos`. Tied pool points share the sample in equal parts.

What is exchanged are *units*: pool points or, where points belong together, whole groups. Units
that are tied for good, because their points are identical, form one *cell*: a cell has
:math:`a` training and :math:`b` held-out units, and all samples on it fall on all of them.

The assumption is exchangeability of the units; :mod:`memdiff.metrics.exchangeability` tests it.

References:
    Elias, Gygi, *Target-decoy search strategy*, Nature Methods 4 (2007). Barber, Candes,
    *Controlling the false discovery rate via knockoffs*, Annals of Statistics 43 (2015).
    Reconstructed: their use for memorisation, with ties, groups and the ratio as the score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from memdiff.metrics.distances import Distances

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Cells", "Competition", "compete", "compete_again"]

_TIE = 1.0 + 1e-9  # relative: distances of a lattice are equal up to rounding
_NEIGHBOURS = (4, 32, 256)
"""Neighbours per set that are asked for, one after the other, until ties are complete."""


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells on which samples fall; arrays of one entry per cell.

    Attributes:
        train: Number of training units in the cell, float64 ``(C,)``.
        heldout: Number of held-out units, float64 ``(C,)``.
        label: What the cell is in the pool: the label of its value, or of its group in its set;
            int64 ``(C,)``, the same in every competition of one pool.
    """

    train: np.ndarray
    heldout: np.ndarray
    label: np.ndarray

    @cached_property
    def size(self) -> np.ndarray:
        """Units in each cell."""
        return self.train + self.heldout

    @cached_property
    def target(self) -> np.ndarray:
        """Share of the cell that training units hold."""
        return self.train / self.size


@dataclass(frozen=True, eq=False)
class Competition:
    """How the samples fall on the pool.

    Attributes:
        ratios: :math:`r_g`, float64 ``(M,)``; 1 for samples whose ties are too many to tell.
        distances: :math:`d_1`, float64 ``(M,)``.
        train: Distance to and index of the nearest training point, ``(M,)`` each.
        heldout: The same of the nearest held-out point.
        winner: Pool point that each sample is nearest to (the first of a tie), int64 ``(M,)``; the
            pool is the training points, then the held-out points.
        candidates: The nearest pool points of different kin, nearest first, int64 ``(M, 4)``; -1
            for none.
        sample: Sample of each hit, int64 ``(L,)``.
        cell: Cell of each hit, int64 ``(L,)``.
        share: Part of the sample that falls on that cell, float64 ``(L,)``; parts of one sample
            add up to 1.
        cells: The cells that are hit.
        train_units: Number of training units in the whole pool.
        heldout_units: Number of held-out units.
        undecided: Number of samples that are tied with 256 or more different values (or groups) of
            the pool; they fall on no cell.
    """

    ratios: np.ndarray
    distances: np.ndarray
    train: tuple[np.ndarray, np.ndarray]
    heldout: tuple[np.ndarray, np.ndarray]
    winner: np.ndarray
    candidates: np.ndarray
    sample: np.ndarray
    cell: np.ndarray
    share: np.ndarray
    cells: Cells
    train_units: int
    heldout_units: int
    undecided: int

    @property
    def samples(self) -> int:
        """Number of samples M."""
        return len(self.ratios)

    @property
    def odds(self) -> float:
        """Training units per held-out unit: the expected chance hits on train per decoy."""
        return self.train_units / self.heldout_units

    @cached_property
    def target_share(self) -> np.ndarray:
        """Share of each sample that falls on training units, float64 ``(M,)``."""
        import numpy as np

        return np.bincount(
            self.sample, self.share * self.cells.target[self.cell], minlength=self.samples
        )

    @cached_property
    def closest(self) -> np.ndarray:
        """Smallest ratio of the samples on each cell, float64 ``(C,)``."""
        import numpy as np

        best = np.full(len(self.cells.train), np.inf)
        np.minimum.at(best, self.cell, self.ratios[self.sample])
        return best

    def weights(self, within: float = math.inf) -> np.ndarray:
        """Samples on each cell, those with a ratio of at most ``within``; float64 ``(C,)``."""
        import numpy as np

        inside = self.ratios[self.sample] <= within
        return np.bincount(self.cell[inside], self.share[inside], minlength=len(self.cells.train))

    def order(self, within: float) -> tuple[np.ndarray, np.ndarray]:
        """The cells in the order of closeness, without a look at labels.

        Cells of one unit come first: of a value that several pool points hold, a sample is no
        copy of one of them. Then by the closest ratio, then the smaller cell.

        Args:
            within: Largest ratio.

        Returns:
            The cells, int64 ``(m,)``, and where runs of ties end (exclusive), int64 ``(e,)``.
        """
        import numpy as np

        found = np.flatnonzero(self.closest <= within)
        several = self.cells.size[found] > 1
        keys = np.stack([several, self.closest[found], self.cells.size[found]])
        order = np.lexsort(keys[::-1])
        keys = keys[:, order]
        new = (np.abs(np.diff(keys, axis=1)) > 1e-9 * np.abs(keys[:, 1:])).any(0)
        ends = np.append(np.flatnonzero(new), len(found) - 1) + 1 if len(found) else found
        return found[order], ends


def compete(found: Distances) -> Competition:
    """Let training and held-out points compete for the samples.

    Takes one search of the samples in each set; samples with incomplete ties are searched for
    again. Memory: a few hundred bytes per sample and tie, beside the searches.

    Args:
        found: Distances with held-out points; their ``groups`` are the units where given.

    Returns:
        The competition.

    Raises:
        ValueError: If there are no held-out points.

    Example:
        >>> train, heldout = torch.tensor([[0.0], [4.0]]), torch.tensor([[10.0], [20.0]])
        >>> distances = Distances(
        ...     generated=torch.tensor([[0.5], [16.0]]), train=train, heldout=heldout
        ... )
        >>> result = compete(distances)
        >>> result.ratios.round(3).tolist(), result.target_share.tolist()
        ([0.143, 0.667], [1.0, 0.0])
    """
    import numpy as np

    found.require_heldout("a competition")
    size, m = found.size("train"), found.size("generated")
    ratios, first = np.ones(m), np.zeros(m)
    nearest = {name: (np.zeros(m), np.zeros(m, dtype=np.int64)) for name in ("train", "heldout")}
    winner, candidates = np.zeros(m, dtype=np.int64), np.full((m, 4), -1)
    hits: list[tuple[np.ndarray, np.ndarray]] = []
    waiting = np.arange(m)
    kin = _pool_kin(found)
    for number, k in enumerate(_NEIGHBOURS):
        if not len(waiting):
            break
        which = None if number == 0 else torch.from_numpy(waiting)
        sides = {}
        for name in ("train", "heldout"):
            most = min(k, len(found.kin(name).unique()))
            near = found.apart("generated", name, most, which)
            sides[name] = (near.distances.numpy(), near.indices.numpy(), most < k)
            nearest[name][0][waiting] = near.distances[:, 0].numpy()
            nearest[name][1][waiting] = near.indices[:, 0].numpy()
        distance = np.concatenate([sides["train"][0], sides["heldout"][0]], 1)
        points = np.concatenate([sides["train"][1], sides["heldout"][1] + size], 1)
        merged = _rank(distance, points, found)
        # Ties that fill all neighbours of a set may go on behind them.
        split = sides["train"][0].shape[1]
        goes_on: np.ndarray = np.asarray(
            (merged.tied[:, :split].all(1) & (not sides["train"][2]))
            | (merged.tied[:, split:].all(1) & (not sides["heldout"][2]))
        )
        if k == _NEIGHBOURS[-1]:
            # Whether a tie is too large must not depend on how its points are labelled.
            goes_on |= _different(np.where(merged.tied, kin[points], -1)) >= k
        ratios[waiting], first[waiting] = merged.ratios, merged.first
        nearer = np.take_along_axis(points, distance.argsort(1, kind="stable"), 1)
        winner[waiting] = nearer[:, 0]
        candidates[waiting] = _first_of_kin(nearer, kin)
        row, column = np.nonzero(merged.tied & (~goes_on)[:, None])
        hits.append((waiting[row], points[row, column]))
        waiting = waiting[goes_on]
    ratios[waiting] = 1.0
    if found.metric == "cosine":
        ratios = np.sqrt(ratios)  # 1 - cos is half the square of a length
    spread = _spread(found, m, *(np.concatenate(part) for part in zip(*hits, strict=True)))
    return Competition(
        ratios=ratios,
        distances=first,
        train=nearest["train"],
        heldout=nearest["heldout"],
        winner=winner,
        candidates=candidates,
        undecided=len(waiting),
        **spread,
    )


def compete_again(
    found: Distances, first: Competition, which: np.ndarray, distance: np.ndarray
) -> Competition:
    """The competition of some samples among their candidates, by distances measured anew.

    Samples and candidates are to be chosen without a look at labels; then the new competition is
    as exact as the first.

    Args:
        found: The distances of the first.
        first: The first competition.
        which: The samples that compete again, int64 ``(m,)``; the others stay where they fell.
        distance: Distance of each of them to each of its candidates, ``(m, k)``; inf for none.

    Returns:
        The competition; its nearest points of each set are those of the first.
    """
    import numpy as np

    points = first.candidates[which]
    merged = _rank(distance, points, found)
    row, column = np.nonzero(merged.tied & (points >= 0))
    winner, ratios, nearest = first.winner.copy(), first.ratios.copy(), first.distances.copy()
    winner[which] = points[np.arange(len(points)), distance.argmin(1)]
    ratios[which], nearest[which] = merged.ratios, merged.first
    rest = np.setdiff1d(np.unique(first.sample), which)
    return replace(
        first,
        ratios=ratios,
        distances=nearest,
        winner=winner,
        **_spread(
            found,
            first.samples,
            np.concatenate([which[row], rest]),
            np.concatenate([points[row, column], winner[rest]]),
        ),
    )


@dataclass(frozen=True, eq=False)
class _Ranked:
    """Which of the neighbours are tied for the first place, and how far the next one is."""

    tied: np.ndarray
    first: np.ndarray
    ratios: np.ndarray


def _rank(distance: np.ndarray, points: np.ndarray, found: Distances) -> _Ranked:
    import numpy as np

    first = distance.min(1)
    tied = distance <= first[:, None] * _TIE
    beyond = np.where(tied, np.inf, distance)
    kin = _pool_kin(found)[points]
    for column in np.flatnonzero(tied.any(0)):
        here = tied[:, column]
        own = kin[here] == kin[here, column, None]
        beyond[here] = np.where(own, np.inf, beyond[here])
    second = beyond.min(1)
    ratios = np.where(first == 0.0, 0.0, first / np.where(first == 0.0, 1.0, second))
    ratios[np.isinf(second)] = 1.0  # nothing to compare with
    return _Ranked(tied, first, ratios)


def _pool_kin(found: Distances) -> np.ndarray:
    """Labels of kin of the pool points: which are no next neighbours of each other."""
    import numpy as np

    return np.concatenate([found.kin("train").numpy(), found.kin("heldout").numpy()])


def _different(labels: np.ndarray) -> np.ndarray:
    """Number of different labels in each row, without the label -1."""
    import numpy as np

    ordered = np.sort(labels, axis=1)
    return np.asarray((np.diff(ordered, axis=1, prepend=-1) != 0).sum(1))


def _first_of_kin(points: np.ndarray, kin: np.ndarray) -> np.ndarray:
    """The first 4 points of different kin in each row, ``(n, 4)``; -1 for none."""
    import numpy as np

    left = np.where(points < 0, -1, kin[points])
    first = np.full((len(points), 4), -1)
    rows = np.arange(len(points))
    for column in range(4):
        place = (left >= 0).argmax(1)
        some = left[rows, place] >= 0
        first[some, column] = points[rows, place][some]
        left[left == left[rows, place][:, None]] = -1
    return first


def _spread(
    found: Distances, samples: int, sample: np.ndarray, point: np.ndarray
) -> dict[str, Any]:
    """Spread hits on points over the cells of their values, or over the groups of these."""
    import numpy as np

    size = found.size("train")
    values = found.values.numpy()
    is_train = np.arange(len(values)) < size
    # One hit per sample and value, with the number of points that hold the value as its weight.
    key = np.unique(np.stack([sample, values[point]]), axis=1)
    sample, value = key[0], key[1]
    count = np.bincount(values)
    share = count[value] / np.bincount(sample, count[value], minlength=samples)[sample]
    if not found.groups:
        used, cell = np.unique(value, return_inverse=True)
        cells = Cells(
            np.bincount(values[is_train], minlength=len(count))[used].astype(float),
            np.bincount(values[~is_train], minlength=len(count))[used].astype(float),
            used,
        )
        units = (size, len(values) - size)
    else:
        labels = np.concatenate([found.groups[name].numpy() for name in ("train", "heldout")])
        unit_of = np.unique(2 * _numbered(labels) + is_train, return_inverse=True)
        unit, trained = unit_of[1].reshape(-1), (unit_of[0] % 2).astype(bool)
        units = (int(trained.sum()), int((~trained).sum()))
        # A value may be held in several groups: its hits go to each by its number of points.
        pairs, points = np.unique(np.stack([values, unit]), axis=1, return_counts=True)
        start = np.searchsorted(pairs[0], value, side="left")
        length = np.searchsorted(pairs[0], value, side="right") - start
        place = np.repeat(start - (length.cumsum() - length), length) + np.arange(length.sum())
        sample, value = np.repeat(sample, length), np.repeat(value, length)
        share = np.repeat(share, length) * points[place] / count[value]
        used, cell = np.unique(pairs[1][place], return_inverse=True)
        cells = Cells(trained[used].astype(float), (~trained[used]).astype(float), used)
    return {
        "sample": sample,
        "cell": cell.reshape(-1),
        "share": share,
        "cells": cells,
        "train_units": units[0],
        "heldout_units": units[1],
    }


def _numbered(labels: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.unique(labels, return_inverse=True)[1].reshape(-1)
