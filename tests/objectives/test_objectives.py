"""Score-matching objectives: identities between them, exact references, gradients."""

import math

import pytest
import torch
from torch import nn

from memdiff.objectives import (
    Draws,
    LogUniformRatio,
    UniformTime,
    denoising_loss,
    denoising_score_matching,
    divergence,
    draw,
    excess_empirical_risk,
    explicit_loss,
    explicit_score_matching,
    implicit_loss,
    implicit_score_matching,
    leave_one_out_denoising,
    leave_one_out_loss,
    likelihood,
    paired_difference,
    rademacher,
    sigma2,
    uniform,
)
from memdiff.processes import EDM, VE, VP
from memdiff.scores.base import Score, expand_time, per_sample
from memdiff.scores.empirical import EmpiricalScore
from memdiff.scores.population import GaussianMixtureScore, GaussianScore


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class RandomNetwork(Score):
    """A smooth network of (x, log sigma), predicting sigma times the score."""

    def __init__(self, process, d=2, seed=0):
        super().__init__(process)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers = nn.Linear(d + 1, 16), nn.Tanh(), nn.Linear(16, d)
        self.net = nn.Sequential(*layers).to(torch.float64)

    def forward(self, x, t, y=None):
        sigma = per_sample(self.process.std(expand_time(t, x)), x).to(x.dtype)
        return self.net(torch.cat([x, sigma.log()], dim=1)) / sigma


class NaiveEmpirical(Score):
    """The memorising minimiser by a double loop's worth of broadcasting, float64."""

    def __init__(self, data, process):
        super().__init__(process)
        self.data = data

    def forward(self, x, t, y=None):
        time = expand_time(t, x)
        m, sigma = self.process.scale(time)[:, None], self.process.std(time)[:, None]
        difference = x[:, None] - m[:, None] * self.data
        logits = -(difference**2).sum(-1) / (2 * sigma**2)
        return -(torch.softmax(logits, 1)[:, :, None] * difference).sum(1) / sigma**2


def mixture(process):
    means = torch.tensor([[-1.0, 0.3], [1.2, -0.4]], dtype=torch.float64)
    full = torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.2, 0.0], [0.0, 0.4]]], dtype=torch.float64)
    return GaussianMixtureScore([0.4, 0.6], means, full, process)


def within(estimate, expected=0.0, errors=4.0):
    assert estimate.standard_error > 0
    assert abs(estimate.value - expected) < errors * estimate.standard_error, estimate


TIMES = UniformTime(0.05, 1.0)


@pytest.mark.parametrize("weighting", [sigma2, likelihood, uniform])
@pytest.mark.parametrize("process", [VE(), VP()], ids=repr)
def test_denoising_minus_explicit_does_not_depend_on_the_score(process, weighting):
    law = mixture(process)
    draws = draw(process, law, 40_000, generator(1), times=TIMES)
    gaps = []
    for score in (RandomNetwork(process), GaussianScore(torch.ones(2).double(), 0.5, process)):
        j = denoising_score_matching(score, draws, weighting=weighting)
        i = explicit_score_matching(score, law, draws, weighting=weighting)
        gaps.append(paired_difference(j, i))
    within(paired_difference(*gaps))
    # The constant is the objective of the law itself, where the explicit one vanishes.
    best = denoising_score_matching(law, draws, weighting=weighting)
    within(paired_difference(gaps[0], best))


@pytest.mark.parametrize("process", [VE(), VP()], ids=repr)
def test_implicit_is_explicit_plus_a_constant(process):
    law = mixture(process)
    draws = draw(process, law, 20_000, generator(2), times=TIMES)
    gaps = [
        paired_difference(
            implicit_score_matching(score, draws), explicit_score_matching(score, law, draws)
        )
        for score in (RandomNetwork(process), GaussianScore(torch.zeros(2).double(), 2.0, process))
    ]
    within(paired_difference(*gaps))
    norm = (sigma2(process, draws.t) * (law(draws.x, draws.t) ** 2).sum(1)).mean()
    within(gaps[0], -float(norm))


