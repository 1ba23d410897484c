import numpy as np
import pytest
import torch

from memdiff.metrics import Distances, clopper_pearson
from memdiff.metrics.extraction import extraction
from memdiff.metrics.richness import chao1


class Leaky:
    """A model that emits 100 of 300 training points, unequally often, in half its samples."""

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        self.train = torch.randn(300, 16, generator=generator)
        self.heldout = torch.randn(300, 16, generator=generator)
        weights = 1 / np.arange(1, 101)
        self.p = 0.5 * weights / weights.sum()
        self.rng = np.random.default_rng(seed)

    def sample(self, num):
        counts = self.rng.multinomial(num, np.append(self.p, 0.5))
        index = torch.from_numpy(np.repeat(np.arange(100), counts[:-1]))
        fresh = torch.from_numpy(self.rng.standard_normal((int(counts[-1]), 16))).float()
        return torch.cat([self.train[index], fresh]), torch.from_numpy(counts[:-1])


def test_planted_counts():
    model = Leaky(0)
    generated, counts = model.sample(400)
    order = torch.randperm(400)
    generated = generated[order]
    for criterion in (
        {"threshold": 1e-5},
        {"flagged": order < int(counts.sum())},
        {"flagged": (order < int(counts.sum())).nonzero()[:, 0]},
    ):
        result = extraction(generated=generated, train=model.train, **criterion)
        assert torch.equal(result.copies[:100], counts)
        assert (result.copies[100:] == 0).all()
        assert result.extracted == int((counts > 0).sum())
        assert result.value == result.extracted / 300
        assert result.interval == clopper_pearson(result.extracted, 300)
        assert result.extractable == chao1(counts, 400).value
        assert torch.equal(result.copied, order < int(counts.sum()))


def test_share_and_extrapolation_against_the_truth():
    """Intervals cover the expected share and what further samples of the same model extract."""
    share, further, bound = 0, np.zeros(2), 0
    for seed in range(40):
        model = Leaky(seed)
        generated, counts = model.sample(300)
        result = extraction(generated=generated, train=model.train, threshold=1e-5, factors=(2, 5))
        expected = (1 - (1 - model.p) ** 300).sum() / 300
        share += expected in result.interval
        seen = counts > 0
        for place, more in enumerate((300, 1200)):
            truth = int((seen | (model.sample(more)[1] > 0)).sum())
            further[place] += truth in result.extrapolation[place].interval
        bound += result.extractable_interval.low <= 100
    assert share == 40  # conservative
    assert (further >= 35).all()
    assert bound >= 38
    assert [e.samples for e in result.extrapolation] == [600, 1500]
    assert [e.smoothed for e in result.extrapolation] == [False, True]


def test_the_conformal_list_is_the_default_with_held_out_points():
    model = Leaky(1)
    generated, counts = model.sample(300)
    result = extraction(generated=generated, train=model.train, heldout=model.heldout)
    assert result.extracted >= int((counts > 0).sum())
    assert "0.1" in result.criterion
    assert result.null.value == 0
    fresh = extraction(
        generated=torch.randn(300, 16, generator=torch.Generator().manual_seed(5)),
        train=model.train,
        heldout=model.heldout,
    )
    assert fresh.extracted <= 1
    assert fresh.interval.low == 0 or fresh.extracted


def test_duplicates_count_once_and_multiplicity_is_reported():
    base = torch.eye(6)
    train = torch.cat([base, base[:2], base[:1]])  # 3, 2, 1, 1, 1, 1 times
    generated = base[torch.tensor([0, 0, 0, 2])] + 1e-7
    distances = Distances(generated=generated, train=train)
    result = extraction(distances=distances, threshold=1e-5)
    assert (result.extracted, result.distinct) == (2, 6)
    assert result.copies.tolist() == [3, 0, 1, 0, 0, 0, 3, 0, 3]
    assert result.by_multiplicity == ((1, 4, 1), (2, 1, 0), (3, 1, 1))
    last = extraction(generated=base[5:], train=torch.cat([base[:1], base]), threshold=0)
    assert last.copies.tolist() == [0, 0, 0, 0, 0, 0, 1]


def test_threshold_null_comes_from_held_out_points():
    train = torch.arange(10.0)[:, None]
    heldout = torch.tensor([[0.01], [0.02], [3.01], [4.5], [5.5], [6.01]])
    result = extraction(generated=train[:5], train=train, heldout=heldout, threshold=0.1)
    assert result.value == 0.5
    assert result.null.value == 0.2  # 0 and 3 among the first five
    assert result.null.source == "5 held-out points"


def test_limits_of_the_number_of_training_points():
    train = torch.eye(5)
    everything = extraction(generated=train.repeat(20, 1), train=train, threshold=0)
    assert everything.value == 1
    assert everything.extractable == 5
    assert all(e.extracted == 5 == e.interval.high for e in everything.extrapolation)
    once = extraction(generated=train[:4], train=train, threshold=0)
    assert once.extractable == 5  # the bound itself is above the number there are
    nothing = extraction(generated=train + 1, train=train, threshold=1e-3)
    assert nothing.value == 0
    assert nothing.interval.high > 0.4
    assert nothing.extractable_interval.high == 5
    assert nothing.extrapolation[0].interval.high > 3


def test_bad_input():
    train = torch.eye(3)
    with pytest.raises(ValueError, match=r"exactly one of .* got none"):
        extraction(generated=train, train=train)
    with pytest.raises(ValueError, match=r"exactly one of .* got flagged, threshold"):
        extraction(
            generated=train, train=train, threshold=1.0, flagged=torch.ones(3, dtype=torch.bool)
        )
    with pytest.raises(ValueError, match=r"flagged must have shape \(3,\), got \(2,\)"):
        extraction(generated=train, train=train, flagged=torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="indices of samples below 3, got values from 0 to 3"):
        extraction(generated=train, train=train, flagged=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="factors must be above 1"):
        extraction(generated=train, train=train, threshold=1.0, factors=(1.0,))
