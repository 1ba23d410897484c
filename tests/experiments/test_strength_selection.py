"""Leave-one-out choice against the oracle: the identity behind the figure, and the claim."""

from dataclasses import replace

import pytest
import torch

from memdiff.experiments.experiment import Context
from memdiff.experiments.strength_choice import (
    Choice,
    choose,
    compare,
    curves,
    data_law,
    strength_ratio,
)
from memdiff.experiments.strength_selection import COST, EXPERIMENTS
from memdiff.generate.families import EARLY_STOP, EMPIRICAL_BAYES, TIKHONOV


def test_both_curves_estimate_the_same_error():
    """Leave-one-out minus the population's own loss is the true error, over data sets.

    Catches a wrong offset, another law of times for either curve, and a loss that sees the point
    it is evaluated at: each shifts the curve by many standard errors.
    """
    # Below Silverman's bandwidth the losses have tails too heavy for a test by standard errors.
    family = replace(TIKHONOV, grid=lambda score: TIKHONOV.grid(score)[15::5])
    law, gaps = data_law(), []
    for seed in range(24):
        both = curves(law, family, compare(law, 60, 1000, seed))
        gaps.append(both.leave_one_out - both.true)
    gap = torch.stack(gaps)
    error = gap.std(0) / len(gap) ** 0.5
    assert ((gap.mean(0) / error).abs() < 4).all()
    assert (error < 0.05).all()


@pytest.mark.parametrize("family", [TIKHONOV, EMPIRICAL_BAYES, EARLY_STOP], ids=lambda f: f.name)
def test_choice_costs_little_and_no_regulariser_costs_much(family):
    law = data_law()
    choices = [choose(law, family, compare(law, 60, 1000, seed)) for seed in range(6)]
    assert choices[0] == choose(law, family, compare(law, 60, 1000, 0))
    cost = sorted(c.error_chosen / c.error_oracle for c in choices)
    assert cost[0] >= 1.0
    assert cost[3] < 1.3
    assert all(c.error_chosen < 0.5 * c.error_plain for c in choices)


def test_strengths_of_empirical_bayes_are_compared_as_floors():
    choice = Choice(-1.0, -1.0 - 2.0, 1, False, 1.0, 1.0, 1.0)
    assert strength_ratio(EMPIRICAL_BAYES, choice) == pytest.approx(torch.e**2)
    assert strength_ratio(TIKHONOV, Choice(2.0, 4.0, 1, False, 1, 1, 1)) == 0.5


@pytest.mark.slow
def test_quick_preset_agrees(tmp_path):
    (one,) = EXPERIMENTS
    outcome = one.run(Context("quick", 0, tmp_path))
    assert outcome.within is True
    for family in ("tikhonov", "empirical-bayes", "early-stop"):
        assert max(outcome.measured[family]["cost_median"]) <= COST
        assert max(outcome.measured[family]["error_over_plain_median"]) < 0.2
