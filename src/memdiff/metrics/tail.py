r"""Tail test: are the pool points that samples come closest to training points?

Pool units in the order of the closest ratio :math:`s_i` of the samples on them
(:meth:`~memdiff.metrics.Competition.order`), up to ``within``: what is farther is no copy. Two
statistics look at the labels along this order:

- *cuts*: at about :math:`1, \sqrt 2, 2, \dots` units, moved to the end of a run of ties, the
  number of training units among the first :math:`k` is hypergeometric; the smallest tail
  probability;
- *weights*: :math:`\sum \log^2 \max(s_i, 0.1)` over training units (over the number of units that
  hold its value), which needs no cut and finds
  rare copies that stand out less (6 to 9 of 10 draws with 2 % photometric copies where cuts find
  2 to 7; ``benchmarks/edited_copies.py``).

Several competitions of one pool (before and after registration) can be tested together. Random
relabellings, the same for all, give the joint law of the statistics, and the smallest rank counts:
one p-value, exact.

Null: the units of train and held-out are exchangeable given the samples. Nothing else is assumed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from memdiff.metrics.competition import Competition, compete
from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import clopper_pearson
from memdiff.metrics.metric_result import MetricResult, Null
from memdiff.metrics.relabelling import hypergeometric_tail, train_counts
from memdiff.neighbors import RowData

__all__ = ["CLOSE", "DRAWS", "TailTest", "tail_test"]

CLOSE = 2.0 / 3.0
"""Largest ratio :math:`d_1/d_2` that the tail test looks at.

