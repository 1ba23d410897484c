"""Conformance suite of a sampler."""

from __future__ import annotations

import bisect
import dataclasses
import math

import torch
from torch import Tensor

from memdiff.processes import ForwardProcess
from memdiff.samplers import ReverseFlow, Sampler, SeededBrownianMotion, draw_latents, sample
from memdiff.scores.base import Score, expand_time, per_sample
from memdiff.testing.requirement import require, require_close

__all__ = ["check_sampler"]


def check_sampler(sampler: Sampler, process: ForwardProcess, *, tolerance: float = 0.3) -> None:
    r"""Check that a sampler is what :class:`~memdiff.samplers.Sampler` says a sampler is.

    - it is a frozen dataclass that declares ``order``, ``stochastic`` and ``ratio_end``;
    - its measured order is the declared one, on a score whose flow is a known rotation; for a
      stochastic sampler the strong order on a Gaussian, along Brownian paths that all resolutions
      share, and its marginal variance at the end is right;
    - a sample depends neither on the batch size nor on the number of samples;
    - the same seed gives the same samples; given latents, another seed gives other samples if and
      only if it is stochastic;
    - the path starts at :math:`\sigma(t_{max}) z`, ends in the result, in float64, and recording
      it does not change the result.

    Args:
        sampler: The sampler, at settings that are cheap to run.
        process: The forward process to try it on.
        tolerance: Allowed difference between measured and declared order.

    Raises:
        AssertionError: Naming the first thing that is wrong.

    Example:
        >>> from memdiff.processes import VP
        >>> from memdiff.samplers import Heun
        >>> check_sampler(Heun(steps=10), VP())
    """
    name = type(sampler).__name__
    require(isinstance(sampler, Sampler), f"{name} must be a memdiff.samplers.Sampler.")
    require(
        dataclasses.is_dataclass(sampler) and type(sampler).__dataclass_params__.frozen,
        f"{name} must be a frozen dataclass.",
    )
    require(
        isinstance(sampler.order, int) and isinstance(sampler.stochastic, bool),
        f"{name} must declare order (an int) and stochastic (a bool).",
    )
    _check_seeds(sampler, process)
    _check_batching(sampler, process)
    _check_path(sampler, process)
    if sampler.stochastic:
        _check_strong_order(sampler, process, tolerance)
        _check_law(sampler, process)
    else:
        _check_order(sampler, process, tolerance)


