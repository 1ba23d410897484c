"""The tail test: closed forms, uniformity without copies, power on planted ones."""

import numpy as np
import pytest
import torch
from competing import distances, patients
from scipy.stats import binom, hypergeom

from memdiff.metrics import clopper_pearson, compete, tail_test
from memdiff.metrics.tail import CLOSE, DRAWS

DIM = 12


def gaussian(seed, m=100, n=100, h=100, copies=0, noise=0.0, dim=DIM):
    rng = np.random.default_rng(seed)
    sets = [rng.standard_normal((size, dim)) for size in (m, n, h)]
    sets[0][:copies] = sets[1][:copies] + noise * rng.standard_normal((copies, dim))
    return sets


def axis(train, heldout, closeness, on_train):
    """One sample beside each of some points, which are far apart: its ratio is as given."""
    points = 1000.0 * np.eye(train + heldout)
    places = np.flatnonzero(on_train), train + np.flatnonzero(~on_train)
    mine = np.empty(len(on_train), dtype=int)
    mine[on_train], mine[~on_train] = (
        places[0][: on_train.sum()],
        train + np.arange((~on_train).sum()),
    )
    samples = points[mine].copy()
    # d_1 = c * 1000 away from everything else, so that d_2 = 1000 sqrt(2 + c^2).
    extra = np.zeros((len(samples), 1))
    extra[:, 0] = 1000.0 * closeness
    pool = np.c_[points, np.zeros((len(points), 1))]
    return np.c_[samples, extra], pool[:train], pool[train:]


def test_closed_form_of_a_few_samples():
    """Cuts at 1, 2, 3, 4, ... units; the smallest hypergeometric tail among them."""
    on_train = np.array([True] * 6 + [False] + [True, False])
    closeness = np.linspace(0.05, 0.3, 9)
    sets = axis(30, 20, closeness, on_train)
    result = tail_test(distances=distances(*sets))
    cuts = np.array([1, 2, 3, 4, 6, 8, 9])  # 2^(j/2), rounded, and the end
    hits = on_train.cumsum()[cuts - 1]
    tails = hypergeom.sf(hits - 1, 50, 30, cuts)
    best = tails.argmin()
    assert result.cuts == len(cuts)
    assert result.cut == cuts[best] == 6
    assert result.value == hits[best] / cuts[best]
    assert result.interval == clopper_pearson(6, 6)
    assert result.null.value == 30 / 50
    c = closeness[5]
    assert result.ratio == pytest.approx(c / np.sqrt(2 + c**2), rel=1e-6)
    # The law of the smallest tail by labels that are drawn here.
    rng = np.random.default_rng(1)
    lowest = np.array(
        [
            hypergeom.sf(rng.permutation(np.arange(50) < 30).cumsum()[cuts - 1] - 1, 50, 30, cuts)
            for _ in range(4000)
        ]
    ).min(1)
    expected = (lowest <= tails.min() * (1 + 1e-9)).mean()
    assert result.p_value == pytest.approx(expected, abs=0.02)
    assert result.p_value > tails.min()


def test_scores_lie_on_either_side_of_1():
    on_train = np.array([True, False])
    sets = axis(5, 5, np.array([0.1, 0.2]), on_train)
    scores = tail_test(distances=distances(*sets)).scores
    c = np.array([0.1, 0.2]) / np.sqrt(2 + np.array([0.1, 0.2]) ** 2)
    torch.testing.assert_close(scores, torch.tensor([c[0], 2 - c[1]]), rtol=1e-6, atol=0)


def test_no_close_sample_is_no_evidence():
    """On a great sphere of many dimensions, all ratios are above two thirds."""
    result = tail_test(distances=distances(*gaussian(0, dim=200)))
    assert (result.p_value, result.cut, result.cuts, result.ratio) == (1.0, 0, 0, 0.0)
    assert result.value == result.null.value == 0.5 and result.interval is None


def test_within_bounds_the_ratios_that_count():
    result = compete(distances(*gaussian(0)))
    for within in (0.5, 0.8, 1.0):
        found = tail_test(competition=result, within=within)
        assert found.ratio <= within
    loose, tight = (tail_test(competition=result, within=w) for w in (1.0, CLOSE))
    assert loose.cuts > tight.cuts


