"""Trajectories under the exact score: ends, rate, settling, and a score that is not exact."""

import pytest
import torch

from memdiff.data.builtin import points20
from memdiff.experiments import exact_flow
from memdiff.experiments.experiment import Context
from memdiff.experiments.runner import load
from memdiff.processes import VE, VP
from memdiff.samplers import LogTime
from memdiff.scores import EmpiricalScore


@pytest.fixture(scope="module", params=["ve-trajectories", "vp-trajectories"])
def outcome(request, tmp_path_factory):
    experiment = load(request.param)
    return experiment.run(Context("quick", 0, tmp_path_factory.mktemp(request.param)))


def test_every_trajectory_ends_at_a_training_point_at_rate_sigma(outcome):
    measured = outcome.measured
    assert outcome.within is True
    assert outcome.published == {"fraction": 1.0, "slope": 1.0}
    assert measured["fraction"] == measured["fraction_of_shown"] == 1.0
    slopes = measured["slopes"]
    assert abs(slopes["min"] - 1) < 0.02 and abs(slopes["max"] - 1) < 0.02
    assert slopes["min"] <= measured["slope"] <= slopes["max"]


def test_cells_settle_before_weights_do(outcome):
    """A largest weight above one half belongs to the cell, so the cell is settled by then."""
    measured = outcome.measured
    for quantile in ("5%", "50%", "95%"):
        cell, half, sure = (
            measured[name][quantile]
            for name in ("commitment_ratio", "weight_0.5_ratio", "weight_0.99_ratio")
        )
        assert cell > half > sure > 0
    assert 0 < measured["start_in_final_cell"] < 1


def test_report_has_what_the_paper_shows(outcome):
    assert [figure.name for figure in outcome.figures] == [
        "trajectories",
        "weights",
        "rate",
        "settling",
    ]
    assert "100.0% of 1000 samples" in outcome.finding


class HalfPull(EmpiricalScore):
    """A score half as strong as it should be: sigma^2 taken twice too large in the division."""

    def residual(self, x, t, y=None, **options):
        return 0.5 * super().residual(x, t, y, **options)


def test_a_score_with_the_wrong_sigma_does_not_agree(monkeypatch, tmp_path):
    """Its samples still end at training points; the rate gives it away."""
    monkeypatch.setattr(exact_flow, "COUNTED", 20)
    monkeypatch.setattr(exact_flow, "_figures", lambda *_: [])
    outcome = exact_flow.run(Context("quick", 0, tmp_path), HalfPull(points20().x, VE()))
    assert outcome.within is False
    assert outcome.measured["slope"] == pytest.approx(0.5, abs=0.02)


def test_paths_of_one_training_point_are_straight():
    """N = 1: x(t) = m x_1 + (x(T) - m_T x_1) sigma/sigma_T in VE, in one cell from the start."""
    point = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    process = VE()
    latents = torch.tensor([[1.0, 0.5], [-2.0, 0.1]], dtype=torch.float64)
    paths = exact_flow.follow(
        EmpiricalScore(point, process), latents, LogTime(1e-8, 1e-8, save=20), 1e-6
    )
    sigma = process.std(paths.times)
    expected = point + (sigma / sigma[0])[:, None, None] * (sigma[0] * latents - point)
    torch.testing.assert_close(paths.x, expected, rtol=1e-6, atol=1e-7)
    assert paths.at_data == 1.0
    assert bool((paths.in_final_cell == 1.0).all())
    assert bool((paths.commitment.ratio == paths.ratio[0]).all())


def test_the_share_in_the_final_cell_only_looks_at_cells_of_scaled_points():
    """VP: the cell is that of m x_n, so the nearest unscaled point is another one at the start."""
    data = torch.tensor([[1.0, 0.0], [4.0, 0.0]], dtype=torch.float64)
    score = EmpiricalScore(data, VP())
    start = 1.5  # m(1) is 0.47: nearer to 4 m = 1.9 than to m = 0.5, but nearer to 1 than to 4
    sigma_max = float(VP().std(1.0))
    latents = torch.tensor([[start / sigma_max, 0.0]], dtype=torch.float64)
    paths = exact_flow.follow(score, latents, LogTime(save=30), 1e-4)
    assert int(paths.cells[0, 0]) == 1
