r"""Exceedance test and excess copies: are more samples close to train than fresh data would be?

The threshold is the :math:`j`-th smallest held-out distance :math:`d_1(h)`. If generated and
held-out points have one continuous law then, given the training points, the number :math:`B` of
samples below it is beta-binomial,

.. math::
    B \sim \mathrm{BetaBinomial}(M,\; j,\; H + 1 - j), \qquad E B = M a, \quad a = \frac{j}{H + 1},

because the probability below the :math:`j`-th of :math:`H` order statistics is
:math:`\mathrm{Beta}(j, H + 1 - j)`. A binomial would claim far too little variance.

Ties (copies of copies, quantised data) are broken at random with a fixed seed, which keeps the law
exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from memdiff.metrics.closeness import Reference, Statistic, closeness
from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import Interval, check_level
from memdiff.metrics.result import MetricResult, Null
from memdiff.neighbors import RowData

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Exceedance", "ExcessCopies", "exceedance", "excess_copies"]


@dataclass(frozen=True)
class Exceedance(MetricResult):
    r"""Result of :func:`exceedance`.

    ``value``, ``interval`` and ``null`` are the share of samples below the threshold of the first
    rank, its bootstrap interval and its beta-binomial band. ``scores`` are the statistic (by
    default the distances :math:`d_1`); small is suspicious.

    Attributes:
        p_value: Smallest p-value over the ranks times their number (Bonferroni), at most 1.
        ranks: The ranks :math:`j`.
        counts: The count :math:`B` at each rank.
        expected: Its mean under the null hypothesis.
        p_values: :math:`P(B' \ge B)` at each rank, not corrected.
        thresholds: The held-out distance at each rank.
    """

    p_value: float
    ranks: tuple[int, ...]
    counts: tuple[int, ...]
    expected: tuple[float, ...]
    p_values: tuple[float, ...]
    thresholds: tuple[float, ...]


@dataclass(frozen=True)
class ExcessCopies(MetricResult):
    """Result of :func:`excess_copies`. ``scores`` are the statistic of each sample.

    Attributes:
        p_value: Of the exceedance test at this rank.
        rank: The rank :math:`j`.
        count: Number of samples below the threshold.
        threshold: The held-out distance of that rank.
    """

    p_value: float
    rank: int
    count: int
    threshold: float


def exceedance(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    ranks: Sequence[int] | None = None,
    statistic: Statistic = "distance",
    reference: Reference = "heldout",
    level: float = 0.95,
    seed: int = 0,
) -> Exceedance:
    """Test whether more samples are close to train than fresh data would be.

    The null hypothesis is that samples are as close to train as held-out points are. A model with
    too little variance violates it without copying: see
    :func:`memdiff.metrics.conformal_local`.

    Args:
        generated: Samples ``(M, *S)``.
        train: Training points ``(N, *S)``.
        heldout: Held-out points ``(H, *S)``, required unless ``reference`` is ``"train"``.
        distances: Ready distances, in place of the three sets.
        ranks: Ranks ``j`` of the held-out distances that serve as thresholds, from 1 to ``H``.
            Rank 1 has most power against exact copies, larger ones against near copies. By
            default 1, and 1 % and 5 % of ``H``.
        statistic: What is small for copies; see :mod:`memdiff.metrics.closeness`.
        reference: What the samples are compared with. ``"train"`` needs no held-out points: it
            compares with training points, each seen by the others. The law is then approximate,
            as those share their neighbours, and says nothing of data unlike the training set.
        level: Coverage of the interval and of the null band.
        seed: Seed of the tie-breaking and of the bootstrap.

    Returns:
        Exceedance.

    Raises:
        ValueError: If there are no held-out points or a rank is out of range.

    References:
        Reconstructed: the placement statistic of two samples; the beta-binomial law follows from
        the law of order statistics.
    """
    check_level(level)
    found = Distances.resolve(distances, generated, train, heldout)
    import numpy as np

    samples, fresh = _arrays(found, statistic, reference)
    size = len(fresh)
    if ranks is None:
        ranks = sorted({1, max(round(0.01 * (size + 1)), 1), max(round(0.05 * (size + 1)), 1)})
    if not ranks or not all(1 <= rank <= size for rank in ranks):
        raise ValueError(
            f"ranks must lie between 1 and the number of {reference} points {size}, got "
            f"{list(ranks)}."
        )
    counts = [_count(samples, fresh, rank, seed) for rank in ranks]
    m = len(samples)
    p_values = [_p_value(count, m, rank, size) for count, rank in zip(counts, ranks, strict=True)]
    first = ranks[0]
    low, high = _rates(samples, fresh, first, level, seed)
    ordered = np.sort(fresh)
    return Exceedance(
        value=counts[0] / m,
        scores=torch.from_numpy(samples),
        interval=Interval(low, high, level, "bootstrap over both sets"),
        null=Null(
            first / (size + 1),
            Interval(*_band(m, first, size, level), level, "beta-binomial"),
            f"exchangeable with {reference} points",
        ),
        p_value=min(1.0, len(ranks) * min(p_values)),
        ranks=tuple(ranks),
        counts=tuple(counts),
        expected=tuple(m * rank / (size + 1) for rank in ranks),
        p_values=tuple(p_values),
        thresholds=tuple(float(ordered[rank - 1]) for rank in ranks),
    )


def excess_copies(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    quantile: float = 0.01,
    statistic: Statistic = "distance",
    reference: Reference = "heldout",
    level: float = 0.95,
    seed: int = 0,
) -> ExcessCopies:
    r"""Estimate the share of samples that are copies, beyond what fresh data would show.

    If a share :math:`\pi` of the samples lies below the threshold for being copies and the rest is
    fresh, :math:`B/M` estimates :math:`\pi + (1 - \pi) a`, so

    .. math::
        \hat\pi = \frac{B/M - a}{1 - a}, \qquad a = \frac{j}{H + 1}.

    It is not cut at 0: negative values say that fewer samples than expected are close.

    Args:
        generated: Samples ``(M, *S)``.
        train: Training points ``(N, *S)``.
        heldout: Held-out points ``(H, *S)``, required unless ``reference`` is ``"train"``.
        distances: Ready distances, in place of the three sets.
        quantile: Level :math:`a` of the held-out distances that is the threshold; the rank is
            :math:`j = \max(1, \mathrm{round}(a (H + 1)))`.
        statistic: What is small for copies; see :mod:`memdiff.metrics.closeness`.
        reference: What the samples are compared with. ``"train"`` needs no held-out points: it
            compares with training points, each seen by the others. The law is then approximate,
            as those share their neighbours, and says nothing of data unlike the training set.
        level: Coverage of the interval and of the null band.
        seed: Seed of the tie-breaking and of the bootstrap.

    Returns:
        ExcessCopies. The interval bootstraps both sets; within a draw the share is given its
        Clopper-Pearson spread, so that zero hits do not give a width of zero.

    Raises:
        ValueError: If there are no held-out points or the quantile is not in (0, 1).

    References:
        Reconstructed, with the exceedance test.
    """
    check_level(level)
    if not 0.0 < quantile < 1.0:
        raise ValueError(f"quantile must lie between 0 and 1, got {quantile}.")
    found = Distances.resolve(distances, generated, train, heldout)
    import numpy as np

    samples, fresh = _arrays(found, statistic, reference)
    size = len(fresh)
    rank = min(max(round(quantile * (size + 1)), 1), size)
    m = len(samples)
    count = _count(samples, fresh, rank, seed)
    base = rank / (size + 1)
    low, high = _rates(samples, fresh, rank, level, seed)
    band = _band(m, rank, size, level)
    return ExcessCopies(
        value=_excess(count / m, base),
        scores=torch.from_numpy(samples),
        interval=Interval(
            _excess(low, base), _excess(high, base), level, "bootstrap over both sets"
        ),
        null=Null(
            0.0,
            Interval(_excess(band[0], base), _excess(band[1], base), level, "beta-binomial"),
            f"exchangeable with {reference} points",
        ),
        p_value=_p_value(count, m, rank, size),
        rank=rank,
        count=count,
        threshold=float(np.sort(fresh)[rank - 1]),
    )


def _excess(share: float, base: float) -> float:
    return (share - base) / (1.0 - base)


def _arrays(
    found: Distances, statistic: Statistic, reference: Reference
) -> tuple[np.ndarray, np.ndarray]:
    if reference == "heldout":
        found.require_heldout("a comparison with held-out points")
    samples = closeness(found, "generated", statistic)
    return samples.cpu().numpy(), closeness(found, reference, statistic).cpu().numpy()


def _count(samples: np.ndarray, fresh: np.ndarray, rank: int, seed: int) -> int:
    """Samples that come before the ``rank``-th fresh point, ties in random order."""
    import numpy as np

    pooled = np.concatenate([samples, fresh])
    order = np.lexsort((np.random.default_rng(seed).random(len(pooled)), pooled))
    place = np.flatnonzero(order >= len(samples))[rank - 1]
    return int(place) - (rank - 1)


def _p_value(count: int, m: int, rank: int, size: int) -> float:
    import numpy as np
    from scipy.special import logsumexp
    from scipy.stats import betabinom

    # The upper tail itself: 1 - cdf has no digits left where a p-value matters.
    tail = betabinom.logpmf(np.arange(count, m + 1), m, rank, size + 1 - rank)
    return min(1.0, float(np.exp(logsumexp(tail))))


def _band(m: int, rank: int, size: int, level: float) -> tuple[float, float]:
    from scipy.stats import betabinom

    tail = (1.0 - level) / 2.0
    low, high = betabinom.ppf([tail, 1.0 - tail], m, rank, size + 1 - rank)
    return float(low) / m, float(high) / m


def _rates(
    samples: np.ndarray, fresh: np.ndarray, rank: int, level: float, seed: int, draws: int = 4000
) -> tuple[float, float]:
    """Interval of the share of samples below the ``rank``-th fresh distance.

    A resample of ``H`` fresh points has as its order statistic of that rank the one at place
    ``floor(H U)`` with ``U ~ Beta(rank, H + 1 - rank)``, so the resamples need not be drawn.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    place = np.floor(len(fresh) * rng.beta(rank, len(fresh) + 1 - rank, draws)).astype(int)
    threshold = np.sort(fresh)[np.minimum(place, len(fresh) - 1)]
    ordered = np.sort(samples)
    below = np.searchsorted(ordered, threshold, side="left")
    tied = np.searchsorted(ordered, threshold, side="right") - below
    hits = below + 0.5 * tied
    m = len(samples)
    tail = (1.0 - level) / 2.0
    # With the threshold fixed these quantiles are the two Clopper-Pearson limits.
    low = np.where(hits > 0, rng.beta(np.maximum(hits, 0.5), m - hits + 1.0), 0.0)
    high = np.where(hits < m, rng.beta(hits + 1.0, np.maximum(m - hits, 0.5)), 1.0)
    return float(np.quantile(low, tail)), float(np.quantile(high, 1.0 - tail))
