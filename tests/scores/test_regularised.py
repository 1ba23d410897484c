"""Regularised scores: closed forms, limits, composition (theory, section 5)."""

import math

import pytest
import torch

from memdiff.processes import EDM, VE, VP, LinearInterpolant
from memdiff.samplers import LogTime, sample
from memdiff.scores import (
    CollapseTemperature,
    DiagonalCovariance,
    EmpiricalBayes,
    EmpiricalScore,
    FourierCovariance,
    InverseTemperature,
    LowRankCovariance,
    Smoothed,
    Tempered,
    Tikhonov,
    leave_one_out_likelihood,
    scott_bandwidth,
    silverman_bandwidth,
)
from memdiff.testing import check_score

PROCESSES = [VE(), VP(), EDM(), LinearInterpolant()]


def points(num=30, shape=(3,), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, *shape, generator=generator, dtype=torch.float64)


def all_regularised(score):
    shape = score.shape
    return [
        Tikhonov(score, 0.1),
        Tikhonov(score, 0.1, DiagonalCovariance(torch.rand(shape) + 0.5)),
        Tikhonov(score, 0.1, LowRankCovariance(torch.rand(2, *shape), 0.3)),
        EmpiricalBayes(score, 0.05),
        EmpiricalBayes(score, 0.5, "kernel_sum"),
        Tempered(score, 2.0),
        Tempered(score, CollapseTemperature(0.5)),
        Tempered(score, InverseTemperature(5.0, 0.5)),
        Smoothed(score, 0.3, draws=4),
        Smoothed(Tikhonov(Tempered(score, 1.5), 0.02), 0.1, draws=2),
    ]


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_every_regulariser_is_a_score(process):
    data = points().to(torch.float32)
    for score in [EmpiricalScore(data, process), *all_regularised(EmpiricalScore(data, process))]:
        for ratio in (0.05, 0.7):
            check_score(score, x=data[:6] + 0.1, t=float(process.time_at_ratio(ratio)))


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_excluding_a_point_passes_through(process):
    """Leave-one-out reaches the empirical score inside; catches a wrapper that drops it."""
    data = points()
    index = torch.tensor([4, 0, 29])
    x, t = data[index] + 0.1, float(process.time_at_ratio(0.3))
    for ours in all_regularised(EmpiricalScore(data, process)):
        if isinstance(ours, EmpiricalBayes):
            continue  # its floor refers to a density that the exclusion lowers by (N-1)/N
        full = ours.residual(x, t, exclude=index)
        for i, n in enumerate(index.tolist()):
            rest = EmpiricalScore(torch.cat([data[:n], data[n + 1 :]]), process)
            inner = ours
            while not isinstance(inner.score, EmpiricalScore):
                inner = inner.score
            kept, inner.score = inner.score, rest
            alone = ours.residual(x[i : i + 1], t)[0]
            inner.score = kept
            torch.testing.assert_close(full[i], alone)


