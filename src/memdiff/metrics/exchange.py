r"""Exchange test: are samples nearer to training points than to held-out ones?

Pool the :math:`n` training and :math:`h` held-out points and let :math:`c_i` be the number of
samples whose nearest pool point is :math:`i`. If the model is no closer to its training points
than to fresh data, the labels of the pool are exchangeable, and :math:`K = \sum_{i \in train} c_i`
has

.. math::
    E K = \frac{M n}{n + h}, \qquad
    \mathrm{Var} K = \frac{n h \left((n + h) \sum_i c_i^2 - M^2\right)}{(n + h)^2 (n + h - 1)} .

A binomial test is wrong: samples share neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import Interval, check_level, clopper_pearson
from memdiff.metrics.result import MetricResult, Null
from memdiff.neighbors import RowData

__all__ = ["Exchange", "exchange"]


@dataclass(frozen=True)
class Exchange(MetricResult):
    r"""Result of :func:`exchange`.

    ``value`` is the held-out share :math:`K/M` (also DCR share), the share of samples nearer to
    train than to held-out; 1 is suspicious. ``interval`` holds for these training and held-out
    points; ``null`` is the band of relabelled pools. ``scores`` are
    :math:`d(g, train) / d(g, heldout)` (1 for 0/0); below 1 is nearer to train.

    Attributes:
        p_value: One-sided permutation p-value.
        z: :math:`(K - E K)/\sqrt{\mathrm{Var} K}`, or 0 where all labels are equal.
        mean: :math:`E K`.
        variance: :math:`\mathrm{Var} K`.
        ties: Number of samples equally far from both sets, assigned at random.
        effective_points: :math:`M^2 / \sum_i c_i^2`: near 1 if all samples share one neighbour
            (collapse), and then the test has no power.
    """

    p_value: float
    z: float
    mean: float
    variance: float
    ties: int
    effective_points: float


def exchange(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    permutations: int = 9999,
    level: float = 0.95,
    seed: int = 0,
) -> Exchange:
    """Test whether the labels "train" and "held-out" are exchangeable for the model.

    Args:
        generated: Samples ``(M, *S)``.
        train: Training points ``(N, *S)``.
        heldout: Held-out points ``(H, *S)``, required; any size, best that of train.
        distances: Ready distances, in place of the three sets.
        permutations: Number of relabelled pools; the p-value is at least
            ``1 / (permutations + 1)``.
        level: Coverage of the interval and of the null band.
        seed: Seed of the permutations and of the breaking of ties.

    Returns:
        Exchange.

    Raises:
        ValueError: If there are no held-out points or ``permutations`` is below 1.

    References:
        Reconstructed: a permutation test of the nearest-neighbour counts; the variance is that of
        a sum over a simple random sample (Cochran, *Sampling Techniques*, theorem 2.2).
    """
    check_level(level)
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}.")
    found = Distances.resolve(distances, generated, train, heldout)
    found.require_heldout("the exchange test")
    import numpy as np

    rng = np.random.default_rng(seed)
    near, far = found.to_train("generated"), found.to_heldout("generated")
    inside, outside = near.distances[:, 0], far.distances[:, 0]
    tied = inside == outside
    coin = torch.from_numpy(rng.random(len(inside)) < 0.5).to(inside.device)
    to_train = torch.where(tied, coin, inside < outside)
    n, h, m = found.size("train"), found.size("heldout"), len(inside)
    pool = torch.where(to_train, near.indices[:, 0], n + far.indices[:, 0])
    counts = torch.bincount(pool, minlength=n + h).cpu().numpy()
    hits = int(to_train.sum())
    mean = m * n / (n + h)
    squares = int((counts.astype(np.int64) ** 2).sum())
    variance = n * h * ((n + h) * squares - m**2) / ((n + h) ** 2 * (n + h - 1))
    # Pool points with equal counts are interchangeable: draw how many of each are relabelled.
    values, colors = np.unique(counts, return_counts=True)
    drawn = rng.multivariate_hypergeometric(colors, n, size=permutations, method="marginals")
    relabelled = drawn @ values
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(relabelled, [tail, 1.0 - tail]) / m
    return Exchange(
        value=hits / m,
        scores=torch.where(tied, 1.0, inside / outside),
        interval=clopper_pearson(hits, m, level),
        null=Null(
            n / (n + h),
            Interval(float(low), float(high), level, f"{permutations} permutations"),
            "exchangeable labels",
        ),
        p_value=float((1 + (relabelled >= hits).sum()) / (1 + permutations)),
        z=0.0 if variance == 0.0 else (hits - mean) / variance**0.5,
        mean=mean,
        variance=variance,
        ties=int(tied.sum()),
        effective_points=m**2 / squares,
    )
