"""Conditional networks: what is measured knows a copy, a kernel score and an interpolation."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from scipy.stats import wasserstein_distance

from memdiff.experiments import conditional_network
from memdiff.experiments.conditional_network import (
    WIDTHS,
    ConditionalStudy,
    compare,
    run_study,
    samples_at,
    transport,
)
from memdiff.experiments.experiment import Context
from memdiff.processes import EDM
from memdiff.scores import EmpiricalScore

X = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
Y = torch.tensor([[-0.5], [0.0], [0.5]], dtype=torch.float64)


def kernels(num: int = 6) -> list[torch.Tensor]:
    return [torch.full((2, num), 10.0 * (i + 1), dtype=torch.float64) for i in range(len(WIDTHS))]


def test_measures_of_planted_samples() -> None:
    copies = X.expand(3, 6).clone()
    copies[0, :3] += 0.2
    interpolated = torch.tensor([[0.5], [2.0]], dtype=torch.float64).expand(2, 6)
    found = compare(X, copies, interpolated, interpolated + 0.25, kernels())
    assert found["paired"] == pytest.approx(15 / 18)
    assert found["law"] == pytest.approx(0.25)
    assert found["interpolation"] == 0.0
    assert found["neighbour"] == pytest.approx((0.5 + 1.0) / 2)
    assert found["spread"] == 0.0
    planted = kernels()
    like = planted[4] + 0.01
    closest = compare(X, copies, like, like, planted)
    assert (closest["kernel_width"], closest["kernel"]) == (WIDTHS[4], pytest.approx(0.01))


def test_transport_is_the_wasserstein_distance() -> None:
    a, b = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))
    expected = sum(wasserstein_distance(p.numpy(), q.numpy()) for p, q in zip(a, b, strict=True))
    assert transport(a, b) == pytest.approx(expected / 3, rel=1e-5)


def test_the_exact_minimiser_returns_the_paired_points() -> None:
    score = EmpiricalScore(X, EDM(), conditions=Y, condition_bandwidth=0.0)
    assert torch.allclose(samples_at(score, Y, 4, 0), X.expand(3, 4), atol=1e-4)


@pytest.mark.slow
def test_a_run_learns_its_pairs_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditional_network, "WIDTHS", (1e-3, 1.0))
    study, context = ConditionalStudy(3, 4, (40, 800), 8, 32), Context("paper", 0, tmp_path)
    outcome = run_study(context, study)
    paired = outcome.measured["mean"]["paired"]
    assert paired[1] > paired[0] + 0.2
    assert outcome.within is (
        paired[1] + 3 * outcome.measured["deviation"]["paired"][1] / math.sqrt(4) >= 0.9
    )
    monkeypatch.setattr(
        conditional_network, "samples_at", lambda *_: pytest.fail("sampled what was kept")
    )
    assert run_study(context, study).measured == outcome.measured
