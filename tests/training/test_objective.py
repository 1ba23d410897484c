"""The loss of a training step, against formulas written out and known minimisers."""

import math

import pytest
import torch

from memdiff.objectives import draw, likelihood, sigma2
from memdiff.processes import EDM, VE, VP, LinearInterpolant
from memdiff.scores import DiagonalCovariance, EmpiricalScore, Tikhonov
from memdiff.scores.base import Score, per_sample
from memdiff.training import (
    EDMWeighting,
    LogNormalRatio,
    Objective,
    TikhonovPenalty,
    edm_objective,
)


class Linear(Score):
    """s = -a x."""

    def __init__(self, process, a=0.7):
        super().__init__(process)
        self.a = torch.nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, x, t, y=None):
        return -self.a * x


def points(num=50, shape=(2, 3), seed=0):
    return torch.randn(
        num, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def draws(process, data, times=None):
    return draw(process, data, len(data), torch.Generator().manual_seed(1), times=times)


def test_loss_is_the_papers():
    """mean |sigma s + z|^2 + c mean |s|^2, written out."""
    process, c = VP(), 0.03
    noised = draws(process, points())
    losses = Objective(penalty=TikhonovPenalty(c))(Linear(process), noised)
    sigma = per_sample(process.std(noised.t), noised.x)
    s = -0.7 * noised.x
    torch.testing.assert_close(losses.denoising, ((sigma * s + noised.z) ** 2).flatten(1).mean(1))
    torch.testing.assert_close(losses.penalty, c * (s**2).flatten(1).mean(1))
    torch.testing.assert_close(losses.total, losses.denoising + losses.penalty)


def test_covariance_weights_the_penalty():
    variances = torch.tensor([[0.1, 1.0, 4.0], [0.0, 2.0, 0.5]], dtype=torch.float64)
    process = VE()
    noised = draws(process, points())
    penalty = TikhonovPenalty(0.2, DiagonalCovariance(variances))
    losses = Objective(weighting=likelihood, penalty=penalty)(Linear(process), noised)
    gamma = 0.2 / process.std(noised.t) ** 2
    weight = process.diffusion(noised.t) ** 2 / 6
    expected = weight * gamma * (0.49 * variances * noised.x**2).flatten(1).sum(1)
    torch.testing.assert_close(losses.penalty, expected)


@pytest.mark.parametrize("weighting", [sigma2, likelihood, EDMWeighting(0.3)])
@pytest.mark.parametrize("process", [VE(), VP(), EDM()])
def test_tikhonov_score_minimises_the_penalised_loss(process, weighting):
    """With one training point the loss is quadratic in a factor of the score, for each draw."""
    c, point = 0.05, points(1)
    noised = draws(process, point.expand(40, 2, 3).clone())
    exact = Tikhonov(EmpiricalScore(point, process), c)

    class Scaled(Score):
        def __init__(self):
            super().__init__(process)
            self.factor = torch.nn.Parameter(torch.ones(len(noised), dtype=torch.float64))

        def forward(self, x, t, y=None):
            return per_sample(self.factor, x) * exact(x, t)

    score = Scaled()
    objective = Objective(weighting=weighting, penalty=TikhonovPenalty(c))
    losses = objective(score, noised)
    losses.total.sum().backward()
    slope = score.factor.grad / losses.total.detach()
    assert slope.abs().max() < 1e-9
    plain = Objective(weighting=weighting)(score, noised).total
    (gradient,) = torch.autograd.grad(plain.sum(), score.factor)
    assert (gradient / plain.detach()).abs().max() > 1e-3  # the penalty is what moves it


@pytest.mark.parametrize("process", [EDM(), VP(), LinearInterpolant()])
def test_edm_loss_is_that_of_the_paper(process):
    """(u^2 + sd^2)/(u sd)^2 |D - x0|^2, through the denoiser."""
    score, deviation = Linear(process), 0.8
    noised = edm_objective(deviation).draw(process, points(), torch.Generator().manual_seed(3))
    losses = edm_objective(deviation)(score, noised)
    u = process.ratio(noised.t)
    weight = (u**2 + deviation**2) / (u * deviation) ** 2
    error = ((score.denoise(noised.x, noised.t) - noised.x0) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(losses.total, weight * error, rtol=1e-6, atol=1e-9)


def test_edm_levels_scale_with_the_data():
    t = edm_objective(0.5).times(EDM(), 20_000, torch.Generator().manual_seed(0)).log()
    assert abs(float(t.mean()) + 1.2) < 0.03 and abs(float(t.std()) - 1.2) < 0.03
    larger = edm_objective(5.0).times(EDM(), 20_000, torch.Generator().manual_seed(0)).log()
    torch.testing.assert_close(larger, (t + math.log(10)).clamp_max(math.log(80)))


@pytest.mark.parametrize("process", [VP(), VE(), LinearInterpolant()])
def test_ratios_stay_within_the_process(process):
    t = LogNormalRatio(3.0, 3.0)(process, 1000, torch.Generator().manual_seed(0))
    assert float(t.min()) > 0 and float(t.max()) <= process.t_max


def test_augmentation_comes_before_the_noise():
    flip = Objective(augmentation=lambda x, generator: x.flip(-1))
    plain = Objective().draw(VP(), points(), torch.Generator().manual_seed(0))
    flipped = flip.draw(VP(), points(), torch.Generator().manual_seed(0))
    assert torch.equal(flipped.x0, plain.x0.flip(-1)) and torch.equal(flipped.t, plain.t)


def test_refusals():
    with pytest.raises(ValueError, match=r"augmentation must keep the shape \(50, 2, 3\)"):
        Objective(augmentation=lambda x, g: x[:3]).draw(VP(), points(), torch.Generator())
    with pytest.raises(ValueError, match="strength must be finite and non-negative, got -1"):
        TikhonovPenalty(-1.0)
    with pytest.raises(ValueError, match="sigma_data must be positive"):
        edm_objective(0.0)
    with pytest.raises(ValueError, match="weighting must return one weight a time"):
        noised = draws(VP(), points())
        Objective(weighting=lambda process, t: t[:, None])(Linear(VP()), noised)