@pytest.mark.parametrize("copies", [60, 100])
def test_below_the_resolution_of_relabelling_bonferroni_counts(copies):
    """p = cuts times the smallest tail; by relabelling alone it could not be below 1/2000."""
    result = tail_test(distances=distances(*gaussian(0, copies=copies)))
    assert result.p_value < 1 / (DRAWS + 1)
    assert result.p_value == pytest.approx(
        result.cuts * hypergeom.sf(result.value * result.cut - 1, 200, 100, result.cut), rel=1e-6
    )
    assert result.p_value < 1e-12 and result.cut >= copies


def test_all_of_a_run_of_ties_or_nothing():
    """Twenty exact copies are one run: ends inside of it would depend on the order of data."""
    train = np.random.default_rng(0).standard_normal((100, DIM))
    heldout = np.random.default_rng(1).standard_normal((100, DIM))
    generated = np.concatenate([train[:20], heldout[:12]])
    result = tail_test(distances=distances(generated, train, heldout))
    assert result.cuts == 1 and result.cut == 32 and result.value == 20 / 32
    assert result.p_value == pytest.approx(hypergeom.sf(19, 200, 100, 32), abs=0.03)


def test_values_that_several_points_hold_come_last():
    """A blank frame in both sets is no reason to overlook copies: neither first nor in the way."""
    generated, train, heldout = gaussian(0, copies=8)
    train[50:60], heldout[50:60], generated[50:90] = 0, 0, 0
    result = tail_test(distances=distances(generated, train, heldout))
    assert result.cut == 8 and result.value == 1.0
    assert result.p_value < 0.02


# Validity; see test_copying.py for the data on which it is hard.


def test_p_values_are_uniform_where_ties_are_rare():
    """Conservative only by the ties of the statistic: a p-value that is too large has no power."""
    found = np.array(
        [
            tail_test(
                distances=distances(*gaussian(seed, 200, 60, 60, dim=2)), draws=199, seed=seed
            ).p_value
            for seed in range(100)
        ]
    )
    for level in (0.1, 0.3, 0.6):
        low, high = binom.ppf([1e-3, 1 - 1e-3], len(found), level)
        assert low - 0.05 * len(found) <= (found <= level).sum() <= high


def test_groups_are_what_is_exchanged():
    """Copies of 20 points of two patients: two coincidences with labels, twenty without."""
    generated, train, heldout, groups = patients(np.random.default_rng(0), scans=10, each=8)
    generated = np.concatenate([train[:20], 30.0 + generated[:2]])
    given = tail_test(distances=distances(generated, train, heldout, groups=groups))
    ignored = tail_test(distances=distances(generated, train, heldout))
    assert given.cut == 2 and given.p_value == pytest.approx(8 / 16 * 7 / 15, abs=0.04)
    assert ignored.cut == 20 and ignored.p_value < 1e-6


# Power.


@pytest.mark.parametrize(
    ("options", "found_in"),
    [
        ({"copies": 10}, 9),
        ({"copies": 10, "noise": 0.1}, 9),
        ({"copies": 100, "noise": 0.6}, 9),
        ({"copies": 20, "n": 300, "h": 100}, 9),
        ({"copies": 6, "n": 100, "h": 600}, 9),
    ],
    ids=str,
)
def test_copies_are_found(options, found_in):
    found = [tail_test(distances=distances(*gaussian(s, **options))).p_value for s in range(10)]
    assert sum(p <= 0.02 for p in found) >= found_in


def test_a_collapse_does_not_hide_copies():
    """Ten modes of fresh samples and 5 % copies: only units count, not samples."""
    for seed in range(5):
        generated, train, heldout = gaussian(seed, m=200, copies=10)
        modes = np.random.default_rng(seed).standard_normal((10, DIM))
        generated[10:] = np.repeat(modes, 19, 0) + 0.01 * generated[10:]
        assert tail_test(distances=distances(generated, train, heldout)).p_value <= 0.02


def test_one_point_copied_often_is_one_coincidence():
    generated, train, heldout = gaussian(0, dim=60)
    generated[:50] = train[0]
    result = tail_test(distances=distances(generated, train, heldout))
    assert result.cut == 1 and result.p_value == pytest.approx(0.5, abs=0.05)


def test_needs_heldout_points():
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="heldout must be given"):
        tail_test(generated=x, train=x)
