"""Samplers against closed-form flows, independent integrators and the laws that they must give."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.integrate
import torch

from memdiff.processes import EDM, VE, VP, LinearInterpolant, time_function
from memdiff.samplers import (
    DDIM,
    RK45,
    Euler,
    EulerMaruyama,
    Heun,
    LogTime,
    ReverseFlow,
    SamplerStats,
    SeededBrownianMotion,
    dormand_prince,
    draw_latents,
    sample,
)
from memdiff.scores.base import Score, expand_time, per_sample

PROCESSES = [VE(), VP(), EDM(), LinearInterpolant()]
DETERMINISTIC = [Euler(steps=9), Heun(steps=9), DDIM(steps=9), RK45(save=12), LogTime(save=12)]
ALL = [*DETERMINISTIC, EulerMaruyama(steps=9), EulerMaruyama(steps=9, eta=0.5)]


def named(value):
    return type(value).__name__


class Gaussian(Score):
    """N(0, diag v). The flow is x_i(t) = x_i(T) sqrt(V_i(t) / V_i(T)), V = m^2 v + sigma^2."""

    def __init__(self, variances, process):
        super().__init__(process)
        self.register_buffer("variances", torch.as_tensor(variances, dtype=torch.float64))

    @property
    def shape(self):
        return self.variances.shape

    def marginal(self, t):
        m, sigma = self.process.scale(t), self.process.std(t)
        return m[..., None] ** 2 * self.variances + sigma[..., None] ** 2

    def forward(self, x, t, y=None):
        return (-x / self.marginal(expand_time(t, x))).to(x.dtype)

    def flow(self, latents, t):
        start = self.process.std(self.process.t_max) * latents
        return start * (self.marginal(t) / self.marginal(self.process.t_max)).sqrt()


class TwoModes(Score):
    """Equal mixture of N(a, v I) and N(-a, v I), for which D is a tanh; or N(y a, v I) given y."""

    def __init__(self, process, center=(1.0, -0.5, 0.25), variance=0.01):
        super().__init__(process)
        self.register_buffer("center", torch.tensor(center, dtype=torch.float64))
        self.variance = variance

    @property
    def shape(self):
        return self.center.shape

    def forward(self, x, t, y=None):
        time = expand_time(t, x)
        m, sigma = self.process.scale(time)[:, None], self.process.std(time)[:, None]
        total = m**2 * self.variance + sigma**2
        side = torch.tanh((m * self.center * x / total).sum(-1, keepdim=True))
        if y is not None:
            side = y.to(x.dtype)[:, None]
        return ((m * self.center * side - x) / total).to(x.dtype)


class OnePoint(Score):
    """The score of a training set of one point, Tikhonov-regularised if strength > 0.

    s = (m x_1 - x) / (sigma^2 + c), theory for N = 1.
    """

    def __init__(self, point, process, strength=0.0):
        super().__init__(process)
        self.register_buffer("point", torch.as_tensor(point, dtype=torch.float64))
        self.strength = strength

    def offset(self, x, t):
        return per_sample(self.process.scale(expand_time(t, x)), x) * self.point - x

    def variance(self, x, t):
        return per_sample(self.process.std(expand_time(t, x)) ** 2, x)

    def forward(self, x, t, y=None):
        return (self.offset(x, t) / (self.variance(x, t) + self.strength)).to(x.dtype)

    def residual(self, x, t, y=None):
        variance = self.variance(x, t)
        if self.strength == 0.0:
            return self.offset(x, t).to(x.dtype)
        return (self.offset(x, t) * variance / (variance + self.strength)).to(x.dtype)


def latents_of(num=6, dim=3, seed=0, dtype=torch.float64):
    return draw_latents(num, (dim,), seed=seed, dtype=dtype)


# Accuracy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES, ids=named)
@pytest.mark.parametrize("sampler", [Euler(), Heun(), DDIM()], ids=named)
def test_fixed_step_order_on_an_anisotropic_gaussian(sampler, process):
    """Catches a method of lower order, and any error of f, g, m, sigma in its step."""
    high = float(process.ratio(process.t_max))
    score = Gaussian(high**2 * np.array([0.003, 0.05, 0.5]), process)
    t_end = float(process.time_at_ratio(high / 20.0))
    exact = score.flow(latents_of(), t_end)
    errors = [
        (sample(score, latents_of(), sampler=replace(sampler, steps=n), t_end=t_end).x - exact)
        .norm()
        .item()
        for n in (64, 128, 256)
    ]
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert orders == pytest.approx([sampler.order] * 2, abs=0.3)


@pytest.mark.parametrize("sampler", [RK45(), LogTime()], ids=named)
def test_adaptive_order_on_an_anisotropic_gaussian(sampler):
    """With no error control and a fixed step, on the process where the regime is asymptotic."""
    score = Gaussian([0.02, 0.2, 2.0], VE())
    t_end = 0.3
    exact = score.flow(latents_of(), t_end)
    errors = [
        (
            sample(
                score,
                latents_of(),
                sampler=sampler.with_resolution(n, score.process, t_end),
                t_end=t_end,
            ).x
            - exact
        )
        .norm()
        .item()
        for n in (16, 32, 64)
    ]
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert orders[-1] == pytest.approx(sampler.order, abs=0.3)


@pytest.mark.parametrize("process", PROCESSES, ids=named)
@pytest.mark.parametrize("sampler", [RK45(), LogTime()], ids=named)
def test_adaptive_error_follows_the_tolerance(sampler, process):
    score = Gaussian([0.01, 1.0, 3.0], process)
    t_end = float(process.time_at_ratio(1e-2))
    exact = score.flow(latents_of(), t_end)
    for tolerance in (1e-7, 1e-10):
        tight = replace(sampler, rtol=tolerance, atol=tolerance)
        x = sample(score, latents_of(), sampler=tight, t_end=t_end).x
        assert (x - exact).abs().max() <= 10 * tolerance


@pytest.mark.parametrize("process", PROCESSES, ids=named)
def test_mixture_against_scipy(process):
    """A flow that is not linear, integrated by DOP853 in t with no code of the samplers."""
    score = TwoModes(process)
    t_end = float(process.time_at_ratio(0.05))
    latents = latents_of(3)

    def rate(t, flat):
        x = torch.from_numpy(flat.reshape(3, 3))
        f, g = float(process.drift(t)), float(process.diffusion(t))
        return (f * x - 0.5 * g**2 * score(x, t)).numpy().ravel()

    start = (process.std(process.t_max) * latents).numpy().ravel()
    expected = scipy.integrate.solve_ivp(
        rate, (process.t_max, t_end), start, method="DOP853", rtol=1e-12, atol=1e-12
    ).y[:, -1]
    for sampler, allowed in (
        (RK45(rtol=1e-10, atol=1e-10), 1e-8),
        (LogTime(rtol=1e-10, atol=1e-10), 1e-8),
        (Heun(steps=1000), 1e-3),
    ):
        x = sample(score, latents, sampler=sampler, t_end=t_end).x
        np.testing.assert_allclose(x.numpy().ravel(), expected, rtol=0, atol=allowed)


def test_heun_is_edm_algorithm_1():
    """An independent transcription of Algorithm 1 of Karras et al. 2022 with sigma(t) = t."""
    process = EDM()
    score = TwoModes(process)
    latents = latents_of()

    def denoiser(x, sigma):
        return x + sigma**2 * score(x, sigma)

    steps = 18
    index = np.arange(steps)
    t = (80.0 ** (1 / 7) + index / (steps - 1) * (0.002 ** (1 / 7) - 80.0 ** (1 / 7))) ** 7
    t = np.append(t, 0.0)
    x = t[0] * latents
    for i in range(steps):
        d = (x - denoiser(x, t[i])) / t[i]
        x_next = x + (t[i + 1] - t[i]) * d
        if t[i + 1] != 0:
            d_next = (x_next - denoiser(x_next, t[i + 1])) / t[i + 1]
            x_next = x + (t[i + 1] - t[i]) * (0.5 * d + 0.5 * d_next)
        x = x_next

    result = sample(score, latents, sampler=Heun(steps=steps))
    torch.testing.assert_close(result.x, x, rtol=1e-11, atol=1e-12)
    assert result.stats.evaluations_per_sample == 2 * steps - 1


def test_ddim_is_the_published_update():
    """Song et al. 2021 with sigma_t = 0: sqrt(a') (x - sqrt(1-a) eps)/sqrt(a) + sqrt(1-a') eps."""
    process = VP()
    score = TwoModes(process)
    times = process.time_grid(7, 0.01)
    x = process.std(1.0) * latents_of()
    for t, t_next in itertools.pairwise(times):
        a, a_next = process.scale(t) ** 2, process.scale(t_next) ** 2
        noise = score.noise(x, t)
        x = a_next.sqrt() * (x - (1 - a).sqrt() * noise) / a.sqrt() + (1 - a_next).sqrt() * noise
    torch.testing.assert_close(
        sample(score, latents_of(), sampler=DDIM(steps=7), t_end=0.01).x, x, rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize("process", PROCESSES, ids=named)
@pytest.mark.parametrize("sampler", [Euler(5), Heun(5), DDIM(5), EulerMaruyama(5)], ids=named)
def test_last_step_to_zero_returns_the_denoiser(sampler, process):
    score = TwoModes(process, variance=0.0)  # two points: the score is infinite at 0
    result = sample(score, latents_of(), sampler=sampler, t_end=0.0, trajectory=True)
    torch.testing.assert_close(
        result.x, score.denoise(result.trajectory[-2], result.times[-2]), rtol=1e-12, atol=1e-12
    )


# The end of the flow, theory of one training point ----------------------------------------------


@pytest.mark.parametrize("process", PROCESSES, ids=named)
def test_log_time_reaches_the_training_point(process):
    point = torch.tensor([0.3, -2.0, 5.0])
    result = sample(OnePoint(point, process), shape=(3,), num=4, sampler=LogTime())
    assert float(process.ratio(result.times[-1])) == pytest.approx(1e-8, rel=1e-9)
    assert result.x.dtype == torch.float64
    assert (result.x - point.double()).abs().max() < 1e-7
    assert result.stats.evaluations_per_sample < 400


@pytest.mark.parametrize("process", PROCESSES, ids=named)
def test_log_time_approaches_at_rate_one(process):
    """|x - m x_1| is proportional to sigma along the whole flow, from 1e-1 to 1e-8."""
    point = torch.tensor([0.3, -2.0, 5.0], dtype=torch.float64)
    tight = LogTime(rtol=1e-10, atol=1e-13, max_step=0.2)
    result = sample(OnePoint(point, process), shape=(3,), num=2, sampler=tight, trajectory=True)
    kept = process.ratio(result.times) > 1e-6  # below, rounding of x near x_1 shows
    ratio, m = process.ratio(result.times), process.scale(result.times)
    distance = (result.trajectory / m[:, None, None] - point).norm(dim=-1)
    constant = distance / ratio[:, None]
    torch.testing.assert_close(
        constant[kept], constant[:1].expand_as(constant)[kept], rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("strength", [1e-3, 0.05, 1.0])
@pytest.mark.parametrize("end", [0.0, 0.2])
def test_tikhonov_decay_ve(strength, end):
    process = VE()
    point = torch.tensor([0.5, -1.0], dtype=torch.float64)
    latents = latents_of(3, 2)
    result = sample(
        OnePoint(point, process, strength),
        latents,
        sampler=RK45(rtol=1e-9, atol=1e-9),
        t_end=end,
    )
    decay = ((process.std(end) ** 2 + strength) / (process.std(1.0) ** 2 + strength)).sqrt()
    expected = point + decay * (process.std(1.0) * latents - point)
    assert (result.x - expected).abs().max() < 1e-6


@pytest.mark.parametrize("strength", [1e-3, 0.05, 1.0])
@pytest.mark.parametrize("end", [0.0, 0.2])
def test_tikhonov_decay_vp(strength, end):
    process = VP()
    point = torch.tensor([0.5, -1.0], dtype=torch.float64)
    latents = latents_of(3, 2)
    result = sample(
        OnePoint(point, process, strength),
        latents,
        sampler=RK45(rtol=1e-9, atol=1e-9),
        t_end=end,
    )
    c = strength
    v, v_start = process.std(end) ** 2, process.std(1.0) ** 2
    decay = ((v + c) / (v_start + c)) ** (1 / (2 * (1 + c)))
    decay = decay * ((1 - v) / (1 - v_start)) ** (c / (2 * (1 + c)))
    start = process.std(1.0) * latents - process.scale(1.0) * point
    expected = process.scale(end) * point + decay * start
    assert (result.x - expected).abs().max() < 1e-6


def test_rk45_refuses_a_score_that_is_infinite_at_zero():
    with pytest.raises(ValueError, match=r"singular there: pass t_end > 0 or the LogTime"):
        sample(OnePoint([1.0], VE()), shape=(1,), num=3, sampler=RK45(), t_end=0.0)


def test_velocity_of_a_batch_in_which_some_have_arrived():
    """Rows at sigma = 0 use the score, the others the residual, each with its own condition."""
    process = VE()
    flow = ReverseFlow(TwoModes(process), torch.tensor([1.0, -1.0, 1.0, -1.0]))
    x, t = latents_of(3), torch.tensor([0.0, 0.5, 0.0], dtype=torch.float64)
    rows = torch.tensor([3, 0, 2])
    together = flow.velocity(x, t, rows)
    alone = [flow.velocity(x[i : i + 1], t[i : i + 1], rows[i : i + 1]) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))
    assert flow.evaluations == 6


# Dormand-Prince ---------------------------------------------------------------------------------


def test_tableau_is_scipys():
    reference = scipy.integrate.RK45
    for i, row in enumerate(dormand_prince.STAGES, start=1):
        np.testing.assert_allclose(row, reference.A[i, :i], rtol=1e-15)
    np.testing.assert_allclose((0.0, *dormand_prince.NODES[:-1], 1.0), reference.C, rtol=1e-15)
    np.testing.assert_allclose(dormand_prince.SOLUTION, reference.B, rtol=1e-15)
    np.testing.assert_allclose(dormand_prince.ERROR, reference.E, rtol=1e-15)
    np.testing.assert_allclose(dormand_prince.INTERPOLANT, reference.P, rtol=1e-15)


@pytest.mark.parametrize("max_step", [math.inf, 0.05])
@pytest.mark.parametrize("process", [VE(), VP(), LinearInterpolant()], ids=named)
def test_each_sample_takes_the_steps_that_scipy_takes_for_it_alone(process, max_step):
    score = TwoModes(process)
    t_end = float(process.time_at_ratio(1e-3))
    spread = torch.tensor([0.01, 1.0, 4.0], dtype=torch.float64)[:, None]
    latents = spread * latents_of(3)
    result = sample(score, latents, sampler=RK45(max_step=max_step), t_end=t_end)
    evaluations = 0
    for i in range(3):

        def rate(t, x):
            f, g = float(process.drift(t)), float(process.diffusion(t))
            point = torch.from_numpy(x)[None]
            return (f * point - 0.5 * g**2 * score(point, t))[0].numpy()

        solution = scipy.integrate.solve_ivp(
            rate,
            (process.t_max, t_end),
            (process.std(process.t_max) * latents[i]).numpy(),
            method="RK45",
            rtol=1e-5,
            atol=1e-5,
            max_step=max_step,
        )
        np.testing.assert_allclose(result.x[i].numpy(), solution.y[:, -1], rtol=1e-8, atol=1e-10)
        evaluations += solution.nfev
    assert result.stats.score_evaluations == evaluations
    assert result.stats.rejected_steps > 0 or max_step < math.inf


@pytest.mark.parametrize("sampler", [RK45, LogTime], ids=lambda kind: kind.__name__)
def test_dense_output_is_of_order_4(sampler):
    """Halving the step divides the error of the recorded points, between steps, by 16 to 32."""
    score = Gaussian([0.02, 0.2, 2.0], VE())
    t_end = 0.3
    errors = []
    for steps in (8, 16, 32):
        coarse = sampler(save=41).with_resolution(steps, score.process, t_end)
        result = sample(score, latents_of(), sampler=coarse, t_end=t_end, trajectory=True)
        assert len(result.times) == 41
        exact = torch.stack([score.flow(latents_of(), t) for t in result.times])
        errors.append((result.trajectory - exact).norm().item())
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert 3.7 <= orders[-1] <= 5.5


@pytest.mark.parametrize("process", PROCESSES, ids=named)
@pytest.mark.parametrize("sampler", [RK45, LogTime], ids=lambda kind: kind.__name__)
def test_recorded_points_are_on_the_flow(sampler, process):
    score = Gaussian([0.5, 1.0, 2.0], process)
    result = sample(
        score,
        latents_of(),
        sampler=sampler(rtol=1e-9, atol=1e-9, save=33, first_step=1e3, max_step=math.inf),
        t_end=float(process.time_at_ratio(1e-4)),
        trajectory=True,
    )
    logs = process.ratio(result.times).log()
    torch.testing.assert_close(logs.diff(), logs.diff().mean().expand(32), rtol=1e-6, atol=0)
    exact = torch.stack([score.flow(latents_of(), t) for t in result.times])
    assert (result.trajectory - exact).abs().max() < 1e-5
    assert result.stats.rejected_steps > 0  # the first step, across all: it must leave no trace
    assert torch.equal(result.trajectory[-1], result.x)


def test_trajectory_to_zero_ends_at_zero():
    result = sample(
        Gaussian([1.0, 2.0], VP()),
        num=2,
        sampler=RK45(save=5),
        t_end=0.0,
        trajectory=True,
    )
    ratios = VP().ratio(result.times)
    assert ratios[-1] == 0.0
    assert float(ratios[-2]) == pytest.approx(VP.ratio_min)
    assert len(ratios) == 5
    two = sample(Gaussian([1.0], VP()), num=2, sampler=RK45(save=2), t_end=0.0, trajectory=True)
    assert two.times.tolist() == [1.0, 0.0]


def test_integration_upwards_and_a_tolerance_that_cannot_be_met():
    def growth(x, u, rows):
        return x

    one = torch.ones(1, 1, dtype=torch.float64)
    up = dormand_prince.solve(growth, one, 0.0, 1.0, rtol=1e-10, atol=1e-10)
    assert float(up.x) == pytest.approx(math.e, rel=1e-9)

    def blow_up(x, u, rows):
        return per_sample(1.0 / (1.0 - u), x) * x

    with pytest.raises(ValueError, match="cannot be met at 1"):
        dormand_prince.solve(blow_up, one, 0.0, 2.0, rtol=1e-6, atol=1e-6)


# Stochastic samplers ----------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES, ids=named)
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_law_of_the_reverse_sde(process, eta):
    """Started in the marginal of a Gaussian, it stays in the marginals: 64 x 600 draws."""
    high = float(process.ratio(process.t_max))
    value = (high / 4.0) ** 2
    score = Gaussian([value], process)
    t_end = float(process.time_at_ratio(high / 10.0))
    start = score.marginal(process.t_max).sqrt() * draw_latents(
        64, (600,), seed=1, dtype=torch.float64
    )
    noise = SeededBrownianMotion(2, range(64), (600,))
    x = EulerMaruyama(steps=250, eta=eta).integrate(ReverseFlow(score), start, t_end, noise).x
    variance, expected = float(x.var()), float(score.marginal(t_end))
    assert variance == pytest.approx(expected, rel=0.035)  # 0.7 % standard error, 4 and bias
    assert abs(float(x.mean())) < 5.0 * math.sqrt(expected / x.numel())
    # the noise has replaced the start: the correlation is that of the exact linear SDE
    rate = scipy.integrate.quad(
        lambda t: (
            float(process.drift(t))
            + 0.5 * (1 + eta**2) * float(process.diffusion(t) ** 2 / score.marginal(t))
        ),
        process.t_max,
        t_end,
    )[0]
    kept = math.exp(rate) * math.sqrt(float(score.marginal(process.t_max)) / expected)
    correlation = float(torch.corrcoef(torch.stack([x.flatten(), start.flatten()]))[0, 1])
    assert correlation == pytest.approx(kept, abs=0.03)


class PathOnGrid:
    """One Brownian path on the finest grid, restricted to coarser ones."""

    def __init__(self, times, shape):
        generator = torch.Generator().manual_seed(0)
        steps = torch.randn((len(times) - 1, *shape), generator=generator, dtype=torch.float64)
        steps = steps * per_sample(-times.diff(), steps).sqrt()
        self.times = times
        self.values = torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0)])

    def increment(self, t, t_next):
        wanted = torch.stack([t, t_next])
        places = (self.times - wanted[:, None]).abs().argmin(dim=1)
        torch.testing.assert_close(self.times[places], wanted)
        return self.values[places[1]] - self.values[places[0]]


@pytest.mark.parametrize("process", [VE(), VP()], ids=named)
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_strong_order_one(process, eta):
    high = float(process.ratio(process.t_max))
    score = Gaussian(high**2 * np.array([0.02, 0.3]), process)
    t_end = float(process.time_at_ratio(high / 8.0))
    start = process.std(process.t_max) * latents_of(64, 2)
    path = PathOnGrid(process.time_grid(1024, t_end), start.shape)

    def at(steps):
        sampler = EulerMaruyama(steps=steps, eta=eta)
        return sampler.integrate(ReverseFlow(score), start, t_end, path).x

    reference = at(1024)
    errors = [(at(steps) - reference).norm().item() for steps in (16, 32, 64, 128)]
    slope = np.polyfit(np.log([16, 32, 64, 128]), np.log(errors), 1)[0]
    assert -slope == pytest.approx(EulerMaruyama.order, abs=0.2)


def test_eta_zero_is_euler():
    score = TwoModes(VP())
    still = sample(score, latents_of(), sampler=EulerMaruyama(steps=9, eta=0.0), t_end=0.0)
    assert torch.equal(still.x, sample(score, latents_of(), sampler=Euler(steps=9)).x)


def test_latents_are_standard_normal_and_distinct():
    z = draw_latents(4000, (5,), seed=3)
    assert z.dtype == torch.float32
    assert abs(float(z.mean())) < 5 / math.sqrt(z.numel())
    assert float(z.var()) == pytest.approx(1.0, abs=5 * math.sqrt(2 / z.numel()))
    assert len(z[:, 0].unique()) == 4000
    neighbours = torch.corrcoef(torch.stack([z[:-1].flatten(), z[1:].flatten()]))[0, 1]
    assert abs(float(neighbours)) < 5 / math.sqrt(z.numel())
    other = draw_latents(4000, (5,), seed=4)
    assert abs(float((z * other).mean())) < 5 / math.sqrt(z.numel())


def test_noise_and_latents_are_independent_and_increments_are_fresh():
    z = draw_latents(3000, (4,), seed=0, dtype=torch.float64)
    motion = SeededBrownianMotion(0, range(3000), (4,))
    t, t_next = torch.tensor([0.75, 0.5], dtype=torch.float64)
    first, second = motion.increment(t, t_next), motion.increment(t_next, t)
    assert float(first.var()) == pytest.approx(0.25, rel=5 * math.sqrt(2 / z.numel()))
    for a, b in itertools.combinations((z, first, second), 2):
        correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert abs(float(correlation)) < 5 / math.sqrt(z.numel())


# Invariance -------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [VP(), EDM()], ids=named)
@pytest.mark.parametrize("sampler", ALL, ids=named)
def test_batching_does_not_change_a_bit(sampler, process):
    score = TwoModes(process)
    whole = sample(score, num=5, sampler=sampler, seed=5, trajectory=True)
    for batch_size in (1, 3):
        parts = sample(
            score, num=5, sampler=sampler, seed=5, trajectory=True, batch_size=batch_size
        )
        assert torch.equal(parts.x, whole.x)
        assert torch.equal(parts.trajectory, whole.trajectory)
        assert parts.stats.score_evaluations == whole.stats.score_evaluations
        assert parts.stats.accepted_steps == whole.stats.accepted_steps
        assert parts.stats.rejected_steps == whole.stats.rejected_steps
    assert torch.equal(sample(score, num=2, sampler=sampler, seed=5).x, whole.x[:2])


@pytest.mark.parametrize("sampler", [RK45(), LogTime()], ids=named)
def test_error_control_is_for_each_sample(sampler):
    """A quiet sample must not be slowed, nor a loud one hurried, by its neighbours."""
    score = TwoModes(VE())
    spread = torch.tensor([1e-4, 1.0, 30.0], dtype=torch.float64)[:, None]
    latents = spread * latents_of(3)
    together = sample(score, latents, sampler=sampler)
    alone = [sample(score, latents[i : i + 1], sampler=sampler) for i in range(3)]
    assert torch.equal(together.x, torch.cat([one.x for one in alone]))
    counts = [one.stats.score_evaluations for one in alone]
    assert len(set(counts)) > 1
    assert together.stats.score_evaluations == sum(counts)


def test_large_samples_do_not_depend_on_threads():
    """Above torch's threshold for splitting a sum over threads."""
    values = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(0)).double()
    norm = dormand_prince._root_mean_square
    expected = norm(values)
    torch.testing.assert_close(expected, values.square().mean(1).sqrt(), rtol=1e-13, atol=0)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(norm(values), expected)
        assert torch.equal(norm(values[:1]), expected[:1])
    finally:
        torch.set_num_threads(threads)


