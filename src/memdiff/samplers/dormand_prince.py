r"""Dormand-Prince 5(4) with a step size of its own for each sample of a batch.

The result for a sample is the one it would have alone: every sample has its own time, step and
error norm; samples that have arrived leave the batch. The step control is scipy's, so that a
batch of one takes the steps of ``scipy.integrate.solve_ivp(method="RK45")``.

References:
    Dormand, Prince 1980, *A family of embedded Runge-Kutta formulae*.
    Hairer, Norsett, Wanner, *Solving Ordinary Differential Equations I*, sections II.4 and II.6.
    Shampine 1986, *Some practical Runge-Kutta formulas* (the interpolant).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.scores.base import per_sample

__all__ = ["Solution", "solve"]

# Tableau of Dormand and Prince 1980. NODES[i] and STAGES[i] give stage i + 2.
NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
SOLUTION = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
ERROR = (-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40)
# Row i: coefficients of theta, theta^2, theta^3, theta^4 for stage i in the interpolant.
INTERPOLANT = (
    (1.0, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432),
    (0.0, 0.0, 0.0, 0.0),
    (0.0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799),
    (0.0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
    (0.0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632),
    (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
    (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
)

SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0

# Below the size at which torch splits a sum over threads, so that sums do not depend on them.
_REDUCTION_BLOCK = 16384

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``velocity(x, u, rows)`` with shapes ``(b, *S)``, ``(b,)``, ``(b,)`` (indices in the batch)."""


@dataclass(frozen=True)
class Solution:
    """Solution of a batch of initial value problems.

    Attributes:
        x: Final points with shape ``(B, *S)``.
        saved: Points at the requested values of ``u``, with shape ``(K, B, *S)``, or None.
        accepted: Accepted steps of each sample, int64 with shape ``(B,)``.
        rejected: Rejected steps of each sample, int64 with shape ``(B,)``.
    """

    x: Tensor
    saved: Tensor | None
    accepted: Tensor
    rejected: Tensor


def solve(
    velocity: Velocity,
    x: Tensor,
    start: float,
    end: float,
    *,
    rtol: float,
    atol: float,
    max_step: float = float("inf"),
    first_step: float | None = None,
    save: Tensor | None = None,
    report: Callable[[float], None] | None = None,
) -> Solution:
    r"""Solve :math:`dx/du = velocity(x, u)` from ``start`` to ``end``, in either direction.

    A step is accepted if the root mean square over the sample of
    ``error / (atol + rtol * max(|x|, |x_new|))`` is below 1. Peak extra memory is about twelve
    times the size of ``x``.

    Args:
        velocity: Right-hand side.
        x: Initial points with shape ``(B, *S)``, float64.
        start: Initial value of the independent variable.
        end: Final value, other than ``start``.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        max_step: Largest step.
        first_step: First step; chosen for each sample if None.
        save: Values of ``u`` from ``start`` to ``end``, monotone with both included, at which to
            record the solution by the interpolant of order 4; float64 with shape ``(K,)``.
        report: Called with the mean fraction of the way done.

    Returns:
        The solution.

    Raises:
        ValueError: If the tolerance asks for a step below the resolution of float64.
    """
    direction = 1.0 if end > start else -1.0
    final = x.clone()
    saved = None if save is None else x.new_empty((len(save), *x.shape))
    if saved is not None:
        saved[0] = x
    accepted = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    rejected = torch.zeros_like(accepted)

    rows = torch.arange(x.shape[0], device=x.device)
    u = x.new_full((x.shape[0],), start)
    slope = velocity(x, u, rows)
    if first_step is None:
        h = _first_step(velocity, x, u, slope, rows, end, rtol, atol, max_step)
    else:
        h = torch.full_like(u, min(first_step, max_step, abs(end - start)))
    retry = torch.zeros_like(u, dtype=torch.bool)
    next_save = torch.ones_like(rows)

    while rows.numel() > 0:
        smallest = 10.0 * (torch.nextafter(u, torch.full_like(u, direction * torch.inf)) - u).abs()
        if bool((retry & (h < smallest)).any()):
            stuck = float(u[retry & (h < smallest)][0])
            raise ValueError(
                f"rtol = {rtol:g} and atol = {atol:g} cannot be met at {stuck:g}, where the step "
                f"falls below the resolution of float64; pass larger tolerances or a larger t_end."
            )
        h = torch.where(retry, h, torch.maximum(h.clamp(max=max_step), smallest))
        u_new = u + direction * h
        u_new = torch.where(direction * (u_new - end) > 0, torch.full_like(u, end), u_new)
        step = u_new - u
        stages = _stages(velocity, x, u, u_new, slope, rows)
        x_new = x + _combine(step, SOLUTION, stages)
        stages.append(velocity(x_new, u_new, rows))

        scale = atol + rtol * torch.maximum(x.abs(), x_new.abs())
        error = _root_mean_square(_combine(step, ERROR, stages) / scale)
        accept = error < 1.0
        factor = SAFETY * error ** (-1 / 5)
        grow = torch.where(retry, factor.clamp(max=1.0), factor.clamp(max=GROW))
        h = step.abs() * torch.where(accept, grow, factor.clamp(min=SHRINK))
        retry = ~accept
        accepted[rows] += accept
        rejected[rows] += retry

        if saved is not None and save is not None:
            _record(saved, save, next_save, x, u, step, stages, rows, accept, direction)
        take = per_sample(accept, x)
        x = torch.where(take, x_new, x)
        slope = torch.where(take, stages[-1], slope)
        u = torch.where(accept, u_new, u)

        arrived = u == end
        if bool(arrived.any()):
            final[rows[arrived]] = x[arrived]
            keep = ~arrived
            rows, x, u, h, retry = rows[keep], x[keep], u[keep], h[keep], retry[keep]
            slope, next_save = slope[keep], next_save[keep]
        if report is not None:
            left = float((end - u).abs().sum()) / abs(end - start)
            report(1.0 - left / max(final.shape[0], 1))
    if saved is not None:
        saved[-1] = final
    return Solution(x=final, saved=saved, accepted=accepted, rejected=rejected)


