r"""Precision, recall, density and coverage: do samples look real, and do they cover the data?

With balls :math:`B(x_i, r_i)` about the training points, :math:`r_i` the distance to the
:math:`k`-th nearest other training point, and the same balls :math:`B(g_j, s_j)` about samples:

.. math::
    precision &= \frac1M \sum_j 1[g_j \in \cup_i B(x_i, r_i)], &
    recall &= \frac1N \sum_i 1[x_i \in \cup_j B(g_j, s_j)], \\
    density &= \frac1{kM} \sum_{ij} 1[g_j \in B(x_i, r_i)], &
    coverage &= \frac1N \sum_i 1[\exists j: g_j \in B(x_i, r_i)].

A metric of memorisation that is silent says nothing if the model has collapsed: coverage and
recall near 0 tell. None of the four sees copies, and copies score well in all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import Interval, bootstrap, clopper_pearson
from memdiff.metrics.metric_result import Detail, MetricResult, Null, Unit
from memdiff.metrics.pairwise import Pairwise, moments
from memdiff.neighbors import RowData, Rows, self_nearest

__all__ = ["Estimate", "Fidelity", "fidelity"]

_GROUPS = 20  # of the delete-a-group jackknife over samples


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty and its null.

    Attributes:
        value: The number.
        interval: Its confidence interval.
        null: What data of the law of train would score, or None where that is not known.
    """

    value: float
    interval: Interval
    null: Null | None


@dataclass(frozen=True)
class Fidelity(MetricResult):
    """Result of :func:`fidelity`.

    ``value``, ``interval`` and ``null`` are those of coverage, the one that collapse cannot pass.
    ``scores`` are the contributions to density, the number of training balls that hold a sample
    over ``k``; 0 is a sample off the data.

    Attributes:
        precision: Share of samples in a training ball.
        recall: Share of training points in a ball of a sample.
        density: Mean number of training balls that hold a sample, over ``k``; may exceed 1.
        coverage: Share of training balls that hold a sample.
        covered: bool ``(N,)``, the training points whose ball holds a sample.
        recalled: bool ``(N,)``, the training points in a ball of a sample.
        neighbors: The ``k`` used.
    """

    unit: ClassVar[Unit] = "share"

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate
    covered: Tensor
    recalled: Tensor
    neighbors: int

    @override
    def details(self) -> tuple[Detail, ...]:
        units: dict[str, Unit] = {"precision": "share", "recall": "share", "density": "number"}
        found = {name: getattr(self, name) for name in units}
        return tuple(
            Detail(
                name,
                one.value,
                units[name],
                expected=None if one.null is None else one.null.value,
            )
            for name, one in found.items()
        )


def fidelity(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    neighbors: int = 5,
    level: float = 0.95,
    seed: int = 0,
) -> Fidelity:
    r"""Precision and recall, density and coverage of samples against train.

    Balls are closed, as printed, so a copy of a point with ``k`` duplicates still counts (the
    released code takes open balls). For samples of the law of train, density is 1 and coverage
    :math:`1 - \prod_{j \le k} (N - j)/(M + N - j)`, exactly, in expectation; precision and recall
    depend on the dimension, and their null comes from held-out points.

    Args:
        generated: Features of the samples ``(M, *S)``, more than ``neighbors``.
        train: Features of the training points ``(N, *S)``, more than ``neighbors``.
        heldout: Features of the held-out points ``(H, *S)``, for the null; of more than ``M``,
            ``M`` are chosen at random, for recall depends on the number. Without more than
            ``neighbors`` of them there is no null of recall.
        distances: Ready distances, in place of the three sets: balls are of their metric. Their
            ``memory_limit`` bounds the strips of the ``M x N`` distances.
        neighbors: ``k``.
        level: Coverage of the intervals. Those of precision and density are of independent
            samples, given train; those of recall and coverage take the larger of the variance
            over training points and that of a jackknife over samples, which is conservative.
        seed: Seed of the bootstrap, of the groups of the jackknife and of the choice of held-out
            points.

    Returns:
        Fidelity.

    Raises:
        ValueError: If ``neighbors`` is below 1 or a set has not more points than that.

    References:
        Naeem, Oh, Uh, Choi, Yoo, *Reliable Fidelity and Diversity Metrics for Generative Models*,
        ICML 2020, sections 3.1 to 3.3: the expectations under equal laws too.
        Kynkaanniemi et al., *Improved Precision and Recall Metric for Assessing Generative
        Models*, NeurIPS 2019.
        Korn, Graubard, *Confidence intervals for proportions with small expected number of
        positive counts estimated from survey data* (1998): limits at the effective number.
        Reconstructed: the variance that goes into it.

    Example:
        >>> train = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
        >>> collapsed = fidelity(generated=train[:1].expand(300, -1), train=train)
        >>> collapsed.precision.value, round(collapsed.recall.value, 4), collapsed.value < 0.05
        (1.0, 0.0033, True)
    """
    found = Distances.resolve(distances, generated, train, heldout)
    m, n = found.size("generated"), found.size("train")
    if not 1 <= neighbors < min(m, n):
        raise ValueError(
            f"neighbors must be at least 1 and below the number of points of generated {m} and "
            f"of train {n}, got {neighbors}."
        )
    radii = found.to_train("train", neighbors).distances[:, -1]
    if found.metric == "cosine":  # radii of the same balls among unit vectors
        radii = (2.0 * radii).sqrt()
    centre = moments(found.coordinates("train"), "train", memory_limit=found.memory_limit)[0]
    ours = _balls(found, found.coordinates("generated"), radii, centre, neighbors, seed)
    inside = int((ours.counts > 0).sum())
    scores = ours.counts.to(torch.float64) / neighbors
    precision_null = recall_null = None
    if found.has_heldout:
        rows = found.coordinates("heldout")
        if len(rows) > m:
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
            rows = Rows(rows.gather(order[:m].sort()[0]), "heldout")
        h = len(rows)
        fresh = _balls(found, rows, radii, centre, neighbors, seed)
        hits = int((fresh.counts > 0).sum())
        source = f"{h} held-out points"
        precision_null = Null(hits / h, clopper_pearson(hits, h, level), source)
        if h > neighbors:
            recall_null = Null(*_share(fresh.recalled, level), source)
    law = "law of train, exact expectation"
    expected = 1.0 - math.prod((n - j) / (m + n - j) for j in range(1, neighbors + 1))
    coverage = Estimate(*_share(ours.covered, level), Null(expected, None, law))
    return Fidelity(
        value=coverage.value,
        scores=scores,
        interval=coverage.interval,
        null=coverage.null,
        precision=Estimate(inside / m, clopper_pearson(inside, m, level), precision_null),
        recall=Estimate(*_share(ours.recalled, level), recall_null),
        density=Estimate(
            float(scores.mean()),
            bootstrap(torch.mean, scores, level=level, seed=seed),
            Null(1.0, None, law),
        ),
        coverage=coverage,
        covered=ours.covered.any(0),
        recalled=ours.recalled.any(0),
        neighbors=neighbors,
    )


