"""States and weights on disk: exact, whole, refused where they do not fit."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from memdiff.processes import VP
from memdiff.scores import NetworkScore
from memdiff.training import (
    Journal,
    TrainingSettings,
    TrainingState,
    load_state,
    load_weights,
    read_journal,
    save_state,
    save_weights,
    train,
)
from memdiff.training.networks import MLP, UNet

IMAGES = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def unet():
    net = UNet((1, 8, 8), width=8, multipliers=(1,), blocks=1, dropout=0.3)
    return NetworkScore(net, VP())


def mlp(width=16):
    return NetworkScore(MLP((2,), width=width), VP())


def everything(state):
    tensors = [*state.score.state_dict().values(), *state.averaged.state_dict().values()]
    for _, entry in sorted(state.optimizer.state_dict()["state"].items()):
        tensors.extend(entry[key] for key in sorted(entry) if isinstance(entry[key], torch.Tensor))
    return tensors


def test_resume_is_exact(tmp_path):
    """Dropout, warm-up, moving average, batches across epochs: the same to the last bit."""
    settings = TrainingSettings(steps=9, batch_size=5, warmup=6, clip=1.0, weight_decay=0.01)
    whole = TrainingState(unet(), settings)
    losses = [s.loss for s in train(whole.score, IMAGES, settings=settings, state=whole)]

    first = TrainingState(unet(), settings)
    for step in train(first.score, IMAGES, settings=settings, state=first):
        if step.step == 4:
            save_state(first, tmp_path / "state.safetensors", facts={"note": [1, None]})
            break
    second = TrainingState(unet(), settings)
    assert load_state(tmp_path / "state.safetensors", second) == {"note": [1, None]}
    assert second.step == 4
    rest = [s.loss for s in train(second.score, IMAGES, settings=settings, state=second)]
    assert rest == losses[4:]
    for ours, theirs in zip(everything(second), everything(whole), strict=True):
        assert torch.equal(ours, theirs)


def test_any_optimizer_is_saved(tmp_path):
    """A momentum buffer, and groups with other fields than those of Adam."""
    settings = TrainingSettings(steps=3)

    def start():
        score = mlp()
        return TrainingState(
            score, settings, optimizer=lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)
        )

    state = start()
    data = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    list(train(state.score, data, settings=settings, state=state))
    save_state(state, tmp_path / "s.safetensors")
    again = start()
    load_state(tmp_path / "s.safetensors", again)
    for ours, theirs in zip(everything(again), everything(state), strict=True):
        assert torch.equal(ours, theirs)


def test_weights_round_trip(tmp_path):
    score = unet()
    save_weights(score, tmp_path / "w.safetensors", facts={"step": 7})
    other = unet()
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert load_weights(other, tmp_path / "w.safetensors") == {"step": 7}
    for ours, theirs in zip(other.state_dict().values(), score.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_refusals(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "w.safetensors"
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_weights(mlp(), path)
    save_weights(mlp(16), path)
    with pytest.raises(ValueError, match="of a network of another structure, first at"):
        load_weights(mlp(17), path)
    with pytest.raises(ValueError, match="holds weights alone"):
        load_state(path, TrainingState(mlp(), TrainingSettings()))
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="no checkpoint of memdiff: it has no memdiff header"):
        load_weights(mlp(), tmp_path / "foreign.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match="no checkpoint of memdiff"):
        load_weights(mlp(), tmp_path / "text.safetensors")
    state = TrainingState(mlp(), TrainingSettings())
    with pytest.raises(ValueError, match="plain JSON"):
        save_state(state, path, facts={"x": float("nan")})
    assert load_weights(mlp(16), path) == {}  # a failed save leaves the old file


def test_journal_drops_what_will_be_done_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    for step in (1, 2, 3, 4):
        journal.append({"step": step, "loss": step / 3})
    with path.open("a") as stream:
        stream.write('{"step": 5, "lo')  # the machine lost power here
    assert [record["step"] for record in read_journal(path)] == [1, 2, 3, 4]
    journal = Journal(path, upto=2)
    journal.append({"step": 3, "loss": 1.0})
    assert list(read_journal(path)) == [
        {"step": 1, "loss": 1 / 3},
        {"step": 2, "loss": 2 / 3},
        {"step": 3, "loss": 1.0},
    ]
    assert list(read_journal(tmp_path / "none.jsonl")) == []
    with pytest.raises(ValueError, match="record must have a 'step'"):
        journal.append({"loss": 1.0})


RUN = """
import sys
import torch
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
print("ready", flush=True)
train_in_folder(load("points20"), sys.argv[1], {"width": 8}, settings)
print("done", flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_the_same(tmp_path):
    """SIGKILL again and again; the last run must end as one that nobody killed."""

    def start(folder):
        command = [sys.executable, "-c", RUN, str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        return process

    assert start(tmp_path / "whole").communicate(timeout=300)[0] == "done\n"
    state = tmp_path / "killed" / "state.safetensors"
    killed = 0
    for pause in (0.0, 0.02, 0.1):
        before = state.stat().st_mtime_ns if state.is_file() else 0
        process = start(tmp_path / "killed")
        # Once this run has saved its state anew, it is in the middle of training.
        while process.poll() is None and (
            not state.is_file() or state.stat().st_mtime_ns == before
        ):
            time.sleep(0.002)
        time.sleep(pause)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.communicate()
    assert killed >= 1 and state.is_file()
    assert start(tmp_path / "killed").communicate(timeout=300)[0] == "done\n"
    for name in ("model.safetensors", "best.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (
            tmp_path / "whole" / name
        ).read_bytes()
    lines = [
        [
            {key: value for key, value in record.items() if key != "seconds"}
            for record in read_journal(tmp_path / folder / "metrics.jsonl")
        ]
        for folder in ("whole", "killed")
    ]
    assert json.dumps(lines[0]) == json.dumps(lines[1])
    assert not [p for p in (tmp_path / "killed").iterdir() if p.name.startswith(".m")]