def _stages(
    velocity: Velocity, x: Tensor, u: Tensor, u_new: Tensor, slope: Tensor, rows: Tensor
) -> list[Tensor]:
    step = u_new - u
    stages = [slope]
    for node, weights in zip(NODES, STAGES, strict=True):
        where = u_new if node == 1.0 else u + node * step
        stages.append(velocity(x + _combine(step, weights, stages), where, rows))
    return stages


def _combine(step: Tensor, weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """Weighted sum, elementwise: a matrix product would round by batch size."""
    total = weights[0] * stages[0]
    for weight, stage in zip(weights[1:], stages[1:], strict=True):
        if weight != 0.0:
            total = total + weight * stage
    return per_sample(step, total) * total


def _root_mean_square(values: Tensor) -> Tensor:
    """Over each sample, in an order that does not depend on the batch."""
    flat = values.reshape(values.shape[0], -1)
    sums = [block.square().sum(dim=1) for block in flat.split(_REDUCTION_BLOCK, dim=1)]
    return (torch.stack(sums).sum(dim=0) / flat.shape[1]).sqrt()


def _first_step(
    velocity: Velocity,
    x: Tensor,
    u: Tensor,
    slope: Tensor,
    rows: Tensor,
    end: float,
    rtol: float,
    atol: float,
    max_step: float,
) -> Tensor:
    """Hairer, Norsett, Wanner, section II.4, algorithm for the starting step."""
    scale = atol + rtol * x.abs()
    size = _root_mean_square(x / scale)
    speed = _root_mean_square(slope / scale)
    span = (end - u).abs()
    small = (size < 1e-5) | (speed < 1e-5)
    trial = torch.where(small, torch.full_like(u, 1e-6), 0.01 * size / speed)
    trial = torch.minimum(trial, span)
    step = trial if end > float(u[0]) else -trial
    bent = velocity(x + per_sample(step, x) * slope, u + step, rows)
    bend = _root_mean_square((bent - slope) / scale) / trial
    flat = (speed <= 1e-15) & (bend <= 1e-15)
    by_order = torch.where(
        flat,
        torch.clamp(trial * 1e-3, min=1e-6),
        (0.01 / torch.maximum(speed, bend)) ** (1 / 5),
    )
    return torch.minimum(torch.minimum(100.0 * trial, by_order), span).clamp(max=max_step)


def _record(
    saved: Tensor,
    save: Tensor,
    next_save: Tensor,
    x: Tensor,
    u: Tensor,
    step: Tensor,
    stages: Sequence[Tensor],
    rows: Tensor,
    accept: Tensor,
    direction: float,
) -> None:
    """Write the points that the accepted steps have passed; advances ``next_save`` in place."""
    last = len(save) - 1  # the end itself is written once everything has arrived
    while True:
        target = save[next_save.clamp(max=last)]
        due = accept & (next_save < last) & (direction * (target - u - step) <= 0)
        if not bool(due.any()):
            return
        theta = (target[due] - u[due]) / step[due]
        weights = [
            theta * (a + theta * (b + theta * (c + theta * d))) for a, b, c, d in INTERPOLANT
        ]
        slope = sum(
            per_sample(weight, x) * stage[due]
            for weight, stage in zip(weights, stages, strict=True)
        )
        saved[next_save[due], rows[due]] = x[due] + per_sample(step[due], x) * slope
        next_save += due