@dataclass(frozen=True)
class _Balls:
    """Which points lie in which balls.

    ``counts`` are the training balls about each sample, ``(m,)``; ``covered`` and ``recalled`` say
    for each group of samples which training points it covers and recalls, ``(groups, N)``.
    """

    counts: Tensor
    covered: Tensor
    recalled: Tensor


def _balls(
    found: Distances, samples: Rows, radii: Tensor, centre: Tensor, k: int, seed: int
) -> _Balls:
    own = torch.zeros(len(samples), dtype=torch.float64, device=radii.device)
    if len(samples) > k:
        points = samples.read(0, len(samples)).reshape(samples.shape)
        near = self_nearest(points, k, memory_limit=found.memory_limit, ranks=found.ranks)
        own = near.distances[:, -1]
    pairs = Pairwise(
        samples,
        found.coordinates("train"),
        centre=centre,
        memory_limit=found.memory_limit // 2,
    )
    groups = min(_GROUPS, len(samples))
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    group = (order % groups).to(radii.device)
    counts = torch.zeros(len(samples), dtype=torch.int64, device=radii.device)
    covered = torch.zeros(groups, len(radii), dtype=torch.bool, device=radii.device)
    recalled = torch.zeros_like(covered)
    for start, stop, strip in pairs.strips():
        held = pairs.within(start, strip, radii)
        counts[start:stop] = held.sum(1)
        holding = pairs.within(start, strip, own[start:stop, None])
        for label in range(groups):
            member = group[start:stop] == label
            covered[label] |= held[member].any(0)
            recalled[label] |= holding[member].any(0)
    return _Balls(counts, covered, recalled)


def _share(flags: Tensor, level: float) -> tuple[float, Interval]:
    """Share of the training points that some group of samples reaches, and its interval.

    One sample reaches several neighbouring points at once, so the points are not independent: the
    variance is that of a jackknife over the groups where it is above that of independent points,
    and the Clopper-Pearson limits are those of as many points as have that variance. On fresh
    draws the limits come out up to twice as wide as need be.
    """
    from scipy.stats import beta

    groups, points = flags.shape
    times = flags.sum(0)
    share = float((times > 0).to(torch.float64).mean())
    without = ((times - flags.to(torch.int64)) > 0).to(torch.float64).mean(1)
    between = (groups - 1) / groups * float((without - without.mean()).square().sum())
    variance = share * (1.0 - share) / points
    effective = points * variance / max(variance, between) if variance > 0.0 else float(points)
    hits, tail = share * effective, (1.0 - level) / 2.0
    low = float(beta.ppf(tail, hits, effective - hits + 1.0)) if share > 0.0 else 0.0
    high = float(beta.isf(tail, hits + 1.0, effective - hits)) if share < 1.0 else 1.0
    return share, Interval(low, high, level, "Clopper-Pearson at the effective number of points")
