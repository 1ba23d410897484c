r"""Intrinsic dimension from the distances to the nearest neighbours.

Where the density of the points is locally constant on an :math:`r`-dimensional set, the volumes
:math:`T_1^r < T_2^r < \dots` swept to successive neighbours are a Poisson process, so the
:math:`\log(T_k/T_j)`, :math:`j < k`, are :math:`k - 1` independent exponential variables of rate
:math:`r` in some order. Their sum over the points gives the maximum likelihood estimate

.. math::
    \hat r = \Big[\frac{1}{N (k-1)} \sum_{i=1}^{N} \sum_{j=1}^{k-1}
             \log\frac{T_k(i)}{T_j(i)}\Big]^{-1},

which averages the inverses over points (MacKay and Ghahramani) and not the estimates (Levina and
Bickel), whose mean is biased. With :math:`k = 2` it is the two-nearest-neighbour estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from memdiff.metrics.intervals import Interval, bootstrap
from memdiff.neighbors import RowData, duplicate_groups, nearest_distinct

__all__ = ["IntrinsicDimension", "dimension_from_neighbors", "intrinsic_dimension"]


@dataclass(frozen=True)
class IntrinsicDimension:
    r"""Result of :func:`intrinsic_dimension`.

    Attributes:
        value: The estimate.
        interval: Bootstrap interval over points. Neighbourhoods overlap, and it is somewhat too
            narrow for that.
        scores: float64 ``(N,)``, the mean of :math:`\log(T_k/T_j)` at each point, the inverse of
            a local dimension.
        neighbors: The ``k`` used.
    """

    value: float
    interval: Interval | None
    scores: Tensor
    neighbors: int


def intrinsic_dimension(
    points: RowData, *, neighbors: int = 10, level: float = 0.95, seed: int = 0
) -> IntrinsicDimension:
    """Estimate the intrinsic dimension of a set of points.

    Identical points count once, for a distance of 0 has no logarithm.

    Args:
        points: ``(N, *S)``, more than ``neighbors`` distinct points.
        neighbors: Number of neighbours ``k``, at least 2. More neighbours lower the variance
            and see more of the curvature and of the changes of density.
        level: Coverage of the interval.
        seed: Seed of the bootstrap.

    Returns:
        IntrinsicDimension.

    Raises:
        ValueError: If ``neighbors`` is below 2 or there are too few distinct points.

    References:
        Levina, Bickel, *Maximum Likelihood Estimation of Intrinsic Dimension*, NeurIPS 2004.
        MacKay, Ghahramani, *Comments on 'Maximum likelihood estimation of intrinsic dimension' by
        E. Levina and P. Bickel* (2005).
        Facco, d'Errico, Rodriguez, Laio, *Estimating the intrinsic dimension of datasets by a
        minimal neighborhood information*, Scientific Reports 7 (2017): ``neighbors=2``, by
        maximum likelihood in place of their fit of a line.

    Example:
        >>> import torch
        >>> line = torch.rand(2000, 1, generator=torch.Generator().manual_seed(0))
        >>> line = line * torch.tensor([[3.0, 4.0, 0.0]])
        >>> round(intrinsic_dimension(line).value, 1)
        1.0
    """
    groups = duplicate_groups(points)
    if neighbors < 2 or groups.num_groups <= neighbors:
        raise ValueError(
            f"neighbors must be at least 2 and below the number of distinct points "
            f"{groups.num_groups}, got {neighbors}."
        )
    found = nearest_distinct(points, points, groups.labels, neighbors, exclude=groups.labels)
    return dimension_from_neighbors(
        found.distances[groups.representatives()], level=level, seed=seed
    )


def dimension_from_neighbors(
    distances: Tensor, *, level: float = 0.95, seed: int = 0
) -> IntrinsicDimension:
    """The estimate from distances that were already found.

    Args:
        distances: float64 ``(N, k)``, the distances of each point to its ``k >= 2`` nearest
            others, ascending and positive.
        level: Coverage of the interval.
        seed: Seed of the bootstrap.

    Returns:
        IntrinsicDimension.

    Raises:
        ValueError: If a distance is 0 or there are fewer than two columns.
    """
    if distances.ndim != 2 or distances.shape[1] < 2:
        raise ValueError(
            f"distances must have shape (N, k) with k >= 2, got {tuple(distances.shape)}."
        )
    if not bool((distances > 0).all()):
        raise ValueError("distances must be positive, got a 0: leave out duplicated points.")
    logs = distances.log()
    scores = (logs[:, -1:] - logs[:, :-1]).mean(1)
    if float(scores.sum()) == 0.0:
        raise ValueError(
            "distances must differ between neighbours, got points that are all equally far: no "
            "dimension can be estimated."
        )
    return IntrinsicDimension(
        value=float(1.0 / scores.mean()),
        interval=bootstrap(lambda s: 1.0 / s.mean(), scores, level=level, draws=500, seed=seed),
        scores=scores,
        neighbors=distances.shape[1],
    )