class TestTikhonov:
    @pytest.mark.parametrize("process", PROCESSES, ids=repr)
    @pytest.mark.parametrize("ratio", [1e-6, 0.01, 0.5])
    def test_is_the_score_divided_by_one_plus_gamma(self, process, ratio):
        score, t = EmpiricalScore(points(), process), float(process.time_at_ratio(ratio))
        x = points(5, seed=1)
        gamma = 0.03 / process.std(t) ** 2
        torch.testing.assert_close(Tikhonov(score, 0.03)(x, t), score(x, t) / (1 + gamma))

    @pytest.mark.parametrize("process", [VE(), VP()], ids=repr)
    @pytest.mark.parametrize("c", [1e-3, 0.05, 0.5])
    def test_single_point_decay_along_the_flow(self, process, c):
        """The closed forms of the theory, to 1e-6, from t = T down to sigma = 1e-3."""
        data = torch.tensor([[0.4, -0.8]], dtype=torch.float64)
        score = Tikhonov(EmpiricalScore(data, process), c)
        t_end = float(process.time_at_ratio(1e-3))
        result = sample(
            score, num=4, shape=(2,), seed=1, sampler=LogTime(rtol=1e-10, atol=1e-12), t_end=t_end
        )
        latents = sample(
            score,
            num=4,
            shape=(2,),
            seed=1,
            sampler=LogTime(rtol=1e-10, atol=1e-12),
            t_end=t_end,
            trajectory=True,
        ).trajectory[0]
        big, small = (float(process.std(t)) ** 2 for t in (process.t_max, t_end))
        if isinstance(process, VE):
            ratio = math.sqrt((small + c) / (big + c))
        else:
            ratio = ((small + c) / (big + c)) ** (1 / (2 * (1 + c)))
            ratio *= ((1 - small) / (1 - big)) ** (c / (2 * (1 + c)))
        start = latents - process.scale(process.t_max) * data
        end = result.x - process.scale(t_end) * data
        torch.testing.assert_close(end, ratio * start, rtol=1e-6, atol=1e-9)

    def test_is_finite_at_zero_noise(self):
        data = torch.tensor([[-1.0], [2.0]], dtype=torch.float64)
        score = Tikhonov(EmpiricalScore(data, VE()), 0.5)
        value = score(torch.tensor([[1.0]], dtype=torch.float64), 0.0)
        torch.testing.assert_close(value, torch.tensor([[(2.0 - 1.0) / 0.5]], dtype=torch.float64))

    @pytest.mark.parametrize(
        "covariance",
        [
            DiagonalCovariance(torch.rand(2, 4, 5) * 3),
            LowRankCovariance(torch.rand(3, 2, 4, 5), 0.2),
            LowRankCovariance(torch.rand(3, 2, 4, 5), torch.rand(2, 4, 5)),
            FourierCovariance(torch.rand(2, 4, 5)),
        ],
        ids=["diagonal", "low rank", "low rank, diagonal", "fourier"],
    )
    def test_covariance_solves_the_first_order_condition(self, covariance):
        """(sigma^2 + c C) s = m D - x, with the product written independently of the solve."""
        data = points(20, (2, 4, 5))
        score = EmpiricalScore(data, VE())
        t = torch.tensor([0.01, 0.3, 0.3, 0.9])
        x = points(4, (2, 4, 5), seed=2)
        s = Tikhonov(score, 0.7, covariance)(x, t)
        variance = VE().std(t.double())[:, None, None, None] ** 2
        torch.testing.assert_close(
            variance * s + 0.7 * covariance.apply_to(s), score.residual(x, t), rtol=1e-9, atol=1e-9
        )

    def test_covariances_are_the_operators_they_name(self):
        data = points(400, (3, 4), seed=3) * torch.linspace(0.5, 2, 4)
        flat = data.reshape(400, -1)
        covariance = torch.cov(flat.T, correction=0)
        v = points(5, (3, 4), seed=4)
        full = LowRankCovariance.from_data(data, rank=12)
        torch.testing.assert_close(full.apply_to(v).reshape(5, -1), v.reshape(5, -1) @ covariance)
        diagonal = DiagonalCovariance.from_data(data).apply_to(v)
        torch.testing.assert_close(
            diagonal.reshape(5, -1), v.reshape(5, -1) * covariance.diagonal()
        )
        truncated = LowRankCovariance.from_data(data, rank=2)
        trace = (truncated.factor**2).sum() + truncated.diagonal.sum()
        torch.testing.assert_close(trace, covariance.trace())

    def test_fourier_covariance_of_stationary_images(self):
        """A circulant covariance is diagonal in the Fourier basis; from_data estimates it."""
        generator = torch.Generator().manual_seed(5)
        kernel = torch.zeros(6, 8, dtype=torch.float64)
        kernel[0, 0], kernel[0, 1], kernel[1, 0] = 1.0, 0.6, 0.3
        noise = torch.randn(20_000, 1, 6, 8, generator=generator, dtype=torch.float64)
        images = torch.fft.ifft2(torch.fft.fft2(noise) * torch.fft.fft2(kernel)).real
        estimated = FourierCovariance.from_data(images)
        expected = torch.fft.fft2(kernel).abs().square()
        torch.testing.assert_close(estimated.spectrum[0], expected, rtol=0.08, atol=0.02)
        inverse = estimated.inverse()
        torch.testing.assert_close(inverse.apply_to(estimated.apply_to(noise[:3])), noise[:3])

    def test_null_modes_stay_unregularised(self):
        spectrum = torch.rand(1, 4, 4) + 0.1
        spectrum[0, 0, 0] = 0.0
        assert FourierCovariance(spectrum).inverse().spectrum[0, 0, 0] == 0.0


