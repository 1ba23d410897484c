r"""Authenticity: is a sample farther from its nearest training point than another one is?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import clopper_pearson
from memdiff.metrics.metric_result import MetricResult, Null, Unit
from memdiff.neighbors import RowData

__all__ = ["Authenticity", "authenticity"]


@dataclass(frozen=True)
class Authenticity(MetricResult):
    r"""Result of :func:`authenticity`.

    ``value`` is the share of authentic samples, between 0 and 1 (published elsewhere times 100, or
    minus 50). ``scores`` are :math:`d(g, x^*)` over the radius of :math:`x^*`; at most 1 is
    suspicious, infinite over a radius of 0.

    Attributes:
        indices: int64 ``(M,)``, the nearest training point :math:`x^*` of each sample.
    """

    unit: ClassVar[Unit] = "share"

    indices: Tensor


def authenticity(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    group_duplicates: bool = True,
    level: float = 0.95,
) -> Authenticity:
    r"""Share of samples that are authentic.

    With :math:`x^*` the nearest training point of :math:`g`, the sample is authentic if and only
    if some other training point is nearer to :math:`x^*` than :math:`g` is,
    :math:`\min_{x \ne x^*} |x^* - x| < |x^* - g|`.

    The value of perfect samples depends on dimension and sizes (0.4 in the plane, 0.85 in 128
    dimensions at 1000 points): compare it with ``null``, never with 0.5. Duplicates have radius 0
    and make every near copy authentic, hence the grouping. A collapsed model looks authentic.

    Args:
        generated: Samples ``(M, *S)``.
        train: Training points ``(N, *S)``, in at least two groups.
        heldout: Held-out points ``(H, *S)``, for the null.
        distances: Ready distances, in place of the three sets.
        group_duplicates: Whether the other point must be of another group of duplicates.
        level: Coverage of the Clopper-Pearson intervals.

    Returns:
        Authenticity.

    Raises:
        ValueError: If all training points are duplicates of one, or as
            :class:`memdiff.metrics.Distances`.

    References:
        Alaa, van Breugel, Saveliev, van der Schaar, *How Faithful is your Synthetic Data?*
        (2022), section 3 (authenticity).

    Example:
        >>> train = torch.tensor([[0.0], [1.0], [3.0]])
        >>> result = authenticity(generated=torch.tensor([[0.1], [6.0]]), train=train)
        >>> result.value, [round(score, 3) for score in result.scores.tolist()]
        (0.5, [0.1, 1.5])
    """
    found = Distances.resolve(distances, generated, train, heldout)
    if group_duplicates and found.duplicates.num_groups < 2:
        raise ValueError(
            f"train must hold at least 2 groups of points, got {found.size('train')} points that "
            f"are all duplicates of one."
        )
    radius = found.to_train("train", distinct=group_duplicates).distances[:, 0]
    scores, authentic = _judge(found, "generated", radius)
    null = None
    if found.has_heldout:
        fresh = _judge(found, "heldout", radius)[1]
        hits = int(fresh.sum())
        null = Null(hits / len(fresh), clopper_pearson(hits, len(fresh), level), "held-out points")
    hits = int(authentic.sum())
    return Authenticity(
        value=hits / len(scores),
        scores=scores,
        interval=clopper_pearson(hits, len(scores), level),
        null=null,
        indices=found.to_train("generated").indices[:, 0],
    )


def _judge(found: Distances, name: str, radius: Tensor) -> tuple[Tensor, Tensor]:
    near = found.to_train(name)
    distance, own = near.distances[:, 0], radius[near.indices[:, 0]]
    return torch.where(distance == 0, 0.0, distance / own), own < distance