def test_denoising_loss_of_the_law_has_its_closed_form():
    """sigma^2 E|s + z/sigma|^2 = d - sigma^2 tr C^-1 for a Gaussian, at a fixed time."""
    process, variances = VP(), torch.tensor([2.0, 0.1, 0.0], dtype=torch.float64)
    law = GaussianScore(torch.zeros(3).double(), variances, process)
    for t in (0.05, 0.5, 1.0):
        m2, s2 = float(process.scale(t)) ** 2, float(process.std(t)) ** 2
        expected = float((m2 * variances / (m2 * variances + s2)).sum())
        draws = draw(process, law, 20_000, generator(3), times=t)
        within(denoising_score_matching(law, draws), expected)
        norm = float((s2 / (m2 * variances + s2)).sum())
        within(implicit_score_matching(law, draws), -norm)


@pytest.mark.parametrize("reference", [NaiveEmpirical, EmpiricalScore])
@pytest.mark.parametrize("process", [VE(), VP()], ids=repr)
def test_excess_empirical_risk_identity(process, reference):
    data = torch.randn(5, 2, generator=generator(4), dtype=torch.float64)
    empirical = reference(data, process)
    draws = draw(process, data, 40_000, generator(5), times=UniformTime(0.02, 1.0))
    score = RandomNetwork(process)
    for weighting in (sigma2, likelihood):
        excess = excess_empirical_risk(score, empirical, draws, weighting=weighting)
        difference = paired_difference(
            denoising_score_matching(score, draws, weighting=weighting),
            denoising_score_matching(empirical, draws, weighting=weighting),
        )
        within(paired_difference(difference, excess))
        assert excess.losses.min() >= 0
        assert excess.standard_error < difference.standard_error
    assert excess_empirical_risk(empirical, empirical, draws).value == 0.0


def test_losses_are_the_formulas_written_out():
    process = VE()
    law, score = mixture(process), RandomNetwork(process)
    draws = draw(process, law, 50, generator(6))
    sigma = process.std(draws.t)
    s, exact = score(draws.x, draws.t), law(draws.x, draws.t)
    for weighting in (sigma2, likelihood, uniform, lambda process, t: 3.0 * t):
        weight = weighting(process, draws.t)
        torch.testing.assert_close(
            explicit_loss(score, law, draws, weighting),
            weight * ((s - exact) ** 2).sum(1),
            rtol=1e-10,
            atol=0,
        )
        torch.testing.assert_close(
            denoising_loss(score, draws, weighting),
            weight * ((s + draws.z / sigma[:, None]) ** 2).sum(1),
            rtol=1e-8,
            atol=1e-12,
        )
        torch.testing.assert_close(
            implicit_loss(score, draws, weighting),
            weight * ((s**2).sum(1) + 2 * divergence(score, draws.x, draws.t)),
            rtol=1e-8,
            atol=1e-10,
        )


