"""Samples that repeat each other count once."""

import pytest
import torch

from memdiff.audit.clumping import clumping
from memdiff.metrics import Distances, exceedance


def draw(seed, generated, size=200, dimension=8):
    generator = torch.Generator().manual_seed(seed)
    fresh, train, heldout = torch.randn(3, size, dimension, generator=generator)
    return Distances(generated=generated(fresh, train), train=train, heldout=heldout)


def repeated(points):
    return lambda fresh, train: fresh[torch.arange(len(fresh)) % points]


@pytest.mark.parametrize("reference", ["heldout", "train"])
@pytest.mark.parametrize("points", [1, 2, 5, 20])
def test_repetitions_count_as_their_points(points, reference):
    found = clumping(draw(0, repeated(points)), reference)
    # Points of one nearest neighbour count as one; what fresh data share is not counted.
    assert 0.8 * points <= found.effective_samples <= 1.3 * points


@pytest.mark.parametrize("dimension", [2, 8, 64])
def test_fresh_samples_count_in_full(dimension):
    factors = [
        clumping(
            draw(seed, lambda fresh, _: fresh, size=100, dimension=dimension), "heldout"
        ).design_effect
        for seed in range(100)
    ]
    assert sum(factor > 1.0 for factor in factors) <= 11  # 2.3 % expected; binomial tail 1e-5
    assert max(factors) < 1.6


def test_the_p_value_is_that_of_the_points():
    # All samples are one point of train: one draw that beats all 200 held-out points.
    found = draw(0, lambda _, train: train[:1].expand(len(train), -1))
    clumps = clumping(found, "heldout")
    result = exceedance(distances=found, ranks=(1,))
    assert clumps.design_effect == pytest.approx(200, rel=0.02)
    assert result.p_value < 1e-100
    assert clumps.p_value(result, 200) == pytest.approx(1 / 201)
    result = exceedance(distances=found, ranks=(1, 10))
    assert clumps.p_value(result, 200) == pytest.approx(2 / 201)


def test_nothing_changes_without_repetitions():
    found = draw(3, lambda fresh, train: torch.cat([train[:5], fresh[5:]]))
    clumps = clumping(found, "heldout")
    result = exceedance(distances=found)
    assert clumps.design_effect == 1.0
    assert clumps.p_value(result, 200) == result.p_value


def test_copies_of_many_points_are_no_clump():
    found = draw(1, lambda _, train: train.flip(0))
    assert clumping(found, "heldout").design_effect == 1.0


def test_duplicated_training_points_share_their_samples():
    generator = torch.Generator().manual_seed(0)
    fresh, train, heldout = torch.randn(3, 100, 8, generator=generator)
    samples = train[:1] + 1e-3 * fresh
    twice = torch.cat([train, train])
    once = clumping(Distances(generated=samples, train=train, heldout=heldout), "heldout")
    doubled = clumping(Distances(generated=samples, train=twice, heldout=heldout), "heldout")
    assert doubled == once
    assert once.design_effect == pytest.approx(100, rel=0.02)


def test_few_samples_and_a_single_cell():
    train = torch.tensor([[0.0], [100.0]])
    found = Distances(generated=torch.tensor([[1.0], [2.0]]), train=train, heldout=train + 3)
    assert clumping(found, "heldout").design_effect == 1.0
    samples = torch.arange(10.0)[:, None]
    found = Distances(generated=samples, train=train, heldout=samples + 0.5)
    assert clumping(found, "heldout").design_effect == 1.0  # held-out points share a cell too
