r"""Tail test: are the pool points that samples come closest to training points?

Pool units in the order of the closest ratio of the samples on them
(:meth:`~memdiff.metrics.Competition.order`), at cuts of about :math:`1, \sqrt 2, 2, \dots` units,
moved to the end of a run of ties: the number of training units among the first :math:`k` is
hypergeometric. The smallest of the tail probabilities is the statistic; random relabellings give
its law. Only ratios up to ``within`` count: what is farther is no copy.

Null: the units of train and held-out are exchangeable given the samples. Nothing else is assumed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from memdiff.metrics.competition import Competition, compete
from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import clopper_pearson
from memdiff.metrics.relabelling import hypergeometric_tail, train_counts
from memdiff.metrics.result import MetricResult, Null
from memdiff.neighbors import RowData

__all__ = ["CLOSE", "DRAWS", "TailTest", "tail_test"]

CLOSE = 2.0 / 3.0
"""Largest ratio :math:`d_1/d_2` that the tail test looks at.

A kernel density of twice Silverman's width draws samples that are nearer to train than chance
allows at ratios from 0.7 to 1 only (``docs/calibration.md``): they are no copies.
"""

DRAWS = 1999
"""Random relabellings of a test."""


@dataclass(frozen=True)
class TailTest(MetricResult):
    r"""Result of :func:`tail_test`.

    ``value`` is the share of training units among the units before the best cut, ``null`` what
    chance gives, ``interval`` that of Clopper and Pearson for these units. ``scores`` are the
    ratios of samples that fall on training points, and 2 minus the ratio of those that fall on
    decoys; small is suspicious.

    Attributes:
        p_value: Calibrated by random relabelling; below ``1 / (DRAWS + 1)`` the smallest tail
            probability times the number of cuts (Bonferroni).
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
    cells, ends = result.order(within)
    total = result.train_units + result.heldout_units
    scores = torch.from_numpy(signed_ratios(result))
    expected = result.train_units / total
    if not len(cells):
        null = Null(expected, None, "random labels")
        return TailTest(expected, scores, None, null, 1.0, 0, 0.0, 0)
    units = result.cells.size[cells].cumsum()[ends - 1]
    targets = result.cells.train[cells].cumsum()[ends - 1]
    chosen = _cuts(units)
    cuts = units[chosen].round().astype(np.int64)
    observed = targets[chosen].round().astype(np.int64)
    tables = [hypergeometric_tail(int(cut), result.train_units, total) for cut in cuts]
    tails = np.array([table[x] for table, x in zip(tables, observed, strict=True)])
    smallest = float(tails.min())
    lowest, sums = np.ones(draws), np.zeros(draws, dtype=np.int64)
    blocks = np.diff(cuts, prepend=0)
    drawn = train_counts(blocks, result.train_units, total, draws, seed)
    for table, counts in zip(tables, drawn, strict=True):
        sums += counts
        lowest = np.minimum(lowest, table[sums])
    simulated = (1 + int((lowest <= smallest * (1.0 + 1e-9)).sum())) / (draws + 1)
    bound = min(1.0, len(cuts) * smallest)
    best = int(tails.argmin())
    hits, cut = int(observed[best]), int(cuts[best])
    return TailTest(
        value=hits / cut,
        scores=scores,
        interval=clopper_pearson(hits, cut),
        null=Null(expected, None, "random labels"),
        p_value=bound if bound < 1.0 / (draws + 1) else simulated,
        cut=cut,
        ratio=float(result.closest[cells[ends[chosen[best]] - 1]]),
        cuts=len(cuts),
    )


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
