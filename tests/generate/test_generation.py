"""Training-free generation: what is written, resumed, and drawn."""

import json

import numpy as np
import pytest
import torch

from memdiff.data import Dataset, load
from memdiff.generate import (
    PROCESSES,
    REGULARIZERS,
    GenerationSettings,
    generate,
    generate_to_file,
    generation,
)
from memdiff.scores import EmpiricalScore, silverman_bandwidth


@pytest.fixture
def train():
    return load("points20", name="train")


def nearest(x, train):
    return torch.cdist(x.double().flatten(1), train.x.double().flatten(1)).min(1).values


@pytest.mark.parametrize("process", PROCESSES)
def test_unregularised_samples_are_training_points(train, process):
    settings = GenerationSettings(num=12, process=process, sampler="logtime")
    assert nearest(generate(train, settings).x, train).max() < 1e-4


@pytest.mark.parametrize("regularizer", REGULARIZERS[1:])
def test_every_regularizer_with_its_selected_strength(train, regularizer):
    """Samples leave the training points, by a distance below the spread of the data."""
    result = generate(train, GenerationSettings(regularizer=regularizer, num=60, seed=1))
    distance = nearest(result.x, train)
    assert result.selection is not None and result.resolved["strength"] == result.selection.best
    if regularizer == "temperature":
        assert "only delays the collapse" in result.warnings[0]
    else:
        assert distance.median() > 0.01
    assert distance.median() < 1.5


def test_far_data_in_other_units_are_the_same_samples(train):
    """Shifting and scaling the data shifts and scales the samples: nothing is tied to units."""
    far = Dataset(x=1000.0 * train.x + 5e4, kind="vectors")
    for regularizer, strength in (("none", "auto"), ("tikhonov", "auto"), ("early-stop", "scott")):
        settings = GenerationSettings(regularizer=regularizer, strength=strength, num=20)
        near, other = generate(train, settings).x, generate(far, settings).x
        torch.testing.assert_close(other, 1000.0 * near + 5e4, rtol=1e-6, atol=1e-2)


@pytest.mark.parametrize("process", ["edm", "vp"])
def test_early_stop_adds_kernel_noise(train, process):
    """Stopped samples, divided by m, follow the kernel density: variance grows by h^2."""
    settings = GenerationSettings(
        regularizer="early-stop", strength=0.5, num=2000, process=process, steps=60
    )
    x = generate(train, settings).x
    expected = train.x.var(0, correction=0) + 0.25
    # VP starts at sigma/m = 1.9, where the noised data are still wider than the start.
    tolerance = 0.1 if process == "edm" else 0.25
    torch.testing.assert_close(x.var(0), expected, rtol=tolerance, atol=0)


def test_stopping_rules(train):
    for rule, expected in (("silverman", silverman_bandwidth(train.x)), ("scott", None)):
        settings = GenerationSettings(regularizer="early-stop", strength=rule, num=2)
        strength = generate(train, settings).resolved["strength"]
        assert expected is None or strength == pytest.approx(expected)


def test_files_say_how_the_samples_were_made(train, tmp_path):
    out = tmp_path / "new" / "samples.npz"
    settings = GenerationSettings(regularizer="tikhonov", num=5)
    result = generate_to_file(train, settings, out)
    with np.load(out) as content:
        np.testing.assert_array_equal(content["x"], result.x.numpy())
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["settings"]["regularizer"] == "tikhonov"
    assert record["resolved"]["strength"] == result.selection.best
    assert record["train"]["sha256"] == train.sha256
    assert len(record["selection"]["candidates"]) == len(record["selection"]["loss"])
    assert {"versions", "seed", "date"} <= set(record["provenance"])
    assert sorted(p.name for p in out.parent.iterdir()) == ["samples.json", "samples.npz"]
    again = load(out)
    torch.testing.assert_close(again.x.double(), result.x.double())


