"""The consistency experiment: errors against a known law, and how they fall with N."""

import numpy as np
import pytest
import torch

from memdiff.experiments import consistency
from memdiff.experiments.consistency import (
    EXPERIMENTS,
    data_law,
    errors,
    fitted_rate,
    sampler_p_value,
)
from memdiff.experiments.experiment import Context
from memdiff.samplers import Euler
from memdiff.scores import EmpiricalScore, scott_bandwidth

SIZES = (100, 400, 1600)


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", params=[1, 2])
def table(request):
    law = data_law(request.param)
    rows = [[errors(law, n, 500, generator(100 * r + n)) for n in SIZES] for r in range(3)]
    return request.param, {k: np.array([[e[k] for e in row] for row in rows]) for k in rows[0][0]}


def test_regularised_errors_fall_and_the_memorising_score_is_far_off(table):
    _, values = table
    for name in ("kernel", "empirical_bayes", "oracle", "divergence"):
        assert (np.diff(values[name].mean(0)) < 0).all(), name
    assert (values["empirical_bayes"].mean(0) < 0.1 * values["fixed"].mean(0)).all()
    assert (values["oracle"] <= values["empirical_bayes"]).all()
    # A grid that the bandwidth h_N is not inside of would make the oracle no oracle.
    assert (values["grid 0"].mean(0) > 2 * values["oracle"].mean(0)).all()


def test_the_rate_is_no_slower_than_the_bound(table):
    dimension, values = table
    rate = fitted_rate(SIZES, values["empirical_bayes"])
    assert rate.slope < -2 / (dimension + 4) + 3 * rate.standard_error
    assert rate.standard_error < 0.15


def test_fitted_rate_is_exact_on_power_laws():
    sizes = np.array([100.0, 1000.0, 10000.0])
    rate = fitted_rate(sizes, np.stack([3 * sizes**-0.4, 5 * sizes**-0.6]))
    assert rate.slope == pytest.approx(-0.5)
    assert rate.standard_error == pytest.approx(0.1)


def test_the_divergence_is_the_mean_log_ratio():
    """The estimate with positive terms against the textbook one, on many points."""
    law = data_law(1)
    found = errors(law, 100, 20_000, generator(7))["divergence"]
    data = law.sample_data(100, generator(7))
    x = law.sample_data(40_000, generator(8))
    density = EmpiricalScore(data, consistency.PROCESS).log_density(x, scott_bandwidth(data))
    plain = law.log_density(x, 0.0) - density
    assert found == pytest.approx(float(plain.mean()), abs=4 * float(plain.std()) / 200)


def test_stopped_samples_have_the_law_of_the_kernel_density(monkeypatch):
    assert sampler_p_value(200, 400, generator(0)) > 1e-3
    monkeypatch.setattr(consistency, "LogTime", lambda *_: Euler(steps=6))
    assert sampler_p_value(200, 400, generator(0)) < 1e-3


@pytest.mark.slow
def test_the_experiment_agrees_and_measures_once(tmp_path, monkeypatch):
    (experiment,) = EXPERIMENTS
    outcome = experiment.run(Context("quick", 0, tmp_path))
    assert outcome.within
    assert {figure.name for figure in outcome.figures} == {"rates", "bandwidth"}
    monkeypatch.setattr(consistency, "errors", lambda *_: pytest.fail("measured twice"))
    for name in ("_rate_plot", "_bandwidth_plot"):
        monkeypatch.setattr(consistency, name, lambda *_: outcome.figures[0].png)
    again = experiment.run(Context("quick", 0, tmp_path))
    assert again.measured == outcome.measured
