r"""Fewer dimensions where what they leave out cannot matter.

With the orthonormal :math:`P` of :class:`~memdiff.kernel.splitting.SplitCoordinates`, the
logits that are taken in principal coordinates miss

.. math::
    \frac{2 m\, R x \cdot R X_n - m^2 |R X_n|^2}{2 \sigma^2}

each, besides a constant, and the mean misses less than the largest :math:`|R X_n|`. Where both
are below the accuracy asked for, both matrix products shrink from ``d`` to ``K`` dimensions.
"""

from __future__ import annotations

from torch import Tensor

from memdiff.kernel.partial import PartialPosterior
from memdiff.kernel.splitting import SplitCoordinates

__all__ = ["lifted", "missing"]


def missing(
    inside: Tensor,
    rest: Tensor,
    scale: Tensor,
    sigma: Tensor,
    split: SplitCoordinates,
    unit: float,
) -> Tensor:
    r"""Bound of the error of the logits of a query, ``(B,)``.

    Args:
        inside: Principal coordinates :math:`P^T x` of the centred queries, ``(B, K)``.
        rest: Their residual :math:`R x`, ``(B, d)``, or its norm, ``(B, 1)``.
        scale: :math:`m`, ``(B,)``.
        sigma: :math:`\sigma`, ``(B,)``.
        split: The split coordinates of the points.
        unit: Unit roundoff of the dtype that the coordinates of the points are kept in.
    """
    moved, radius = scale * split.residual, scale * split.radius
    rounding = unit * radius * (inside.norm(dim=1) + radius)
    return (moved * rest.norm(dim=1) + 0.5 * moved**2 + rounding) / sigma**2


def lifted(
    part: PartialPosterior,
    inside: Tensor,
    rest: Tensor,
    scale: Tensor,
    sigma: Tensor,
    split: SplitCoordinates,
    unit: float,
) -> PartialPosterior:
    r"""Sums over all points in ``d`` dimensions from those in principal coordinates.

    Args:
        part: Sums in coordinates, ``(B, K)``.
        inside: As in :func:`missing`, and so on.
        rest: :math:`R x`, ``(B, d)``.
        scale: :math:`m`.
        sigma: :math:`\sigma`.
        split: The split coordinates.
        unit: Unit roundoff.
    """
    length = rest.norm(dim=1)
    missed = missing(inside, rest, scale, sigma, split, unit)
    return PartialPosterior(
        top_logit=part.top_logit - 0.5 * (length / sigma) ** 2,
        top_index=part.top_index,
        total=part.total,
        residual_sum=part.residual_sum @ split.basis.T - part.total[:, None] * rest,
        entropy_sum=part.entropy_sum,
        logit_error=part.logit_error + missed,
        sum_error=part.sum_error + scale * (split.residual + unit * split.radius),
    )