def test_an_interrupted_run_goes_on(train, tmp_path, monkeypatch):
    """Finished batches are kept, and the whole equals an uninterrupted run bit for bit."""
    settings = GenerationSettings(num=10, batch_size=3, sampler="sde", seed=4)
    whole = generate(train, settings).x
    plain, calls = generation.sample, []

    def interrupted(*args, **kwargs):
        calls.append(kwargs["start"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    monkeypatch.setattr(generation, "sample", interrupted)
    out = tmp_path / "s.npz"
    with pytest.raises(KeyboardInterrupt):
        generate_to_file(train, settings, out)
    assert not out.exists() and len(list((tmp_path / "s.partial").iterdir())) == 2
    result = generate_to_file(train, settings, out)
    assert calls == [0, 3, 6, 6, 9]
    assert torch.equal(result.x, whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.json", "s.npz"]


def test_ranks_take_up_what_the_first_has_kept(train, tmp_path, monkeypatch, in_ranks):
    """Only the first sees the folder; a run of one process goes on in two."""
    settings = GenerationSettings(num=10, batch_size=4, seed=4, steps=6)
    whole = generate(train, settings).x
    plain, calls = generation.sample, []

    def interrupted(*args, **kwargs):
        calls.append(kwargs["start"])
        if calls == [0, 4]:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    monkeypatch.setattr(generation, "sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate_to_file(train, settings, tmp_path / "0" / "s.npz")

    def run(ranks):
        out = tmp_path / str(ranks.rank) / "s.npz"
        return generate_to_file(train, settings, out, ranks=ranks).x

    calls.clear()
    one, other = in_ranks(2, run)
    assert sorted(calls) == [4, 4, 8, 8]
    assert torch.equal(one, other)
    torch.testing.assert_close(one, whole)
    assert [p.name for p in tmp_path.iterdir()] == ["0"]


def test_partial_batches_of_other_settings_are_not_taken(train, tmp_path, monkeypatch):
    out, plain = tmp_path / "s.npz", generation.sample

    def dies_late(*args, **kwargs):
        if kwargs["start"] > 0:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    monkeypatch.setattr(generation, "sample", dies_late)
    with pytest.raises(KeyboardInterrupt):
        generate_to_file(train, GenerationSettings(num=4, batch_size=2, seed=1), out)
    monkeypatch.setattr(generation, "sample", plain)
    other = GenerationSettings(num=4, batch_size=2, seed=2)
    assert torch.equal(generate_to_file(train, other, out).x, generate(train, other).x)


def test_samples_do_not_depend_on_the_batch(train):
    one = generate(train, GenerationSettings(num=7, batch_size=2, regularizer="temperature"))
    other = generate(train, GenerationSettings(num=7, batch_size=7, regularizer="temperature"))
    torch.testing.assert_close(one.x, other.x, rtol=1e-9, atol=1e-9)


def test_warns_where_sampling_starts_inside_the_data(train):
    wide = Dataset(x=10.0 * train.x, kind="vectors")
    result = generate(wide, GenerationSettings(num=2, process="vp"))
    assert "standard deviations" in result.warnings[0]
    assert not generate(wide, GenerationSettings(num=2)).warnings


def test_one_training_point_can_be_sampled_but_not_selected_on():
    lonely = Dataset(x=torch.tensor([[1.0, 2.0]]), kind="vectors")
    x = generate(lonely, GenerationSettings(num=3)).x
    torch.testing.assert_close(x, lonely.x.expand(3, 2), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="at least two training points"):
        generate(lonely, GenerationSettings(num=3, regularizer="tikhonov"))


def test_bad_settings_are_one_sentence(train, tmp_path):
    cases = [
        (lambda: GenerationSettings(regularizer="ridge"), "one of none, tikhonov"),
        (lambda: GenerationSettings(num=0), "num must be at least 1"),
        (lambda: GenerationSettings(strength=0.1), "no regularizer"),
        (lambda: GenerationSettings(regularizer="tikhonov", strength="scott"), "number or auto"),
        (lambda: generate(train, GenerationSettings("tikhonov", -1.0)), "non-negative"),
        (lambda: generate(train, GenerationSettings("temperature", -1.0)), "collapse"),
        (lambda: generate(train, GenerationSettings(steps=0)), "steps"),
        (lambda: generate_to_file(train, GenerationSettings(), tmp_path / "s.npy"), ".npz"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())


def test_unregularised_score_is_the_empirical_one(train):
    assert generate(train, GenerationSettings(num=1)).resolved["score"] == EmpiricalScore.__name__


def test_batches_of_rows_are_not_taken_for_batches_of_their_encoding(train):
    """They have the same points, and with columns of numbers only the same shape."""
    table = Dataset(train.x, "table", columns=("a", "b"))
    settings = GenerationSettings(num=2)
    keys = {
        generation._key(data, generation._points(data)[1], settings) for data in (train, table)
    }
    assert len(keys) == 2 and table.sha256 == train.sha256


def test_units_of_columns_do_not_matter(train):
    """One noise level serves columns of all scales: each is in its own unit."""
    shift, unit = torch.tensor([5e4, -3.0]).double(), torch.tensor([1000.0, 0.01]).double()
    near = Dataset(train.x, "table", columns=("a", "b"))
    far = Dataset(shift + unit * train.x, "table", columns=("a", "b"))
    settings = GenerationSettings(regularizer="tikhonov", strength=0.1, num=20)
    one, two = generate(near, settings), generate(far, settings)
    torch.testing.assert_close((two.x - shift) / unit, one.x, rtol=1e-6, atol=1e-6)
    assert one.resolved["unit"] == "one standard deviation of a column"