class TestEmpiricalBayes:
    @pytest.mark.parametrize("convention", ["density", "kernel_sum"])
    @pytest.mark.parametrize("process", PROCESSES, ids=repr)
    def test_is_the_floored_gradient(self, process, convention):
        """grad p / max(p, eps), against the density written out and differentiated."""
        data, x = points(12, (2,)), points(40, (2,), seed=6) * 1.5
        t = float(process.time_at_ratio(0.4))
        m, sigma = float(process.scale(t)), float(process.std(t))
        x.requires_grad_()
        value = (-((x[:, None] - m * data) ** 2).sum(2) / (2 * sigma**2)).exp().sum(1)
        if convention == "density":
            value = value / (12 * 2 * math.pi * sigma**2)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        floor = float(value.detach().median())
        expected = gradient / value.detach().clamp_min(floor)[:, None]
        with torch.no_grad():
            ours = EmpiricalBayes(EmpiricalScore(data, process), floor, convention)(x, t)
            plain = EmpiricalScore(data, process)(x, t)
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-10)
        active = value.detach() < floor
        torch.testing.assert_close(ours[~active], plain[~active])
        assert 0 < int(active.sum()) < len(x)

    def test_stays_finite_where_the_density_underflows(self):
        score = EmpiricalBayes(EmpiricalScore(points(), VE()), 0.1, "kernel_sum")
        value = score(torch.full((2, 3), 50.0, dtype=torch.float64), 1e-10)
        assert torch.equal(value, torch.zeros_like(value))


class TestTempered:
    def test_constant_temperature_widens_sigma_in_the_weights(self):
        data, x = points(), points(5, seed=7)
        sigma = float(VE().std(0.2))
        wide = float(VE().time_at_ratio(sigma * math.sqrt(3.0)))
        tempered = Tempered(EmpiricalScore(data, VE()), 3.0)
        torch.testing.assert_close(
            tempered.residual(x, 0.2), EmpiricalScore(data, VE()).residual(x, wide)
        )

    def test_rules(self):
        ratio = torch.tensor([0.0, 0.01, 0.5, 1.0, 3.0], dtype=torch.float64)
        tau = CollapseTemperature(0.5)(ratio)
        torch.testing.assert_close(tau[1:], torch.tensor([50.0, 1.0, 1.0, 1.0]).double())
        tau = InverseTemperature(5.0, 0.5)(ratio)
        torch.testing.assert_close(tau[1:], torch.tensor([500.0, 10.0, 1.0, 1.0]).double())

    def test_the_knob_changes_the_output(self):
        """A released implementation never reached its smoothing branch (metrics 12.4)."""
        score, x = EmpiricalScore(points(), VE()), points(5, seed=8)
        for rule in (CollapseTemperature(0.5), InverseTemperature(5.0, 0.5), 2.0):
            assert not torch.allclose(Tempered(score, rule)(x, 0.01), score(x, 0.01))


class TestSmoothed:
    def test_expectation_in_closed_form(self):
        """One point: the mean of -(x + h xi - x_1)/sigma^2 is the score itself, exactly here."""
        data = points(1)
        score, x = EmpiricalScore(data, VE()), points(5, seed=9)
        smooth = Smoothed(score, 0.7, draws=3)
        torch.testing.assert_close(smooth(x, 0.1), score(x, 0.1))

    def test_samples_are_barycentres_of_tuples(self):
        """At vanishing noise D is a mean of M training points (not of M plus a noise term)."""
        data = points(12, (2,), seed=10)
        smooth = Smoothed(EmpiricalScore(data, VE()), 0.5, draws=3)
        mean = smooth.denoise(points(20, (2,), seed=11), 1e-14)
        index = torch.cartesian_prod(*[torch.arange(12)] * 3)
        distance = torch.cdist(mean, data[index].mean(1)).min(1).values
        assert distance.max() < 1e-6

    def test_draws_converge_to_the_expectation(self):
        data, x = points(8, (1,), seed=12), points(3, (1,), seed=13)
        score, h = EmpiricalScore(data, VE()), 0.4
        grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
        weight = (-(grid**2) / 2).exp() / (-(grid**2) / 2).exp().sum()
        exact = torch.stack(
            [(score((x[i] + h * grid)[:, None], 0.2)[:, 0] * weight).sum() for i in range(3)]
        )
        estimate = Smoothed(score, h, draws=4000, seed=1)(x, 0.2)[:, 0]
        spread = torch.stack([score((x[i] + h * grid)[:, None], 0.2).std() for i in range(3)])
        assert ((estimate - exact).abs() < 4 * spread / 4000**0.5).all()


