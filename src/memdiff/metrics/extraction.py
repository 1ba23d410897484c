r"""Which training points have been extracted, and how many a larger budget would extract.

Each sample that copies is assigned to its nearest training point; duplicates of a training point
count as one. With :math:`M` samples, :math:`f_k` training points were copied :math:`k` times. The
share extracted grows with :math:`M`: it belongs to a budget, and the extrapolations of
:mod:`memdiff.metrics.richness` say how it goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.metrics.discoveries import discoveries
from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import Interval, check_level, clopper_pearson
from memdiff.metrics.metric_result import MetricResult, Null
from memdiff.metrics.richness import chao1, good_toulmin
from memdiff.neighbors import RowData

__all__ = ["Extraction", "Extrapolation", "extraction"]


@dataclass(frozen=True)
class Extrapolation:
    """What a number of samples would extract.

    Attributes:
        samples: Number of samples, those at hand included.
        extracted: Distinct training points that would be extracted, by Good and Toulmin; cut to
            between those extracted now and all of them.
        share: The same over all distinct training points.
        interval: Prediction interval of ``extracted``, cut likewise.
        smoothed: Whether the series had to be smoothed (more than twice the samples at hand).
        reliable: Whether the budget lies in the range that the theory covers.
    """

    samples: int
    extracted: float
    share: float
    interval: Interval
    smoothed: bool
    reliable: bool


@dataclass(frozen=True)
class Extraction(MetricResult):
    """Result of :func:`extraction`.

    ``value`` is the extracted share of the distinct training points and ``interval`` that of its
    expectation at this budget. ``scores`` are the distances of the samples to train; small is
    suspicious.

    Attributes:
        copied: bool ``(M,)``, the samples that copy.
        indices: int64 ``(M,)``, nearest training point of each sample.
        copies: int64 ``(N,)``, number of samples that copy each training point or a duplicate of
            it.
        extracted: Number of distinct training points with a copy.
        distinct: Number of distinct training points.
        by_multiplicity: For each number of duplicates that occurs in train: that number, distinct
            training points, those extracted.
        extrapolation: Larger budgets.
        extractable: Chao1 lower bound on the number of distinct training points that the model
            can emit, at most ``distinct``.
        extractable_interval: Its interval.
        criterion: What counts as a copy.
    """

    copied: Tensor
    indices: Tensor
    copies: Tensor
    extracted: int
    distinct: int
    by_multiplicity: tuple[tuple[int, int, int], ...]
    extrapolation: tuple[Extrapolation, ...]
    extractable: float
    extractable_interval: Interval
    criterion: str


def extraction(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    flagged: Tensor | None = None,
    threshold: float | None = None,
    false_discovery_rate: float | None = None,
    factors: Sequence[float] = (2.0, 5.0, 10.0),
    level: float = 0.95,
) -> Extraction:
    r"""Extracted share of the training points, per point, and its growth with the budget.

    What counts as a copy is one of ``flagged``, ``threshold`` and ``false_discovery_rate``; with
    held-out points and none of them, the flagged list at 0.1. Errors of that choice are not in
    the intervals, which speak of the samples drawn. A false copy is mostly the only one of its
    training point, so the extrapolations suffer more from false copies than the share does.

    Args:
        generated: Samples ``(M, *S)``, drawn independently.
        train: Training points ``(N, *S)``.
        heldout: Held-out points ``(H, *S)``, for the flagged list and for the null.
        distances: Ready distances, in place of the three sets. Their ``tolerance`` says which
            training points are duplicates.
        flagged: The copies, bool ``(M,)`` or int64 indices of samples.
        threshold: Samples at most this far from train are copies.
        false_discovery_rate: Level of the list of :func:`memdiff.metrics.discoveries`.
        factors: Budgets to extrapolate to, over ``M``, each above 1.
        level: Coverage of the intervals.

    Returns:
        Extraction. The interval of the share is that of Clopper and Pearson over training points:
        each is extracted or not with a probability of its own, independently or with negative
        dependence, and such a sum varies less than a binomial of the same mean (Hoeffding).

    Raises:
        ValueError: If not exactly one criterion applies, or an argument is out of range.

    References:
        Carlini et al., *Extracting Training Data from Diffusion Models*, USENIX Security 2023:
        extraction as a count of distinct training points.
        Hoeffding, *On the distribution of the number of successes in independent trials* (1956).
        Reconstructed: the combination with Good-Toulmin and Chao1.

    Example:
        >>> train = torch.eye(4)
        >>> generated = train[torch.tensor([0, 0, 1])]
        >>> result = extraction(generated=generated, train=train, threshold=1e-6)
        >>> result.value, result.copies.tolist()
        (0.5, [2, 1, 0, 0])
    """
    check_level(level)
    if not all(factor > 1.0 for factor in factors):
        raise ValueError(f"factors must be above 1, got {tuple(factors)}.")
    found = Distances.resolve(distances, generated, train, heldout)
    chosen = [
        name
        for name, given in (
            ("flagged", flagged),
            ("threshold", threshold),
            ("false_discovery_rate", false_discovery_rate),
        )
        if given is not None
    ]
    if len(chosen) > 1 or (not chosen and not found.has_heldout):
        raise ValueError(
            f"exactly one of flagged, threshold and false_discovery_rate must say what a copy is "
            f"(it may be left out with heldout), got {', '.join(chosen) or 'none'}."
        )
    near = found.to_train("generated")
    scores, indices = near.distances[:, 0], near.indices[:, 0]
    labels, sizes = found.duplicates.labels, found.duplicates.sizes
    labels, sizes = labels.to(scores.device), sizes.to(scores.device)
    distinct, m = len(sizes), len(scores)
    null = None
    if flagged is not None:
        copied, criterion = _mask(flagged, m).to(scores.device), "flagged by the caller"
    elif threshold is not None:
        if not 0.0 <= threshold < float("inf"):
            raise ValueError(f"threshold must be finite and at least 0, got {threshold}.")
        copied, criterion = scores <= threshold, f"distance to train at most {threshold:g}"
        if found.has_heldout:
            null = _null(found, threshold, labels, distinct, level)
    else:
        rate = 0.1 if false_discovery_rate is None else false_discovery_rate
        copied = discoveries(distances=found, rate=rate, level=level).flagged.to(scores.device)
        criterion = f"flagged at false-discovery rate {rate:g}"
        null = Null(0.0, None, "decoys")
    counts = labels[indices[copied]].bincount(minlength=distinct)
    hit = counts > 0
    extracted = int(hit.sum())
    bound = chao1(counts, m, level=level)
    return Extraction(
        value=extracted / distinct,
        scores=scores,
        interval=clopper_pearson(extracted, distinct, level),
        null=null,
        copied=copied,
        indices=indices,
        copies=counts[labels],
        extracted=extracted,
        distinct=distinct,
        by_multiplicity=tuple(
            (size, int((sizes == size).sum()), int(hit[sizes == size].sum()))
            for size in sizes.unique().tolist()
        ),
        extrapolation=tuple(
            _extrapolate(counts, factor, m, extracted, distinct, level) for factor in factors
        ),
        extractable=min(bound.value, float(distinct)),
        extractable_interval=_cut(bound.interval, extracted, distinct),
        criterion=criterion,
    )


def _mask(flagged: Tensor, m: int) -> Tensor:
    if flagged.dtype == torch.bool:
        if flagged.shape != (m,):
            raise ValueError(f"flagged must have shape ({m},), got {tuple(flagged.shape)}.")
        return flagged
    if flagged.dtype != torch.int64 or flagged.ndim != 1:
        raise ValueError(
            f"flagged must be bool (M,) or one-dimensional int64, got {flagged.dtype} with shape "
            f"{tuple(flagged.shape)}."
        )
    if len(flagged) and not 0 <= int(flagged.min()) <= int(flagged.max()) < m:
        raise ValueError(
            f"flagged must hold indices of samples below {m}, got values from "
            f"{int(flagged.min())} to {int(flagged.max())}."
        )
    mask = torch.zeros(m, dtype=torch.bool, device=flagged.device)
    mask[flagged] = True
    return mask


def _null(found: Distances, threshold: float, labels: Tensor, distinct: int, level: float) -> Null:
    """What the held-out points extract; the first ``M`` of them if there are more."""
    near = found.to_train("heldout")
    most = min(found.size("heldout"), found.size("generated"))
    below = near.distances[:most, 0] <= threshold
    hits = len(labels[near.indices[:most, 0][below]].unique())
    return Null(hits / distinct, clopper_pearson(hits, distinct, level), f"{most} held-out points")


def _extrapolate(
    counts: Tensor, factor: float, m: int, extracted: int, distinct: int, level: float
) -> Extrapolation:
    new = good_toulmin(counts, factor - 1.0, level=level)
    total = min(max(extracted + new.value, float(extracted)), float(distinct))
    ends = Interval(
        extracted + new.interval.low, extracted + new.interval.high, level, new.interval.method
    )
    return Extrapolation(
        samples=round(factor * m),
        extracted=total,
        share=total / distinct,
        interval=_cut(ends, extracted, distinct),
        smoothed=factor > 2.0,
        reliable=new.reliable,
    )


def _cut(interval: Interval, low: int, high: int) -> Interval:
    return Interval(
        min(max(interval.low, float(low)), float(high)),
        min(max(interval.high, float(low)), float(high)),
        interval.level,
        interval.method,
    )
