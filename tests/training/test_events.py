"""Event files for TensorBoard show what the journal holds."""

import sys
from dataclasses import replace

import pytest
import torch

from memdiff.data import Dataset
from memdiff.samplers import Heun
from memdiff.training import (
    MonitorSettings,
    RunSettings,
    TrainingSettings,
    read_journal,
    train_in_folder,
)

SETTINGS = RunSettings(
    training=TrainingSettings(steps=20, batch_size=7),
    monitor=MonitorSettings(samples=4, draws=8, confirm=4, sampler=Heun(steps=3)),
    monitor_every=6,
)
MODEL = {"width": 8, "process": "vp"}


def points(num=30):
    return Dataset(torch.randn(num, 3, generator=torch.Generator().manual_seed(0)), "vectors")


def records(folder):
    return list(read_journal(folder / "metrics.jsonl"))


def curves(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: {event.step: event.value for event in events.Scalars(name)}
        for name in events.Tags()["scalars"]
    }


def test_tensorboard_shows_the_journal(tmp_path):
    """Also of a run that was interrupted, each step once."""
    pytest.importorskip("tensorboard")
    settings = replace(SETTINGS, tensorboard=True)
    train_in_folder(points(), tmp_path, MODEL, replace(settings, time_limit=1e-9))
    train_in_folder(points(), tmp_path, MODEL, settings)
    found, lines = curves(tmp_path), records(tmp_path)
    for label, kind, name in (
        ("training/denoising loss", "training", "denoising_loss"),
        ("training/learning rate", "training", "learning_rate"),
        ("memorised fraction/samples", "monitor", "fraction"),
        ("nearest distance/samples to train", "monitor", "train_distance"),
    ):
        expected = {line["step"]: line[name] for line in lines if line["kind"] == kind}
        assert found[label] == pytest.approx(expected, rel=1e-6)
    looks = [line for line in lines if line["kind"] == "monitor"]
    means = {
        look["step"]: sum(level["heldout_loss"] for level in look["levels"]) / len(look["levels"])
        for look in looks
    }
    assert found["denoising loss/heldout"] == pytest.approx(means, rel=1e-6)


def test_missing_tensorboard_is_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'memdiff\[train\]'"):
        train_in_folder(points(), tmp_path, MODEL, replace(SETTINGS, tensorboard=True))
    assert records(tmp_path) == []