def test_named_weights():
    t = torch.tensor([0.1, 0.7], dtype=torch.float64)
    torch.testing.assert_close(sigma2(VP(), t), 1 - VP().scale(t) ** 2)
    torch.testing.assert_close(likelihood(VE(), t), 100.0**t)
    torch.testing.assert_close(uniform(VE(), t), torch.ones(2).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma", [1e-6, 1e-3, 1.0, 1e3])
def test_memoriser_of_one_point_has_no_loss_at_any_noise(sigma, dtype):
    """One training point: s_N = -z/sigma exactly, whatever the rounding of x."""
    process = EDM(sigma_min=1e-6, sigma_max=1e3)
    data = torch.randn(1, 4, generator=generator(7), dtype=dtype)
    draws = draw(process, data, 20, generator(8), times=sigma)
    assert draws.x.dtype == dtype and draws.z.dtype == torch.float64
    value = denoising_score_matching(EmpiricalScore(data, process), draws).value
    assert value < (1e-12 if dtype == torch.float32 else 1e-20)


def test_divergence_equals_the_closed_form_and_hutchinson_its_mean():
    process = VP()
    variances = torch.tensor([1.0, 0.3, 0.01, 0.0], dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(4, 4, generator=generator(9), dtype=torch.float64)).Q
    law = GaussianScore(torch.zeros(4).double(), basis @ variances.diag() @ basis.T, process)
    draws = draw(process, law, 30, generator(10))
    m, sigma = process.scale(draws.t)[:, None], process.std(draws.t)[:, None]
    expected = -(1 / (m**2 * variances + sigma**2)).sum(1)
    exact = divergence(law, draws.x, draws.t)
    torch.testing.assert_close(exact, expected, rtol=1e-10, atol=0)
    probes = rademacher(2000, draws, generator(11))
    assert set(probes.unique().tolist()) == {-1.0, 1.0}
    each = torch.stack([divergence(law, draws.x, draws.t, probes=p[None]) for p in probes[:400]])
    z = (each.mean(0) - exact) / (each.std(0) / 20).clamp_min(1e-9 * exact.abs())
    assert z.abs().max() < 4.5
    mean = divergence(law, draws.x, draws.t, probes=probes[:400])
    torch.testing.assert_close(mean, each.mean(0), rtol=1e-10, atol=0)


def test_signs_are_exact_on_the_part_that_dominates_at_small_noise():
    process = VE()
    point = torch.zeros(1, 6)
    draws = draw(process, point, 10, generator(12), times=process.time_at_ratio(1e-4))
    score = EmpiricalScore(point, process)
    value = divergence(score, draws.x, draws.t, probes=rademacher(1, draws, generator(13)))
    torch.testing.assert_close(value, torch.full((10,), -6e8).double(), rtol=1e-6, atol=0)


def test_empirical_divergence_is_the_spread_of_the_weights():
    """sigma^2 div s_N = tr Cov_w m^2 / sigma^2 - d."""
    process = VP()
    data = torch.randn(6, 3, generator=generator(14), dtype=torch.float64)
    score = EmpiricalScore(data, process)
    draws = draw(process, data, 15, generator(15))
    weights = score.weights(draws.x, draws.t)
    mean = weights @ data
    spread = (weights * ((data[None] - mean[:, None]) ** 2).sum(-1)).sum(1)
    m2, s2 = process.scale(draws.t) ** 2, process.std(draws.t) ** 2
    torch.testing.assert_close(
        divergence(score, draws.x, draws.t), (m2 * spread / s2 - 3) / s2, rtol=1e-7, atol=1e-7
    )


def test_images_and_batches_give_the_same_estimate():
    process = VP()
    data = torch.randn(4, 1, 3, 3, generator=generator(16), dtype=torch.float64)
    law = GaussianScore(torch.zeros(1, 3, 3).double(), 1.0, process)
    draws = draw(process, data, 23, generator(17))
    probes = rademacher(2, draws, generator(18))
    empirical = EmpiricalScore(data, process)
    measures = [
        lambda size: denoising_score_matching(law, draws, batch_size=size),
        lambda size: excess_empirical_risk(law, empirical, draws, batch_size=size),
        lambda size: implicit_score_matching(law, draws, probes=probes, batch_size=size),
        lambda size: leave_one_out_denoising(empirical, draws, batch_size=size),
    ]
    for measure in measures:
        whole = measure(None)
        for size in (1, 5, 23, 100):
            torch.testing.assert_close(measure(size).losses, whole.losses, rtol=1e-12, atol=1e-12)
            assert measure(size).standard_error == pytest.approx(whole.standard_error)


def test_leave_one_out_equals_deleting_the_point():
    process = VP()
    data = torch.randn(6, 2, generator=generator(19), dtype=torch.float64)
    index = torch.arange(6).repeat(4)
    draws = draw(process, data, 24, generator(20), index=index, times=LogUniformRatio(0.05, 1.5))
    assert torch.equal(draws.x0, data[index])
    losses = leave_one_out_loss(EmpiricalScore(data, process), draws)
    for i in range(24):
        kept = torch.arange(6) != index[i]
        without = NaiveEmpirical(data[kept], process)
        one = Draws(
            process, *(v[i : i + 1] for v in (draws.x0, draws.t, draws.z, draws.x, draws.index))
        )
        torch.testing.assert_close(
            losses[i : i + 1], denoising_loss(without, one), rtol=1e-8, atol=1e-10
        )


def test_leave_one_out_takes_any_score_with_exclude():
    """A shrunk residual: the smallest score that follows the protocol."""
    process = VE()
    data = torch.randn(8, 2, generator=generator(21), dtype=torch.float64)
    empirical = EmpiricalScore(data, process)

    class Shrunk(Score):
        def forward(self, x, t, y=None):
            return self.score_from_residual(x, t, y)

        def residual(self, x, t, y=None, *, exclude=None):
            return 0.5 * empirical.residual(x, t, y, exclude=exclude)

    draws = draw(process, data, 16, generator(22), times=0.3)
    sigma = process.std(0.3)
    residual = torch.stack(
        [
            empirical.residual(draws.x[i : i + 1], 0.3, exclude=draws.index[i : i + 1])[0]
            for i in range(16)
        ]
    )
    expected = ((0.5 * residual / sigma + draws.z) ** 2).sum(1)
    torch.testing.assert_close(
        leave_one_out_loss(Shrunk(process), draws), expected, rtol=1e-10, atol=0
    )


def test_standard_error_of_grouped_draws_is_that_of_group_means():
    process = VE()
    data = torch.randn(10, 2, generator=generator(23), dtype=torch.float64)
    draws = draw(process, data, 50, generator(24), index=torch.arange(10).repeat(5), times=0.2)
    estimate = leave_one_out_denoising(EmpiricalScore(data, process), draws)
    means = estimate.losses.reshape(5, 10).mean(0)
    assert estimate.value == pytest.approx(float(means.mean()))
    assert estimate.standard_error == pytest.approx(float(means.std()) / math.sqrt(10))
    plain = denoising_score_matching(EmpiricalScore(data, process), draws)
    assert plain.standard_error == pytest.approx(float(plain.losses.std()) / math.sqrt(50))


@pytest.mark.parametrize("loss", ["explicit", "denoising", "implicit", "hutchinson"])
def test_gradients_reach_the_parameters(loss):
    process = VP()
    law, score = mixture(process), RandomNetwork(process)
    draws = draw(process, law, 8, generator(25), times=UniformTime(0.2, 1.0))
    losses = {
        "explicit": lambda: explicit_loss(score, law, draws),
        "denoising": lambda: denoising_loss(score, draws),
        "implicit": lambda: implicit_loss(score, draws),
        "hutchinson": lambda: implicit_loss(
            score, draws, probes=rademacher(3, draws, generator(26))
        ),
    }
    weight = score.net[0].weight
    value = losses[loss]().mean()
    assert value.dtype == torch.float64
    (gradient,) = torch.autograd.grad(value, weight)
    with torch.no_grad():
        step = 1e-5
        weight[3, 1] += step
        above = losses[loss]().mean()
        weight[3, 1] -= 2 * step
        below = losses[loss]().mean()
    assert float(gradient[3, 1]) == pytest.approx(float(above - below) / (2 * step), rel=1e-5)


def test_no_gradient_flows_through_the_reference():
    process = VP()
    score, reference = RandomNetwork(process), RandomNetwork(process, seed=1)
    draws = draw(process, mixture(process), 8, generator(34))
    explicit_loss(score, reference, draws).sum().backward()
    assert score.net[0].weight.grad.abs().max() > 0
    assert reference.net[0].weight.grad is None


def test_draws_are_reproducible_and_have_the_stated_law():
    process = VP()
    data = torch.randn(5, 3, generator=generator(27))
    first, second = (draw(process, data, 20_000, generator(28)) for _ in range(2))
    for name in ("x0", "t", "z", "x", "index"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    counts = torch.bincount(first.index, minlength=5)
    assert (counts - 4000).abs().max() < 4.5 * math.sqrt(20_000 * 0.16)
    assert abs(float(first.t.mean()) - 0.5) < 4.5 * math.sqrt(1 / 12 / 20_000)
    assert abs(float((first.z**2).mean()) - 1) < 4.5 * math.sqrt(2 / 60_000)
    log_ratio = process.ratio(LogUniformRatio(0.01, 1.0)(process, 20_000, generator(29))).log10()
    assert -2.0 <= log_ratio.min() < -1.99 and -0.01 < log_ratio.max() <= 0.0 + 1e-12
    assert abs(float(log_ratio.mean()) + 1) < 4.5 * math.sqrt(4 / 12 / 20_000)
    labels = torch.arange(5) * 10
    conditioned = draw(process, data, 50, generator(30), y=labels)
    assert torch.equal(conditioned.y, 10 * conditioned.index)


def test_conditions_reach_the_scores():
    process = VP()
    data = torch.randn(6, 2, generator=generator(31), dtype=torch.float64)
    labels = torch.arange(6)
    score = EmpiricalScore(data, process, conditions=labels)
    draws = draw(process, data, 30, generator(32), y=labels)
    assert denoising_score_matching(score, draws).value < 1e-18
    mixed = draw(process, data, 30, generator(32))
    assert denoising_score_matching(score, mixed).value > 0.1


def test_bad_input_is_named():
    process = VP()
    data = torch.randn(5, 2, generator=generator(33))
    law = GaussianScore(torch.zeros(2), 1.0, process)
    draws = draw(process, data, 4, generator())
    cases = [
        (lambda: draw(process, data, 0, generator()), "num must be"),
        (lambda: draw(process, data[0], 2, generator()), "data must be floating-point"),
        (lambda: draw(process, data, 2, generator(), times=0.0), "times must lie"),
        (lambda: draw(process, data, 2, generator(), times=1.5), "times must lie"),
        (lambda: draw(process, data, 2, generator(), times=torch.ones(3)), "times must be one"),
        (lambda: draw(process, data, 2, generator(), index=torch.tensor([0, 5])), "from 0 to 4"),
        (lambda: draw(process, data, 2, generator(), index=torch.tensor([0])), "index must be"),
        (lambda: draw(process, law, 2, generator(), y=torch.zeros(5)), "need a training set"),
        (lambda: draw(process, data, 2, generator(), y=torch.zeros(4)), "y must have 5 rows"),
        (lambda: draw(process, data, 2, generator(), times=UniformTime(0.0)), "UniformTime needs"),
        (
            lambda: draw(process, data, 2, generator(), times=LogUniformRatio(0.1, 1e3)),
            "LogUniformRatio needs",
        ),
        (lambda: denoising_loss(GaussianScore(torch.zeros(2), 1.0, VE()), draws), "draws must be"),
        (lambda: denoising_loss(law, draws, lambda process, t: t[0]), "weighting must return"),
        (
            lambda: leave_one_out_loss(
                EmpiricalScore(data, process), draw(process, law, 2, generator())
            ),
            "draws must be of a training set",
        ),
        (
            lambda: excess_empirical_risk(law, law, draw(process, law, 2, generator())),
            "draws must be of the training set",
        ),
        (lambda: implicit_loss(law, draws, probes=torch.ones(1, 3, 2)), "probes must have shape"),
        (lambda: rademacher(0, draws, generator()), "at least 1 probe"),
        (lambda: denoising_score_matching(law, draws, batch_size=0), "batch_size must be"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_divergence_refuses_a_score_that_autograd_cannot_see():
    class Hidden(Score):
        def forward(self, x, t, y=None):
            return -x.detach()

    with pytest.raises(ValueError, match="differentiable by autograd"):
        divergence(Hidden(VE()), torch.zeros(2, 2), 0.5)
