"""Which models a run may keep, and which of them it keeps."""

from __future__ import annotations

import pytest
import torch

from memdiff.processes import EDM
from memdiff.samplers import Heun
from memdiff.scores import EmpiricalScore, GaussianScore, Score
from memdiff.training import MonitorSettings, Onset, Reading, find_onset
from memdiff.training.model_choice import MOST, Candidates, choose
from memdiff.training.monitor import Monitor

PROCESS = EDM()
POPULATION = GaussianScore(torch.zeros(6), torch.eye(6), PROCESS)
generator = torch.Generator().manual_seed(0)
TRAIN, HELDOUT = torch.randn(2, 60, 6, generator=generator)
EMPIRICAL = EmpiricalScore(TRAIN, PROCESS)


class Blend(Score):
    """A share of the memorising score, as a weight that a file can hold."""

    def __init__(self, share=0.0):
        super().__init__(PROCESS)
        self.register_buffer("share", torch.tensor(float(share)))

    def forward(self, x, t, y=None):
        return self.score_from_residual(x, t, y)

    def residual(self, x, t, y=None):
        share = float(self.share)
        return (1 - share) * POPULATION.residual(x, t) + share * EMPIRICAL.residual(x, t)


def looked(shares, path, confirm=200, samples=8):
    """A run whose looks are too small to see what the models do, and its candidates."""
    settings = MonitorSettings(
        samples=samples, confirm=confirm, draws=32, sampler=Heun(steps=12), alpha=0.01
    )
    monitor, candidates = Monitor(TRAIN, HELDOUT, PROCESS, settings), Candidates(path)
    for step, share in enumerate(shares, start=1):
        monitor.observe(step, Blend(share))
        if monitor.onset.onset is None and not monitor.onset.suspicious:
            candidates.add(step, Blend(share), monitor.onset.best)
    return monitor, candidates


class Fixed(Monitor):
    """A monitor whose looks say that all of ``clean`` were clean, the first the best."""

    clean: tuple[int, ...] = ()

    @property
    def onset(self):
        return Onset(1, 9, None, self.clean, True)


def fixed(shares, path, confirm=300):
    settings = MonitorSettings(samples=8, confirm=confirm, draws=32, sampler=Heun(steps=12))
    monitor, candidates = Fixed(TRAIN, HELDOUT, PROCESS, settings), Candidates(path)
    for step, share in shares.items():
        candidates.add(step, Blend(share), None)
    monitor.clean = tuple(sorted(shares, reverse=True))
    return monitor, candidates


def ignore(*_):
    pass


def test_a_best_model_that_memorises_is_not_confirmed(tmp_path):
    """The step before it is kept: choosing the smallest loss alone would keep step 3."""
    monitor, candidates = fixed({1: 0.0, 2: 0.0, 3: 0.97}, tmp_path)
    choice = choose(monitor, candidates, Blend, ignore, confirm=True)
    assert (choice.step, choice.confirmed) == (2, True)
    assert [look.step for look in choice.confirmations] == [3, 2]
    refused, accepted = choice.confirmations
    assert refused.p_close < 0.01 < 0.2 < accepted.p_close


def test_where_nothing_is_confirmed_the_earliest_is_kept_and_said_so(tmp_path):
    monitor, candidates = fixed({1: 0.97, 2: 0.99}, tmp_path)
    choice = choose(monitor, candidates, Blend, ignore, confirm=True)
    assert (choice.step, choice.confirmed) == (1, False) and len(choice.confirmations) == 2


def test_later_models_with_a_larger_loss_are_not_asked(tmp_path):
    monitor, candidates = fixed({1: 0.0, 2: 0.97, 3: 0.0}, tmp_path)
    monitor.clean = (2, 3, 1)
    choice = choose(monitor, candidates, Blend, ignore, confirm=True)
    assert choice.step == 1 and [look.step for look in choice.confirmations] == [2, 1]


def test_confirmation_draws_other_samples_than_the_looks(tmp_path):
    monitor, _ = looked([0.0], tmp_path)
    look = monitor.confirm(1, Blend(0.0))
    drawn = monitor.observations[0].samples
    assert len(look.samples) == 200 and len(monitor.observations) == 1
    assert torch.cdist(look.samples, drawn).min() > 1e-3


def test_nothing_is_drawn_unless_asked_for(tmp_path):
    monitor, candidates = fixed({1: 0.0, 2: 0.97}, tmp_path)
    choice = choose(monitor, candidates, Blend, ignore, confirm=False)
    assert (choice.step, choice.confirmed, choice.confirmations) == (2, None, ())


def test_no_look_was_clean(tmp_path):
    monitor, candidates = looked([1.0, 1.0], tmp_path, samples=64)
    assert monitor.memorizing and choose(
        monitor, candidates, Blend, ignore, confirm=True
    ).step is None  # fmt: skip


def test_no_confirmation_where_none_is_asked_for(tmp_path):
    monitor, candidates = fixed({1: 0.97}, tmp_path, confirm=0)
    assert choose(monitor, candidates, Blend, ignore, confirm=True).confirmed is None
    with pytest.raises(ValueError, match=r"settings\.confirm is 0"):
        monitor.confirm(1, Blend())
    with pytest.raises(ValueError, match="confirm must be 0 or at least 2"):
        MonitorSettings(confirm=1)


def test_storage_is_bounded_and_keeps_the_best_and_the_ends(tmp_path):
    candidates = Candidates(tmp_path)
    for step in range(1, 41):
        candidates.add(step, Blend(step / 100), best=3 if step >= 3 else step)
        assert len(candidates.steps) <= MOST
        assert {1, step, min(step, 3)} <= set(candidates.steps)
    gaps = [b / a for a, b in zip(candidates.steps, candidates.steps[1:], strict=False)]
    assert max(gaps) <= 4.0  # spread over the run, not its last steps only
    assert float(candidates.load(40, Blend()).share) == pytest.approx(0.4)


def test_a_run_that_has_gone_back_ends_with_the_same_files(tmp_path):
    whole, again = Candidates(tmp_path / "whole"), Candidates(tmp_path / "again")
    for step in range(1, 21):
        whole.add(step, Blend(), best=step)
    for last in (15, 20):  # killed after step 15, resumed from a state of step 12
        for step in range(1 if last == 15 else 13, last + 1):
            again.add(step, Blend(), best=step)
    assert whole.steps == again.steps


def test_clean_looks_are_sorted_by_loss():
    readings = [Reading(step, loss, 1.0, p) for step, loss, p in (
        (0, 3.0, 1.0), (1, 2.0, 0.001), (2, 1.0, 0.5), (3, 1.5, 0.5), (4, 1.0, 0.0), (5, 1.0, 0.0)
    )]  # fmt: skip
    assert find_onset(readings, alpha=0.01, patience=2).clean == (2, 3, 0)
