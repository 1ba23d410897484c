"""The studies of trained networks: resumable training, honest verdicts on planted fractions."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

from memdiff.data import load
from memdiff.experiments import early_stopping, network_tikhonov, singularity, width
from memdiff.experiments import network_training as training
from memdiff.experiments.experiment import Context, Outcome
from memdiff.experiments.network_tables import compare, rises
from memdiff.experiments.network_training import (
    TOLERANCES,
    Spread,
    fractions,
    member_fractions,
    spread,
    train_with_snapshots,
)
from memdiff.experiments.published import published
from memdiff.processes import VP
from memdiff.scores import EmpiricalScore, Tikhonov
from memdiff.training.ensemble import Ensemble, Member

MEMBERS = (Member(seed=0, width=8), Member(seed=1, width=8, parametrization="noise"))


def test_training_resumes_from_what_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, process = load("points20").x, VP()
    whole = Ensemble(data, process, MEMBERS)
    whole.advance(40)
    monkeypatch.setattr(training, "CHUNK", 15)

    class Killed(Exception):
        pass

    def kill(message: str, share: float | None) -> None:
        if share is not None and share > 0.6:
            raise Killed

    with pytest.raises(Killed):
        train_with_snapshots(data, process, MEMBERS, (20, 40), tmp_path, "run", kill)
    seen: list[str] = []
    nets = train_with_snapshots(
        data, process, MEMBERS, (20, 40), tmp_path, "run", lambda text, _: seen.append(text)
    )
    assert seen == ["step 40 of 40"]
    for net, expected in zip(nets[40], whole.networks(), strict=True):
        for a, b in zip(net.state_dict().values(), expected.state_dict().values(), strict=True):
            assert torch.equal(a, b)
    monkeypatch.setattr(training, "_train", lambda *_: pytest.fail("trained twice"))
    train_with_snapshots(data, process, MEMBERS, (20, 40), tmp_path, "run")


def test_member_fractions_sample_both_parametrizations(tmp_path: Path) -> None:
    data, process = load("points20").x, VP()
    nets = [member.network((2,)) for member in MEMBERS]
    context = Context("quick", 0, tmp_path)
    found = member_fractions(context, "one", nets, MEMBERS, data, process, 30)
    assert len(found) == 2
    for row in found:
        assert len(row) == len(TOLERANCES)
        assert row == sorted(row)
    assert member_fractions(context, "one", [], [], data, process, 30) == found  # kept


def test_fractions_of_the_exact_score_are_one() -> None:
    data = load("points20").x
    z = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert fractions(EmpiricalScore(data, VP()), z, data, t_end=1e-5) == [1.0] * 4


def test_spread_covers_one_more_run() -> None:
    # 2000 studies of 4 seeds with a true spread of 0.02 over the seeds and 1000 samples each: the
    # allowed difference to a fifth run must cover it nearly always, and not be idle.
    generator = torch.Generator().manual_seed(0)
    p = (0.4 + 0.02 * torch.randn(2000, 5, generator=generator)).clamp(0, 1)
    counts = torch.binomial(torch.full_like(p, 1000.0), p, generator=generator) / 1000
    missed, widths = 0, []
    for row in counts.tolist():
        one = spread(row[:4], 1000)
        missed += abs(row[4] - one.mean) > one.allowed()
        widths.append(one.allowed())
    assert missed / 2000 < 0.05
    true = math.sqrt(0.02**2 + 0.24 / 1000)
    assert sum(widths) / 2000 < 4.0 * true


def test_spread_of_one_seed_is_binomial() -> None:
    assert spread([0.3], 1000).deviation == pytest.approx(math.sqrt(0.21 / 1000), rel=1e-3)
    assert spread([0.0], 1000).deviation > 0.0


def test_comparison_counts_what_lies_outside() -> None:
    rows = [[Spread(0.5, 0.01, 4)] * 10] * 4
    same = [[0.5] * 10] * 4
    assert compare(rows, same).within
    planted = [[0.5] * 10, [0.5] * 10, [0.5] * 10, [0.5] * 7 + [0.6] * 3]
    found = compare(rows, planted)
    assert (found.outside, found.count, found.within) == (3, 40, False)
    assert found.largest == pytest.approx(0.1)
    assert compare(rows, planted, reading_error=0.09).within


def test_rises_allows_noise_and_refuses_a_fall() -> None:
    def row(*means: float) -> list[Spread]:
        return [Spread(mean, 0.01, 4) for mean in means]

    assert rises([row(0.1, 0.09, 0.3)])
    assert not rises([row(0.1, 0.3, 0.2)])
    assert not rises([row(0.1, 0.1, 0.1)])
    assert not rises([row(0.1, 0.2, 0.3), row(0.3, 0.2, 0.1)])


def planted_run(
    module: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    values: object,
    preset: str = "paper",
) -> Outcome:
    """Run an experiment whose networks are untrained and whose fractions are given."""

    def train(data, process, members, snapshots, directory, name, progress=None):
        nets = [member.network((2,)) for member in members]
        return dict.fromkeys(snapshots, nets)

    def measure(context, name, nets, members, *rest):
        return [values(name, member) for member in members]  # type: ignore[operator]

    monkeypatch.setattr(module, "train_with_snapshots", train)
    monkeypatch.setattr(module, "member_fractions", measure)
    outcome: Outcome = module.run(Context(preset, 0, tmp_path))  # type: ignore[arg-type]
    return outcome


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_singularity_is_judged_by_the_table(
    shift: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = published().network

    def values(name: str, member: Member) -> list[float]:
        table = {"score": known.without_singularity, "noise": known.with_singularity}
        column = known.steps.index(int(name))
        moved = [row[column] for row in table[member.parametrization]]
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

    def values(name: str, member: Member) -> list[float]:
        if member.strength == 0.0:
            return [0.2, 0.9, 1.0, 1.0]
        column = known.tikhonov_c.index(member.strength)
        return [max(0.0, row[column] - shift) for row in known.tikhonov_fraction]

    monkeypatch.setattr(network_tikhonov, "fractions", lambda *_, **__: [0.4, 0.5, 0.6, 0.7])
    outcome = planted_run(network_tikhonov, tmp_path, monkeypatch, values)
    assert outcome.within is (shift == 0.0)
    assert outcome.measured["seeds"] == 4


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_early_stopping_and_width_are_judged_by_their_direction(
    sign: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_steps(name: str, member: Member) -> list[float]:
        return [0.5 + sign * 0.4 * int(name) / 100_000] * 4

    def by_width(name: str, member: Member) -> list[float]:
        return [0.5 + sign * 0.4 * member.width / 512] * 4

    assert planted_run(early_stopping, tmp_path, monkeypatch, by_steps).within is (sign > 0)
    assert planted_run(width, tmp_path, monkeypatch, by_width).within is (sign > 0)
    short = planted_run(early_stopping, tmp_path, monkeypatch, by_steps, "quick")
    assert short.within is None


def test_norms_are_those_of_the_closed_form() -> None:
    # One training point: the minimiser of the penalised loss is (m x1 - x)/(sigma^2 + c).
    x1, point, c = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([1.1, 2.2]), 1e-2
    times = torch.tensor([1e-5, 0.5], dtype=torch.float64)
    norms = network_tikhonov.score_norms(Tikhonov(EmpiricalScore(x1, VP()), c), point, times)
    for t, norm in zip(times.tolist(), norms, strict=True):
        m, sigma = float(VP().scale(t)), float(VP().std(t))
        gap = math.hypot(m * 1.0 - float(point[0]), m * 2.0 - float(point[1]))
        assert norm == pytest.approx(gap / (sigma**2 + c), rel=1e-6)
