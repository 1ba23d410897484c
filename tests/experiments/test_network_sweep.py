"""Sweeps over trained networks: what is measured, and honest verdicts on planted fractions."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
import torch

from memdiff.experiments import early_stopping, network_sweep, network_tikhonov, singularity, width
from memdiff.experiments.experiment import Context, Outcome
from memdiff.experiments.network_sweep import (
    PROCESS,
    TOLERANCES,
    Arm,
    Network,
    NetworkSweep,
    memorised_fractions,
    training_points,
)
from memdiff.experiments.published import published
from memdiff.report.figures import new_figure
from memdiff.scores import EmpiricalScore, Tikhonov

Planted = Callable[[Network, int], list[float]]


def test_a_small_sweep_is_measured_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: tuple[Literal["score", "noise"], ...] = ("score", "noise")
    arms = tuple(Arm(kind, kind, Network(width=8, parametrization=kind)) for kind in kinds)
    sweep = NetworkSweep("steps", (5, 20), 30, arms, seeds=2)
    assert {name: len(nets) for name, nets in sweep.ensembles().items()} == {"networks": 4}
    context = Context("quick", 0, tmp_path)
    found = sweep.measure(context, lambda networks, scores: {"count": len(scores)})
    for kind in kinds:
        means = torch.tensor(found.measured()[kind]["mean"])
        assert means.shape == (len(TOLERANCES), 2)
        assert bool((means.diff(dim=0) >= 0).all())  # a wider tolerance holds no fewer
    assert found.figure("caption", "alternative").png.startswith(b"\x89PNG")
    assert [len(table.rows) for table in found.tables()] == [2, 2]
    assert found.extra == {"networks-5": {"count": 4}, "networks-20": {"count": 4}}
    monkeypatch.setattr(network_sweep, "sample", lambda *_, **__: pytest.fail("sampled twice"))
    assert sweep.measure(context).spreads == found.spreads


def test_networks_train_together_by_a_field() -> None:
    sweep = NetworkSweep("width", (8, 16), 30, steps=5, seeds=3, together="width")
    assert {k: [n.seed for n in v] for k, v in sweep.ensembles().items()} == {
        "width-8": [0, 1, 2],
        "width-16": [0, 1, 2],
    }


def test_fractions_of_the_exact_score_are_one() -> None:
    z = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = EmpiricalScore(training_points(), PROCESS)
    assert memorised_fractions(exact, z, t_end=1e-5) == [1.0] * 4


def planted_run(
    module: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    values: Planted,
    preset: str = "paper",
) -> Outcome:
    """Run an experiment whose networks are not trained and whose fractions are given."""

    def measure(context, sweep, name, networks, extra):
        more = extra and extra(networks[:1], [EmpiricalScore(training_points(), PROCESS)])
        norms = more and {"norms": more["norms"] * len(networks)}
        return {
            step: {"fractions": [values(one, step) for one in networks], "extra": norms}
            for step in sweep.looks
        }

    monkeypatch.setattr(network_sweep, "measure_ensemble", measure)
    blank = new_figure()[0]
    monkeypatch.setattr(network_sweep, "fraction_panels", lambda *_, **__: blank)
    outcome: Outcome = module.run(Context(preset, 0, tmp_path))  # type: ignore[arg-type]
    return outcome


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_singularity_is_judged_by_the_table(
    shift: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = published().network

    def values(network: Network, step: int) -> list[float]:
        table = {"score": known.without_singularity, "noise": known.with_singularity}
        moved = [row[known.steps.index(step)] for row in table[network.parametrization]]
        moved[1] = max(0.0, moved[1] - shift)
        return moved

    outcome = planted_run(singularity, tmp_path, monkeypatch, values)
    assert outcome.within is (shift == 0.0)
    assert outcome.measured["with"]["mean"][0] == pytest.approx(known.with_singularity[0])
    assert len(outcome.tables) == 2


@pytest.mark.parametrize("shift", [0.0, 0.2])
def test_network_tikhonov_is_judged_by_the_figure(
    shift: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = published().network

    def values(network: Network, step: int) -> list[float]:
        if network.strength == 0.0:
            return [0.2, 0.9, 1.0, 1.0]
        column = known.tikhonov_c.index(network.strength)
        return [max(0.0, row[column] - shift) for row in known.tikhonov_fraction]

    monkeypatch.setattr(
        network_tikhonov, "memorised_fractions", lambda *_, **__: [0.4, 0.5, 0.6, 0.7]
    )
    outcome = planted_run(network_tikhonov, tmp_path, monkeypatch, values)
    assert outcome.within is (shift == 0.0)
    assert outcome.measured["seeds"] == 4


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_early_stopping_and_width_are_judged_by_their_direction(
    sign: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_steps(network: Network, step: int) -> list[float]:
        return [0.5 + sign * 0.4 * step / 100_000] * 4

    def by_width(network: Network, step: int) -> list[float]:
        return [0.5 + sign * 0.4 * network.width / 512] * 4

    assert planted_run(early_stopping, tmp_path, monkeypatch, by_steps).within is (sign > 0)
    assert planted_run(width, tmp_path, monkeypatch, by_width).within is (sign > 0)
    short = planted_run(early_stopping, tmp_path, monkeypatch, by_steps, "quick")
    assert short.within is None


def test_norms_are_those_of_the_closed_form() -> None:
    # One training point: the minimiser of the penalised loss is (m x1 - x)/(sigma^2 + c).
    x1, point, c = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([1.1, 2.2]), 1e-2
    times = torch.tensor([1e-5, 0.5], dtype=torch.float64)
    score = Tikhonov(EmpiricalScore(x1, PROCESS), c)
    norms = network_tikhonov.score_norms(score, point, times)
    for t, norm in zip(times.tolist(), norms, strict=True):
        m, sigma = float(PROCESS.scale(t)), float(PROCESS.std(t))
        gap = math.hypot(m * 1.0 - float(point[0]), m * 2.0 - float(point[1]))
        assert norm == pytest.approx(gap / (sigma**2 + c), rel=1e-6)
