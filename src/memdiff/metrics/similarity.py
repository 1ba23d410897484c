r"""Maximal cosine similarity to the training points, as used with copy descriptors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import clopper_pearson
from memdiff.metrics.metric_result import Detail, MetricResult, Null, Unit
from memdiff.neighbors import RowData

__all__ = ["MaximalSimilarity", "SimilaritySummary", "maximal_similarity"]


@dataclass(frozen=True)
class SimilaritySummary:
    """Distribution of similarities.

    Attributes:
        mean: Mean.
        std: Standard deviation (of the population, without Bessel's correction).
        quantile_75: 75 % quantile.
        quantile_90: 90 % quantile.
        quantile_95: 95 % quantile.
        above: Share strictly above the threshold.
    """

    mean: float
    std: float
    quantile_75: float
    quantile_90: float
    quantile_95: float
    above: float


@dataclass(frozen=True)
class MaximalSimilarity(MetricResult):
    """Result of :func:`maximal_similarity`. ``scores`` are the similarities; large is suspicious.

    Attributes:
        threshold: The threshold of ``value``.
        indices: int64 ``(M,)``, the most similar training point of each sample.
        summary: Distribution over the samples.
        background: Distribution of the similarity of each training point to the nearest other
            one.
        heldout: Distribution over the held-out points, or None.
    """

    unit: ClassVar[Unit] = "share"

    threshold: float
    indices: Tensor
    summary: SimilaritySummary
    background: SimilaritySummary
    heldout: SimilaritySummary | None

    @override
    def details(self) -> tuple[Detail, ...]:
        return (
            Detail("mean similarity", self.summary.mean),
            Detail("among training data", self.background.mean),
        )


def maximal_similarity(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    threshold: float = 0.5,
    level: float = 0.95,
) -> MaximalSimilarity:
    r"""Share of samples with :math:`\max_n \cos(g, x_n)` above a threshold.

    Made for descriptors (SSCD: 0.5 for replication; 0.7 for a memorised prompt). Thresholds do not
    carry over between descriptors or between preprocessings: compare with ``null``, which is the
    share of held-out points or, without them, of training points against the others.

    Args:
        generated: Descriptors of the samples ``(M, *S)``, none of them zero.
        train: Descriptors of the training points ``(N, *S)``.
        heldout: Descriptors of the held-out points ``(H, *S)``.
        distances: Ready distances with ``metric="cosine"``, in place of the three sets.
        threshold: Lower end of the suspicious similarities, strictly.
        level: Coverage of the Clopper-Pearson intervals.

    Returns:
        MaximalSimilarity. The background of training points leaves out the point itself, not its
        duplicates: a duplicated training set shows as a background of 1.

    Raises:
        ValueError: If the threshold is outside [-1, 1], a vector is zero, or as
            :class:`memdiff.metrics.Distances`.

    References:
        Somepalli et al., *Diffusion Art or Digital Forgery?* (2023): 0.5 and the background.
        Wen et al., *Detecting, Explaining, and Mitigating Memorization* (2024): 0.7.
        Pizzi et al., *A Self-Supervised Descriptor for Image Copy Detection* (2022).

    Example:
        >>> train = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> result = maximal_similarity(generated=torch.tensor([[3.0, 4.0]]), train=train)
        >>> round(result.scores.item(), 3), result.indices.item(), result.value
        (0.8, 1, 1.0)
    """
    if not -1.0 <= threshold <= 1.0:
        raise ValueError(f"threshold must lie in [-1, 1], got {threshold}.")
    found = Distances.resolve(distances, generated, train, heldout, metric="cosine")
    scores = 1.0 - found.to_train("generated").distances[:, 0]
    between = 1.0 - found.to_train("train").distances[:, 0]
    background = _summary(between, threshold)
    fresh, reference, source = None, between, "training points against the others"
    if found.has_heldout:
        reference, source = 1.0 - found.to_train("heldout").distances[:, 0], "held-out points"
        fresh = _summary(reference, threshold)
    hits, expected = int((scores > threshold).sum()), int((reference > threshold).sum())
    return MaximalSimilarity(
        value=hits / len(scores),
        scores=scores,
        interval=clopper_pearson(hits, len(scores), level),
        null=Null(
            expected / len(reference), clopper_pearson(expected, len(reference), level), source
        ),
        threshold=threshold,
        indices=found.to_train("generated").indices[:, 0],
        summary=_summary(scores, threshold),
        background=background,
        heldout=fresh,
    )


def _summary(values: Tensor, threshold: float) -> SimilaritySummary:
    levels = torch.tensor([0.75, 0.9, 0.95], dtype=torch.float64, device=values.device)
    quantiles = torch.quantile(values, levels).tolist()
    return SimilaritySummary(
        mean=float(values.mean()),
        std=float(values.std(correction=0)),
        quantile_75=quantiles[0],
        quantile_90=quantiles[1],
        quantile_95=quantiles[2],
        above=float((values > threshold).double().mean()),
    )
