"""A run in a folder: files out, exact resumes, several processes, kills."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from memdiff.data import Dataset
from memdiff.run.ranks import Ranks
from memdiff.samplers import Heun, sample
from memdiff.training import (
    MonitorSettings,
    RunSettings,
    TrainingSettings,
    load_model,
    read_journal,
    train_in_folder,
)
from memdiff.training.monitor import Monitor

SETTINGS = RunSettings(
    training=TrainingSettings(steps=20, batch_size=7, warmup=5, ema=0.9),
    monitor=MonitorSettings(samples=4, draws=8, confirm=4, sampler=Heun(steps=3)),
    monitor_every=6,
    save_every=4,
    log_every=3,
)
MODEL = {"width": 8, "process": "vp"}


def points(num=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Dataset(torch.randn(num, 3, generator=generator), "vectors")


def weights(score):
    return torch.cat([p.detach().flatten() for p in score.parameters()])


def records(folder):
    """The journal without what a clock has written."""
    return [
        {name: value for name, value in record.items() if name != "seconds"}
        for record in read_journal(folder / "metrics.jsonl")
    ]


def test_files_of_a_run(tmp_path):
    run = train_in_folder(points(), tmp_path / "a" / "run", MODEL, SETTINGS)
    assert (run.ending, run.step, run.kept_step) == ("steps", 20, 20)
    assert run.split and (len(run.train), len(run.heldout)) == (24, 6)
    names = {path.name for path in run.folder.iterdir()}
    assert names >= {"config.json", "model.safetensors", "state.safetensors", "metrics.jsonl"}
    lines = records(run.folder)
    training = [line["step"] for line in lines if line["kind"] == "training"]
    assert training == [3, 6, 9, 12, 15, 18, 20]
    looks = [line["step"] for line in lines if line["kind"] == "monitor"]
    assert looks == [0, 6, 12, 18, 20] == [seen.step for seen in run.monitor.observations]
    assert len(list((run.folder / "samples").iterdir())) == 5

    kept = load_model(run.folder)
    assert torch.equal(weights(kept), weights(run.score)) and not kept.training
    drawn = [sample(score, num=5, shape=(3,), seed=1).x for score in (kept, run.score)]
    assert torch.equal(*drawn) and drawn[0].shape == (5, 3)
    best = load_model(run.folder, weights="best.safetensors")
    assert torch.equal(weights(best), weights(kept)) == (run.choice.step == 20)


def test_interrupted_at_every_step_it_ends_the_same(tmp_path):
    whole = train_in_folder(points(), tmp_path / "whole", MODEL, SETTINGS)
    hurried = replace(SETTINGS, time_limit=1e-9)
    for step in range(1, 21):
        run = train_in_folder(points(), tmp_path / "parts", MODEL, hurried)
        assert (run.step, run.ending) == (step, "steps" if step == 20 else "time")
    assert torch.equal(weights(run.score), weights(whole.score))
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    assert run.seconds > 0 and run.choice == whole.choice


def test_finished_run_is_left_as_it_is_and_can_be_made_longer(tmp_path):
    short = replace(SETTINGS, training=replace(SETTINGS.training, steps=12))
    train_in_folder(points(), tmp_path / "parts", MODEL, short)
    before = records(tmp_path / "parts")
    again = train_in_folder(points(), tmp_path / "parts", MODEL, short)
    assert again.step == 12 and records(tmp_path / "parts") == before
    longer = train_in_folder(points(), tmp_path / "parts", MODEL, SETTINGS)
    whole = train_in_folder(points(), tmp_path / "whole", MODEL, SETTINGS)
    assert torch.equal(weights(longer.score), weights(whole.score))


def test_without_held_out_points_there_is_no_monitor(tmp_path):
    settings = replace(SETTINGS, heldout_share=0.0)
    run = train_in_folder(points(), tmp_path, MODEL, settings)
    assert run.monitor is None and run.heldout is None and len(run.train) == 30
    assert run.choice.step is None and not (tmp_path / "best.safetensors").exists()
    with pytest.raises(ValueError, match="needs held-out data"):
        train_in_folder(points(), tmp_path, MODEL, replace(settings, stop_on_memorization=True))


def test_ranks_make_the_run_of_one(tmp_path, in_ranks):
    alone = train_in_folder(points(), tmp_path / "alone", MODEL, SETTINGS)

    def part(ranks):
        hurried = replace(SETTINGS, time_limit=1e-9)
        first = train_in_folder(points(), tmp_path / "shared", MODEL, hurried, ranks=ranks)
        assert (first.ending, first.step) == ("time", 1)
        return train_in_folder(points(), tmp_path / "shared", MODEL, SETTINGS, ranks=ranks)

    runs = in_ranks(2, part)
    for run in runs:
        torch.testing.assert_close(weights(run.score), weights(alone.score), rtol=1e-4, atol=1e-6)
        assert (run.ending, run.step, run.kept_step) == ("steps", 20, 20)
        assert [seen.step for seen in run.monitor.observations] == [0, 6, 12, 18, 20]
    assert runs[0].choice.step == runs[1].choice.step == alone.choice.step
    assert runs[0].monitor.state_dict() == runs[1].monitor.state_dict()
    curves = [
        [line["denoising_loss"] for line in records(tmp_path / name) if line["kind"] == "training"]
        for name in ("alone", "shared")
    ]
    torch.testing.assert_close(curves[0], curves[1], rtol=1e-5, atol=1e-6)


def test_all_ranks_stop_when_the_first_sees_memorisation(tmp_path, in_ranks, monkeypatch):
    """Only the first rank observes: the others know by being told."""
    monkeypatch.setattr(Monitor, "memorizing", property(lambda self: len(self.observations) == 3))
    settings = replace(SETTINGS, stop_on_memorization=True)
    runs = in_ranks(
        2, lambda ranks: train_in_folder(points(), tmp_path, MODEL, settings, ranks=ranks)
    )
    assert [(run.ending, run.step) for run in runs] == [("memorization", 12)] * 2
    assert runs[0].kept_step == runs[1].kept_step == runs[0].choice.step
    assert torch.equal(weights(runs[0].score), weights(runs[1].score))


def test_ranks_that_see_other_folders_are_refused(tmp_path, in_ranks):
    train_in_folder(points(), tmp_path / "0", MODEL, SETTINGS)
    with pytest.raises(ValueError, match="not the same folder for all processes"):
        in_ranks(
            2,
            lambda ranks: train_in_folder(
                points(), tmp_path / str(ranks.rank), MODEL, SETTINGS, ranks=ranks
            ),
        )
    assert not (tmp_path / "1").exists()


def test_configuration_says_what_was_run(tmp_path):
    train_in_folder(points(), tmp_path, MODEL, SETTINGS, ranks=Ranks())
    found = json.loads((tmp_path / "config.json").read_text())
    assert found["model"]["width"] == 8 and found["model"]["shape"] == [3]
    assert found["run"]["settings"]["monitor_every"] == 6
    assert found["run"]["data"]["train"] != found["run"]["data"]["heldout"]


KILLED = """
import os, sys
import scipy.stats, torch, torch._dynamo  # what a run imports late
torch.set_num_threads(1)
from memdiff.data import load
from memdiff.samplers import Heun
from memdiff.training import MonitorSettings, RunSettings, TrainingSettings, train_in_folder
settings = RunSettings(
    training=TrainingSettings(steps=60, batch_size=5),
    monitor=MonitorSettings(samples=4, draws=8, sampler=Heun(steps=3)),
    monitor_every=7,
    save_every=3,
    log_every=2,
)
for line in sys.stdin:  # a process of its own for each folder, which starts at once
    child = os.fork()
    if not child:
        train_in_folder(load("points20"), line.strip(), {"width": 8}, settings)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_the_same(tmp_path):
    """SIGKILL again and again; the last run must end as one that nobody killed."""
    host = subprocess.Popen(
        [sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def start(folder):
        host.stdin.write(f"{folder}\n")
        host.stdin.flush()
        return int(host.stdout.readline())

    def end():
        return int(host.stdout.readline())

    start(tmp_path / "whole")
    assert end() == 0
    state = tmp_path / "killed" / "state.safetensors"
    killed = 0
    for pause in (0.0, 0.02, 0.1):
        before = state.stat().st_mtime_ns if state.is_file() else 0
        process = start(tmp_path / "killed")
        # Once this run has saved its state anew, it is in the middle of training.
        until = time.monotonic() + 60
        while time.monotonic() < until and (
            not state.is_file() or state.stat().st_mtime_ns == before
        ):
            time.sleep(0.002)
        time.sleep(pause)
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        killed += end() == -signal.SIGKILL
    assert killed >= 1 and state.is_file()
    start(tmp_path / "killed")
    assert end() == 0
    host.stdin.close()
    assert host.wait(60) == 0
    for name in ("model.safetensors", "best.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (
            tmp_path / "whole" / name
        ).read_bytes()
    assert records(tmp_path / "killed") == records(tmp_path / "whole")
    assert not [p for p in (tmp_path / "killed").iterdir() if p.name.startswith(".m")]
