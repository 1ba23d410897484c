"""What a notebook shows: one or two lines with what matters, and the audit by its name."""

import dataclasses
import inspect

import pytest
import torch

import memdiff
from memdiff import (
    VE,
    EmpiricalScore,
    Euler,
    GenerationSettings,
    Tempered,
    Tikhonov,
    generate,
    load,
    sample,
)


@pytest.fixture(scope="module")
def score():
    return EmpiricalScore(load("digits", limit=200).x, VE())


def test_scores_say_their_points_process_and_strength(score):
    points = "EmpiricalScore(200 points of shape (1, 8, 8), float32, VE(base=10, t_max=1))"
    assert repr(score) == points
    nested = Tikhonov(Tempered(score, 1.5), 0.02)
    assert repr(nested) == f"Tikhonov(Tempered({points}, temperature=1.5), strength=0.02)"
    labelled = EmpiricalScore(torch.zeros(6, 2), VE(), conditions=torch.arange(6) % 2)
    assert "6 points of shape (2,), float32, conditional" in repr(labelled)


def test_a_network_says_its_size():
    from memdiff.training import ModelConfig

    score = ModelConfig(shape=(2,), sigma_data=0.5, width=4, depth=1).build()
    weights = sum(p.numel() for p in score.parameters())
    assert repr(score).startswith(f"NetworkScore(MLP of {weights:,} weights, parametrization=")


def test_results_are_a_line_whatever_their_size(score):
    posterior = score.posterior(score.data[:100], 0.5)
    samples = sample(score, num=100, sampler=Euler(steps=2))
    generated = generate(load("points20"), GenerationSettings("tikhonov", 0.1, num=9))
    for result, words in (
        (posterior, ("100 queries of shape (1, 8, 8)", "effective points", "error bound")),
        (samples, ("100 of shape (1, 8, 8)", "evaluations per sample")),
        (generated, ("9 samples of shape (2,)", "tikhonov, strength 0.1")),
    ):
        text = repr(result)
        assert len(text) < 200 and "\n" not in text
        assert all(word in text for word in words), text
        assert len(result._repr_html_()) < 2000
    assert len(posterior._repr_html_()) < 2000 and "<table>" in posterior._repr_html_()
    names = [field.name for field in dataclasses.fields(posterior)]
    empty = type(posterior)(**{name: getattr(posterior, name)[:0] for name in names})
    assert "0 queries" in repr(empty) and "<table>" in empty._repr_html_()


def test_posterior_shows_its_own_numbers(score):
    posterior = score.posterior(score.data[:7], 0.3)
    text = repr(posterior)
    assert f"{float(posterior.effective_points.max()):.4g}" in text
    assert f"{float(posterior.top_weight.min()):.4g}" in text


def test_the_audit_is_called_by_the_name_of_its_package():
    from memdiff.audit import AuditSettings, audit

    assert inspect.signature(memdiff.audit) == inspect.signature(audit)
    assert memdiff.audit.AuditSettings is AuditSettings
    points = torch.randn(2, 30, 2, generator=torch.Generator().manual_seed(0))
    called = memdiff.audit(generated=points[0], train=points[1])
    assert called.decision == audit(generated=points[0], train=points[1]).decision


def test_an_audit_shows_its_verdict_and_what_to_do():
    train = load("digits", limit=60)
    result = memdiff.audit(generated=train.x[:20], train=train.x[:40], heldout=train.x[40:])
    assert len(repr(result)) < 500 and "\n" not in repr(result)
    page = result._repr_html_()
    assert page.startswith(f"<p><strong>{result.verdict}</strong>: ")
    assert "copied fraction" in page and f"{len(result.flagged)} of 20" in page
    assert page.count("<li>") == len(result.advice) > 0 and len(page) < 6000


def test_a_selection_shows_its_choice(score):
    from memdiff import select
    from memdiff.generate import TIKHONOV

    curve = select(TIKHONOV, score)
    assert repr(curve).startswith(f"Selection(best {curve.best:.4g} of ")
    assert len(repr(curve)) < 200 and "Selection" in curve._repr_html_()
