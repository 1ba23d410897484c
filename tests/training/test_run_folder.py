"""The folder of a run: foreign folders are left alone, other runs refused."""

from dataclasses import replace

import pytest
import torch

from memdiff.data import Dataset
from memdiff.samplers import Heun
from memdiff.training import MonitorSettings, RunSettings, TrainingSettings, train_in_folder

SETTINGS = RunSettings(
    training=TrainingSettings(steps=2, batch_size=7),
    monitor=MonitorSettings(samples=4, draws=8, confirm=4, sampler=Heun(steps=3)),
    monitor_every=2,
)
MODEL = {"width": 8, "process": "vp"}
OTHER_DATA = r"another set of training data \(\w{12}\.\.\., now \w{12}\.\.\.\)"


def points(num=30):
    return Dataset(torch.randn(num, 3, generator=torch.Generator().manual_seed(0)), "vectors")


def reordered():
    return Dataset(points().x.flip(0), "vectors")


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("data", "model", "settings", "said"),
    [
        (points(), {"width": 9}, SETTINGS, r"another width \(8, now 9\)"),
        (points(40), {}, SETTINGS, OTHER_DATA),
        (reordered(), {}, SETTINGS, OTHER_DATA),
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
