"""The Tikhonov sweep: the published curve, and the prediction that needs no parameter."""

import numpy as np
import pytest
import torch

from memdiff.data import load
from memdiff.experiments import closed_form_sweep
from memdiff.experiments.closed_form_sweep import Variant, latents
from memdiff.experiments.closed_form_views import memorised_fraction
from memdiff.experiments.experiment import Context
from memdiff.experiments.published import LATENTS, compare_sweep, published
from memdiff.experiments.tikhonov_sweep import (
    EXPERIMENTS,
    SWEEP,
    contraction,
    predicted_fraction,
)
from memdiff.processes import VE, VP
from memdiff.samplers import RK45, sample
from memdiff.scores import EmpiricalScore, Tikhonov

REFERENCE = published().tikhonov


def fractions(strengths):
    data = load("points20").x
    z = latents(torch.Generator().manual_seed(0), discarded=())
    samples = SWEEP.samples(Variant("", "", t_end=REFERENCE.t_end), strengths, z)
    return [memorised_fraction(x, data).value for x in samples]


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return Context("quick", 0, tmp_path_factory.mktemp("tikhonov"))


@pytest.fixture(scope="module")
def outcome(context):
    (experiment,) = EXPERIMENTS
    return experiment.run(context)


@pytest.fixture(scope="module")
def measured(outcome):
    return outcome.measured["fraction"]


def test_every_published_point_is_reproduced(measured):
    agreement = compare_sweep(measured, REFERENCE, num=LATENTS)
    assert agreement.within
    # The latents are the published ones, so only the reading of the plot and the solver differ.
    assert max(map(abs, agreement.difference)) < 0.02


def test_half_or_twice_the_strength_does_not_agree(measured):
    index = REFERENCE.values.index(1e-4)
    for factor in (0.5, 2.0):
        wrong = list(measured)
        wrong[index] = fractions((factor * 1e-4,))[0]
        assert not compare_sweep(wrong, REFERENCE, num=LATENTS).within


def test_the_prediction_agrees_at_every_strength(measured):
    for c, value in zip(REFERENCE.values, measured, strict=True):
        p = predicted_fraction(VE(), c, 2)
        assert p == pytest.approx(1 - np.exp(-1e-4 / (2 * c)), abs=1e-3)
        assert abs(value - p) < 4 * np.sqrt(p * (1 - p) / LATENTS) + 2 / LATENTS


@pytest.mark.parametrize("process", [VE(), VP()], ids=["VE", "VP"])
@pytest.mark.parametrize("c", [1e-3, 0.5])
def test_contraction_is_the_decay_towards_a_single_point(process, c):
    point = torch.tensor([[0.7, -1.2]], dtype=torch.float64)
    z = torch.tensor([[1.0, 0.3]], dtype=torch.float64)
    score = Tikhonov(EmpiricalScore(point, process), c)
    end = sample(score, z, sampler=RK45(1e-10, 1e-12), t_end=0.0).x
    start = process.std(1.0) * z - process.scale(1.0) * point
    assert float((end - point).norm() / start.norm()) == pytest.approx(
        contraction(process, c), rel=1e-6
    )


@pytest.mark.parametrize("process", [VE(), VP()], ids=["VE", "VP"])
def test_the_prediction_is_exact_for_a_single_point_at_the_origin(process):
    data = torch.zeros(1, 2, dtype=torch.float64)
    z = torch.randn(2000, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    score = Tikhonov(EmpiricalScore(data, process), 1e-4)
    value = memorised_fraction(sample(score, z, sampler=RK45(), t_end=0.0).x, data)
    assert value.low < predicted_fraction(process, 1e-4, 2) < value.high
    radius = 0.01 / (contraction(process, 1e-4) * float(process.std(1.0)))
    assert value.value == pytest.approx(float((z.norm(dim=1) < radius).double().mean()), abs=2e-3)


def test_latents_are_those_of_the_authors_script():
    torch.manual_seed(0)
    torch.randn(1000, 2), torch.rand(1)
    first = torch.randn(1000, 2)
    assert torch.equal(latents(torch.Generator().manual_seed(0), discarded=()), first.double())
    torch.manual_seed(0)
    torch.randn(1000, 2), torch.rand(1), torch.randn(30, 2)
    second = latents(torch.Generator().manual_seed(0), discarded=(30,))
    assert torch.equal(second, torch.randn(1000, 2).double())


def test_memorised_fraction_counts_and_gives_the_exact_interval():
    data = torch.zeros(1, 2, dtype=torch.float64)
    samples = torch.tensor([[0.0, 0.0099], [0.0, 0.0101], [0.006, 0.006], [1.0, 1.0]]).double()
    found = memorised_fraction(samples, data)
    assert found.value == 0.5 and found.mask.tolist() == [True, False, True, False]
    # Clopper-Pearson for 2 of 4 at 95 %.
    assert (found.low, found.high) == pytest.approx((0.0676, 0.9324), abs=1e-4)


def test_the_experiment_agrees(outcome):
    assert outcome.within
    assert {figure.name for figure in outcome.figures} == {"fraction", "samples"}
    assert outcome.measured["largest_difference_between_samplers"] <= 0.005
    assert outcome.measured["largest_difference_to_prediction"] <= 0.02


def test_what_was_sampled_is_not_sampled_again(outcome, context, monkeypatch):
    monkeypatch.setattr(closed_form_sweep, "sample", lambda *_, **__: pytest.fail("sampled twice"))
    assert SWEEP.measure(context).fraction == outcome.measured["fraction"]
