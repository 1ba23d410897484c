"""The flow in log time: its rate, its ends, what it costs, and flows that are not it."""

import math

import pytest
import torch

from memdiff.data.builtin import points20
from memdiff.experiments import time_change
from memdiff.experiments.experiment import Context
from memdiff.experiments.runner import load
from memdiff.processes import VE, VP
from memdiff.samplers import RK45, draw_latents
from memdiff.scores import EmpiricalScore, Tikhonov


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return load("time-change").run(Context("quick", 0, tmp_path_factory.mktemp("time-change")))


def test_distances_fall_as_exp_minus_tau_and_ends_agree(outcome):
    assert outcome.within is True
    for name in ("VE", "VP"):
        measured = outcome.measured[name]
        assert measured["at_training_point"] == 1.0
        assert measured["rate_min"] >= -1.02 and measured["rate_max"] <= -0.98
        assert measured["same_point"] == [1.0] * len(measured["ratio"])
        assert max(measured["error_rk45"]) < 1e-3


def test_log_time_is_cheaper_and_more_exact_at_small_noise(outcome):
    for name in ("VE", "VP"):
        measured = outcome.measured[name]
        assert measured["ratio"][-1] == 1e-8
        assert measured["evaluations_log_time"][-1] < 0.5 * measured["evaluations_rk45"][-1]
        assert measured["error_log_time"][-1] < 1e-9 < measured["error_rk45"][-1]


@pytest.mark.parametrize(("process", "length"), [(VE(), 10.0), (VP(), 20.0)])
def test_descent_ends_at_tau0_plus_length(process, length):
    latents = draw_latents(3, (2,), seed=3, dtype=torch.float64)
    data = points20().x
    descent = time_change.descend(EmpiricalScore(data, process), data, latents, length)
    assert float(descent.tau[-1] - descent.tau[0]) == pytest.approx(length, abs=1e-6)
    expected = torch.linalg.vector_norm(descent.x[-1] - data[descent.limits.index], dim=1)
    torch.testing.assert_close(descent.distance[-1], expected)


def test_one_training_point_has_rate_minus_one_throughout():
    """N = 1 in VE: |x - x_1| = exp(tau_0 - tau) |x(T) - x_1|, from the first moment on."""
    point = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    latents = draw_latents(4, (2,), seed=1, dtype=torch.float64)
    descent = time_change.descend(EmpiricalScore(point, VE()), point, latents, 6.0)
    law = (descent.tau[0] - descent.tau).exp()[:, None] * descent.distance[0]
    assert float((descent.distance / law - 1.0).abs().max()) < 1e-3
    comparison = time_change.compare(EmpiricalScore(point, VE()), point, latents, 1e-3)
    assert comparison.same_point == 1.0 and max(comparison.error) < 1e-4


class Coarse(Context):
    """A context that asks for one noise level."""

    def pick(self, *, quick, paper):
        return quick[:1]


class Unfinished(Tikhonov):
    """Planted defect: a regularised flow, which stops short of the training points."""

    @property
    def data(self):
        return self.score.data


@pytest.mark.parametrize("strength", [0.0, 1e-3])
def test_only_the_exact_flow_agrees(strength, monkeypatch, tmp_path):
    monkeypatch.setattr(time_change, "LATENTS", 4)
    monkeypatch.setattr(time_change, "_figures", lambda *_: [])
    scores = [
        Unfinished(EmpiricalScore(points20().x, process), strength) for process in (VE(), VP())
    ]
    outcome = time_change.run(Coarse("quick", 0, tmp_path), scores)
    assert outcome.within is (strength == 0.0)


def test_a_loose_integrator_shows_in_the_error(monkeypatch):
    data = points20().x
    latents = draw_latents(6, (2,), seed=0, dtype=torch.float64)
    score = EmpiricalScore(data, VE())
    exact = time_change.compare(score, data, latents, 1e-2)
    monkeypatch.setattr(time_change, "RK45", lambda: RK45(rtol=0.05, atol=0.05))
    loose = time_change.compare(score, data, latents, 1e-2)
    assert exact.error[0] <= time_change.END_TOLERANCE < loose.error[0]
    assert loose.evaluations[0] < exact.evaluations[0]
    assert math.isclose(loose.error[1], exact.error[1])
