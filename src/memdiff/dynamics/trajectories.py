"""What a recorded trajectory shows: cells, weights, commitment and rate of convergence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.neighbors import nearest
from memdiff.processes import ForwardProcess
from memdiff.scores import EmpiricalScore

__all__ = [
    "Commitment",
    "ConvergenceRate",
    "LevelTimes",
    "commitment",
    "convergence_rate",
    "level_times",
    "voronoi_cells",
    "weights_along",
]


@dataclass(frozen=True)
class Commitment:
    r"""When each trajectory settles on one training point. See :func:`commitment`.

    Attributes:
        time: Time from which the point no longer changes, float64 with shape ``(B,)``.
        ratio: The same as :math:`\sigma/m`.
        index: The point settled on, int64 with shape ``(B,)``.
        changes: Number of changes on the way, int64 with shape ``(B,)``.
    """

    time: Tensor
    ratio: Tensor
    index: Tensor
    changes: Tensor


@dataclass(frozen=True)
class LevelTimes:
    r"""When the largest weight of each trajectory passes a level for good.

    Attributes:
        level: The level.
        time: Time of the passage, float64 with shape ``(B,)``; NaN where it never happens.
        ratio: The same as :math:`\sigma/m`.
    """

    level: float
    time: Tensor
    ratio: Tensor


@dataclass(frozen=True)
class ConvergenceRate:
    r"""The law :math:`|x(t) - x_*| \approx C\, \sigma(t)^a`, fitted to each trajectory.

    Attributes:
        slope: Exponents :math:`a`, float64 with shape ``(B,)``; NaN with under 3 usable times.
        constant: Constants :math:`C` with shape ``(B,)``.
        standard_error: Standard error of the slopes with shape ``(B,)``, from the scatter.
        points: Number of recorded times used with shape ``(B,)``.
        window: Smallest and largest :math:`\sigma` of the fit.
    """

    slope: Tensor
    constant: Tensor
    standard_error: Tensor
    points: Tensor
    window: tuple[float, float]


def voronoi_cells(trajectory: Tensor, data: Tensor, scale: Tensor | None = None) -> Tensor:
    r"""Voronoi cell, among the scaled training points :math:`m(t) x_n`, of every recorded point.

    Args:
        trajectory: Points with shape ``(K + 1, B, *S)``.
        data: Training data with shape ``(N, *S)``.
        scale: Scales :math:`m(t)` with shape ``(K + 1,)``, positive; None for 1, as in a variance
            exploding process.

    Returns:
        Index of the nearest scaled training point, int64 with shape ``(K + 1, B)``.

    Raises:
        ValueError: If shapes do not match or a scale is not positive.

    Example:
        >>> data = torch.tensor([[-1.0], [1.0]])
        >>> voronoi_cells(torch.tensor([[[-0.1]], [[0.2]], [[1.0]]]), data).squeeze(1)
        tensor([0, 1, 1])
    """
    if trajectory.ndim < 3 or trajectory.shape[2:] != data.shape[1:]:
        raise ValueError(
            f"trajectory must have shape (K + 1, B, *S) with S = {tuple(data.shape[1:])} as the "
            f"data, got {tuple(trajectory.shape)}."
        )
    points = trajectory.to(torch.float64)
    if scale is not None:
        factor = torch.as_tensor(scale, dtype=torch.float64, device=points.device)
        if factor.shape != (len(points),) or not bool((factor > 0).all()):
            raise ValueError(
                f"scale must be positive with shape ({len(points)},), one a recorded time, got "
                f"shape {tuple(factor.shape)} from {float(factor.min()):g}."
            )
        points = points / factor.reshape(-1, *([1] * (points.ndim - 1)))
    found = nearest(points.flatten(0, 1), data.to(torch.float64))
    return found.indices[:, 0].reshape(trajectory.shape[:2])


def weights_along(
    score: EmpiricalScore, times: Tensor, trajectory: Tensor, y: Tensor | None = None
) -> Tensor:
    r"""Posterior weights :math:`w_n(x(t), t)` along trajectories; for small problems.

    Args:
        score: Empirical score of ``N`` points.
        times: Recorded times with shape ``(K + 1,)``.
        trajectory: Points with shape ``(K + 1, B, *S)``.
        y: Conditions of the trajectories with shape ``(B,)`` or ``(B, k)``.

    Returns:
        float64 tensor with shape ``(K + 1, B, N)``.

    Raises:
        ValueError: If shapes do not match, or ``B * N`` numbers are above the memory limit of the
            score.
    """
    times = _check_times(times, trajectory)
    rows = [score.weights(x, t, y) for t, x in zip(times, trajectory, strict=True)]
    return torch.stack(rows)


def commitment(times: Tensor, cells: Tensor, process: ForwardProcess) -> Commitment:
    r"""Commitment (collapse) time: the last change of the point that a trajectory belongs to.

    Args:
        times: Recorded times with shape ``(K + 1,)``, decreasing.
        cells: The point at each time, int64 with shape ``(K + 1, B)``: Voronoi cells, or the
            ``argmax`` of the weights, which is the same where the prior weights are equal.
        process: The forward process.

    Returns:
        The commitment. Times are recorded ones, the first from which the point stays: their
        resolution is that of the record. A trajectory that never changes has the first time.

    Raises:
        ValueError: If shapes do not match or times do not decrease.

    Example:
        >>> from memdiff.processes import EDM
        >>> times = torch.tensor([4.0, 2.0, 1.0, 0.5])
        >>> commitment(times, torch.tensor([[0], [3], [1], [1]]), EDM()).time
        tensor([1.], dtype=torch.float64)
    """
    times = _check_times(times, cells).to(cells.device)
    changed = cells[1:] != cells[:-1]
    step = torch.arange(1, len(times), device=cells.device)[:, None]
    last = torch.cat([torch.zeros_like(cells[:1]), changed * step]).amax(dim=0)
    time = times[last]
    return Commitment(time, process.ratio(time), cells[-1], changed.sum(dim=0))


def level_times(
    times: Tensor, weights: Tensor, level: float, process: ForwardProcess
) -> LevelTimes:
    r"""Time at which the largest weight passes ``level`` and stays above it.

    Between recorded times the weight is interpolated linearly in :math:`\log(\sigma/m)`; in an
    interval that ends at :math:`\sigma = 0`, linearly in :math:`\sigma/m`.

    Args:
        times: Recorded times with shape ``(K + 1,)``, decreasing.
        weights: Weights with shape ``(K + 1, B, N)``, or largest weights ``(K + 1, B)``.
        level: Level in (0, 1).
        process: The forward process.

    Returns:
        The passage times: the first time where the weight is above the level from the start, NaN
        where it ends below.

    Raises:
        ValueError: If shapes do not match, times do not decrease or the level is out of range.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie in (0, 1), got {level}.")
    times = _check_times(times, weights).to(weights.device)
    top = (weights.amax(dim=2) if weights.ndim == 3 else weights).to(torch.float64)
    step = torch.arange(1, len(times) + 1, device=top.device)[:, None]
    # Last time below the level; -1 for never, which interpolates to the first time.
    below = ((top < level) * step).amax(dim=0) - 1
    before, after = below.clamp_min(0), (below + 1).clamp_max(len(times) - 1)
    column = torch.arange(top.shape[1], device=top.device)
    low, high = top[before, column], top[after, column]
    fraction = ((level - low) / (high - low).clamp_min(1e-300)).clamp(0.0, 1.0)
    ratio = process.ratio(times)
    start, end = ratio[before], ratio[after]
    tiny = torch.finfo(torch.float64).tiny
    logarithmic = (start.log() + fraction * (end.clamp_min(tiny) / start).log()).exp()
    passed = torch.where(end > 0, logarithmic, start + fraction * (end - start))
    # Rounding must not push the first recorded ratio above the one of t_max.
    time = process.time_at_ratio(passed.clamp_max(float(ratio[0])))
    never = below == len(times) - 1
    return LevelTimes(
        level, time.masked_fill(never, math.nan), passed.masked_fill(never, math.nan)
    )