def test_given_latents_equal_drawn_ones():
    score = TwoModes(VP())
    for sampler in (Heun(steps=5), EulerMaruyama(steps=5)):
        drawn = sample(score, num=4, sampler=sampler, seed=9)
        given = sample(score, latents_of(4, seed=9), sampler=sampler, seed=9)
        assert torch.equal(drawn.x, given.x)


@pytest.mark.parametrize("sampler", ALL, ids=named)
def test_conditions_follow_their_samples(sampler):
    """Catches conditions that go astray in chunks or when finished samples leave the batch."""
    score = TwoModes(VE(), variance=1e-4)
    y = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    spread = torch.tensor([1.0, 1e-3, 5.0, 0.1, 2.0], dtype=torch.float64)[:, None]
    latents = spread * latents_of(5)
    result = sample(score, latents, y=y, sampler=sampler, batch_size=3)
    expected = y.double()[:, None] * score.center
    assert (result.x - expected).abs().max() < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("sampler", [Heun(steps=10), LogTime()], ids=named)
def test_dtype_of_the_latents_and_state_in_float64(sampler, dtype):
    score = TwoModes(VP())
    latents = latents_of(dtype=dtype)
    seen = []

    class Spy(TwoModes):
        def residual(self, x, t, y=None):
            seen.append((x.dtype, torch.is_grad_enabled()))
            return super().residual(x, t, y)

    result = sample(Spy(VP()), latents, sampler=sampler)
    assert result.x.dtype == dtype
    assert set(seen) == {(torch.float64, False)}
    exact = sample(score, latents.double(), sampler=sampler).x
    assert torch.equal(result.x, exact.to(dtype))


