r"""Share test: do more samples fall on training points than chance allows?

:math:`K`, the sum over training points of the samples that fall on them, against random
relabellings of the pool. A binomial test is wrong: samples share neighbours. For points without
ties and without groups, with :math:`c_i` samples on pool point :math:`i`,

.. math::
    E K = \frac{M N}{N + H}, \qquad
    \mathrm{Var} K = \frac{N H \left((N + H) \sum_i c_i^2 - M^2\right)}{(N + H)^2 (N + H - 1)} .

It sees what the tail test does not: samples that follow their training points as a whole without
being copies of them.

Null: the units of train and held-out are exchangeable given the samples. Nothing else is assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from memdiff.metrics.competition import Competition
from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import Interval, check_level, clopper_pearson
from memdiff.metrics.metric_result import MetricResult, Null
from memdiff.metrics.relabelling import train_counts
from memdiff.metrics.tail import DRAWS, competed, signed_ratios
from memdiff.neighbors import RowData

__all__ = ["ShareTest", "share_test"]


@dataclass(frozen=True)
class ShareTest(MetricResult):
    r"""Result of :func:`share_test`.

    ``value`` is :math:`K/M`, the share of samples nearer to train than to held-out (also DCR
    share). ``interval`` holds for these training and held-out points, ``null`` is the band of
    relabelled pools. ``scores`` are those of :class:`~memdiff.metrics.TailTest`.

    Attributes:
        p_value: One-sided, from random relabelling.
        z: Standard score of :math:`K` under random labels; 0 where all labels give one K.
        effective_units: :math:`M^2 / \sum_i c_i^2`: near 1 if all samples share one neighbour
            (collapse), and then the test has no power.
    """

    p_value: float
    z: float
    effective_units: float


def share_test(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    competition: Competition | None = None,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> ShareTest:
    """Test whether samples are nearer to training than to held-out points beyond chance.

    Args:
        generated: Samples ``(M, *S)``.
        train: Training points ``(N, *S)``.
        heldout: Held-out points ``(H, *S)``; the sizes need not be equal.
        distances: Ready distances, in place of the three sets.
        competition: Ready competition, in place of all of them.
        draws: Number of random relabellings.
        level: Coverage of the interval and of the null band.
        seed: Seed of the relabellings.

    Returns:
        ShareTest.

    Raises:
        ValueError: If there are no held-out points, or ``draws`` or ``level`` is out of range.

    References:
        Reconstructed: the exchangeability argument of two-sample permutation tests.

    Example:
        >>> train, heldout = torch.randn(2, 60, 4, generator=torch.Generator().manual_seed(0))
        >>> result = share_test(generated=train + 0.01, train=train, heldout=heldout)
        >>> result.value, result.p_value < 0.001
        (1.0, True)
    """
    check_level(level)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}.")
    result = competed(competition, distances, generated, train, heldout)
    cells, m = result.cells, result.samples
    total = result.train_units + result.heldout_units
    weights = result.weights()
    nearer = float(weights @ cells.target)
    # Units of equal weight are one block: K is a sum over blocks of weight times training units.
    unit = np.round(weights / cells.size, 9)
    values, block = np.unique(unit, return_inverse=True)
    sizes = np.bincount(block, cells.size).round().astype(np.int64)
    drawn = np.zeros(draws)
    counts = train_counts(sizes, result.train_units, total, draws, seed)
    for value, count in zip(values, counts, strict=True):
        drawn += value * count
    mean, std = float(drawn.mean()), float(drawn.std())
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(drawn / m, [tail, 1.0 - tail])
    squares = float((unit**2 * cells.size).sum())
    return ShareTest(
        value=nearer / m,
        scores=torch.from_numpy(signed_ratios(result)),
        interval=clopper_pearson(min(round(nearer), m), m, level),
        null=Null(
            result.train_units / total,
            Interval(float(low), float(high), level, f"{draws} random relabellings"),
            "random labels",
        ),
        p_value=(1 + int((drawn >= nearer - 1e-7 * m).sum())) / (draws + 1),
        z=(nearer - mean) / std if std > 1e-9 * m else 0.0,
        effective_units=m**2 / squares if squares else float(m),
    )
