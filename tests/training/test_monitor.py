"""The monitor on scores whose memorisation is known."""

import json

import pytest
import torch

from memdiff.processes import VE
from memdiff.samplers import Heun
from memdiff.scores import EmpiricalScore, GaussianScore
from memdiff.scores.base import Score
from memdiff.training import Monitor, MonitorSettings, Observation

D = 8
PROCESS = VE(t_max=1.5)
POPULATION = GaussianScore(torch.zeros(D), 1.0, PROCESS)
SETTINGS = MonitorSettings(samples=64, draws=128, sampler=Heun(steps=12))


def sets(seed=0, train=40, heldout=80):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(train, D, generator=generator), torch.randn(heldout, D, generator=generator)


class Between(Score):
    """(1 - a) population + a memorising score."""

    def __init__(self, empirical, share):
        super().__init__(PROCESS)
        self.empirical, self.share = empirical, share

    def forward(self, x, t, y=None):
        return (1 - self.share) * POPULATION(x, t) + self.share * self.empirical(x, t)

    def residual(self, x, t, y=None, *, exclude=None):
        return (1 - self.share) * POPULATION.residual(x, t) + self.share * (
            self.empirical.residual(x, t)
        )


def test_memorising_score_is_caught_at_once():
    train, heldout = sets()
    monitor = Monitor(train, heldout, PROCESS, SETTINGS)
    empirical = EmpiricalScore(train, PROCESS)
    for step in (1, 2):
        seen = monitor.observe(step, empirical)
    assert seen.fraction == 1.0 and seen.closer_to_train == 1.0
    assert all(level.excess_risk == 0.0 for level in seen.levels)
    assert all(level.gap > 10 * level.gap_error for level in seen.levels)
    assert monitor.memorizing and monitor.onset.onset == 1 and monitor.onset.best is None


@pytest.mark.parametrize("seed", range(4))
def test_population_score_is_never_caught(seed):
    train, heldout = sets(seed)
    monitor = Monitor(train, heldout, PROCESS, MonitorSettings(
        samples=64, draws=128, sampler=Heun(steps=12), seed=seed))  # fmt: skip
    for step in range(3):
        monitor.observe(step, POPULATION)
        assert monitor.is_best() == (step == 0)  # equal losses: the first stays
    assert not monitor.memorizing and monitor.onset.best == 0


def test_onset_is_where_it_was_planted():
    train, heldout = sets()
    empirical = EmpiricalScore(train, PROCESS)
    monitor = Monitor(train, heldout, PROCESS, SETTINGS)
    shares = [0.0, 0.0, 0.0, 0.9, 0.97, 1.0]
    for step, share in enumerate(shares):
        monitor.observe(step, Between(empirical, share))
    assert monitor.onset.onset == 3 and monitor.onset.best in (0, 1, 2)
    excess = [seen.excess_risk for seen in monitor.observations]
    assert excess == sorted(excess, reverse=True) and excess[-1] == 0.0


def test_losses_against_their_closed_form():
    r"""Unit Gaussian, VE: E|sigma s + z|^2/d = 1/(1 + sigma^2), whatever the points."""
    train, heldout = sets(train=400, heldout=400)
    settings = MonitorSettings(ratios=(0.3, 1.0), draws=4000, samples=2, sampler=Heun(steps=1))
    seen = Monitor(train, heldout, PROCESS, settings).observe(0, POPULATION)
    for level, sigma in zip(seen.levels, (0.3, 1.0), strict=True):
        for loss in (level.train_loss, level.heldout_loss):
            assert loss == pytest.approx(1 / (1 + sigma**2), rel=0.1)
        assert abs(level.gap) < 4 * level.gap_error
    assert seen.train_loss == pytest.approx(sum(x.train_loss for x in seen.levels) / 2)


def test_train_and_heldout_share_their_noise():
    """On equal sets the losses are equal to the last bit, and looks repeat."""
    train, _ = sets()
    monitor = Monitor(train, train.clone(), PROCESS, SETTINGS)
    first, second = monitor.observe(0, POPULATION), monitor.observe(1, POPULATION)
    assert all(level.gap == 0.0 for level in first.levels)
    assert first.levels == second.levels and torch.equal(first.samples, second.samples)


def test_default_levels_tell_training_points_apart():
    train, heldout = sets()
    monitor = Monitor(train, heldout, PROCESS, SETTINGS)
    posterior = EmpiricalScore(train, PROCESS).posterior(
        train, float(PROCESS.time_at_ratio(monitor.ratios[0]))
    )
    assert float(posterior.top_weight.median()) > 0.95
    again = Monitor(10 * train, 10 * heldout, PROCESS, SETTINGS)
    assert again.ratios == pytest.approx([10 * ratio for ratio in monitor.ratios])


def test_observations_survive_json():
    train, heldout = sets()
    monitor = Monitor(train, heldout, PROCESS, SETTINGS)
    for step in (5, 10):
        monitor.observe(step, EmpiricalScore(train, PROCESS))
    other = Monitor(train, heldout, PROCESS, SETTINGS)
    other.load_state_dict(json.loads(json.dumps(monitor.state_dict(), allow_nan=False)))
    assert other.observations == monitor.observations and other.onset == monitor.onset
    assert isinstance(other.observations[0], Observation)
    with pytest.raises(ValueError, match="larger than that of the last observation, 10, got 10"):
        other.observe(10, POPULATION)


def test_looking_changes_nothing():
    """Training mode and the caller's random numbers are as before."""
    train, heldout = sets()

    class Mode(Score):
        def forward(self, x, t, y=None):
            assert not self.training
            return POPULATION(x, t)

    score = Mode(PROCESS).train()
    torch.manual_seed(0)
    Monitor(train, heldout, PROCESS, SETTINGS).observe(0, score)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1)) and score.training


def test_refusals():
    train, heldout = sets()
    with pytest.raises(ValueError, match=r"heldout must have points of the shape of train"):
        Monitor(train, heldout[:, :3], PROCESS)
    with pytest.raises(ValueError, match="heldout must be floating-point"):
        Monitor(train, heldout[:1], PROCESS)
    with pytest.raises(ValueError, match="at least 2 different points"):
        Monitor(torch.zeros(4, D), heldout, PROCESS)
    with pytest.raises(ValueError, match="alpha must lie in"):
        MonitorSettings(alpha=0.0)
    with pytest.raises(ValueError, match="ratios must be positive"):
        MonitorSettings(ratios=())
