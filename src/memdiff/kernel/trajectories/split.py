r"""Principal coordinates plus the norm of the rest: a lower bound of every distance.

With an orthonormal :math:`P` of ``K`` directions and the residual :math:`R = I - P P^T`,

.. math::
    |x - X|^2 = |P^T (x - X)|^2 + |R (x - X)|^2 \ge |P^T (x - X)|^2 + (|R x| - |R X|)^2 ,

a Euclidean distance in ``K + 1`` dimensions. The directions come from a randomised PCA of a
subsample: they decide how sharp the bound is, never whether it holds.

References:
    Halko, Martinsson, Tropp, *Finding structure with randomness*, SIAM Review 53 (2011),
    algorithm 4.4 (randomised subspace iteration).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.kernel.queries import Queries
from memdiff.kernel.softmax import PartialPosterior

__all__ = ["SplitCoordinates", "lifted", "missing"]

# Rows of the subsample, extra directions of the range finder, passes of subspace iteration.
_SAMPLE, _OVERSAMPLING, _PASSES = 4000, 16, 2
# Directions whose residual is below this part of the norm (rounding of float32 data) add nothing.
_NEGLIGIBLE = 3e-7


@dataclass(frozen=True)
class SplitCoordinates:
    """The split coordinates of a set of points.

    Attributes:
        centre: What is subtracted first, float64 ``(d,)``.
        basis: Orthonormal columns, float64 ``(d, K)``.
        coordinates: Principal coordinates and residual norm of the points, float32
            ``(N, K + 1)``.
        half_norm: Half of the squared norm of the centred points, float64 ``(N,)``.
        residual: Largest residual norm.
        radius: Largest norm of the centred points.
    """

    centre: Tensor
    basis: Tensor
    coordinates: Tensor
    half_norm: Tensor
    residual: float
    radius: float

    @classmethod
    def of(
        cls, gather: Callable[[Tensor], Tensor], index: Tensor, centre: Tensor, directions: int
    ) -> SplitCoordinates:
        """Coordinates of some of the rows of a data set.

        Args:
            gather: Rows of given indices, ``(M,)`` to ``(M, d)``.
            index: The points, int64 ``(N,)``.
            centre: float64 ``(d,)``.
            directions: Most directions ``K``; fewer where the data have fewer.
        """
        num, dim = len(index), len(centre)
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(num, generator=generator)[:_SAMPLE].sort().values
        sample = gather(index[chosen.to(index.device)]).to(torch.float64) - centre
        basis = _principal(sample, min(directions, dim), generator)
        coordinates = torch.empty(num, basis.shape[1] + 1, device=centre.device)
        half_norm = torch.empty(num, dtype=torch.float64, device=centre.device)
        residual = 0.0
        # In the order of the rows, which may lie on disk.
        for rows in index.argsort().split(max(1, 2**18 // dim)):
            points = gather(index[rows]).to(torch.float64).sub_(centre)
            projected = points @ basis
            square = torch.linalg.vecdot(points, points)
            norm = (square - torch.linalg.vecdot(projected, projected)).clamp_min(0.0).sqrt()
            # The difference of squares has lost its digits where hardly anything is left.
            small = (norm < 1e-4 * square.sqrt()).nonzero()[:, 0]
            norm[small] = (points[small] - projected[small] @ basis.T).norm(dim=1)
            coordinates[rows, :-1] = projected.to(torch.float32)
            coordinates[rows, -1] = norm.to(torch.float32)
            half_norm[rows] = 0.5 * square
            residual = max(residual, float(norm.max()))
        radius = float((2.0 * half_norm.max()).sqrt())
        return cls(centre, basis, coordinates, half_norm, residual, radius)

    @property
    def directions(self) -> int:
        """Number of principal directions ``K``."""
        return self.basis.shape[1]

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Principal coordinates ``(B, K)`` and residual norms ``(B,)`` of centred queries."""
        projected = x @ self.basis
        return projected, (x - projected @ self.basis.T).norm(dim=1)


def missing(
    inside: Tensor, rest: Tensor, queries: Queries, split: SplitCoordinates, unit: float
) -> Tensor:
    r"""Bound of the error of logits that are taken in principal coordinates, ``(B,)``.

    With the rest :math:`R`, they miss :math:`(2 m\, R x \cdot R X_n - m^2 |R X_n|^2) / 2 \sigma^2`
    each, besides a constant, and the mean misses less than the largest :math:`|R X_n|`. Where both
    are below the accuracy asked for, both matrix products shrink from ``d`` to ``K`` dimensions.

    Args:
        inside: Principal coordinates of the centred queries, ``(B, K)``.
        rest: Norm of their residual, ``(B,)``.
        queries: The queries.
        split: The split coordinates of the points.
        unit: Unit roundoff of the dtype that the coordinates of the points are kept in.
    """
    moved, radius = queries.scale * split.residual, queries.scale * split.radius
    rounding = unit * radius * (inside.norm(dim=1) + radius)
    return (moved * rest + 0.5 * moved**2 + rounding) / queries.sigma**2


def lifted(
    part: PartialPosterior,
    inside: Tensor,
    rest: Tensor,
    queries: Queries,
    split: SplitCoordinates,
    unit: float,
) -> PartialPosterior:
    r"""Sums over all points in ``d`` dimensions from those in principal coordinates.

    Arguments as of :func:`missing`, with ``rest`` the residual itself, ``(B, d)``.
    """
    length = rest.norm(dim=1)
    missed = missing(inside, length, queries, split, unit)
    return PartialPosterior(
        top_logit=part.top_logit - 0.5 * (length / queries.sigma) ** 2,
        top_index=part.top_index,
        total=part.total,
        residual_sum=part.residual_sum @ split.basis.T - part.total[:, None] * rest,
        entropy_sum=part.entropy_sum,
        logit_error=part.logit_error + missed,
        sum_error=part.sum_error + queries.scale * (split.residual + unit * split.radius),
    )


def _principal(sample: Tensor, directions: int, generator: torch.Generator) -> Tensor:
    """Leading principal directions of centred rows, as many as carry anything: ``(d, K)``."""
    dim = sample.shape[1]
    width = min(directions + _OVERSAMPLING, *sample.shape)
    start = torch.randn(dim, width, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(start.to(sample.device)).Q
    # All but the last pass in float32: only that one decides how small the rest can become.
    rough = (sample / sample.abs().max().clamp_min(1e-300)).to(torch.float32)
    for last in range(_PASSES):
        one = sample if last == _PASSES - 1 else rough
        moved = one.T @ (one @ basis.to(one.dtype))
        basis = torch.linalg.qr(moved.to(torch.float64)).Q
    projected = sample @ basis
    energy, rotation = torch.linalg.eigh(projected.T @ projected)
    energy, rotation = energy.flip(0), rotation.flip(1)
    total = (sample**2).sum()
    rest = total - energy.cumsum(0)
    enough = int((rest > _NEGLIGIBLE**2 * total).sum()) + 1
    kept = max(1, min(enough, directions, width))
    return torch.linalg.qr(basis @ rotation[:, :kept]).Q
