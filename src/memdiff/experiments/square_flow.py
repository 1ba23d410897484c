r"""Flow from the boundary of a square, and its limits from starts on a Voronoi boundary.

Limits on a boundary are unstable: between two points at distance :math:`L` an offset grows by
:math:`\exp(L^2/(8\sigma^2))`, so in floating point a start reaches one only where rounding keeps
its symmetry exactly. The limit of a start on a boundary is therefore read where the flow still is
on it, as the posterior mean :math:`D` to which it converges, and the noise level at which rounding
carries it off is measured next to its bound.

References:
    Baptista et al., arXiv:2501.15785; the starts are those of the authors' code.
    Reconstructed: the growth of an offset, from the flow linearised about the boundary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.dynamics import LimitPoints, limit_points
from memdiff.processes import VE
from memdiff.samplers import LogTime, sample
from memdiff.scores import Score

__all__ = [
    "OFFSET",
    "ON_BOUNDARY",
    "TOLERANCE",
    "BoundaryStarts",
    "Flow",
    "boundary_starts",
    "flow",
    "square_starts",
    "started_at",
]

TOLERANCE = 1e-6
ON_BOUNDARY = 0.2
"""Noise level at which the posterior mean is read for a start on a boundary."""

OFFSET = 1e-3
"""Distance from a boundary that counts as having left it."""


@dataclass(frozen=True)
class Flow:
    """Trajectories from the square.

    Attributes:
        starts: Starts with shape ``(B, 2)``.
        sigma: Recorded noise levels with shape ``(K + 1,)``.
        x: Points with shape ``(K + 1, B, 2)``.
        heading: Posterior means at the level ``ON_BOUNDARY`` with shape ``(B, 2)``.
        limits: What the ends are.
    """

    starts: Tensor
    sigma: Tensor
    x: Tensor
    heading: Tensor
    limits: LimitPoints


@dataclass(frozen=True)
class BoundaryStarts:
    r"""Trajectories that start on a boundary between Voronoi cells.

    Attributes:
        offsets: Distances from the boundary with shape ``(K + 1, C)``.
        error: Largest difference between a posterior mean and the predicted limit.
        departures: Noise levels at which rounding has carried some of them off by ``OFFSET``.
        bound: Largest level at which one rounding can have grown to ``OFFSET``: the root of
            :math:`2^{-53} \exp(L^2 / (8 \sigma^2)) = \mathrm{OFFSET}`.
    """

    offsets: Tensor
    error: float
    departures: list[float]
    bound: float

    @property
    def kept(self) -> int:
        """Number that floating point keeps on the boundary to the end."""
        return self.offsets.shape[1] - len(self.departures)

    @property
    def as_predicted(self) -> bool:
        """Whether limits are as predicted and none left before rounding explains it."""
        return self.error <= TOLERANCE and all(sigma <= self.bound for sigma in self.departures)


def started_at(sigma: float) -> VE:
    """Return the variance exploding process up to a noise level."""
    return VE(t_max=float(VE().time_at_ratio(sigma)))


def square_starts(half_side: float = 2.1, per_side: int = 21) -> Tensor:
    """Return evenly spaced points on the boundary of a square, exactly symmetric.

    Args:
        half_side: Half of the side.
        per_side: Points on each side, corners included; odd, so that the axes are among them.

    Returns:
        float64 tensor with shape ``(4 * per_side - 4, 2)``.
    """
    reach = per_side // 2
    steps = torch.arange(-reach, reach + 1)
    grid = torch.cartesian_prod(steps, steps)
    return grid[grid.abs().amax(dim=1) == reach].double() * (half_side / reach)


def flow(score: Score, data: Tensor, starts: Tensor) -> Flow:
    """Carry starts at ``t_max`` down to a noise-to-signal ratio of 1e-8."""
    process = score.process
    samples = sample(
        score,
        starts / process.std(process.t_max),
        sampler=LogTime(rtol=1e-7, atol=1e-7, save=300),
        trajectory=True,
    )
    assert samples.trajectory is not None
    sigma = process.std(samples.times)
    row = int((sigma / ON_BOUNDARY).log().abs().argmin())
    return Flow(
        starts=starts,
        sigma=sigma,
        x=samples.trajectory,
        heading=score.denoise(samples.trajectory[row], samples.times[row]),
        limits=limit_points(samples.x, data, TOLERANCE),
    )


def boundary_starts(
    result: Flow, chosen: Tensor, limits: Tensor, offsets: Tensor, distance: float
) -> BoundaryStarts:
    """Examine trajectories that start on a boundary.

    Args:
        result: The flow.
        chosen: Which of its trajectories, boolean with shape ``(B,)``.
        limits: Where the chosen should end, with shape ``(C, 2)``.
        offsets: Distances of all trajectories from their boundary with shape ``(K + 1, B)``.
        distance: Distance L between the training points beside a boundary.
    """
    away = offsets[:, chosen] > OFFSET
    first = away.int().argmax(dim=0)[away.any(dim=0)]
    return BoundaryStarts(
        offsets=offsets[:, chosen],
        error=float((result.heading[chosen] - limits).abs().max()),
        departures=result.sigma[first].tolist(),
        bound=distance / math.sqrt(8.0 * math.log(OFFSET * 2.0**53)),
    )
