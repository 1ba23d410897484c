"""Nothing is lost: no input is replaced, an output only when it is asked for, one writer each."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from memdiff.cli import main
from memdiff.training import read_journal

SMALL = (
    *("--steps", "12", "--width", "8", "--batch-size", "7", "--monitor-every", "4"),
    *("--monitor-samples", "4", "--sampler-steps", "3", "--audit-samples", "0"),
)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "memdiff", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("train", "generated"):
        np.savez(f"{name}.npz", x=rng.normal(size=(40, 2)).astype(np.float32))
    Path("shards").mkdir()
    np.save("shards/a.npy", rng.normal(size=(40, 2)).astype(np.float32))
    Path("link.npz").symlink_to("train.npz")
    os.link("train.npz", "hard.npz")
    Path("holds").mkdir()
    np.savez("holds/samples.npz", x=rng.normal(size=(40, 2)).astype(np.float32))
    Path("options.json").write_text(json.dumps({"num": 3}))
    Path("settings.json").write_text("{}")
    return tmp_path


AUDIT = "audit --generated generated.npz"


@pytest.mark.parametrize(
    "command",
    [
        "sample --train train.npz --out train.npz",
        "sample --train train.npz --out link.npz",
        "sample --train train.npz --out hard.npz",
        "sample --train link.npz --out train.npz",
        "sample --train shards --out shards/new.npz",
        "sample --train shards/*.npy --out shards/a.npy",
        "sample --train train.npz --config options.json --out options.npz",
        f"{AUDIT} --train shards --out shards",
        f"{AUDIT} --train shards --out shards/report",
        f"{AUDIT} --train shards --out report --cache shards",
        f"{AUDIT} --train train.npz --out train.npz",
        "train --train shards --out shards",
        "train --train shards --out shards/run",
        "train --train shards --out shards --seeds 0:2",
        "train --train train.npz --heldout shards --out shards/run",
        "train --train holds/samples.npz --out holds",
        "train --train train.npz --out train.npz",
    ],
)
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["", "overwrite"])
def test_no_output_replaces_an_input(data, capsys, command, overwrite):
    before = contents(data)
    rest = SMALL if command.startswith("train") else ("--steps", 3) if "sample" in command else ()
    rest = () if command.startswith("audit") else rest
    code, text, error = run(capsys, *command.split(), *rest, *overwrite)
    assert (code, text, error.count("\n")) == (2, "", 1), error
    assert any(words in error for words in ("which is an input", "is a file")), error
    assert contents(data) == before


def test_the_library_does_not_replace_an_input_either(data):
    from memdiff.data import load
    from memdiff.generate import GenerationSettings, generate_to_file
    from memdiff.training import train_in_folder

    before = contents(data)
    with pytest.raises(ValueError, match="no output replaces an input"):
        generate_to_file(load("train.npz"), GenerationSettings(num=2), "hard.npz")
    with pytest.raises(ValueError, match="no output replaces an input"):
        train_in_folder(load("shards"), "shards/run")
    assert contents(data) == before


def test_a_finished_output_is_replaced_only_when_asked(data, capsys):
    for command in (
        "sample --train train.npz --num 3 --steps 3 --out s.npz",
        f"{AUDIT} --train train.npz --out report",
        "reproduce --only width --out paper",
    ):
        code, _, error = run(capsys, *command.split())
        assert code == 0, error
    before = contents(data)
    for command in (
        "sample --train train.npz --num 3 --steps 3 --out s.npz",
        f"{AUDIT} --train train.npz --out report",
        "reproduce --only width --seed 1 --out paper",
        "reproduce --only width --preset paper --out paper",
        "reproduce --only singularity --out paper",
    ):
        code, text, error = run(capsys, *command.split())
        assert (code, text, error.count("\n")) == (2, "", 1), error
        assert "--overwrite" in error
        assert contents(data) == before
    for command in (
        "sample --train train.npz --num 3 --steps 3 --seed 1 --out s.npz",
        f"{AUDIT} --train train.npz --seed 1 --out report",
    ):
        code, _, error = run(capsys, *command.split(), "--overwrite")
        assert code == 0, error
    after = contents(data)
    for changed in ("s.npz", "s.json", "report/report.json"):
        assert after[Path(changed)] != before[Path(changed)]
    code, text, _ = run(capsys, "reproduce", "--only", "width", "--out", "paper")  # it goes on
    assert code == 0 and "width" in text


def test_results_of_something_else_are_not_replaced(data, capsys):
    Path("other").mkdir()
    Path("other/results.json").write_text("[1, 2]")
    Path("other/s.json").write_text("{}")
    before = contents(data)
    code, _, error = run(capsys, "reproduce", "--only", "width", "--out", "other")
    assert code == 2 and "is of something else" in error
    code, _, error = run(
        capsys, "sample", "--train", "train.npz", "--num", "2", "--out", "other/s.npz"
    )
    assert code == 2 and "s.json' exists" in error
    assert contents(data) == before


def test_training_starts_anew_when_asked(data, capsys):
    command = ("train", "--train", "train.npz", "--out", "run", *SMALL)
    assert run(capsys, *command)[0] == 0
    (data / "run" / "notes.txt").write_text("mine")
    (data / "run" / "samples" / "kept.png").write_text("mine")
    code, _, error = run(capsys, *command, "--lr", "0.01")
    assert code == 2 and "another learning rate (--lr) (0.001, now 0.01)" in error
    assert "--overwrite" in error
    code, text, _ = run(capsys, *command, "--lr", "0.01", "--overwrite", "--steps", 4)
    assert code == 0 and "done: 4 steps" in text
    assert (data / "run" / "notes.txt").read_text() == "mine"
    assert (data / "run" / "samples" / "kept.png").read_text() == "mine"
    assert not (data / "run" / "samples" / "step-00000008.npz").exists()
    Path("project").mkdir()
    Path("project/model.safetensors").write_text("weights of months")
    code, _, error = run(capsys, *command[:-1], "project", "--out", "project", "--overwrite")
    assert code == 2
    assert Path("project/model.safetensors").read_text() == "weights of months"


def wait_for(path, process):
    end = time.monotonic() + 100
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    assert path.exists()


@pytest.mark.slow
def test_second_process_says_who_writes_and_a_kill_is_no_obstacle(data, capsys):
    """Catches a journal with two lines a step."""
    command = ("train", "--train", "train.npz", "--out", "run", *SMALL[2:], "--steps")
    process = start(*command, 10**6)
    try:
        wait_for(data / "run" / "state.safetensors", process)
        code, text, error = run(capsys, *command, 10**6)
        assert (code, text, error.count("\n")) == (2, "", 1)
        assert f"is being written by process {process.pid} on " in error
        code, _, error = run(
            capsys, *AUDIT.split(), "--train", "train.npz", "--out", "run", "--overwrite"
        )
        assert code == 2 and f"process {process.pid}" in error
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = [record["step"] for record in read_journal(data / "run" / "metrics.jsonl")][-1]
    code, text, _ = run(capsys, *command, done + 4)
    assert code == 0 and f"done: {done + 4} steps" in text
    assert not (data / "run" / ".memdiff.lock").exists()
    steps = [
        record["step"]
        for record in read_journal(data / "run" / "metrics.jsonl")
        if record["kind"] == "monitor"
    ]
    assert len(steps) == len(set(steps))


def test_an_audit_that_was_killed_is_done_again(data, capsys):
    """Its report is half there, and the lock of a process that is gone says so."""
    Path("report").mkdir()
    Path("report/report.json").write_text("{}")
    gone = {"pid": 2**22 + 1, "host": "here", "started": "2001-01-01", "command": "memdiff audit"}
    Path("report/.memdiff.lock").write_text(json.dumps(gone))
    code, _, error = run(capsys, *AUDIT.split(), "--train", "train.npz", "--out", "report")
    assert code == 0, error
    assert sorted(path.name for path in Path("report").iterdir()) == ["report.html", "report.json"]
