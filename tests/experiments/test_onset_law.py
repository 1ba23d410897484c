"""The onset law: planted curves give planted exponents, and are judged by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from memdiff.experiments import onset_law
from memdiff.experiments.experiment import Context
from memdiff.experiments.onset_law import OnsetStudy, digits, local_exponents, tau_gen

STUDY = OnsetStudy((16, 32, 64, 128), 4, 8192, 32, 8)


def planted(exponent: float, plateau: float) -> Any:
    def measure(context: Context, study: OnsetStudy, size: int) -> dict[str, Any]:
        steps = study.steps()
        fraction, heldout = [], []
        for seed in range(study.seeds):
            half = 30.0 * (1.0 + 0.1 * seed) * size**exponent
            fall = 60.0 * size**plateau
            fraction.append([1.0 / (1.0 + (half / step) ** 4) for step in steps])
            heldout.append([1.0, *(0.5 + 0.5 * 0.05 ** (step / fall) for step in steps)])
        return {"steps": [0, *steps], "fraction": fraction, "heldout": heldout}

    return measure


@pytest.mark.parametrize(
    ("exponent", "plateau", "within"), [(1.0, 0.0, True), (0.5, 0.0, False), (1.0, 0.6, False)]
)
def test_planted_laws_are_found_and_judged(
    exponent: float, plateau: float, within: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onset_law, "measure", planted(exponent, plateau))
    outcome = onset_law.run_study(Context("paper", 0, tmp_path), STUDY)
    assert outcome.within is within
    assert outcome.measured["tau_mem_law"]["exponent"] == pytest.approx(exponent, abs=0.03)
    assert outcome.measured["tau_gen_law"]["exponent"] == pytest.approx(plateau, abs=0.06)
    assert {figure.name for figure in outcome.figures} == {"curves", "law"}


def test_a_small_run_is_measured_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, context = OnsetStudy((2, 4), 2, 64, 8, 16), Context("quick", 0, tmp_path)
    found = onset_law.measure(context, study, 2)
    assert found["steps"] == [0, 32, 45, 64]
    assert all(len(row) == 3 for row in found["fraction"])
    assert all(row[0] > row[-1] for row in found["heldout"])
    monkeypatch.setattr(onset_law, "sample", lambda *_, **__: pytest.fail("sampled twice"))
    assert onset_law.measure(context, study, 2) == found


def test_subsets_share_no_image_with_the_heldout() -> None:
    pool, heldout = digits(0)
    assert (len(pool), len(heldout)) == (1285, 512)
    assert torch.cdist(pool.flatten(1), heldout.flatten(1)).min() > 0.1
    other = digits(1)[0]
    assert torch.equal(other.sum(0), other.flip(0).sum(0)) or not torch.equal(pool, other)
    assert not torch.equal(pool[:16], other[:16])


def test_plateau_is_where_the_loss_has_made_its_way() -> None:
    # Falls from 1 to 0.5 and rises again: 95 % of the way is a loss of 0.525.
    assert tau_gen([0, 10, 20, 40, 80], [1.0, 0.8, 0.525, 0.5, 0.9]) == pytest.approx(20.0)
    assert tau_gen([0, 10], [1.0, 1.1]) is None


def test_local_exponents_stop_at_censored_sizes() -> None:
    found = local_exponents([2, 4, 8], [2, 2, 4, 4, 8, 8], [10.0, 10.0, 20.0, 20.0, 90.0, None])
    assert found[0] == pytest.approx(1.0)
    assert found[1] is None