def test_float32_score_and_default_dtype():
    class Single(TwoModes):
        def forward(self, x, t, y=None):
            return super().forward(x.float(), t, y).to(x.dtype)

    score = Single(VP()).float()
    result = sample(score, num=3)
    assert result.x.dtype == torch.float32
    torch.testing.assert_close(
        result.x.double(), sample(TwoModes(VP()), result_latents()).x, rtol=0, atol=1e-5
    )


def result_latents():
    return draw_latents(3, (3,), dtype=torch.float32).double()


def test_images_and_scalars_as_samples():
    class Flat(Score):
        def residual(self, x, t, y=None):
            return -x

        forward = Score.score_from_residual

    for shape in ((), (1,), (3, 4, 5)):
        for sampler in ALL:
            result = sample(Flat(VE()), shape=shape, num=2, sampler=sampler, trajectory=True)
            assert result.x.shape == (2, *shape)
            assert result.trajectory.shape == (len(result.times), 2, *shape)


# The entry --------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES, ids=named)
@pytest.mark.parametrize(
    ("sampler", "ratio"),
    [(Euler(3), 0.0), (DDIM(3), 0.0), (RK45(), 1e-3), (EulerMaruyama(3), 1e-3), (LogTime(), 1e-8)],
    ids=named,
)
def test_default_end(sampler, ratio, process):
    times = sample(TwoModes(process), num=1, sampler=sampler).times
    assert float(process.ratio(times[-1])) == pytest.approx(ratio, rel=1e-9)
    assert float(times[0]) == process.t_max


