"""The conditional experiment: exact pairs, limits of the kernel, and the known joint law."""

import pytest
import torch
from scipy.stats import kstest, norm

from memdiff.experiments.conditional import (
    COPY,
    EXPERIMENTS,
    PROCESS,
    AtCondition,
    branches,
    conditional_law,
    draw_pairs,
    kernel_score,
    limits,
    samples_at,
)
from memdiff.experiments.experiment import Context
from memdiff.objectives import LogUniformRatio, draw, explicit_score_matching


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_distinct_conditions_return_their_pair_and_the_limits_hold():
    x, y = draw_pairs(60, generator())
    fresh = torch.tensor([[-0.7], [0.1], [0.8]], dtype=torch.float64)
    assert set(limits(x, y, fresh, 10, 0).values()) == {1.0}


def test_a_kernel_at_training_conditions_does_not_return_the_pair():
    x, y = draw_pairs(60, generator())
    paired = samples_at(kernel_score(x, y, 0.05), y, 3, 0) - x
    share = float((paired.abs() < COPY).double().mean())
    exact = float(torch.softmax(-((y - y.T) ** 2) / (2 * 0.05**2), 1).diag().mean())
    assert exact < 0.35 and share == pytest.approx(exact, abs=4 * (exact / 180) ** 0.5)


def test_pairs_have_the_conditional_law_that_is_called_exact():
    """The conditional distribution function of x at its y is uniform."""
    x, y = draw_pairs(4000, generator(1))
    u = norm.cdf((x - branches(y[:, 0])).numpy() / 0.15).mean(1)
    assert kstest(u, "uniform").pvalue > 1e-3
    law = conditional_law(0.5)
    drawn = law.sample_data(4000, generator(2))
    u = norm.cdf((drawn - branches(torch.tensor([0.5]))).numpy() / 0.15).mean(1)
    assert kstest(u, "uniform").pvalue > 1e-3


def test_the_conditional_score_error_is_least_at_an_interior_width():
    x, y = draw_pairs(300, generator())
    errors = []
    for width in (1e-3, 0.05, 3.0):
        score = kernel_score(x, y, width)
        total = 0.0
        for value in (-0.6, 0.0, 0.7):
            law = conditional_law(value)
            draws = draw(PROCESS, law, 300, generator(5), times=LogUniformRatio(0.05))
            total += explicit_score_matching(AtCondition(score, value), law, draws).value
        errors.append(total / 3)
    assert errors[1] < 0.6 * min(errors[0], errors[2])


@pytest.mark.slow
def test_the_experiment_agrees(tmp_path):
    (experiment,) = EXPERIMENTS
    outcome = experiment.run(Context("quick", 0, tmp_path))
    assert outcome.within and {figure.name for figure in outcome.figures} == {"width", "samples"}
    distance, memorised = outcome.measured["distance"], outcome.measured["memorised"]
    assert min(distance) < 0.5 * min(distance[0], distance[-1])
    assert memorised[0] > 0.8 and memorised[-1] < 0.05
    assert min(distance) > outcome.measured["distance_of_exact_samples"]
