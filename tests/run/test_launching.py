"""Calls here and in jobs of submitit's local executor: the same outcomes, failures told apart."""

import os
import sys
import time

import pytest

from memdiff.run.launching import Outcome, launch


def by_index(outcomes):
    return sorted(outcomes, key=lambda outcome: outcome.index)


def test_here_one_after_the_other(tmp_path):
    found = list(launch(int, ["3", "x", "5"], tmp_path / "jobs"))
    assert found[0] == Outcome(0, 3) and found[2] == Outcome(2, 5)
    assert found[1].value is None and "invalid literal" in found[1].error
    assert not (tmp_path / "jobs").exists()


@pytest.mark.slow
def test_local_jobs_are_the_calls_here(tmp_path):
    pytest.importorskip("submitit")
    jobs = launch(int, ["3", "x", "5"], tmp_path / "jobs", "local", jobs=2, pause=0.05)
    assert by_index(jobs) == list(launch(int, ["3", "x", "5"], tmp_path))


@pytest.mark.slow
def test_job_that_dies_does_not_end_the_others(tmp_path):
    pytest.importorskip("submitit")
    found = by_index(launch(os._exit, [7], tmp_path, "local", pause=0.05))
    assert "has died, see" in found[0].error and str(tmp_path) in found[0].error


@pytest.mark.slow
def test_leaving_cancels_what_runs(tmp_path):
    pytest.importorskip("submitit")
    started = time.monotonic()
    jobs = launch(time.sleep, [0, 600], tmp_path, "local", jobs=2, pause=0.05)
    assert next(jobs).index == 0
    jobs.close()
    pid = max(int(path.name.split("_")[0]) for path in tmp_path.glob("*_submitted.pkl"))
    end = time.monotonic() + 60
    while os.path.exists(f"/proc/{pid}") and not zombie(pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert time.monotonic() - started < 300 and (not os.path.exists(f"/proc/{pid}") or zombie(pid))


def zombie(pid):
    with open(f"/proc/{pid}/stat") as stream:
        return stream.read().rsplit(")", 1)[1].split()[0] == "Z"


def test_refusals(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="launcher must be one of here, local, slurm, got 'k8s'"):
        launch(int, ["1"], tmp_path, "k8s")
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        launch(int, ["1"], tmp_path, jobs=0)
    with pytest.raises(ValueError, match="parameters timeout_min are for jobs"):
        launch(int, ["1"], tmp_path, parameters={"timeout_min": 3})
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match=r"pip install 'memdiff\[slurm\]'"):
        launch(int, ["1"], tmp_path, "local")


def test_refusals_of_submitit(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="launcher 'slurm' cannot start jobs"):
        launch(int, ["1"], tmp_path, "slurm")
    with pytest.raises(ValueError, match="launcher 'local' cannot start jobs"):
        launch(int, ["1"], tmp_path, "local", parameters={"colour": "red"})
