"""The suite accepts the samplers of the library and names planted defects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from memdiff.processes import EDM, VE, VP, LinearInterpolant
from memdiff.samplers import (
    DDIM,
    RK45,
    Euler,
    EulerMaruyama,
    FixedStepSampler,
    Heun,
    LogTime,
)
from memdiff.testing import check_sampler

SAMPLERS = [
    Euler(steps=8),
    Heun(steps=8),
    DDIM(steps=8),
    RK45(),
    LogTime(),
    EulerMaruyama(steps=8),
    EulerMaruyama(steps=8, eta=0.5),
]


@pytest.mark.parametrize("process", [VE(), VP(), EDM(), LinearInterpolant()], ids=repr)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_accepts(sampler, process):
    check_sampler(sampler, process)


@dataclass(frozen=True)
class HeunThatIsEuler(Heun):
    """An order-2 method with its corrector at the wrong point: it converges at order 1."""

    def step(self, flow, x, t, t_next, noise):
        slope = flow.velocity(x, t)
        return x + (t_next - t) * 0.5 * (slope + flow.velocity(x, t_next))


@dataclass(frozen=True)
class ModestHeun(Heun):
    order: ClassVar[int] = 1


@dataclass(frozen=True)
class ForgetsTheDrift(Euler):
    def step(self, flow, x, t, t_next, noise):
        drift = flow.process.drift(t)
        return x + (t_next - t) * (flow.velocity(x, t) - drift * x)


@dataclass(frozen=True)
class HiddenNoise(Euler):
    def step(self, flow, x, t, t_next, noise):
        return super().step(flow, x, t, t_next, noise) + 1e-6 * torch.randn(x.shape)


@dataclass(frozen=True)
class UndeclaredNoise(EulerMaruyama):
    stochastic: ClassVar[bool] = False


@dataclass(frozen=True)
class TooMuchNoise(EulerMaruyama):
    """The drift of eta with twice its noise: converges, to another law."""

    def step(self, flow, x, t, t_next, noise):
        drift = (t_next - t) * flow.velocity(x, t, eta=self.eta)
        return x + drift + 2.0 * flow.process.diffusion(t) * noise.increment(t, t_next)


@dataclass(frozen=True)
class NoiseOfStandardDeviationDt(EulerMaruyama):
    """Increments scaled by dt and not by its root: no order at all."""

    def step(self, flow, x, t, t_next, noise):
        drift = (t_next - t) * flow.velocity(x, t, eta=self.eta)
        increment = noise.increment(t, t_next) * (t - t_next).sqrt()
        return x + drift + flow.process.diffusion(t) * increment


@dataclass(frozen=True)
class SharedNoise(EulerMaruyama):
    """Noise from one generator for the batch: samples depend on their neighbours."""

    def integrate(self, flow, x, t_end, noise, **options):
        class Shared:
            generator = torch.Generator().manual_seed(0)

            def increment(self, t, t_next):
                normal = torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
                return normal * (t - t_next).sqrt() + 0.0 * noise.increment(t, t_next)

        return super().integrate(flow, x, t_end, Shared(), **options)


@dataclass(frozen=True)
class CommonStep(RK45):
    """Error control over the batch: what scipy does when a batch is flattened into one system."""

    def integrate(self, flow, x, t_end, noise, **options):
        loud = x.abs().max().item()
        eased = replace(self, rtol=self.rtol * (1.0 + loud), atol=self.atol * (1.0 + loud))
        return RK45.integrate(eased, flow, x, t_end, noise, **options)


@dataclass(frozen=True)
class ShiftsItsTrajectory(Euler):
    def integrate(self, flow, x, t_end, noise, **options):
        path = super().integrate(flow, x, t_end, noise, **options)
        return replace(path, trajectory=None if path.trajectory is None else path.trajectory + 1)


@dataclass(frozen=True)
class StopsEarly(Euler):
    def integrate(self, flow, x, t_end, noise, **options):
        return super().integrate(flow, x, 1.1 * t_end, noise, **options)


@dataclass(frozen=True)
class StateInFloat32(Heun):
    def integrate(self, flow, x, t_end, noise, **options):
        path = super().integrate(flow, x, t_end, noise, **options)
        kept = path.trajectory
        return replace(path, trajectory=None if kept is None else kept.to(torch.float32))


@dataclass
class NotFrozen:
    steps: int = 1


@dataclass(frozen=True)
class StandsStill(FixedStepSampler):
    order: ClassVar[int] = 1

    def step(self, flow, x, t, t_next, noise):
        return x


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (HeunThatIsEuler(8), "declares order 2, but its measured order .* is (0.9|1.0|1.1)"),
        (ModestHeun(8), "declares order 1, but its measured order .* is (1.9|2.0)"),
        (ForgetsTheDrift(8), "declares order 1, but its measured order"),
        (HiddenNoise(8), "repeat itself"),
        (UndeclaredNoise(8), "declares stochastic = False"),
        (TooMuchNoise(8), "marginal variance"),
        (NoiseOfStandardDeviationDt(8), "declares order 1|marginal variance"),
        (SharedNoise(8), "declares stochastic = True"),
        (CommonStep(), "must not depend on"),
        (ShiftsItsTrajectory(8), "start at x"),
        (StopsEarly(8), "must go from t_max"),
        (StateInFloat32(8), "float64 trajectory"),
        (StandsStill(8), "evaluate the score|another seed|declares order"),
        (NotFrozen(), "must be a memdiff.samplers.Sampler"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_names_the_defect(sampler, message):
    with pytest.raises(AssertionError, match=message):
        check_sampler(sampler, VP())
