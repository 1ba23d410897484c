r"""Samplers with a fixed number of steps.

All of them step on :meth:`~memdiff.processes.ForwardProcess.time_grid`, the grid of Karras et al.
2022 in the noise-to-signal ratio :math:`\sigma/m`.

At ``t_end = 0`` the score of a finite training set is infinite, so the last step, which goes to
0, is exponential: the exact solution with the denoiser :math:`D` held fixed, whose value is
:math:`D` itself. For :class:`~memdiff.processes.EDM` this is what Euler's step does, so
:class:`Heun` is Algorithm 1 of Karras et al. to the last digit. The order that a sampler declares
is its order at a fixed ``t_end > 0``; at ``t_end = 0`` the last step, from the ratio
``process.ratio_min``, adds an error that does not shrink with ``steps``.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from memdiff.processes import ForwardProcess
from memdiff.run.memory import require_memory
from memdiff.samplers.base import Path, Sampler
from memdiff.samplers.flow import ReverseFlow
from memdiff.samplers.noise import BrownianMotion

__all__ = ["DDIM", "Euler", "EulerMaruyama", "FixedStepSampler", "Heun"]


@dataclass(frozen=True)
class FixedStepSampler(Sampler):
    """Base class of the fixed-step samplers: the loop. A subclass writes :meth:`step`.

    Args:
        steps: Number of steps, at least 1.
    """

    steps: int = 40

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(
                f"steps of {type(self).__name__} must be an integer of at least 1, "
                f"got {self.steps!r}."
            )

    @abstractmethod
    def step(
        self, flow: ReverseFlow, x: Tensor, t: Tensor, t_next: Tensor, noise: BrownianMotion
    ) -> Tensor:
        """One step.

        Args:
            flow: The reverse flow.
            x: Points at ``t`` with shape ``(B, *S)``, float64.
            t: Time with shape ``()``, float64.
            t_next: Next time with shape ``()``, float64, positive and below ``t``.
            noise: Brownian motions of the batch.

        Returns:
            Points at ``t_next``.
        """

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
        require_memory(4 * 8 * self.steps, f"steps={self.steps}", "take fewer steps")
        times = flow.process.time_grid(self.steps, t_end)
        path = [x]
        for done, (t, t_next) in enumerate(itertools.pairwise(times), start=1):
            if t_next == 0:
                x = flow.exponential_step(x, t, t_next)
            else:
                x = self.step(flow, x, t, t_next, noise)
            if trajectory:
                path.append(x)
            if report is not None:
                report(done / self.steps)
        return Path(
            x=x,
            times=times,
            trajectory=torch.stack(path) if trajectory else None,
            accepted_steps=self.steps * x.shape[0],
        )

    @override
    def with_resolution(
        self, steps: int, process: ForwardProcess, t_end: float
    ) -> FixedStepSampler:
        return replace(self, steps=steps)


@dataclass(frozen=True)
class Euler(FixedStepSampler):
    r"""Euler's method in :math:`t`; one score evaluation per step.

    Args:
        steps: Number of steps, at least 1.
    """

    order: ClassVar[int] = 1

    @override
    def step(
        self, flow: ReverseFlow, x: Tensor, t: Tensor, t_next: Tensor, noise: BrownianMotion
    ) -> Tensor:
        return x + (t_next - t) * flow.velocity(x, t)


@dataclass(frozen=True)
class Heun(FixedStepSampler):
    r"""Heun's method (explicit trapezoid) in :math:`t`; two score evaluations per step.

    With the :class:`~memdiff.processes.EDM` process it is the deterministic sampler of EDM; a run
    to ``t_end = 0`` takes ``2 * steps - 1`` evaluations.

    Args:
        steps: Number of steps, at least 1.

    References:
        Karras et al. 2022, arXiv:2206.00364, Algorithm 1.
    """

    order: ClassVar[int] = 2

    @override
    def step(
        self, flow: ReverseFlow, x: Tensor, t: Tensor, t_next: Tensor, noise: BrownianMotion
    ) -> Tensor:
        slope = flow.velocity(x, t)
        predicted = x + (t_next - t) * slope
        return x + (t_next - t) * 0.5 * (slope + flow.velocity(predicted, t_next))


@dataclass(frozen=True)
class DDIM(FixedStepSampler):
    r"""Exponential Euler: each step is exact for a denoiser that does not change.

    With :math:`\hat x = x/m` and :math:`\rho = \sigma/m`,
    :math:`\hat x' = \hat x + (1 - \rho'/\rho)\, r/m`. The step is a convex combination of
    :math:`\hat x` and :math:`D`, so it is stable at every step size.

    Args:
        steps: Number of steps, at least 1.

    References:
        Song, Meng, Ermon 2021, *Denoising Diffusion Implicit Models*, arXiv:2010.02502,
        equation 12 with :math:`\sigma_t = 0`.
    """

    order: ClassVar[int] = 1

    @override
    def step(
        self, flow: ReverseFlow, x: Tensor, t: Tensor, t_next: Tensor, noise: BrownianMotion
    ) -> Tensor:
        return flow.exponential_step(x, t, t_next)


@dataclass(frozen=True)
class EulerMaruyama(FixedStepSampler):
    r"""Euler-Maruyama for the reverse SDE with noise level :math:`\eta`.

    The noise is additive (:math:`g` depends on time only), so the strong order is 1, as is the
    weak one. ``eta = 0`` is :class:`Euler`. It stops at the ratio ``ratio_end`` unless ``t_end``
    is given; with ``t_end = 0`` the last step is the noise-free exponential one.

    Args:
        steps: Number of steps, at least 1.
        eta: Noise level, at least 0; 1 is the reverse SDE.

    References:
        Kloeden, Platen, *Numerical Solution of Stochastic Differential Equations*, section 10.2.
    """

    order: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    ratio_end: ClassVar[float] = 1e-3

    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.eta < float("inf"):
            raise ValueError(f"eta must be finite and at least 0, got {self.eta!r}.")

    @override
    def step(
        self, flow: ReverseFlow, x: Tensor, t: Tensor, t_next: Tensor, noise: BrownianMotion
    ) -> Tensor:
        drift = (t_next - t) * flow.velocity(x, t, eta=self.eta)
        if self.eta == 0.0:
            return x + drift
        return x + drift + self.eta * flow.process.diffusion(t) * noise.increment(t, t_next)
