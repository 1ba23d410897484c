"""``memdiff train`` as a user meets it, alone and under a launcher."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from memdiff.cli import main
from memdiff.data import load
from memdiff.samplers import Heun, sample
from memdiff.training import (
    MonitorSettings,
    RunSettings,
    TrainingSettings,
    load_model,
    read_journal,
    train_in_folder,
)

SMALL = (
    *("--steps", "12", "--width", "8", "--batch-size", "7", "--monitor-every", "4"),
    *("--monitor-samples", "4", "--sampler-steps", "3", "--audit-samples", "0"),
)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["train", *map(str, arguments)])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def array(path, num=40, width=3, seed=0):
    values = np.random.default_rng(seed).normal(size=(num, width)).astype(np.float32)
    np.save(path, values)
    return path


def weights(folder):
    return torch.cat([p.flatten() for p in load_model(folder).parameters()])


def test_data_in_files_out(tmp_path, capsys):
    data, out = array(tmp_path / "train.npy"), tmp_path / "run"
    audited = ("--audit-samples", 20)
    code, text, notes = run(capsys, "--train", data, "--out", out, *SMALL, *audited)
    assert code == 0
    assert notes.startswith("memdiff train: note: 8 of the training points were held out")
    lines = text.splitlines()
    assert lines[0] == "done: 12 steps"
    assert lines[1] == f"kept: the model of step 12, {out / 'model.safetensors'}"
    assert lines[-1] == f"report: {out / 'report.html'}"
    for name in ("report.json", "samples.npz", "audit.html", "metrics.jsonl", "config.json"):
        assert (out / name).is_file()
    drawn = sample(load_model(out), num=4, shape=(3,)).x
    assert drawn.shape == (4, 3) and drawn.isfinite().all()

    before = (out / "model.safetensors").read_bytes()
    code, text, _ = run(capsys, "--train", data, "--out", out, *SMALL, *audited, "--json")
    found = json.loads(text)
    assert code == 0 and (found["ending"], found["step"], found["out"]) == ("steps", 12, str(out))
    assert (out / "model.safetensors").read_bytes() == before


def test_equals_the_library_call(tmp_path, capsys):
    data = array(tmp_path / "train.npy")
    code, _, _ = run(capsys, "--train", data, "--out", tmp_path / "cli", "--seed", 3, *SMALL)
    assert code == 0
    settings = RunSettings(
        training=TrainingSettings(
            steps=12, batch_size=7, ema=0.999, precision="auto", seed=3, learning_rate=1e-3
        ),
        monitor=MonitorSettings(samples=4, confirm=0, sampler=Heun(steps=3), seed=3),
        monitor_every=4,
    )
    train_in_folder(load(data, name="train"), tmp_path / "library", {"width": 8}, settings)
    assert torch.equal(weights(tmp_path / "cli"), weights(tmp_path / "library"))


def test_time_limit_and_the_same_command_again(tmp_path, capsys):
    command = ("--train", array(tmp_path / "train.npy"), *SMALL)
    run(capsys, *command, "--out", tmp_path / "whole")
    code, text, _ = run(capsys, *command, "--out", tmp_path / "parts", "--time-limit", 1e-9)
    assert code == 0 and text.startswith("time limit at step 1; the same command goes on\n")
    code, text, _ = run(capsys, *command, "--out", tmp_path / "parts")
    assert code == 0 and text.startswith("done: 12 steps\n")
    assert torch.equal(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def broken(folder):
    """Inputs that cannot be trained on."""
    values = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    array(folder / "good.npy")
    array(folder / "wide.npy", width=4)
    np.save(folder / "nan.npy", np.where(np.arange(40)[:, None] == 7, np.nan, values))
    np.save(folder / "one.npy", values[:1])
    np.save(folder / "none.npy", values[:0])
    np.save(folder / "same.npy", np.ones_like(values))
    np.save(folder / "scalar.npy", np.float32(1.0))
    (folder / "empty").mkdir()
    (folder / "text.npy").write_text("hello")
    (folder / "file").write_text("hello")
    (folder / "project").mkdir()
    (folder / "project" / "model.safetensors").write_text("weights of months")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--train nowhere.npy", "'nowhere.npy'"),
        ("--train nan.npy", "NaN or infinite values in 1 of 40 points, first in row 7"),
        ("--train one.npy", "has 1 point; at least 10 are needed to hold some out"),
        ("--train one.npy --heldout good.npy", "train must be .* n at least 2"),
        ("--train none.npy", r"none.npy\) has shape \(0, 3\)"),
        ("--train same.npy", "are all values of the training data equal"),
        ("--train scalar.npy", r"has shape \(\)"),
        ("--train text.npy", "text.npy"),
        ("--train empty", "is an empty folder"),
        ("--train good.npy --heldout wide.npy", r"of shape \(3,\) but heldout .* \(4,\)"),
        ("--train good.npy --heldout one.npy", "heldout must be .* n at least 2"),
        ("--train good.npy --network unet", "unet needs images with shape"),
        ("--train good.npy --network resnet", "--network: expected mlp or unet, got resnet"),
        ("--train good.npy --augment-shift 0.1", "augmentation needs images"),
        ("--train good.npy --dropout 0.1", "dropout 0.1 needs the network unet"),
        ("--train good.npy --colour red", "unrecognized arguments: --colour red"),
        ("--train good.npy --steps -3", "steps must be at least 1, got -3"),
        ("--train good.npy --steps many", "--steps: expected int, got many"),
        ("--train good.npy --batch-size 0", "--batch-size must be at least 1, got 0"),
        ("--train good.npy --lr -1", "--lr must be positive, got -1"),
        ("--train good.npy --seed -1", "seed must be at least 0, got -1"),
        ("--train good.npy --width 0", "width must be at least 1, got 0"),
        ("--train good.npy --tikhonov -1", "--tikhonov must be finite and non-negative, got -1.0"),
        ("--train good.npy --heldout-share 1.5", r"--heldout-share must lie in \[0, 1\)"),
        ("--train good.npy --heldout-share 0 --stop-on-memorization", "needs held-out data"),
        ("--train good.npy --audit-samples 1", "--audit-samples must be 0 or at least 2, got 1"),
        ("--train good.npy --monitor-samples 1", "samples must be at least 2, got 1"),
        ("--train good.npy --time-limit 0", "--time-limit must be positive and finite, got 0.0"),
        ("--train good.npy --device tpu", "device 'tpu'"),
        ("--train good.npy --out file", "'file' is a file: give the name of a folder"),
        ("--train good.npy --out project", "holds a model.safetensors of something else"),
        ("", "missing --train"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_lost(
    tmp_path, capsys, monkeypatch, options, said
):
    monkeypatch.chdir(tmp_path)
    broken(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    given = options.split()
    rest = [word for pair in zip(SMALL[::2], SMALL[1::2], strict=True) if pair[0] not in given
            for word in pair]  # fmt: skip
    out = () if "--out" in given else ("--out", "run")
    code, text, error = run(capsys, *given, *out, *rest)
    assert (code, text, error.count("\n")) == (2, "", 1), error
    assert error.startswith("memdiff")
    assert re.search(said, error), error
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_options_of_another_run_are_refused(tmp_path, capsys):
    data, out = array(tmp_path / "train.npy"), tmp_path / "run"
    run(capsys, "--train", data, "--out", out, *SMALL)
    before = (out / "model.safetensors").read_bytes()
    code, text, error = run(capsys, "--train", data, "--out", out, *SMALL, "--seed", 1)
    assert (code, text, error.count("\n")) == (2, "", 1)
    assert "another seed (0, now 1): choose another folder" in error
    assert (out / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--seeds 4:0", "--seeds must be a range such as 0:4"),
        ("--launcher local", "are for --seeds: give it"),
        ("--seeds 0,0", "--seeds must be a range such as 0:4"),
        ("--seeds a", "--seeds must be a range such as 0:4"),
        ("--seeds 0:2 --launcher-options timeout", "must be KEY=VALUE, got 'timeout'"),
        ("--seeds 0:2 --launcher-options timeout_min=3", "timeout_min are for jobs"),
        ("--seeds 0:2 --jobs 0", "jobs must be at least 1, got 0"),
        ("--seeds 0:2 --steps 0", "steps must be at least 1"),
        ("--seeds 0:2 --network unet", r"seed 0 failed \(and 1 more of 2\): the network unet"),
    ],
)
def test_bad_sweeps_are_one_sentence(tmp_path, capsys, options, said):
    data = array(tmp_path / "train.npy")
    given = options.split()
    rest = [] if "--steps" in given else ["--steps", 4]
    code, text, error = run(
        capsys, "--train", data, "--out", tmp_path / "s", *given, *rest, *SMALL[2:]
    )
    assert (code, text, error.count("\n")) == (2, "", 1) and re.search(said, error), error


def test_seeds_are_the_runs_of_each(tmp_path, capsys):
    data, out = array(tmp_path / "train.npy"), tmp_path / "sweep"
    run(capsys, "--train", data, "--out", tmp_path / "one", "--seed", 3, *SMALL)
    code, text, _ = run(capsys, "--train", data, "--out", out, "--seeds", "3,1", *SMALL)
    assert code == 0
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["seed", "ending", "step", "kept_step", "onset", "tau_gen", "verdict"]
    assert [line[:4] for line in lines[1:3]] == [
        ["3", "steps", "12", "12"],
        ["1", "steps", "12", "12"],
    ]
    assert torch.equal(weights(out / "seed-3"), weights(tmp_path / "one"))
    assert not torch.equal(weights(out / "seed-1"), weights(tmp_path / "one"))
    found = json.loads((out / "summary.json").read_text())
    assert [row["seed"] for row in found["runs"]] == [1, 3]
    code, text, _ = run(capsys, "--train", data, "--out", out, "--seeds", "3,1", *SMALL, "--json")
    assert [row["seed"] for row in json.loads(text)["runs"]] == [3, 1]


@pytest.mark.slow
def test_seeds_in_jobs_are_the_runs_here(tmp_path, capsys):
    pytest.importorskip("submitit")
    data = array(tmp_path / "train.npy")
    command = ("--train", data, "--seeds", "0:2", *SMALL)
    code, here, _ = run(capsys, *command, "--out", tmp_path / "here")
    assert code == 0
    code, text, _ = run(
        capsys, *command, "--out", tmp_path / "jobs", "--launcher", "local",
        "--launcher-options", "timeout_min=10",
    )  # fmt: skip
    assert code == 0 and text.splitlines()[:3] == here.splitlines()[:3]
    for seed in (0, 1):
        assert torch.equal(
            weights(tmp_path / "jobs" / f"seed-{seed}"),
            weights(tmp_path / "here" / f"seed-{seed}"),
        )


# Under a launcher


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# With --cpu, accelerate starts one process; with --multi_gpu two, also where there is no GPU.
ACCELERATE = (
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
    *("--main_process_port", "0"),
)


def start(launcher, *arguments, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MEMDIFF_RANK_TIMEOUT": "20"}
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "memdiff", "train", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def curve(folder):
    return [
        (record["step"], record["denoising_loss"], record["gradient_norm"])
        for record in read_journal(folder / "metrics.jsonl")
        if record["kind"] == "training"
    ]


def children(pid):
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_processes_train_as_one(tmp_path, capsys, launcher):
    """The same global batch, which does not divide by two; a part of the run each time."""
    if launcher is ACCELERATE:
        pytest.importorskip("accelerate")
    array(tmp_path / "train.npy")
    command = ("--train", tmp_path / "train.npy", *SMALL)
    run(capsys, *command, "--out", tmp_path / "one")
    run(capsys, *command, "--out", tmp_path / "two", "--time-limit", 1e-9)
    launched = start(launcher, *command, "--out", "two", cwd=tmp_path)
    text, error = launched.communicate(timeout=300)
    assert launched.returncode == 0, error
    assert text.count("done: 12 steps") == 1 and text.count("report: ") == 1
    assert error.count("held out for the monitor") == 1
    torch.testing.assert_close(
        torch.tensor(curve(tmp_path / "two")), torch.tensor(curve(tmp_path / "one")),
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip
    torch.testing.assert_close(
        weights(tmp_path / "two"), weights(tmp_path / "one"), rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
def test_dead_process_ends_the_other_and_loses_nothing(tmp_path, capsys):
    array(tmp_path / "train.npy")
    options = ("--train", "train.npy", *SMALL[2:], "--out", "run")
    launched = start(TORCHRUN, *options, "--steps", 10**6, cwd=tmp_path)
    state = tmp_path / "run" / "state.safetensors"
    end = time.monotonic() + 200
    while not state.is_file() and launched.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    assert state.is_file()
    ranks = {}
    for pid in children(launched.pid):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        ranks.update({line: pid for line in variables if line.startswith(b"RANK=")})
    os.kill(ranks[b"RANK=1"], signal.SIGKILL)
    killed = time.monotonic()
    _, error = launched.communicate(timeout=200)
    assert launched.returncode != 0 and time.monotonic() - killed < 60
    ours = [line for line in error.splitlines() if line.startswith("memdiff: ")]
    assert len(ours) == 1 and ours[0].endswith("what was finished is kept, the same command "
                                               "goes on.")  # fmt: skip
    done = [record["step"] for record in read_journal(tmp_path / "run" / "metrics.jsonl")][-1]
    code, text, _ = run(
        capsys,
        *("--train", tmp_path / "train.npy", *SMALL[2:], "--out", tmp_path / "run"),
        *("--steps", done + 8),
    )
    assert code == 0 and f"done: {done + 8} steps" in text


@pytest.mark.slow
def test_bad_input_is_said_once_for_all_processes(tmp_path):
    launched = start(TORCHRUN, "--train", "nowhere", "--out", "run", cwd=tmp_path)
    _, error = launched.communicate(timeout=200)
    assert launched.returncode != 0
    assert error.count("no file, folder or built-in data set is called 'nowhere'") == 1
