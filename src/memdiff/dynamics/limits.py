"""Where trajectories end: training points, Voronoi boundaries, and the basins of both."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.neighbors import nearest
from memdiff.samplers import LogTime, Sampler, sample
from memdiff.scores import EmpiricalScore, Score

__all__ = ["BasinMap", "LimitPoints", "basin_map", "limit_points"]


@dataclass(frozen=True)
class LimitPoints:
    """What the end of each trajectory is. See :func:`limit_points`.

    Attributes:
        index: Nearest training point, int64 with shape ``(B,)``.
        distance: Distance to it, float64 with shape ``(B,)``.
        is_data: Whether the end is a training point, with shape ``(B,)``.
        is_boundary: Whether it is on a Voronoi boundary: no training point, but equidistant to
            several of them. What is neither is some other point.
        ties: For each end on a boundary the indices of the equidistant points, else ``()``.
        tolerance: The distance up to which two things count as equal.
    """

    index: Tensor
    distance: Tensor
    is_data: Tensor
    is_boundary: Tensor
    ties: tuple[tuple[int, ...], ...]
    tolerance: float


@dataclass(frozen=True)
class BasinMap:
    """Which training point each start of a plane leads to. See :func:`basin_map`.

    Attributes:
        x: Centres of the columns, float64 with shape ``(nx,)``.
        y: Centres of the rows, ascending, float64 with shape ``(ny,)``.
        index: Training point reached, int64 with shape ``(ny, nx)``; -1 where it is none.
        is_boundary: Whether the limit is on a Voronoi boundary, with shape ``(ny, nx)``.
        ends: Limits, float64 with shape ``(ny, nx, 2)``.
        tolerance: Tolerance of :func:`limit_points`.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    is_boundary: Tensor
    ends: Tensor
    tolerance: float


def limit_points(x_end: Tensor, data: Tensor, tolerance: float) -> LimitPoints:
    """Tell training points, points of Voronoi boundaries and other points apart.

    Args:
        x_end: Ends of trajectories with shape ``(B, *S)``.
        data: Training data with shape ``(N, *S)``.
        tolerance: Distance up to which an end is a training point, and difference of distances up
            to which two training points are equidistant; in the units of the data, positive.

    Returns:
        The classification. Training points within ``2 tolerance`` of each other are one point:
        being equidistant to duplicates is no boundary.

    Raises:
        ValueError: If shapes do not match or the tolerance is not positive.

    Example:
        >>> data = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
        >>> ends = limit_points(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.5, 0.0]]), data, 1e-6)
        >>> ends.is_data.tolist(), ends.is_boundary.tolist(), ends.ties
        ([True, False, False], [False, True, False], ((), (0, 1), ()))
    """
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance must be positive and finite, got {tolerance}.")
    ends, points = x_end.to(torch.float64), data.to(torch.float64)
    found = nearest(ends, points, k=min(2, len(points)))
    distance = found.distances[:, 0].to(torch.float64)
    is_data = distance <= tolerance
    tied = ~is_data & (found.distances[:, -1] - distance <= tolerance)
    if len(points) == 1:
        tied = torch.zeros_like(is_data)
    ties: list[tuple[int, ...]] = [()] * len(ends)
    is_boundary = torch.zeros_like(is_data)
    # Boundaries are exceptional: only the candidates are compared with all points.
    for row in tied.nonzero()[:, 0].tolist():
        distances = torch.linalg.vector_norm((points - ends[row]).flatten(1), dim=1)
        members = (distances <= distance[row] + tolerance).nonzero()[:, 0]
        apart = torch.linalg.vector_norm((points[members] - points[members[0]]).flatten(1), dim=1)
        if bool((apart > 2 * tolerance).any()):
            is_boundary[row] = True
            ties[row] = tuple(members.tolist())
    return LimitPoints(
        found.indices[:, 0], distance, is_data, is_boundary, tuple(ties), float(tolerance)
    )


def basin_map(
    score: Score,
    xlim: tuple[float, float],
    ylim: tuple[float, float],
    resolution: int | tuple[int, int] = 100,
    sampler: Sampler | None = None,
    *,
    data: Tensor | None = None,
    tolerance: float = 1e-4,
    t_end: float | None = None,
    batch_size: int | None = None,
) -> BasinMap:
    r"""Basins of attraction in two dimensions, as a function of the start :math:`x(t_{max})`.

    Limits on a boundary are unstable: between training points at distance :math:`L` an offset
    grows by :math:`\exp(L^2 m^2 / (8 \sigma^2))` on the way, so a start reaches one in floating
    point only where its symmetry survives every rounding. (Reconstructed: the flow linearised
    about the boundary.)

    Args:
        score: A score on points with shape ``(2,)``.
        xlim: Range of the first coordinate of the starts.
        ylim: Range of the second one.
        resolution: Number of cells along each axis, or ``(nx, ny)``. Starts are cell centres.
        sampler: A deterministic sampler; None for ``LogTime()``.
        data: Training data with shape ``(N, 2)``; None for those of an empirical score.
        tolerance: Tolerance of :func:`limit_points`; to be above the noise at which the sampler
            stops.
        t_end: Final time of the sampler; None for its own.
        batch_size: Number of starts integrated at a time; None for all.

    Returns:
        The map.

    Raises:
        ValueError: If a limit or resolution is out of range, the sampler is stochastic, or the
            data are missing or not in two dimensions.
    """
    if data is None:
        if not isinstance(score, EmpiricalScore):
            raise ValueError(
                f"data must be given for a {type(score).__name__}: only an empirical score knows "
                "its training data."
            )
        data = score.source if isinstance(score.source, Tensor) else score.source.tensor()
    if data.ndim != 2 or data.shape[1] != 2:
        raise ValueError(f"data must have shape (N, 2) for a map, got {tuple(data.shape)}.")
    sampler = LogTime() if sampler is None else sampler
    if sampler.stochastic:
        raise ValueError(f"sampler must be deterministic for a map of basins, got {sampler!r}.")
    nx, ny = (resolution, resolution) if isinstance(resolution, int) else resolution
    if nx < 1 or ny < 1:
        raise ValueError(f"resolution must be at least 1 along each axis, got {(nx, ny)}.")
    x, y = _centres("xlim", xlim, nx), _centres("ylim", ylim, ny)
    starts = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
    process = score.process
    latents = (starts / process.std(process.t_max)).to(data.device)
    ends = sample(score, latents, sampler=sampler, t_end=t_end, batch_size=batch_size).x
    limits = limit_points(ends, data, tolerance)
    index = torch.where(limits.is_data, limits.index, -1)
    return BasinMap(
        x,
        y,
        index.reshape(ny, nx),
        limits.is_boundary.reshape(ny, nx),
        ends.reshape(ny, nx, 2),
        float(tolerance),
    )


def _centres(name: str, limits: tuple[float, float], count: int) -> Tensor:
    low, high = limits
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{name} must be an increasing pair of numbers, got {limits}.")
    edges = torch.linspace(low, high, count + 1, dtype=torch.float64)
    return 0.5 * (edges[1:] + edges[:-1])