def test_stats_count_the_evaluations():
    calls, points = 0, 0

    class Counted(TwoModes):
        def residual(self, x, t, y=None):
            nonlocal calls, points
            calls, points = calls + 1, points + len(x)
            return super().residual(x, t, y)

    for sampler in ALL:
        calls = points = 0
        stats = sample(Counted(VP()), num=5, sampler=sampler, batch_size=2).stats
        assert (stats.score_calls, stats.score_evaluations) == (calls, points)
        assert stats.samples == 5
        assert stats.evaluations_per_sample == points / 5
        assert stats.seconds > 0
    assert isinstance(stats, SamplerStats)
    assert sample(TwoModes(VP()), num=5, sampler=Euler(7)).stats.accepted_steps == 35


@pytest.mark.parametrize("sampler", ALL, ids=named)
def test_progress_rises_to_the_total(sampler):
    heard = []
    sample(
        TwoModes(VP()),
        num=5,
        sampler=sampler,
        batch_size=2,
        progress=lambda done, total: heard.append((done, total)),
    )
    done = [entry[0] for entry in heard]
    assert done == sorted(done)
    assert {0, 2, 4, 5} <= set(done)
    assert heard[-1] == (5, 5)
    assert {entry[1] for entry in heard} == {5}


def test_latents_are_not_changed():
    latents = latents_of()
    before = latents.clone()
    for sampler in ALL:
        sample(TwoModes(EDM()), latents, sampler=sampler)
        assert torch.equal(latents, before)


