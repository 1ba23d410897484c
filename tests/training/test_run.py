"""A run in a folder: files out, exact resumes, foreign folders left alone."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from memdiff.data import Dataset
from memdiff.ranks import Ranks
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


def reordered():
    return Dataset(points().x.flip(0), "vectors")


def weights(score):
    return torch.cat([p.detach().flatten() for p in score.parameters()])


def records(folder):
    """The journal without what a clock has written."""
    return [
        {name: value for name, value in record.items() if name != "seconds"}
        for record in read_journal(folder / "metrics.jsonl")
    ]


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


@pytest.mark.parametrize(
    ("data", "model", "settings", "said"),
    [
        (points(), {"width": 9}, SETTINGS, r"another width \(8, now 9\)"),
        (
            points(40),
            {},
            SETTINGS,
            r"another set of training data \(\w{12}\.\.\., now \w{12}\.\.\.\)",
        ),
        (
            reordered(),
            {},
            SETTINGS,
            r"another set of training data \(\w{12}\.\.\., now \w{12}\.\.\.\)",
        ),
        (points(), {}, replace(SETTINGS, tikhonov=0.1), r"another tikhonov \(0.0, now 0.1\)"),
        (
            points(),
            {},
            replace(SETTINGS, training=replace(SETTINGS.training, seed=1)),
            r"another seed \(0, now 1\)",  # not the split, which follows from it
        ),
    ],
)
def test_run_of_other_options_is_refused(tmp_path, data, model, settings, said):
    train_in_folder(points(), tmp_path, MODEL, SETTINGS)
    before = content(tmp_path)
    with pytest.raises(ValueError, match=said):
        train_in_folder(data, tmp_path, {**MODEL, **model}, settings)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"model_type": "bert"}'),
        ("metrics.jsonl", '{"epoch": 1}\n'),
        ("model.safetensors", "weights of months"),
        ("report.html", "<p>mine</p>"),
    ],
)
def test_folder_of_something_else_is_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    (tmp_path / "config.json").touch()
    before = content(tmp_path)
    with pytest.raises(ValueError, match="of something else: choose another folder"):
        train_in_folder(points(), tmp_path, MODEL, SETTINGS)
    assert content(tmp_path) == before
    file = tmp_path / name
    with pytest.raises(ValueError, match="is a file: give the name of a folder"):
        train_in_folder(points(), file, MODEL, SETTINGS)


def test_other_files_in_the_folder_do_not_matter(tmp_path):
    (tmp_path / "notes.txt").write_text("for the paper")
    train_in_folder(points(), tmp_path, MODEL, SETTINGS)
    assert (tmp_path / "notes.txt").read_text() == "for the paper"


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


def test_configuration_says_what_was_run(tmp_path):
    train_in_folder(points(), tmp_path, MODEL, SETTINGS, ranks=Ranks())
    found = json.loads((tmp_path / "config.json").read_text())
    assert found["model"]["width"] == 8 and found["model"]["shape"] == [3]
    assert found["run"]["settings"]["monitor_every"] == 6
    assert found["run"]["data"]["train"] != found["run"]["data"]["heldout"]