class _Rotation(Score):
    r"""A score, of no density, under which :math:`\hat x = x/m` rotates evenly in log ratio.

    :math:`r = \omega J x`. Local errors of a method do not cancel along this flow and are far
    above rounding when they are asymptotic, which on a Gaussian is not so at order 5.
    """

    speed = 4.0

    def forward(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        variance = per_sample(self.process.std(expand_time(t, x)) ** 2, x)
        return (self.speed / variance * torch.stack([-x[..., 1], x[..., 0]], dim=-1)).to(x.dtype)

    def flow(self, x: Tensor, t: float, t_end: float) -> Tensor:
        angle = self.speed * (self.process.ratio(t) / self.process.ratio(t_end)).log()
        turned = angle.cos() * x + angle.sin() * torch.stack([-x[..., 1], x[..., 0]], dim=-1)
        return self.process.scale(t_end) / self.process.scale(t) * turned


class _Gaussian(Score):
    r"""Score of data :math:`N(0, diag(v))`, whose flow is linear."""

    def __init__(self, variances: Tensor, process: ForwardProcess) -> None:
        super().__init__(process)
        self.register_buffer("variances", variances)
        self.variances: Tensor

    def marginal(self, t: float | Tensor) -> Tensor:
        m, sigma = self.process.scale(t), self.process.std(t)
        return m.unsqueeze(-1) ** 2 * self.variances + sigma.unsqueeze(-1) ** 2

    def forward(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        return (-x / self.marginal(expand_time(t, x))).to(x.dtype)


class _TwoModes(Score):
    r"""Score of an equal mixture of :math:`N(\pm a, v I)`, whose flow is not linear."""

    def __init__(self, center: Tensor, variance: float, process: ForwardProcess) -> None:
        super().__init__(process)
        self.register_buffer("center", center)
        self.center: Tensor
        self.variance = variance

    def forward(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        time = expand_time(t, x)
        m = per_sample(self.process.scale(time), x)
        marginal = m**2 * self.variance + per_sample(self.process.std(time) ** 2, x)
        side = torch.tanh((m * self.center * x / marginal).sum(dim=-1, keepdim=True))
        return ((m * self.center * side - x) / marginal).to(x.dtype)


class _BrownianBridge:
    """Brownian paths that can be asked for any times, in any order, and stay the same paths."""

    def __init__(self, shape: torch.Size, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._shape = shape
        self._times: list[float] = []
        self._values: list[Tensor] = []

    def increment(self, t: Tensor, t_next: Tensor) -> Tensor:
        return self._at(float(t)) - self._at(float(t_next))

    def _at(self, t: float) -> Tensor:
        place = bisect.bisect_left(self._times, t)
        if place < len(self._times) and self._times[place] == t:
            return self._values[place]
        normal = torch.randn(self._shape, generator=self._generator, dtype=torch.float64)
        if not self._times:
            value = torch.zeros_like(normal)
        elif place in (0, len(self._times)):
            near = min(place, len(self._times) - 1)
            value = self._values[near] + math.sqrt(abs(t - self._times[near])) * normal
        else:
            before, after = self._times[place - 1], self._times[place]
            part = (t - before) / (after - before)
            value = torch.lerp(self._values[place - 1], self._values[place], part)
            value = value + math.sqrt((t - before) * (after - t) / (after - before)) * normal
        self._times.insert(place, t)
        self._values.insert(place, value)
        return value


def _smooth_problem(process: ForwardProcess) -> tuple[_Gaussian, float]:
    """A Gaussian at the scale of the noise, and an end that keeps away from its singularity."""
    high = float(process.ratio(process.t_max))
    variances = (high / 3.0) ** 2 * torch.tensor([0.3, 1.0, 3.0], dtype=torch.float64)
    return _Gaussian(variances, process), float(process.time_at_ratio(high / 8.0))


def _check_order(sampler: Sampler, process: ForwardProcess, tolerance: float) -> None:
    score = _Rotation(process)
    t_end = float(process.time_at_ratio(0.5 * float(process.ratio(process.t_max))))
    start = process.std(process.t_max) * draw_latents(4, (2,), seed=1, dtype=torch.float64)
    exact = score.flow(start, process.t_max, t_end)
    noise = SeededBrownianMotion(0, range(4), (2,))
    measured = []
    errors = [math.inf]
    for steps in (8, 16, 32, 64, 128):
        finer = sampler.with_resolution(steps, process, t_end)
        with torch.no_grad():
            x = finer.integrate(ReverseFlow(score), start, t_end, noise).x
        error = float((x - exact).norm() / exact.norm())
        if error < 1e-12:  # rounding takes over
            break
        measured.append(math.log2(errors[-1] / error))
        errors.append(error)
    _require_order(sampler, process, measured[-1] if len(measured) > 1 else math.nan, tolerance)


def _check_strong_order(sampler: Sampler, process: ForwardProcess, tolerance: float) -> None:
    score, t_end = _smooth_problem(process)
    start = process.std(process.t_max) * draw_latents(64, (3,), seed=1, dtype=torch.float64)
    paths = _BrownianBridge(start.shape, seed=2)

    def at(steps: int) -> Tensor:
        finer = sampler.with_resolution(steps, process, t_end)
        with torch.no_grad():
            return finer.integrate(ReverseFlow(score), start, t_end, paths).x

    reference = at(1024)
    coarse, fine = (float((at(steps) - reference).norm()) for steps in (16, 64))
    measured = math.log(coarse / fine) / math.log(4.0) if fine > 0 else math.nan
    _require_order(sampler, process, measured, tolerance)


def _require_order(
    sampler: Sampler, process: ForwardProcess, measured: float, tolerance: float
) -> None:
    require(
        abs(measured - sampler.order) <= tolerance,
        f"{type(sampler).__name__} declares order {sampler.order}, but its measured order on "
        f"{process!r} is {measured:.2f}.",
    )


def _check_law(sampler: Sampler, process: ForwardProcess) -> None:
    gaussian, t_end = _smooth_problem(process)
    score = _Gaussian(gaussian.variances[1:2], process)
    latents = draw_latents(64, (256,), seed=3, dtype=torch.float64)
    start = score.marginal(process.t_max).sqrt() * latents
    noise = SeededBrownianMotion(4, range(64), (256,))
    finer = sampler.with_resolution(200, process, t_end)
    with torch.no_grad():
        x = finer.integrate(ReverseFlow(score), start, t_end, noise).x
    variance = x.square().mean()
    expected = score.marginal(t_end).squeeze()
    require_close(
        variance,
        expected,
        0.06 * float(expected),  # five standard errors of the estimate
        f"{type(sampler).__name__} on {process!r}: marginal variance at t_end",
    )


def _two_modes(process: ForwardProcess) -> tuple[Score, float]:
    """A bimodal score, and an end at which adaptive samplers need steps of different sizes."""
    high = float(process.ratio(process.t_max))
    center = high / 3.0 * torch.tensor([1.0, -0.5], dtype=torch.float64)
    return _TwoModes(center, (0.02 * high) ** 2, process), float(
        process.time_at_ratio(high / 50.0)
    )


def _check_seeds(sampler: Sampler, process: ForwardProcess) -> None:
    name = type(sampler).__name__
    score, t_end = _two_modes(process)
    latents = draw_latents(3, (2,), seed=5, dtype=torch.float64)
    before = latents.clone()

    def run(seed: int, given: Tensor | None) -> Tensor:
        return sample(score, given, shape=(2,), num=3, sampler=sampler, t_end=t_end, seed=seed).x

    require(torch.equal(run(1, None), run(1, None)), f"{name} must repeat itself under one seed.")
    require(
        not torch.equal(run(1, None), run(2, None)),
        f"{name} must give other samples under another seed.",
    )
    differs = not torch.equal(run(1, latents), run(2, latents))
    require(
        differs == sampler.stochastic,
        f"{name} declares stochastic = {sampler.stochastic}, but another seed with the same "
        f"latents {'changes' if differs else 'does not change'} its samples.",
    )
    require(torch.equal(latents, before), f"{name} must not change the latents.")


def _check_batching(sampler: Sampler, process: ForwardProcess) -> None:
    name = type(sampler).__name__
    score, t_end = _two_modes(process)
    spread = torch.tensor([0.05, 1.0, 3.0, 1.0, 0.2, 2.0, 1.0], dtype=torch.float64)
    latents = spread[:, None] * draw_latents(7, (2,), seed=6, dtype=torch.float64)

    def run(given: Tensor, batch_size: int | None) -> Tensor:
        return sample(score, given, sampler=sampler, t_end=t_end, batch_size=batch_size).x

    whole = run(latents, None)
    allowed = 1e-10 * float(whole.abs().max())
    for batch_size in (1, 3):
        require_close(
            run(latents, batch_size),
            whole,
            allowed,
            f"{name}: samples must not depend on batch_size (here {batch_size})",
        )
    require_close(
        run(latents[:2], None), whole[:2], allowed, f"{name}: samples must not depend on num"
    )


def _check_path(sampler: Sampler, process: ForwardProcess) -> None:
    name = type(sampler).__name__
    score, t_end = _two_modes(process)
    latents = draw_latents(3, (2,), seed=7, dtype=torch.float32)
    plain = sample(score, latents, sampler=sampler, t_end=t_end)
    result = sample(score, latents, sampler=sampler, t_end=t_end, trajectory=True)
    path, times = result.trajectory, result.times
    require(
        plain.x.dtype == torch.float32 and plain.x.shape == (3, 2),
        f"{name} must keep the dtype and shape of the latents.",
    )
    require(
        path is not None and path.dtype == torch.float64 and path.shape == (len(times), 3, 2),
        f"{name} must record a float64 trajectory with one entry for each of its times.",
    )
    require(
        times.dtype == torch.float64 and bool((times.diff() < 0).all()),
        f"{name} must give decreasing float64 times, got {times}.",
    )
    require(
        math.isclose(float(times[0]), process.t_max) and math.isclose(float(times[-1]), t_end),
        f"{name} must go from t_max = {process.t_max:g} to t_end = {t_end:g}, "
        f"but its times go from {float(times[0]):g} to {float(times[-1]):g}.",
    )
    assert path is not None  # for the type checker; required above
    start = process.std(process.t_max) * latents.to(torch.float64)
    require_close(
        path[0], start, 1e-12 * float(start.abs().max()), f"{name}: trajectory must start at x(T)"
    )
    require(
        torch.equal(path[-1].to(torch.float32), result.x),
        f"{name}: the trajectory must end in the samples.",
    )
    require(torch.equal(plain.x, result.x), f"{name}: recording must not change the samples.")
    require(
        plain.stats.score_evaluations > 0 and plain.stats.accepted_steps > 0,
        f"{name} must count its steps, and evaluate the score through the flow.",
    )