A kernel density of twice Silverman's width draws samples that are nearer to train than chance
allows at ratios from 0.7 to 1 only (``docs/calibration.md``): they are no copies.
"""

DRAWS = 1999
"""Random relabellings of a test."""


_FLOOR = 0.1
"""Ratio below which a copy weighs no more: the best of 0.01 to 0.1 on tuning draws of
``benchmarks/edited_copies.py``."""

_BLOCK = 2**24
"""Numbers held at a time: relabellings times cells."""


@dataclass(frozen=True)
class TailTest(MetricResult):
    r"""Result of :func:`tail_test`.

    ``value`` is the share of training units among the units before the best cut, ``null`` what
    chance gives, ``interval`` that of Clopper and Pearson for these units. ``scores`` are the
    ratios of samples that fall on training points, and 2 minus the ratio of those that fall on
    decoys; small is suspicious.

    Attributes:
        p_value: From random relabellings; below ``1 / (DRAWS + 1)`` the smallest tail probability
            times the number of cuts and of statistics (Bonferroni).
        cut: Number of units before the best cut; 0 where no sample is close.
        ratio: The ratio at it.
        cuts: Number of cuts.
    """

    p_value: float
    cut: int
    ratio: float
    cuts: int


def tail_test(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    competition: Competition | None = None,
    also: Sequence[Competition] = (),
    within: float = CLOSE,
    draws: int = DRAWS,
    seed: int = 0,
) -> TailTest:
    """Test whether the closest samples fall on training points more often than chance allows.

    Args:
        generated: Samples ``(M, *S)``.
        train: Training points ``(N, *S)``.
        heldout: Held-out points ``(H, *S)``.
        distances: Ready distances, in place of the three sets.
        competition: Ready competition, in place of all of them.
        also: Further competitions of the same pool to test with it.
        within: Largest ratio that counts.
        draws: Number of random relabellings.
        seed: Seed of them.

    Returns:
        TailTest. Where no sample is close, the p-value is 1.

    Raises:
        ValueError: If there are no held-out points.

    References:
        Reconstructed; see :mod:`memdiff.metrics.competition`.
    """
    result = competed(competition, distances, generated, train, heldout)
    lines = [_Line.of(one, within) for one in (result, *also)]
    total = result.train_units + result.heldout_units
    scores = torch.from_numpy(signed_ratios(result))
    null = Null(result.train_units / total, None, "random labels")
    lines = [line for line in lines if len(line.cells)]
    if not lines:
        return TailTest(null.value, scores, None, null, 1.0, 0, 0.0, 0)
    observed = np.array([line.statistics(line.train[None])[:, 0] for line in lines]).reshape(-1)
    simulated = _simulate(lines, result.train_units, total, draws, seed)
    best = min(range(len(lines)), key=lambda index: observed[2 * index])
    line, smallest = lines[best], float(observed[2 * best])
    bound = min(1.0, 2 * len(lines) * len(line.cuts) * smallest)
    by_draws = _joint(observed, simulated)
    cut, hits = line.best_cut()
    return TailTest(
        value=hits / cut,
        scores=scores,
        interval=clopper_pearson(hits, cut),
        null=null,
        p_value=bound if bound < 1.0 / (draws + 1) else by_draws,
        cut=cut,
        ratio=float(line.closest[line.cuts == cut][0]),
        cuts=len(line.cuts),
    )


@dataclass(frozen=True, eq=False)
class _Line:
    """The cells of one competition in the order of closeness.

    Attributes:
        cells: Labels of the cells.
        size: Units in each.
        train: Training units in each.
        weight: Weight of each of its units.
        chosen: Positions of the cells that end at a cut.
        cuts: Units before each cut.
        closest: Ratio at each cut.
        tables: Tail probabilities of the number of training units before each cut.
    """

    cells: np.ndarray
    size: np.ndarray
    train: np.ndarray
    weight: np.ndarray
    chosen: np.ndarray
    cuts: np.ndarray
    closest: np.ndarray
    tables: list[np.ndarray]

    @classmethod
    def of(cls, result: Competition, within: float) -> _Line:
        cells, ends = result.order(within)
        size = result.cells.size[cells].round().astype(np.int64)
        ratio = result.closest[cells]
        chosen = ends[_cuts(size.cumsum()[ends - 1])] - 1 if len(cells) else ends
        cuts = size.cumsum()[chosen]
        total = result.train_units + result.heldout_units
        return cls(
            result.cells.label[cells],
            size,
            result.cells.train[cells].round().astype(np.int64),
            np.log(np.maximum(ratio, _FLOOR)) ** 2 / size,
            chosen,
            cuts,
            ratio[chosen],
            [hypergeometric_tail(int(cut), result.train_units, total) for cut in cuts],
        )

    def _tails(self, train: np.ndarray) -> np.ndarray:
        """Tail probability at each cut, ``(draws, cuts)``."""
        before = train.cumsum(1)[:, self.chosen]
        return np.stack([table[x] for table, x in zip(self.tables, before.T, strict=True)], 1)

    def statistics(self, train: np.ndarray) -> np.ndarray:
        """Both statistics for training units per cell ``(draws, C)``; small is suspicious."""
        return np.stack([self._tails(train).min(1), -(train @ self.weight)])

    def best_cut(self) -> tuple[int, int]:
        """Units and training units before the cut with the smallest tail probability."""
        best = int(self._tails(self.train[None])[0].argmin())
        return int(self.cuts[best]), int(self.train.cumsum()[self.chosen[best]])


def _simulate(lines: Sequence[_Line], train: int, total: int, draws: int, seed: int) -> np.ndarray:
    """The statistics under random labels, ``(statistics, draws)``."""
    labels, first = np.unique(np.concatenate([line.cells for line in lines]), return_index=True)
    sizes = np.concatenate([line.size for line in lines])[first]
    places = [np.searchsorted(labels, line.cells) for line in lines]
    step = max(1, _BLOCK // len(labels))
    found = []
    for number, start in enumerate(range(0, draws, step)):
        count = min(step, draws - start)
        drawn = np.stack(list(train_counts(sizes, train, total, count, seed + 7919 * number)), 1)
        parts = [line.statistics(drawn[:, at]) for line, at in zip(lines, places, strict=True)]
        found.append(np.concatenate(parts))
    return np.concatenate(found, 1)


def _joint(observed: np.ndarray, simulated: np.ndarray) -> float:
    """Rank of the smallest rank: one p-value of several statistics under the same labels."""
    pooled = np.concatenate([observed[:, None], simulated], 1)
    ordered = np.sort(pooled, axis=1)
    ranks = np.stack(
        [
            np.searchsorted(line, values + 1e-9 * np.abs(values), side="right")
            for line, values in zip(ordered, pooled, strict=True)
        ]
    )
    smallest = ranks.min(0)
    return float((smallest <= smallest[0]).sum()) / pooled.shape[1]


def _cuts(units: np.ndarray) -> np.ndarray:
    """Ends of runs at about powers of the square root of two, and the last one."""
    count = 2 * math.ceil(math.log2(max(units[-1], 2.0))) + 1
    wanted = np.minimum(2.0 ** (np.arange(count) / 2.0), units[-1])
    return np.unique(np.searchsorted(units, np.round(wanted) - 0.5))


def competed(
    competition: Competition | None,
    distances: Distances | None,
    generated: RowData | None,
    train: RowData | None,
    heldout: RowData | None,
) -> Competition:
    """What a test of the competition was given: a ready one, or what it takes to make one."""
    if competition is not None:
        return competition
    return compete(Distances.resolve(distances, generated, train, heldout))


def signed_ratios(result: Competition) -> np.ndarray:
    """The ratio of samples on training points, 2 minus the ratio of those on decoys."""
    target = result.target_share
    return target * result.ratios + (1.0 - target) * (2.0 - result.ratios)