class Unshaped(Score):
    def forward(self, x, t, y=None):
        return -x


class WrongShape(Score):
    def forward(self, x, t, y=None):
        return torch.zeros(len(x))

    residual = forward


class Nan(Score):
    def forward(self, x, t, y=None):
        return torch.where(torch.as_tensor(t) < 0.5, torch.nan, 0.0) * x


GOOD = TwoModes(VE())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample(GOOD), "num must be given"),
        (lambda: sample(GOOD, num=0), "num must be an integer of at least 1"),
        (lambda: sample(GOOD, num=2.0), "num must be an integer"),
        (lambda: sample(Unshaped(VE()), num=2), "shape must be given"),
        (lambda: sample(Unshaped(VE()), num=2, shape=(0,)), "shape must hold positive"),
        (lambda: sample(GOOD, torch.zeros(2, 4)), r"latents must have shape .* \(3,\)"),
        (lambda: sample(GOOD, torch.zeros(0, 3)), "B at least 1"),
        (lambda: sample(GOOD, torch.zeros(2, 3, dtype=torch.int64)), "floating tensor"),
        (lambda: sample(GOOD, torch.full((2, 3), torch.nan)), "latents must be finite, got 6"),
        (lambda: sample(GOOD, torch.full((2, 3), torch.inf)), "latents must be finite"),
        (lambda: sample(GOOD, torch.zeros(2, 3), num=3), "num must be the number of latents, 2"),
        (lambda: sample(GOOD, torch.zeros(2, 3), shape=(4,)), r"S = \(4,\)"),
        (lambda: sample(GOOD, num=2, sampler="heun"), "sampler must be"),
        (lambda: sample(GOOD, num=2, sampler=Heun), "sampler must be"),
        (lambda: sample(GOOD, num=2, t_end=1.0), "t_end must lie in"),
        (lambda: sample(GOOD, num=2, t_end=-0.1), "t_end must lie in"),
        (lambda: sample(GOOD, num=2, t_end=math.nan), "t_end must lie in"),
        (lambda: sample(GOOD, num=2, sampler=LogTime(), t_end=0.0), "t_end must be positive"),
        (lambda: sample(GOOD, num=2, seed=-1), "seed must be an integer of at least 0"),
        (lambda: sample(GOOD, num=2, seed=0.5), "seed must be an integer"),
        (lambda: sample(GOOD, num=2, batch_size=0), "batch_size must be an integer"),
        (lambda: sample(GOOD, num=2, y=torch.zeros(3)), r"y must have shape \(2,\)"),
        (lambda: sample(GOOD, num=2, y=torch.tensor(1.0)), r"y must have shape \(2,\)"),
        (lambda: sample(WrongShape(VE()), num=2, shape=(3,)), "score must return the shape of x"),
        (lambda: sample(Nan(VE()), num=2, shape=(3,)), "Nan returned NaN or infinity at t = 0.4"),
        (lambda: Heun(steps=0), "steps of Heun must be an integer of at least 1, got 0"),
        (lambda: Euler(steps=2.5), "steps of Euler"),
        (lambda: DDIM(steps=True), "steps of DDIM"),
        (lambda: EulerMaruyama(steps=-1), "steps of EulerMaruyama"),
        (lambda: EulerMaruyama(eta=-0.5), "eta must be"),
        (lambda: EulerMaruyama(eta=math.nan), "eta must be"),
        (lambda: RK45(rtol=0.0), "rtol of RK45"),
        (lambda: RK45(atol=-1.0), "atol of RK45"),
        (lambda: RK45(rtol=math.nan), "rtol of RK45"),
        (lambda: LogTime(max_step=0.0), "max_step of LogTime"),
        (lambda: LogTime(first_step=-1.0), "first_step of LogTime"),
        (lambda: LogTime(save=1), "save of LogTime"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text


def test_a_process_of_ones_own():
    """Samplers ask of a process no more than its contract (the inverse is by bisection)."""
    from memdiff.processes import ForwardProcess

    class Brownian(ForwardProcess):
        t_max = 50.0

        @time_function
        def scale(self, t):
            return torch.ones_like(t)

        @time_function
        def std(self, t):
            return t.sqrt()

        @time_function
        def drift(self, t):
            return torch.zeros_like(t)

        @time_function
        def diffusion(self, t):
            return torch.ones_like(t)

    score = Gaussian([0.5, 2.0], Brownian())
    exact = score.flow(latents_of(4, 2), 1e-6)
    for sampler in (LogTime(rtol=1e-8, atol=1e-8), RK45(rtol=1e-8, atol=1e-8)):
        x = sample(score, latents_of(4, 2), sampler=sampler, t_end=1e-6).x
        torch.testing.assert_close(x, exact, rtol=1e-6, atol=1e-6)