def convergence_rate(
    times: Tensor,
    trajectory: Tensor,
    limit: Tensor,
    process: ForwardProcess,
    window: tuple[float, float] | None = None,
) -> ConvergenceRate:
    r"""Fit :math:`\log |x(t) - x_*|` against :math:`\log \sigma(t)` by least squares.

    Args:
        times: Recorded times with shape ``(K + 1,)``, decreasing.
        trajectory: Points with shape ``(K + 1, B, *S)``.
        limit: Limits :math:`x_*` with shape ``(B, *S)``: the training points, not the recorded
            ends, whose own distance is 0.
        process: The forward process.
        window: Smallest and largest :math:`\sigma` used; None for the last two decades of the
            record. Distances below 1e4 roundings of the limit are not used.

    Returns:
        The fit. Theory gives slope 1 once a trajectory is committed.

    Raises:
        ValueError: If shapes do not match, or under 3 recorded times fall in the window.
    """
    times = _check_times(times, trajectory).to(trajectory.device)
    if limit.shape != trajectory.shape[1:]:
        raise ValueError(
            f"limit must have shape {tuple(trajectory.shape[1:])}, one point a trajectory, "
            f"got {tuple(limit.shape)}."
        )
    sigma = process.std(times)
    if window is None:
        smallest = float(sigma[sigma > 0].min()) if bool((sigma > 0).any()) else 0.0
        window = (smallest, 100.0 * smallest)
    slack = 1e-9
    inside = (sigma >= window[0] * (1 - slack)) & (sigma <= window[1] * (1 + slack)) & (sigma > 0)
    if int(inside.sum()) < 3:
        raise ValueError(
            f"window must hold at least 3 recorded times with sigma > 0, got {int(inside.sum())} "
            f"with sigma from {window[0]:g} to {window[1]:g}: widen it or record more times."
        )
    gap = (trajectory[inside].to(torch.float64) - limit.to(torch.float64)).flatten(2)
    distance = torch.linalg.vector_norm(gap, dim=2)
    precision = torch.finfo(torch.promote_types(trajectory.dtype, limit.dtype)).eps
    floor = 1e4 * precision * torch.linalg.vector_norm(limit.to(torch.float64).flatten(1), dim=1)
    usable = ((distance > floor) & (distance > 0)).to(torch.float64)
    v = torch.where(usable > 0, distance, 1.0).log()
    u = sigma[inside].log()[:, None].expand_as(v)
    count = usable.sum(dim=0)
    mean_u, mean_v = (usable * u).sum(0) / count, (usable * v).sum(0) / count
    du, dv = usable * (u - mean_u), usable * (v - mean_v)
    spread = (du**2).sum(dim=0)
    slope = (du * dv).sum(dim=0) / spread
    scatter = ((dv - slope * du) ** 2).sum(dim=0) / (count - 2)
    few = count < 3
    return ConvergenceRate(
        slope.masked_fill(few, math.nan),
        (mean_v - slope * mean_u).exp().masked_fill(few, math.nan),
        (scatter / spread).sqrt().masked_fill(few, math.nan),
        count.to(torch.int64),
        (float(window[0]), float(window[1])),
    )


def _check_times(times: Tensor, record: Tensor) -> Tensor:
    """The recorded times in float64, decreasing and one per row of the record."""
    times = torch.as_tensor(times, dtype=torch.float64)
    if times.ndim != 1 or record.ndim < 2 or len(times) != len(record):
        raise ValueError(
            f"times must have shape (K + 1,) with one time per row of the record, got "
            f"{tuple(times.shape)} for a record with shape {tuple(record.shape)}."
        )
    if not bool((times[1:] < times[:-1]).all()):
        raise ValueError("times must decrease, as a sampler records them.")
    return times
