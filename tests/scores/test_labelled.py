"""Posteriors by condition against the same conditions as terms of the logits."""

import pytest
import torch

from memdiff.kernel import Batch
from memdiff.kernel import engine as engine_module
from memdiff.processes import EDM, VE
from memdiff.samplers import RK45, Heun, sample
from memdiff.scores import EmpiricalScore
from memdiff.scores import kernels as kernels_module
from memdiff.scores.kernels import Kernels

N, DIM = 2400, 70


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(N, DIM, generator=generator)
    labels = torch.randint(3, 7, (N,), generator=generator)  # not from 0 on
    x = points[:9] + 0.2 * torch.randn(9, DIM, generator=generator)
    return points, labels, x, labels[torch.arange(9)]


def both(monkeypatch, points, labels, **options):
    """The same score with posteriors by condition and with terms of the logits."""
    ours = EmpiricalScore(points, VE(), conditions=labels, **options)
    assert ours.kernels.labelled is not None
    terms = EmpiricalScore(points, VE(), conditions=labels, **options)
    monkeypatch.setattr(terms, "kernels", _Whole(terms.kernels))
    return ours, terms


class _Whole:
    """Posteriors that offer none by condition."""

    labelled = None

    def __init__(self, kernels):
        self.whole = kernels.whole


@pytest.mark.parametrize("sigma", [1e-3, 0.2, 3.0])
@pytest.mark.parametrize("excluding", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["labels", "vectors"])
def test_every_quantity_is_that_of_the_terms(monkeypatch, sigma, excluding, weighted, kind):
    """Catches indices of the wrong set, a lost exclusion and a prior of other points."""
    points, labels, x, y = data()
    if kind == "vectors":
        table = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.0, 2.0], [1.0, 1.0]]).double()
        labels, y = table[labels - 3], table[y - 3]
    weights = None
    if weighted:
        weights = torch.rand(N, generator=torch.Generator().manual_seed(1)).double()
        weights[:4] = 0.0
    ours, terms = both(monkeypatch, points, labels, weights=weights)
    exclude = torch.arange(9) if excluding else None
    if excluding:
        exclude[4] = -1
        exclude[5] = 700  # of some label, perhaps another one
    mine, theirs = (score.posterior(x, sigma, y, exclude=exclude) for score in (ours, terms))
    assert torch.equal(mine.top_index, theirs.top_index)
    for name in ("mean", "log_density", "entropy", "top_weight", "residual"):
        ours_, theirs_ = getattr(mine, name), getattr(theirs, name)
        torch.testing.assert_close(ours_, theirs_, rtol=2e-5, atol=2e-5)
    exact = ours.double().posterior(x.double(), sigma, y, exclude=exclude)
    assert ((mine.mean.double() - exact.mean).norm(dim=1) <= mine.error_bound).all()
    if not excluding:
        torch.testing.assert_close(
            ours.weights(x.double(), sigma, y), terms.weights(x, sigma, y), rtol=1e-5, atol=1e-7
        )


