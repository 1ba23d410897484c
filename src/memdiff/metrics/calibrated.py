r"""Calibrated L2: the nearest distance in units of the distances to the nearest few."""

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

__all__ = ["CalibratedL2", "calibrated_l2"]


@dataclass(frozen=True)
class CalibratedL2(MetricResult):
    """Result of :func:`calibrated_l2`. ``scores`` are calibrated distances; small is suspicious.

    Attributes:
        threshold: The threshold of ``value``.
        minimum: Smallest score.
        quantile_5: The 5 % quantile of the scores.
        median: Their median.
    """

    unit: ClassVar[Unit] = "share"

    threshold: float
    minimum: float
    quantile_5: float
    median: float

    @override
    def details(self) -> tuple[Detail, ...]:
        return Detail("median", self.median), Detail("smallest", self.minimum)


def calibrated_l2(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    neighbors: int = 50,
    factor: float = 0.5,
    threshold: float = 1.4,
    level: float = 0.95,
) -> CalibratedL2:
    r"""Share of samples whose calibrated distance is below a threshold.

    .. math::
        \ell(g) = \frac{d_1(g)}{a \cdot \frac{1}{n} \sum_{i=1}^{n} d_i(g)}

    Lies between 0 and :math:`1/a`. The thresholds 1.4 and 1.6 belong to CIFAR-10; in low dimension
    everything passes, in high dimension the scores of fresh data tend to :math:`1/a`. Compare with
    ``null``.

    Args:
        generated: Samples ``(M, *S)``.
        train: Training points ``(N, *S)``, at least ``10 * neighbors``.
        heldout: Held-out points ``(H, *S)``, for the null.
        distances: Ready distances with ``metric="euclidean"``, in place of the three sets.
        neighbors: :math:`n`.
        factor: :math:`a`, above 0.
        threshold: Upper end of the suspicious scores, strictly.
        level: Coverage of the Clopper-Pearson intervals.

    Returns:
        CalibratedL2. A sample whose ``neighbors`` nearest are all copies scores 0.

    Raises:
        ValueError: If an argument is out of range: ``neighbors`` must be at most a tenth of the
            training points, or the mean is no local scale. If ready distances are not Euclidean.

    References:
        Carlini et al., *Extracting Training Data from Diffusion Models* (2023), section 5 (CIFAR):
        n = 50, a = 0.5.
    """
    if not factor > 0.0:
        raise ValueError(f"factor must be positive, got {factor}.")
    found = Distances.resolve(distances, generated, train, heldout, metric="euclidean")
    if not 1 <= neighbors <= found.size("train") // 10:
        raise ValueError(
            f"neighbors must lie between 1 and a tenth of the {found.size('train')} training "
            f"points, got {neighbors}: lower it."
        )
    scores = _scores(found, "generated", neighbors, factor)
    hits = int((scores < threshold).sum())
    null = None
    if found.has_heldout:
        fresh = int((_scores(found, "heldout", neighbors, factor) < threshold).sum())
        size = found.size("heldout")
        null = Null(fresh / size, clopper_pearson(fresh, size, level), "held-out points")
    quantiles = torch.tensor([0.05, 0.5], dtype=torch.float64, device=scores.device)
    low, median = torch.quantile(scores, quantiles).tolist()
    return CalibratedL2(
        value=hits / len(scores),
        scores=scores,
        interval=clopper_pearson(hits, len(scores), level),
        null=null,
        threshold=threshold,
        minimum=float(scores.min()),
        quantile_5=low,
        median=median,
    )


def _scores(found: Distances, name: str, neighbors: int, factor: float) -> Tensor:
    near = found.to_train(name, neighbors).distances
    mean = near.mean(1)
    return torch.where(mean == 0, 0.0, near[:, 0] / (factor * mean))