class TestBandwidth:
    def test_rules_of_thumb_for_a_standard_normal(self):
        data = points(5000, (4,), seed=14)
        data = (data - data.mean(0)) / data.std(0)
        assert silverman_bandwidth(data) == pytest.approx((4 / (6 * 5000)) ** (1 / 8))
        assert scott_bandwidth(data) == pytest.approx(5000 ** (-1 / 8))

    @pytest.mark.parametrize("process", [VE(), VP()], ids=repr)
    def test_likelihood_matches_sklearn(self, process):
        """Leave-one-out likelihood against refitted kernel densities."""
        from sklearn.neighbors import KernelDensity

        data = points(25, (2,), seed=15)
        bandwidths = torch.tensor([0.1, 0.4, 1.0], dtype=torch.float64)
        curve = leave_one_out_likelihood(EmpiricalScore(data, process), bandwidths)
        for h, value in zip(bandwidths.tolist(), curve.log_likelihood.tolist(), strict=True):
            expected = 0.0
            for n in range(25):
                rest = torch.cat([data[:n], data[n + 1 :]]).numpy()
                expected += KernelDensity(bandwidth=h).fit(rest).score(data[n : n + 1].numpy())
            assert value == pytest.approx(expected / 25, rel=1e-6)

    def test_choice_is_near_the_optimum_for_a_normal(self):
        data = points(2000, (2,), seed=16)
        best = leave_one_out_likelihood(EmpiricalScore(data, VE())).best
        assert 0.5 * silverman_bandwidth(data) < best < 2 * silverman_bandwidth(data)

    def test_stopping_early_samples_the_kernel_density(self):
        """Moments at t_end: mean m xbar, covariance m^2 S + sigma^2 I (an exact identity)."""
        data = points(6, (2,), seed=17)
        for process in (VE(), VP()):
            # A wider start makes the initial law, N(0, sigma(T)^2), indistinguishable from p_T.
            process.t_max = 3.0
            t_end = float(process.time_at_ratio(0.5))
            x = sample(
                EmpiricalScore(data, process), num=4000, sampler=LogTime(1e-6, 1e-6), t_end=t_end
            ).x
            m, sigma = float(process.scale(t_end)), float(process.std(t_end))
            covariance = m**2 * torch.cov(data.T, correction=0) + sigma**2 * torch.eye(2).double()
            error = (x.mean(0) - m * data.mean(0)).abs() / (covariance.diagonal() / 4000) ** 0.5
            assert error.max() < 4.5, (process, error)
            torch.testing.assert_close(torch.cov(x.T), covariance, rtol=0.08, atol=0.03)


def test_bad_input_is_one_sentence():
    score = EmpiricalScore(points(), VE())
    tikhonov = Tikhonov(score, 0.1)
    cases = [
        (lambda: Tikhonov(score, -1.0), "strength"),
        (lambda: EmpiricalBayes(score, -1.0), "floor"),
        (lambda: EmpiricalBayes(score, 1.0, "sum"), "convention"),
        (lambda: EmpiricalBayes(tikhonov, 1.0), "must be an EmpiricalScore"),
        (lambda: Tempered(score, 0.5), "temperature"),
        (lambda: Tempered(tikhonov, 2.0), "must be an EmpiricalScore"),
        (lambda: Smoothed(score, -0.1), "bandwidth"),
        (lambda: Smoothed(score, 0.1, draws=0), "draws"),
        (lambda: DiagonalCovariance(-torch.ones(3)), "non-negative"),
        (lambda: Tikhonov(score, 1.0, DiagonalCovariance(torch.ones(2)))(points(2), 0.5), "shape"),
        (lambda: silverman_bandwidth(points(1)), "at least two"),
        (lambda: silverman_bandwidth(torch.ones(4, 2)), "all training points are equal"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
