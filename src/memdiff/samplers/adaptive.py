r"""Samplers that choose their steps: Dormand-Prince 5(4) in two independent variables.

:class:`RK45` integrates in :math:`t`. :class:`LogTime` integrates the same flow in the logarithm
of the noise-to-signal ratio, where it has no singularity.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from memdiff.processes import ForwardProcess
from memdiff.samplers import dormand_prince
from memdiff.samplers.base import Path, Sampler
from memdiff.samplers.flow import ReverseFlow
from memdiff.samplers.noise import BrownianMotion
from memdiff.scores.base import per_sample

__all__ = ["RK45", "AdaptiveSampler", "LogTime"]


@dataclass(frozen=True)
class AdaptiveSampler(Sampler):
    r"""Base class of the adaptive samplers: tolerances, and the times that are recorded.

    Step size and error are controlled for each sample on its own, so a sample does not depend on
    the others of its batch. A trajectory is recorded at ``save`` times common to all samples, by
    the interpolant of order 4 that comes with the method: evenly spaced in
    :math:`\log(\sigma/m)`, down to ``t_end``, or down to ``process.ratio_min`` and then 0 if
    ``t_end`` is 0.

    Args:
        rtol: Relative tolerance, at least 1e-14.
        atol: Absolute tolerance, positive.
        max_step: Largest step, in the variable that is integrated.
        first_step: First step, in that variable; chosen for each sample if None.
        save: Number of recorded times, at least 2.
    """

    order: ClassVar[int] = 5

    rtol: float = 1e-5
    atol: float = 1e-5
    max_step: float = math.inf
    first_step: float | None = None
    save: int = 100

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not 1e-14 <= self.rtol < math.inf:
            raise ValueError(
                f"rtol of {name} must be finite and at least 1e-14, got {self.rtol!r}."
            )
        if not 0.0 < self.atol < math.inf:
            raise ValueError(f"atol of {name} must be positive and finite, got {self.atol!r}.")
        if not self.max_step > 0.0:
            raise ValueError(f"max_step of {name} must be positive, got {self.max_step!r}.")
        if self.first_step is not None and not 0.0 < self.first_step < math.inf:
            raise ValueError(f"first_step of {name} must be positive, got {self.first_step!r}.")
        if isinstance(self.save, bool) or not isinstance(self.save, int) or self.save < 2:
            raise ValueError(
                f"save of {name} must be an integer of at least 2, got {self.save!r}."
            )

    @abstractmethod
    def variable(self, process: ForwardProcess, t: Tensor) -> Tensor:
        """The independent variable at the times ``t``, monotone, float64."""

    @override
    def with_resolution(
        self, steps: int, process: ForwardProcess, t_end: float
    ) -> AdaptiveSampler:
        ends = torch.tensor([process.t_max, t_end], dtype=torch.float64)
        start, end = self.variable(process, ends).tolist()
        step = abs(end - start) / steps
        return replace(self, rtol=1e9, atol=1e9, max_step=step, first_step=step)

    def _times(self, process: ForwardProcess, t_end: float) -> Tensor:
        low = float(process.ratio(t_end)) if t_end > 0.0 else process.ratio_min
        high = float(process.ratio(process.t_max))
        count = self.save if t_end > 0.0 else self.save - 1
        if count == 1:
            return torch.tensor([process.t_max, 0.0], dtype=torch.float64)
        logs = torch.linspace(math.log(high), math.log(low), count, dtype=torch.float64)
        inner = process.time_at_ratio(logs[1:-1].exp())
        ends = inner.new_tensor([process.t_max, t_end])
        if t_end > 0.0:
            return torch.cat([ends[:1], inner, ends[1:]])
        return torch.cat([ends[:1], inner, process.time_at_ratio(logs[-1:].exp()), ends[1:]])


@dataclass(frozen=True)
class RK45(AdaptiveSampler):
    r"""Dormand-Prince 5(4) in :math:`t` with error control for each sample.

    Without ``t_end`` it stops at the ratio ``ratio_end``. With ``t_end = 0`` it evaluates the
    score at :math:`t = 0`, which regularised scores allow; a score that is infinite there is
    refused.

    Args:
        rtol: Relative tolerance, at least 1e-14.
        atol: Absolute tolerance, positive.
        max_step: Largest step in :math:`t`.
        first_step: First step in :math:`t`; chosen for each sample if None.
        save: Number of recorded times, at least 2.

    References:
        Dormand, Prince 1980. Used in arXiv:2501.15785, from ``t_max`` to 0.
    """

    ratio_end: ClassVar[float] = 1e-3

    @override
    def variable(self, process: ForwardProcess, t: Tensor) -> Tensor:
        return t

    @override
    def integrate(
        self,
        flow: ReverseFlow,
        x: Tensor,
        t_end: float,
        noise: BrownianMotion,
        *,
        trajectory: bool = False,
        report: Callable[[float], None] | None = None,
    ) -> Path:
        process = flow.process
        times = self._times(process, t_end) if trajectory else _ends(process, t_end)
        solution = dormand_prince.solve(
            flow.velocity,
            x,
            process.t_max,
            t_end,
            rtol=self.rtol,
            atol=self.atol,
            max_step=self.max_step,
            first_step=self.first_step,
            save=times.to(x.device) if trajectory else None,
            report=report,
        )
        return _path(solution, solution.x, times, solution.saved)


@dataclass(frozen=True)
class LogTime(AdaptiveSampler):
    r"""Dormand-Prince 5(4) in :math:`\ell = -\log(\sigma/m)`, with error control for each sample.

    With :math:`\hat x = x/m` the probability-flow ODE is, for every process,

    .. math::
        \frac{d\hat x}{d\ell} = D(x, t) - \hat x = \frac{r(x, t)}{m(t)},

    whose right-hand side is bounded and whose rate of approach to the data is 1: there is no
    singular time, and the noise-to-signal ratio can go to 1e-8 (``ratio_end``) or below in a
    number of steps proportional to its logarithm. ``t_end = 0`` is infinitely far away and is
    refused. Tolerances apply to :math:`\hat x`.

    Args:
        rtol: Relative tolerance, at least 1e-14.
        atol: Absolute tolerance, positive.
        max_step: Largest step in :math:`\ell`. The default keeps the rate of approach to the
            data to 1e-5 where the distance to it is far below ``atol``, which alone would let
            the step grow to the edge of stability.
        first_step: First step in :math:`\ell`; chosen for each sample if None.
        save: Number of recorded times, at least 2.

    References:
        arXiv:2501.15785, changes time to :math:`\tau = -\log\sigma` for the variance
        exploding process (the same variable, since :math:`m = 1`) and the variance preserving one
        (the same flow in another variable).
        Reconstructed: the form above, which does not depend on the process.
    """

    ratio_end: ClassVar[float] = 1e-8

    max_step: float = 0.5

    @override
    def variable(self, process: ForwardProcess, t: Tensor) -> Tensor:
        return -process.ratio(t).log()

    @override
    def integrate(
        self,
        flow: ReverseFlow,
        x: Tensor,
        t_end: float,
        noise: BrownianMotion,
        *,
        trajectory: bool = False,
        report: Callable[[float], None] | None = None,
    ) -> Path:
        process = flow.process
        ends = _ends(process, t_end)
        start, end = self.variable(process, ends).tolist()
        if not math.isfinite(end):
            raise ValueError(
                f"t_end must be positive for LogTime, got {t_end:g}, which is infinitely far in "
                f"log time; leave t_end out (it then stops at sigma/m = {self.ratio_end:g}) or "
                f"use a fixed-step sampler."
            )

        def velocity(reduced: Tensor, log_time: Tensor, rows: Tensor) -> Tensor:
            t = process.time_at_ratio((-log_time).exp().clamp(max=math.exp(-start)))
            m = per_sample(process.scale(t), reduced)
            return flow.residual(m * reduced, t, rows) / m

        times = self._times(process, t_end) if trajectory else ends
        scales = process.scale(times)
        save = None
        if trajectory:
            save = self.variable(process, times).to(x.device)
            save[0], save[-1] = start, end
        solution = dormand_prince.solve(
            velocity,
            x / scales[0],
            start,
            end,
            rtol=self.rtol,
            atol=self.atol,
            max_step=self.max_step,
            first_step=self.first_step,
            save=save,
            report=report,
        )
        saved = solution.saved
        if saved is not None:
            saved = per_sample(scales.to(x.device), saved) * saved
        return _path(solution, scales[-1] * solution.x, times, saved)


def _ends(process: ForwardProcess, t_end: float) -> Tensor:
    return torch.tensor([process.t_max, t_end], dtype=torch.float64)


def _path(
    solution: dormand_prince.Solution, x: Tensor, times: Tensor, trajectory: Tensor | None
) -> Path:
    return Path(
        x=x,
        times=times,
        trajectory=trajectory,
        accepted_steps=int(solution.accepted.sum()),
        rejected_steps=int(solution.rejected.sum()),
    )
