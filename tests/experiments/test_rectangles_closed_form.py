"""Two images in closed form: copies, the decay law, and a strength that is not the stated one."""

import math

import pytest
import torch

from memdiff.data.builtin import rectangles
from memdiff.experiments import rectangles_closed_form
from memdiff.experiments.experiment import Context
from memdiff.experiments.rectangles_closed_form import decay
from memdiff.experiments.runner import load
from memdiff.processes import EDM
from memdiff.samplers import RK45, Heun, draw_latents
from memdiff.scores import EmpiricalScore, Tikhonov


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    context = Context("quick", 0, tmp_path_factory.mktemp("rectangles"))
    return load("rectangles-closed-form").run(context)


def test_unregularised_samples_are_copies_and_regularised_ones_obey_the_law(outcome):
    measured = outcome.measured
    assert outcome.within is True
    assert measured["unregularised_distance"] < 1e-6
    assert sum(measured["share_of_each_image"]) == 1.0
    assert min(measured["share_of_each_image"]) > 0
    assert measured["distance_over_prediction"] == pytest.approx(1.0, abs=0.002)
    assert measured["distance_over_prediction_40_steps"] == pytest.approx(1.0, abs=0.03)


def test_regularised_samples_are_training_images_under_noise(outcome):
    measured = outcome.measured
    assert measured["distance_per_pixel"] == pytest.approx(math.sqrt(0.05), rel=0.05)
    assert measured["same_image_as_unregularised"] == 1.0
    assert measured["smallest_top_weight"] > 0.99
    assert measured["distances_per_pixel"] == sorted(measured["distances_per_pixel"])


def test_the_law_is_exact_for_one_image():
    image = rectangles().x[:1].double()
    latents = draw_latents(2, (1, 64, 64), seed=5, dtype=torch.float64)
    found = decay(EmpiricalScore(image, EDM()), latents, 0.05, RK45(rtol=1e-9, atol=1e-9))
    torch.testing.assert_close(found.ratio, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)


def test_another_strength_does_not_agree(monkeypatch, tmp_path):
    """Planted defect: the flow is regularised twice as strongly as stated."""
    monkeypatch.setattr(
        rectangles_closed_form, "Tikhonov", lambda score, strength: Tikhonov(score, 2 * strength)
    )
    monkeypatch.setattr(rectangles_closed_form, "STRENGTHS", (0.05,))
    monkeypatch.setattr(rectangles_closed_form, "LATENTS", 2)
    score = EmpiricalScore(rectangles().x, EDM())
    outcome = rectangles_closed_form.run(Context("quick", 0, tmp_path), score)
    assert outcome.within is False
    assert outcome.measured["distance_over_prediction"] == pytest.approx(math.sqrt(2), rel=0.01)


def test_heun_error_shrinks_with_steps():
    score = EmpiricalScore(rectangles().x, EDM())
    latents = draw_latents(2, (1, 64, 64), seed=0, dtype=torch.float64)
    few, many = (
        float((decay(score, latents, 0.05, Heun(steps=steps)).ratio - 1).abs().max())
        for steps in (40, 160)
    )
    assert 0.005 < few < 0.03 and many < 0.2 * few
