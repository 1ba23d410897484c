"""Random labels: the law of counts in blocks, and tails that keep their digits."""

import numpy as np
import pytest
from scipy.stats import chisquare, hypergeom

from memdiff.metrics.relabelling import hypergeometric_tail, train_counts

DRAWS = 4000


def against(counts, law):
    """p-value of counts against a law on 0, 1, ...; rare ends are merged."""
    expected = len(counts) * law.pmf(np.arange(counts.max() + 1))
    keep = expected >= 5
    seen = np.bincount(counts)[keep]
    expected, seen = np.append(expected[keep], 0), np.append(seen, 0)
    expected[-1], seen[-1] = len(counts) - expected.sum(), len(counts) - seen.sum()
    if expected[-1] < 1:
        expected[-2], seen[-2] = expected[-2:].sum(), seen[-2:].sum()
        expected, seen = expected[:-1], seen[:-1]
    return chisquare(seen, expected * seen.sum() / expected.sum()).pvalue


@pytest.mark.parametrize(("train", "total"), [(30, 50), (5, 60), (59, 60)])
def test_marginals_and_sums_are_hypergeometric(train, total):
    blocks = np.array([1, 7, 3, 20])
    counts = np.array(list(train_counts(blocks, train, total, DRAWS, 0)))
    for block, count in zip(blocks, counts, strict=True):
        assert against(count, hypergeom(total, train, block)) > 1e-4
    for stop in (2, 3, 4):
        assert against(counts[:stop].sum(0), hypergeom(total, train, blocks[:stop].sum())) > 1e-4
    # Blocks compete for the training units: the covariance of drawing without replacement.
    share = train / total
    found = np.cov(counts[1], counts[3])[0, 1]
    expected = -7 * 20 * share * (1 - share) / (total - 1)
    assert found == pytest.approx(expected, abs=0.25)


def test_all_units_hold_all_training_units():
    counts = np.array(list(train_counts(np.array([4, 6, 5]), 8, 15, 200, 1)))
    assert (counts.sum(0) == 8).all() and (counts <= np.array([[4], [6], [5]])).all()


def test_a_seed_gives_one_draw():
    blocks = np.array([3, 4])
    one, same, other = (list(train_counts(blocks, 5, 20, 50, seed)) for seed in (0, 0, 1))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


@pytest.mark.parametrize(("drawn", "train", "total"), [(5, 20, 50), (40, 30, 60), (1, 1, 2)])
def test_tail_against_scipy(drawn, train, total):
    x = np.arange(drawn + 1)
    expected = hypergeom.sf(x - 1, total, train, drawn)
    np.testing.assert_allclose(hypergeometric_tail(drawn, train, total), expected, atol=1e-12)


def test_small_tails_keep_their_digits():
    """All of 300 units are training units, of 500 + 500: a product of ratios, below 1e-99."""
    i = np.arange(300)
    exact = np.log((500 - i) / (1000 - i)).sum()
    found = np.log(hypergeometric_tail(300, 500, 1000)[300])
    assert exact < np.log(1e-99) and found == pytest.approx(exact, rel=1e-9)
