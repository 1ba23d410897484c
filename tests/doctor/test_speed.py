"""Expected times: planted growth laws, the floor, sizes, and the command."""

import json

import pytest
import torch

from memdiff.cli import main
from memdiff.doctor import speed
from memdiff.doctor.speed import Expectation, measure_speed
from memdiff.kernel.products import available_paths, gemm_path


@pytest.fixture(autouse=True)
def planted_sampling(monkeypatch, tmp_path):
    """Sampling takes 2 s and 1 ms a point; single evaluations are measured."""

    def runs(score, batch, budget):
        return [2.0 + 1e-3 * len(score.data)]

    monkeypatch.setattr(speed, "_runs", runs)
    monkeypatch.setenv("MEMDIFF_CACHE", str(tmp_path))


def test_planted_times_are_carried_to_more_points(monkeypatch):
    """By the line that they lie on at the low end, in proportion at the high end."""
    monkeypatch.setattr(speed, "_affordable", lambda points, *_: points // 10)
    found = measure_speed(80_000, 3, 256, budget=1.0)
    assert found.measured_points == 8_000
    assert found.fixed_share == pytest.approx(2.0 / 10.0)
    assert found.sampling.low == pytest.approx((2.0 + 80.0) * 0.9)
    assert found.sampling.high == pytest.approx(10.0 * 10.0 * 1.1)
    assert found.sampling.low < found.sampling.seconds < found.sampling.high
    assert "80,000" in found.note and "8,000" in found.note


def test_more_queries_than_a_batch_take_proportionally_longer():
    few, many = (measure_speed(64, 2, queries, budget=1.0) for queries in (256, 1024))
    assert few.sampling == Expectation(*(pytest.approx(2.064 * f) for f in (1.0, 0.9, 1.1)))
    assert many.sampling.seconds == pytest.approx(4 * few.sampling.seconds)
    assert few.measured_points == 64 and few.note.startswith("times are measured at the size")


def test_floor_is_two_products_by_the_fastest_single_precision_path():
    found = measure_speed(300, 50, 100, budget=1.0)
    single = {path.name: path for path in found.paths if "float32" in path.name}
    assert {"torch mm float64", "torch addmm bfloat16"} < {path.name for path in found.paths}
    assert {name.split()[0] for name in single} == set(available_paths())
    best = max(single.values(), key=lambda path: path.gflops)
    assert found.chosen == gemm_path(50, torch.float32, torch.device("cpu")).name
    assert found.floor_seconds == pytest.approx(4 * 100 * 300 * 50 / (1e9 * best.gflops))
    assert all(0 < path.typical <= path.gflops for path in found.paths)
    assert found.data_mb == pytest.approx(2 * 300 * 50 * 4 / 1e6)
    assert set(found.evaluations) == {"0.01", "0.1", "1", "10"}
    for one in found.evaluations.values():
        assert 0 < one.low < one.seconds < one.high
    assert found.threads == torch.get_num_threads()
    assert json.loads(json.dumps(found.to_dict()))["chosen"] == found.chosen


@pytest.mark.parametrize("integers", [False, True])
def test_the_copy_in_integers_is_counted_and_its_product_shown(monkeypatch, integers):
    monkeypatch.setattr(speed, "integers_pay", lambda dimension, device: integers)
    found = measure_speed(300, 50, 100, budget=1.0)
    assert found.integers == integers
    assert ("torch int8" in {path.name for path in found.paths}) == integers
    assert found.data_mb == pytest.approx((9 if integers else 8) * 300 * 50 / 1e6)


def test_the_measurement_keeps_to_its_budget_at_any_size(monkeypatch):
    monkeypatch.undo()
    found = measure_speed(10**9, 256, 10**6, budget=2.0)
    assert found.measured_points < 10**6 and found.seconds < 10.0
    assert found.sampling.low > 3600  # a million samples of a thousand million points


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(points=0), "points must be at least 1"),
        (dict(dimension=-3), "dimension must be at least 1"),
        (dict(dimension=2**25), "dimension must be at most"),
        (dict(queries=0), "queries must be at least 1"),
        (dict(budget=0.0), "budget must be at least 1"),
    ],
)
def test_bad_sizes_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        measure_speed(**arguments)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


def test_doctor_measures(capsys, monkeypatch):
    measured = measure_speed(64, 2, 8, budget=1.0)
    asked = []

    def measure(**sizes):
        asked.append(sizes)
        return measured

    monkeypatch.setattr(speed, "measure_speed", measure)
    sizes = ("--points", "64", "--queries", "8")
    code, text, _ = run(capsys, "doctor", "--benchmark", *sizes)
    assert code == 0 and asked[0] == {"points": 64, "queries": 8, "progress": None}
    (marked,) = [line for line in text.splitlines() if "<- chosen" in line]
    assert marked.split()[1] == measured.chosen and "float32" in marked
    assert "N = 64, d = 2, 8 queries" in text and "sample    2.06 s (1.86 s to 2.27 s)" in text
    code, text, _ = run(capsys, "doctor", "--benchmark", "--json")
    assert code == 0 and json.loads(text)["speed"]["points"] == 64
    code, text, _ = run(capsys, "doctor", "--json")
    assert code == 0 and "speed" not in json.loads(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--points", "10"), "points was given without --benchmark"),
        (("--benchmark", "--points", "0"), "points must be at least 1"),
        (("--benchmark", "--dimension", "many"), "--dimension: expected int"),
        (("--benchmark", "--queries", "1.5"), "--queries: expected int"),
    ],
)
def test_bad_usage_is_one_sentence_and_code_2(capsys, arguments, words):
    code, out, error = run(capsys, "doctor", *arguments)
    assert code == 2 and out == "" and error.count("\n") == 1 and words in error


def test_doctor_knows_every_extra_that_is_declared():
    """An extra that the doctor does not know is one that its reader cannot find."""
    import tomllib
    from pathlib import Path

    from memdiff.doctor.installation import EXTRAS

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    assert set(EXTRAS) == set(project["project"]["optional-dependencies"]) - {"dev"}
