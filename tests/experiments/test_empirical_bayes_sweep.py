"""The empirical Bayes sweep: the published curve, its convention, and the prediction 1 - floor."""

import math
from functools import partial

import pytest
import torch

from memdiff.data import load
from memdiff.experiments.closed_form_sweep import Variant, latents
from memdiff.experiments.closed_form_views import memorised_fraction
from memdiff.experiments.empirical_bayes_sweep import EXPERIMENTS, SWEEP, predicted_fraction
from memdiff.experiments.experiment import Context
from memdiff.experiments.published import LATENTS, compare_sweep, published
from memdiff.processes import VE
from memdiff.samplers import RK45, LogTime, sample
from memdiff.scores import EmpiricalBayes, EmpiricalScore

REFERENCE = published().empirical_bayes


def fractions(convention, floors, sampler):
    data = load("points20").x
    z = latents(torch.Generator().manual_seed(0), discarded=(30,))
    variant = Variant(
        "",
        "",
        sampler=sampler,
        t_end=REFERENCE.t_end,
        regularise=partial(EmpiricalBayes, convention=convention),
    )
    samples = SWEEP.samples(variant, floors, z)
    return [memorised_fraction(x, data).value for x in samples]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    (experiment,) = EXPERIMENTS
    return experiment.run(Context("quick", 0, tmp_path_factory.mktemp("floor")))


@pytest.fixture(scope="module")
def measured(outcome):
    return outcome.measured["fraction"]


def test_every_published_point_is_reproduced(measured):
    agreement = compare_sweep(measured, REFERENCE, num=LATENTS)
    assert agreement.within
    # The latents are the published ones, so only the reading of the plot and the solver differ.
    assert max(map(abs, agreement.difference)) < 0.015


def test_the_flow_itself_gives_the_published_fraction_to_a_few_samples():
    floors = (0.31623, 1.0)
    ours = fractions("kernel_sum", floors, LogTime())
    theirs = [REFERENCE.fraction[REFERENCE.values.index(floor)] for floor in floors]
    assert ours == pytest.approx(theirs, abs=0.004)


@pytest.mark.parametrize(
    ("convention", "factor"), [("density", 1.0), ("kernel_sum", 2.0), ("kernel_sum", 1 / 20)]
)
def test_another_convention_or_floor_does_not_agree(measured, convention, factor):
    """A floor that is twice too high, or compared with the mean kernel instead of the sum."""
    wrong = list(measured)
    index = REFERENCE.values.index(1.0)
    wrong[index] = fractions(convention, (factor * 1.0,), RK45())[0]
    assert not compare_sweep(wrong, REFERENCE, num=LATENTS).within


def test_the_prediction_is_one_minus_the_floor_in_the_plane(measured):
    for floor, value in zip(REFERENCE.values[:4], measured[:4], strict=True):
        p = predicted_fraction(VE(), floor, 2)
        assert p == pytest.approx(1 - floor)
        assert abs(value - p) < 4 * math.sqrt(p * (1 - p) / LATENTS) + 2 / LATENTS
    assert predicted_fraction(VE(), 1.0, 2) == predicted_fraction(VE(), 5.0, 2) == 0.0


def test_the_prediction_names_the_copies_of_a_single_point():
    data = torch.zeros(1, 3, dtype=torch.float64)
    z = torch.randn(1500, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    score = EmpiricalBayes(EmpiricalScore(data, VE()), 0.2, "kernel_sum")
    x = sample(score, z, sampler=LogTime(), t_end=1e-6).x
    found = memorised_fraction(x, data)
    copies = z.square().sum(1) < 2 * math.log(1 / 0.2)
    assert float((found.mask == copies).double().mean()) > 0.997
    assert found.low < predicted_fraction(VE(), 0.2, 3) < found.high


def test_the_experiment_agrees(outcome):
    assert outcome.within
    assert {figure.name for figure in outcome.figures} == {"fraction", "samples"}
    density = outcome.measured["fraction_density"]
    assert not compare_sweep(density, REFERENCE, num=LATENTS).within
    assert outcome.measured["largest_difference_between_samplers"] <= 0.015