def test_the_jacobian_is_that_of_the_terms(monkeypatch):
    points, labels, x, y = data()
    ours, terms = both(monkeypatch, points.double(), labels)
    x = x.double()
    vector = torch.randn(9, DIM, generator=torch.Generator().manual_seed(2)).double()
    products = []
    for score in (ours, terms):
        query = x.clone().requires_grad_()
        (product,) = torch.autograd.grad(score.residual(query, 0.6, y), query, vector)
        products.append(product)
    torch.testing.assert_close(*products, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", [Heun(12), RK45()], ids=["Heun", "RK45"])
def test_samples_are_those_of_the_terms(monkeypatch, sampler):
    """Samplers that drop finished samples, and chunks: members must keep their label."""
    monkeypatch.setattr(engine_module, "_TRUNCATED_POINTS", 100)
    points, labels, _, _ = data()
    process = EDM()
    latents = torch.randn(40, DIM, generator=torch.Generator().manual_seed(3))
    y = torch.tensor([3, 4, 5, 6]).repeat(10)
    ours = EmpiricalScore(points, process, conditions=labels)
    found = sample(ours, latents, y=y, sampler=sampler, batch_size=25)
    terms = EmpiricalScore(points, process, conditions=labels, tolerance=0.0)
    monkeypatch.setattr(terms, "kernels", _Whole(terms.kernels))
    expected = sample(terms, latents, y=y, sampler=sampler, batch_size=25)
    torch.testing.assert_close(found.x, expected.x, rtol=1e-4, atol=1e-4)
    assert sum(level.collapsed for level in found.stats.levels) > 0
    assert sum(level.queries for level in found.stats.levels) > 0


def test_labels_that_change_on_the_way_are_not_followed(monkeypatch):
    """What was certified under one label says nothing under another."""
    monkeypatch.setattr(engine_module, "_TRUNCATED_POINTS", 100)
    points, labels, _, _ = data()
    score = EmpiricalScore(points, VE(), conditions=labels, tolerance=1e-6)
    batch = Batch()
    x = points[:4] + 0.05
    for y in (torch.tensor([3, 4, 5, 6]), torch.tensor([6, 5, 4, 3])):
        for sigma in (0.3, 0.1, 0.03):
            with batch.follow(None):
                found = score.residual(x, sigma, y)
            exact = score.residual(x, sigma, y)
            torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-5)


def test_the_query_without_a_point_is_named():
    points, labels, x, y = data()
    labels = torch.where(torch.arange(N) == 8, 99, labels)  # one point of its own label
    y = torch.where(torch.arange(9) == 8, 99, y)
    score = EmpiricalScore(points, VE(), conditions=labels)
    assert score.kernels.labelled is not None
    exclude = torch.full((9,), -1)
    assert score.posterior(x, 0.1, y, exclude=exclude).top_index[8] == 8
    exclude[8] = 8
    for call in (
        lambda: score.residual(x, 0.1, y, exclude=exclude),
        lambda: score.posterior(x, 0.1, y, exclude=exclude),
    ):
        with pytest.raises(ValueError, match="no training point is left for query 8"):
            call()


@pytest.mark.parametrize("kind", ["few", "kernel", "none"])
def test_where_labels_are_terms(monkeypatch, kind):
    """Few points a label, a kernel, or no conditions: nothing is gained by a split."""
    points, labels, _, _ = data()
    options = {"conditions": labels}
    if kind == "few":
        options = {"conditions": torch.arange(N) // 10}
    if kind == "kernel":
        options = {"conditions": labels.double()[:, None], "condition_bandwidth": 0.5}
    if kind == "none":
        options = {}
    kernels = EmpiricalScore(points, VE(), **options).kernels
    assert isinstance(kernels, Kernels) and kernels.labelled is None
    assert kernels_module._LEAST_POINTS > 1


def test_another_dtype_renews_the_posteriors():
    points, labels, x, y = data()
    score = EmpiricalScore(points, VE(), conditions=labels)
    first = score.kernels
    score.residual(x, 0.2, y)
    score.double()
    assert score.kernels is not first
    assert score.residual(x.double(), 0.2, y).dtype == torch.float64


def test_loaded_data_and_conditions_are_those_that_answer():
    """Catches posteriors and labels of what was there before the state was loaded."""
    points, labels, x, y = data()
    ours = EmpiricalScore(points.flip(0), VE(), conditions=labels.roll(700))
    ours.residual(x, 0.2, y)
    ours.residual(x, 0.2)
    loaded = EmpiricalScore(points, VE(), conditions=labels)
    ours.load_state_dict(loaded.state_dict())
    for condition in (y, None):
        found, expected = (score.residual(x, 0.2, condition) for score in (ours, loaded))
        assert torch.equal(found, expected)
    other = torch.where(labels == 3, 9, labels)  # a label that was unknown here before
    ours.load_state_dict(EmpiricalScore(points, VE(), conditions=other).state_dict())
    renamed = torch.where(y == 3, 9, y)
    assert torch.equal(ours.residual(x, 0.2, renamed), loaded.residual(x, 0.2, y))
