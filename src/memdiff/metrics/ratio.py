r"""Ratio test: is the nearest training point much nearer than the second nearest?"""

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

__all__ = ["Ratio", "ratio"]


@dataclass(frozen=True)
class Ratio(MetricResult):
    r"""Result of :func:`ratio`. ``scores`` are the ratios :math:`d_1/d_2`; small is suspicious.

    Attributes:
        threshold: The threshold :math:`k`.
        chance: :math:`k^r` (:math:`k^{r/2}` for cosine distances), the share that perfect samples
            of locally constant density would score, or None where the dimension cannot be
            estimated.
        dimension: The intrinsic dimension :math:`r` used for it.
        num_groups: Number of groups of training points taken as one point.
        largest_group: Size of the largest of them.
        zero_over_zero: Number of samples with :math:`d_1 = d_2 = 0`, counted as memorised with
            ratio 0: copies of a point that occurs more than once. Always 0 with grouping.
    """

    unit: ClassVar[Unit] = "share"

    threshold: float
    chance: float | None
    dimension: float | None
    num_groups: int
    largest_group: int
    zero_over_zero: int

    @override
    def details(self) -> tuple[Detail, ...]:
        found = (Detail("threshold", self.threshold),)
        if self.chance is None or self.dimension is None:
            return found
        remark = f"in {self.dimension:.1f} intrinsic dimensions"
        return (*found, Detail("by chance", self.chance, "share", remark=remark))


def ratio(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    threshold: float = 1.0 / 3.0,
    group_duplicates: bool = True,
    dimension: float | None = None,
    level: float = 0.95,
) -> Ratio:
    r"""Share of samples with :math:`d_1/d_2 < k`, called memorised.

    Duplicated training points make :math:`d_1 \approx d_2` and hide their copies, so :math:`d_2`
    is the distance to the first point of a *different* group of duplicates (those of
    ``distances.duplicates``: identical points, or points within its tolerance).

    The share has no universal zero: :math:`P(d_1/d_2 < k) = k^r` for perfect samples in intrinsic
    dimension :math:`r`, 1/9 in the plane at 1/3. Compare with ``chance`` and with ``null``.
    Cosine distances grow as the square of the angle: their ratios, and the exponent :math:`r/2`,
    are those of squared distances.

    Args:
        generated: Samples ``(M, *S)``.
        train: Training points ``(N, *S)``, in at least two groups.
        heldout: Held-out points ``(H, *S)``, for the null.
        distances: Ready distances, in place of the three sets.
        threshold: :math:`k`, in (0, 1].
        group_duplicates: Whether to group duplicates.
        dimension: Intrinsic dimension for ``chance``; estimated from the two nearest neighbours
            of the training points by default.
        level: Coverage of the Clopper-Pearson intervals.

    Returns:
        Ratio.

    Raises:
        ValueError: If the threshold is out of range, all training points are duplicates of one,
            or as :class:`memdiff.metrics.Distances`.

    References:
        Yoon, Choi, Kwon, Ryu, *Diffusion Probabilistic Models Generalize when They Fail to
        Memorize* (2023). Gu et al., *On Memorization in Diffusion Models*, arXiv:2310.02664.
        Bonnaire et al., *Why Diffusion Models Don't Memorize*, arXiv:2505.17638: k = 1/3. Their
        printed definition compares an expectation of the ratio; their code and this function
        threshold each sample.

    Example:
        >>> train = torch.tensor([[0.0], [1.0], [3.0]])
        >>> result = ratio(generated=torch.tensor([[0.1], [0.5]]), train=train)
        >>> result.value, [round(score, 3) for score in result.scores.tolist()]
        (0.5, [0.111, 1.0])
    """
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"threshold must lie in (0, 1], got {threshold}.")
    found = Distances.resolve(distances, generated, train, heldout)
    groups = found.duplicates
    if group_duplicates and groups.num_groups < 2:
        raise ValueError(
            f"train must hold at least 2 groups of points, got {len(groups.labels)} points that "
            f"are all duplicates of one."
        )
    scores, undefined = _ratios(found, "generated", group_duplicates)
    hits = int((scores < threshold).sum())
    null = None
    if found.has_heldout:
        fresh = _ratios(found, "heldout", group_duplicates)[0]
        below = int((fresh < threshold).sum())
        null = Null(
            below / len(fresh), clopper_pearson(below, len(fresh), level), "held-out points"
        )
    power = 2.0 if found.metric == "cosine" else 1.0
    if dimension is None and groups.num_groups > 2:
        dimension = _dimension(found, power)
    return Ratio(
        value=hits / len(scores),
        scores=scores,
        interval=clopper_pearson(hits, len(scores), level),
        null=null,
        threshold=threshold,
        chance=None if dimension is None else threshold ** (dimension / power),
        dimension=dimension,
        num_groups=groups.num_groups,
        largest_group=int(groups.sizes.max()),
        zero_over_zero=undefined,
    )


def _ratios(found: Distances, name: str, distinct: bool) -> tuple[Tensor, int]:
    d_1, d_2 = found.to_train(name, 2, distinct=distinct).distances.unbind(1)
    undefined = d_2 == 0
    return torch.where(undefined, 0.0, d_1 / d_2), int(undefined.sum())


def _dimension(found: Distances, power: float) -> float | None:
    """Two-nearest-neighbour dimension of one point of each group of duplicates.

    Distances are proportional to a power of lengths. Points that are not duplicates and yet have
    no distance, as parallel ones under the cosine, are left out.
    """
    near = found.to_train("train", 2, distinct=True).distances[found.duplicates.representatives()]
    near = near[near[:, 0] > 0.0]
    if len(near) == 0:
        return None
    mean_log = float((near[:, 1] / near[:, 0]).log().mean())
    return None if mean_log == 0.0 else power / mean_log  # a lattice has no scale of its own
