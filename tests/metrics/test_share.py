"""The share test: its moments in closed form, uniformity without memorisation, power."""

import numpy as np
import pytest
import torch
from competing import Brute, distances, patients
from scipy.stats import binom

from memdiff.metrics import clopper_pearson, share_test


def gaussian(seed, m=120, n=80, h=50, dim=4, pull=0.0):
    rng = np.random.default_rng(seed)
    train, heldout = rng.standard_normal((n, dim)), rng.standard_normal((h, dim))
    generated = rng.standard_normal((m, dim))
    return generated + pull * (train[rng.integers(0, n, m)] - generated), train, heldout


@pytest.mark.parametrize("sizes", [(80, 50), (30, 200), (150, 20)])
def test_moments_in_closed_form(sizes):
    """Mean and variance of K under random labels, against those of the relabelled pool."""
    n, h = sizes
    sets = gaussian(0, n=n, h=h)
    result = share_test(distances=distances(*sets), draws=20_000)
    brute = Brute(*sets)
    k, m, total = brute.target_share().sum(), len(sets[0]), n + h
    counts = brute.shares.sum(0)
    mean = m * n / total
    variance = n * h * (total * (counts**2).sum() - m**2) / (total**2 * (total - 1))
    assert result.value == pytest.approx(k / m)
    assert result.null.value == pytest.approx(n / total)
    assert result.z == pytest.approx((k - mean) / variance**0.5, abs=0.05)
    low, high = (mean + sign * 1.96 * variance**0.5 for sign in (-1, 1))
    assert result.null.interval.low == pytest.approx(low / m, abs=0.02)
    assert result.null.interval.high == pytest.approx(high / m, abs=0.02)
    assert result.effective_units == pytest.approx(m**2 / (counts**2).sum())
    assert result.interval == clopper_pearson(round(k), m)


def test_p_value_is_that_of_permuted_labels():
    sets = gaussian(3, pull=0.1)
    result = share_test(distances=distances(*sets), draws=20_000)
    brute, rng = Brute(*sets), np.random.default_rng(0)
    counts = brute.shares.sum(0)
    drawn = np.array([counts[rng.permutation(brute.is_train)].sum() for _ in range(20_000)])
    expected = (drawn >= counts[brute.is_train].sum() - 1e-9).mean()
    assert 0.02 < expected < 0.9
    assert result.p_value == pytest.approx(expected, abs=0.02)


def test_permuted_labels_of_a_lattice():
    """Points of one value are a block of units of equal weight, whatever their labels."""
    sets = [np.round(2 * x[:, :2]) for x in patients(np.random.default_rng(1))[:3]]
    result = share_test(distances=distances(*sets), draws=20_000)
    brute, rng = Brute(*sets), np.random.default_rng(1)
    weights = brute.shares.sum(0)
    drawn = np.array([weights[rng.permutation(brute.is_train)].sum() for _ in range(20_000)])
    expected = (drawn >= weights[brute.is_train].sum() - 1e-9).mean()
    assert result.p_value == pytest.approx(expected, abs=0.02)
    assert result.effective_units == pytest.approx(len(sets[0]) ** 2 / (weights**2).sum())
    assert result.value == pytest.approx(brute.target_share().mean())


def test_permuted_labels_of_groups():
    """Whole groups change sides: the band is that of a few heavy units."""
    generated, train, heldout, groups = patients(np.random.default_rng(1), scans=8, each=6)
    result = share_test(
        distances=distances(generated, train, heldout, groups=groups), draws=20_000
    )
    labels = np.concatenate([groups["train"], groups["heldout"]])
    brute, rng = Brute(generated, train, heldout, groups=labels), np.random.default_rng(1)
    weights = np.bincount(labels, brute.shares.sum(0))
    is_train = np.arange(12) < 6
    drawn = np.array([weights[rng.permutation(is_train)].sum() for _ in range(20_000)])
    assert result.p_value == pytest.approx((drawn >= weights[is_train].sum()).mean(), abs=0.02)
    low, high = np.quantile(drawn, [0.025, 0.975]) / len(generated)
    assert result.null.interval.low == pytest.approx(low, abs=0.02)
    assert result.null.interval.high == pytest.approx(high, abs=0.02)


def test_all_labels_give_one_k():
    """Every sample in the middle of all points: nothing can be seen, and nothing is said."""
    train, heldout = np.eye(6)[:3], np.eye(6)[3:]
    result = share_test(distances=distances(np.zeros((7, 6)), train, heldout))
    assert result.value == pytest.approx(0.5)
    assert (result.z, result.p_value) == (0.0, 1.0)
    assert result.effective_units == pytest.approx(6.0)


def test_a_collapse_to_one_neighbour_is_one_unit():
    generated, train, heldout = gaussian(0)
    generated = np.repeat(train[:1], 120, 0) + 1e-3 * generated
    result = share_test(distances=distances(generated, train, heldout))
    assert result.value == 1.0 and result.effective_units == pytest.approx(1.0)
    assert result.p_value == pytest.approx(80 / 130, abs=0.05)


def test_p_values_are_uniform():
    found = np.array(
        [
            share_test(distances=distances(*gaussian(s)), draws=199, seed=s).p_value
            for s in range(120)
        ]
    )
    for level in (0.1, 0.3, 0.5, 0.7, 0.9):
        low, high = binom.ppf([1e-3, 1 - 1e-3], len(found), level)
        assert low <= (found <= level).sum() <= high


@pytest.mark.parametrize("pull", [0.6, 0.8])
def test_samples_that_follow_their_training_points_are_found(pull):
    found = [
        share_test(distances=distances(*gaussian(s, dim=16, pull=pull))).p_value for s in range(8)
    ]
    assert sum(p <= 0.01 for p in found) >= 7


def test_bad_input():
    sets = dict(
        zip(("generated", "train", "heldout"), map(torch.as_tensor, gaussian(0)), strict=True)
    )
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        share_test(**sets, draws=0)
    with pytest.raises(ValueError, match="level"):
        share_test(**sets, level=1.0)
    with pytest.raises(ValueError, match="heldout must be given"):
        share_test(**{**sets, "heldout": None})
