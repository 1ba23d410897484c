"""The runner: order, files, resuming, failures and interruptions, on small fake experiments."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import memdiff
from memdiff import experiments
from memdiff.experiments import Experiment, Outcome, ReproductionError, registry, reproduce, store
from memdiff.experiments.runner import load
from memdiff.report import Cell, Figure, Table
from memdiff.report.pictures import image_png

PNG = image_png(torch.zeros(1, 2, 3))


class Bench:
    """Three experiments that count their runs and do as they are told."""

    def __init__(self):
        self.runs, self.behaviour, self.contexts = [], {}, {}

    def outcome(self, name):
        return Outcome(
            measured={"value": torch.tensor(0.25), "curve": np.array([1, 2])},
            published={"value": 0.26},
            within=name != "second",
            tolerance="Within 0.02.",
            finding=f"Found <{name}>.",
            figures=[Figure("plot", PNG, "A caption.", "A plot.")],
            tables=[Table("T", ("a", "b"), [(1.5, Cell("x", "good", sort=1)), (None, True)])],
        )

    def experiment(self, name):
        def run(context):
            self.runs.append(name)
            self.contexts[name] = context
            context.progress("half", 0.5)
            action = self.behaviour.get(name)
            return action(context) if action else self.outcome(name)

        return Experiment(name, f"Title of {name}", f"Question of {name}?", "[B25], figure 1", run)


@pytest.fixture
def bench(monkeypatch):
    bench = Bench()
    names = ("first", "second", "third")
    for name in names:
        module = types.ModuleType(f"memdiff.experiments.fake_{name}")
        module.EXPERIMENTS = (bench.experiment(name),)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry, "REGISTRY", tuple((n, f"fake_{n}") for n in names))
    return bench


def fails(_):
    raise ArithmeticError("sigma is <0>")


def interrupts(_):
    raise KeyboardInterrupt


def test_results_have_the_documented_form(bench, tmp_path):
    results = reproduce(preset="paper", out=tmp_path / "new" / "out", seed=7)
    out = tmp_path / "new" / "out"
    assert json.loads((out / "results.json").read_text()) == results
    assert list(results) == ["schema", "preset", "experiments", "provenance"]
    assert (results["schema"], results["preset"]) == (1, "paper")
    assert list(results["experiments"]) == ["first", "second", "third"]
    entry = results["experiments"]["second"]
    assert entry.pop("seconds") >= 0
    assert entry == {
        "measured": {"value": 0.25, "curve": [1, 2]},
        "published": {"value": 0.26},
        "within": False,
        "tolerance": "Within 0.02.",
        "finding": "Found <second>.",
    }
    assert results["provenance"]["seed"] == 7
    assert {p.name for p in (out / "figures").iterdir()} == {
        f"{name}-plot.png" for name in results["experiments"]
    }
    assert (out / "figures" / "first-plot.png").read_bytes() == PNG
    report = (out / "report.html").read_text()
    assert "Found &lt;first&gt;." in report and "Question of third?" in report
    assert report.count("✓ agrees") == 2 and report.count("✗ differs") == 1
    assert {p.name for p in out.iterdir()} == {
        ".partial",
        "figures",
        "report.html",
        "results.json",
    }


def test_only_filters_and_keeps_the_registry_order(bench, tmp_path):
    results = reproduce(only=["third", "first"], out=tmp_path)
    assert bench.runs == list(results["experiments"]) == ["first", "third"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["first", "nope"]}, r"among first, second, third; got 'nope'"),
        ({"only": []}, "got no name"),
        ({"preset": "fast"}, "preset must be one of quick, paper, got 'fast'"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(bench, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        reproduce(out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists() and not bench.runs


def test_out_that_is_a_file_is_refused(bench, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match="out must be a folder"):
        reproduce(out=tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_finished_experiments_are_taken_up(bench, tmp_path):
    first = reproduce(out=tmp_path)
    page = (tmp_path / "report.html").read_text()
    second = reproduce(out=tmp_path)
    assert bench.runs == ["first", "second", "third"]
    assert second["experiments"] == first["experiments"]
    assert second["provenance"]["resumed"] == ["first", "second", "third"]

    def sections(html):
        return html[html.index('<section id="first"') : html.index('<section id="limitations"')]

    assert sections((tmp_path / "report.html").read_text()) == sections(page)


@pytest.mark.parametrize("change", ["preset", "seed", "source", "version", "resume"])
def test_other_settings_run_anew(bench, tmp_path, monkeypatch, change):
    reproduce(out=tmp_path, only=["first"])
    options = {"preset": {"preset": "paper"}, "seed": {"seed": 1}, "resume": {"resume": False}}
    if change == "source":
        monkeypatch.setattr(store, "package_fingerprint", lambda: "other")
    if change == "version":
        monkeypatch.setattr(store, "versions", lambda: {"torch": "9"})
    reproduce(out=tmp_path, only=["first"], **options.get(change, {}))
    assert bench.runs == ["first", "first"]


@pytest.mark.parametrize("damage", ["missing", "changed", "torn"])
def test_a_damaged_result_is_not_taken_up(bench, tmp_path, damage):
    reproduce(out=tmp_path, only=["first"])
    figure = tmp_path / "figures" / "first-plot.png"
    if damage == "missing":
        figure.unlink()
    elif damage == "changed":
        figure.write_bytes(PNG + b"x")
    else:
        kept = tmp_path / ".partial" / "first" / "outcome.json"
        kept.write_text(kept.read_text()[:-20])
    reproduce(out=tmp_path, only=["first"])
    assert bench.runs == ["first", "first"] and figure.read_bytes() == PNG


def test_an_interruption_loses_nothing(bench, tmp_path):
    bench.behaviour["second"] = interrupts
    with pytest.raises(KeyboardInterrupt):
        reproduce(out=tmp_path)
    assert bench.runs == ["first", "second"] and not (tmp_path / "results.json").exists()
    bench.behaviour.clear()
    results = reproduce(out=tmp_path)
    assert bench.runs == ["first", "second", "second", "third"]
    assert list(results["experiments"]) == ["first", "second", "third"]


def test_partial_results_of_an_interrupted_experiment_are_kept_then_cleared(bench, tmp_path):
    computed = []

    def work(context):
        def compute(index):
            computed.append(index)
            return {"value": np.float64(index)}

        for index in range(3):
            assert context.cached(f"part-{index}", lambda i=index: compute(i)) == {"value": index}
            if index == 1 and not resumed:
                raise KeyboardInterrupt
        arrays = context.cached_arrays("samples", lambda: {"x": torch.ones(2)})
        assert arrays["x"].dtype == np.float32 and arrays["x"].tolist() == [1, 1]
        return bench.outcome("first")

    bench.behaviour["first"], resumed = work, False
    with pytest.raises(KeyboardInterrupt):
        reproduce(out=tmp_path, only=["first"])
    resumed = True
    reproduce(out=tmp_path, only=["first"])
    assert computed == [0, 1, 2]
    assert not bench.contexts["first"].directory.exists()


def test_a_failure_is_named_at_the_end_and_does_not_take_the_others(bench, tmp_path):
    bench.behaviour["second"] = fails
    with pytest.raises(ReproductionError, match=r"second \(ArithmeticError: sigma is <0>\)") as e:
        reproduce(out=tmp_path)
    assert isinstance(e.value, RuntimeError) and isinstance(e.value.__cause__, ArithmeticError)
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["experiments"]) == ["first", "third"]
    assert results["provenance"]["failed"] == {"second": "ArithmeticError: sigma is <0>"}
    report = (tmp_path / "report.html").read_text()
    assert "ArithmeticError: sigma is &lt;0&gt;" in report and "✗ failed" in report
    bench.behaviour.clear()
    reproduce(out=tmp_path)
    assert bench.runs == ["first", "second", "third", "second"]


def test_a_module_that_cannot_be_imported_does_not_take_the_others(bench, tmp_path, monkeypatch):
    listed = (("absent", "no_such_module"), *registry.REGISTRY)
    monkeypatch.setattr(registry, "REGISTRY", listed)
    with pytest.raises(ReproductionError, match="absent"):
        reproduce(out=tmp_path)
    assert bench.runs == ["first", "second", "third"]
    assert 'id="absent"' in (tmp_path / "report.html").read_text()
    monkeypatch.setattr(registry, "REGISTRY", (("other", "fake_first"),))
    with pytest.raises(ImportError, match="does not export the experiment 'other'"):
        load("other")


def test_a_crash_while_writing_leaves_the_old_files(bench, tmp_path, monkeypatch):
    reproduce(out=tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        reproduce(out=tmp_path)
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert after == before


def test_progress_tells_the_whole_story(bench, tmp_path):
    events = []
    bench.behaviour["second"] = fails
    with pytest.raises(ReproductionError):
        reproduce(out=tmp_path, progress=events.append)
    assert [(e.experiment, e.status) for e in events] == [
        ("first", "started"),
        ("first", "running"),
        ("first", "finished"),
        ("second", "started"),
        ("second", "running"),
        ("second", "failed"),
        ("third", "started"),
        ("third", "running"),
        ("third", "finished"),
    ]
    assert events[1].message == "half" and events[1].fraction == 0.5
    assert {(e.index, e.total) for e in events} == {(0, 3), (1, 3), (2, 3)}
    events.clear()
    reproduce(out=tmp_path, only=["first"], progress=events.append)
    assert [e.status for e in events] == ["started", "resumed"]


def test_figures_that_an_experiment_no_longer_draws_are_removed(bench, tmp_path):
    reproduce(out=tmp_path, only=["first"])

    def other(_):
        return Outcome(
            {}, None, None, "", "Nothing.", figures=[Figure("new", PNG, "c", "alternative")]
        )

    bench.behaviour["first"] = other
    reproduce(out=tmp_path, only=["first"], seed=1)
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["first-new.png"]


def test_the_registry_names_the_experiments_of_the_report_and_stays_light():
    assert experiments.NAMES == (
        "ve-trajectories",
        "vp-trajectories",
        "time-change",
        "structured-points",
        "tikhonov-sweep",
        "empirical-bayes-sweep",
        "rectangles-closed-form",
        "conditional",
        "consistency",
        "selection",
        "real-data",
        "scale",
        "early-stopping",
        "width",
        "singularity",
        "network-tikhonov",
        "onset-law",
        "rectangles-network",
        "conditional-network",
    )
    code = (
        "import sys, memdiff.experiments\n"
        "heavy = {'matplotlib', 'jinja2', 'scipy', 'sklearn', 'PIL'} & set(sys.modules)\n"
        "own = [m for m in sys.modules if m.startswith('memdiff.experiments.')]\n"
        "print(sorted(heavy), sorted(own))"
    )
    source = str(Path(memdiff.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert done.stdout.startswith("[] ") and "tikhonov_sweep" not in done.stdout


def without_seconds(results):
    results = json.loads(json.dumps(results))
    for entry in results["experiments"].values():
        del entry["seconds"]
    del results["provenance"]
    return results


@pytest.mark.parametrize("count", [2, 5])
def test_ranks_share_the_experiments(bench, tmp_path, in_ranks, count):
    alone = reproduce(out=tmp_path / "alone")
    bench.runs.clear()
    together = in_ranks(count, lambda ranks: reproduce(out=tmp_path / "together", ranks=ranks))
    assert sorted(bench.runs) == ["first", "second", "third"]
    written = json.loads((tmp_path / "together" / "results.json").read_text())
    for results in [*together, written]:
        assert list(results["experiments"]) == ["first", "second", "third"]
        assert without_seconds(results) == without_seconds(alone)
        assert results["provenance"]["resumed"] == []
    alone_page = (tmp_path / "alone" / "report.html").read_text()
    page = (tmp_path / "together" / "report.html").read_text()
    assert page.count("<h2") == alone_page.count("<h2")
    assert not list((tmp_path / "together").glob(".processes*"))


def test_a_failure_on_any_rank_is_told_by_all_and_taken_up(bench, tmp_path, in_ranks):
    bench.behaviour["second"] = fails
    sentences = []

    def run(ranks):
        with pytest.raises(ReproductionError) as caught:
            reproduce(out=tmp_path, ranks=ranks)
        sentences.append(str(caught.value))

    in_ranks(2, run)
    assert len(set(sentences)) == 1 and "second (ArithmeticError: sigma is <0>)" in sentences[0]
    assert "ArithmeticError: sigma is &lt;0&gt;" in (tmp_path / "report.html").read_text()
    bench.behaviour.clear()
    bench.runs.clear()
    for results in in_ranks(3, lambda ranks: reproduce(out=tmp_path, ranks=ranks)):
        assert results["provenance"]["resumed"] == ["first", "third"]
    assert bench.runs == ["second"]


def test_ranks_that_do_not_share_a_folder_are_refused(bench, tmp_path, in_ranks):
    def run(ranks):
        with pytest.raises(ValueError, match="one folder for all processes"):
            reproduce(out=tmp_path / str(ranks.rank), ranks=ranks)

    in_ranks(2, run)
    assert bench.runs == []
