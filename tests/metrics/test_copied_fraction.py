"""The copied fraction: identities, no bias from unequal sets, coverage of the interval."""

import numpy as np
import pytest
import torch
from competing import blank, distances
from scipy.stats import beta, binom, nbinom

from memdiff.metrics import Cells, compete, copied_fraction
from memdiff.metrics.competition import Competition
from memdiff.metrics.copied_fraction import COPY, resolved_ratio


def competition(train, heldout, weights, ratios=None, units=(100, 50)):
    """Cells of given units; on each as many whole samples as its weight says, at one ratio."""
    weights = np.asarray(weights)
    cell = np.repeat(np.arange(len(weights)), weights)
    m = len(cell)
    ratio = np.zeros(m) if ratios is None else np.asarray(ratios, dtype=float)[cell]
    none = np.zeros(m, dtype=np.int64)
    return Competition(
        ratios=ratio,
        distances=ratio,
        train=(ratio, none),
        heldout=(ratio, none),
        winner=none,
        candidates=np.full((m, 4), -1),
        sample=np.arange(m),
        cell=cell,
        share=np.ones(m),
        cells=Cells(np.asarray(train, float), np.asarray(heldout, float), np.arange(len(train))),
        train_units=units[0],
        heldout_units=units[1],
        undecided=0,
    )


def gaussian(seed, m=200, n=200, h=200, copied=0.0, noise=0.0, dim=8):
    """Samples of which each is a copy of a random training point with a given probability."""
    rng = np.random.default_rng(seed)
    generated, train, heldout = (rng.standard_normal((size, dim)) for size in (m, n, h))
    copies = rng.random(m) < copied
    near = noise * rng.standard_normal((m, dim))
    generated[copies] = (train[rng.integers(0, n, m)] + near)[copies]
    return distances(generated, train, heldout), copies.mean()


def test_closed_form():
    """Eight samples on train, three on decoys, two on a value of both, at two to one."""
    train, heldout = [1, 1, 0, 0, 1, 1], [0, 0, 1, 1, 1, 0]
    found = competition(train, heldout, [5, 2, 2, 1, 2, 1], [0, 0.1, 0.2, 0, 0, 0.9])
    result = copied_fraction(competition=found)
    assert (result.targets, result.decoys, result.both) == (7.0, 3.0, 2.0)
    assert result.by_chance == 2 * 3.0
    assert result.value == (7.0 - 6.0) / 13
    tighter = copied_fraction(competition=found, ratio=0.15)
    assert (tighter.targets, tighter.decoys, tighter.both) == (7.0, 1.0, 2.0)
    loose = copied_fraction(competition=found, ratio=1.0)
    assert (loose.targets, loose.value) == (8.0, 2 / 13)
    assert result.null.value == 0.0


def test_interval_in_closed_form():
    """Chance hits at most a quantile of the negative binomial; the heaviest units go."""
    found = competition([1] * 30 + [0] * 2, [0] * 30 + [1] * 2, [20] + [1] * 29 + [3, 1])
    m, tail = 53, 0.0125
    most = int(nbinom.ppf(1 - tail, 3, 1 / 3))
    least = int(nbinom.ppf(tail, 2, 1 / 3))
    assert 5 < most < 30 and least == 0
    low = 30 - most  # without the unit of 20 and most - 1 others
    high = 49
    result = copied_fraction(competition=found)
    assert result.interval.low == pytest.approx(beta.ppf(tail, low, m - low + 1))
    assert result.interval.high == pytest.approx(beta.isf(tail, high + 1, m - high))
    assert (result.interval.low, result.interval.high) != (result.value, result.value)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("of_train", [True, False])
def test_a_value_that_k_units_of_one_set_hold_counts_by_the_odds_of_its_labels(k, of_train):
    """k units of train by chance (odds to one)^k times as often as k held-out ones."""
    counts = ([k, 0], [0, k]) if of_train else ([0, k], [k, 0])
    found = competition(*counts, [4, 2])
    result = copied_fraction(competition=found)
    decoys = 2 if of_train else 4
    assert result.by_chance == pytest.approx(2.0**k * decoys)
    assert result.value == pytest.approx(((6 - decoys) - 2.0**k * decoys) / 6)
    # Many repeated values of train: more than the spread of their labels explains.
    many = competition([k] * 50, [0] * 50, [1] * 50)
    spread = 2.2414 * (50 * 2.0**k) ** 0.5  # isf(0.0125), each with its odds
    low = max(50 - spread, 0.0)
    expected = beta.ppf(0.0125, low, 51 - low) if low else 0.0
    assert copied_fraction(competition=many).interval.low == pytest.approx(expected, rel=1e-4)


def test_all_copies_and_none():
    rng = np.random.default_rng(0)
    train, heldout = rng.standard_normal((2, 200, 8))
    everything = copied_fraction(distances=distances(train, train, heldout))
    assert everything.value == everything.interval.high == 1.0 and everything.interval.low > 0.9
    far = copied_fraction(distances=distances(100 + train, train, heldout))
    assert (far.value, far.targets, far.interval.low) == (0.0, 0.0, 0.0)
    # Nothing among 200 samples, an eightieth on each side: (1 - high)^200 = 1/80.
    assert 0.9 < 80 * (1 - far.interval.high) ** 200 / 1 < 1.1
    reverse = copied_fraction(distances=distances(heldout, train, heldout))
    assert reverse.value == -1.0 and reverse.interval.low == 0.0


def test_blank_frames_are_no_copies_and_hide_none():
    rng = np.random.default_rng(0)
    generated, train, heldout = blank(rng, 0.1, 200)
    fresh = copied_fraction(distances=distances(generated, train, heldout))
    blanks = (generated == 0).all(1).sum()
    assert fresh.both == blanks > 5
    assert fresh.targets <= 2 and fresh.interval.low == 0.0
    seen = np.flatnonzero((train != 0).any(1))[:30]
    generated[np.flatnonzero((generated != 0).any(1))[:30]] = train[seen]
    copied = copied_fraction(distances=distances(generated, train, heldout))
    assert copied.value == pytest.approx(30 / 200, abs=0.011) and copied.interval.low > 0.05


@pytest.mark.parametrize(("n", "h"), [(200, 200), (400, 80), (80, 400)])
@pytest.mark.parametrize("copied", [0.0, 0.2])
def test_unequal_sets_do_not_bias_the_estimate(n, h, copied):
    """Mean over draws, in 3 dimensions where many fresh samples have a ratio below a third."""
    errors = []
    for seed in range(40):
        ready, truth = gaussian(seed, m=150, n=n, h=h, copied=copied, dim=3)
        errors.append(copied_fraction(distances=ready).value - truth)
    spread = np.std(errors) / len(errors) ** 0.5
    assert abs(np.mean(errors)) < 4 * spread + 0.002
    assert spread < 0.03


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"copied": 0.0}, (150, 150)),
        ({"copied": 0.05}, (150, 150)),
        ({"copied": 0.4, "noise": 0.05}, (150, 150)),
        ({"copied": 0.1, "noise": 0.02, "dim": 4}, (150, 150)),
        ({"copied": 0.2, "dim": 3}, (300, 60)),
        ({"copied": 0.2, "dim": 3}, (60, 300)),
        ({"copied": 1.0, "noise": 0.02}, (150, 150)),
    ],
    ids=str,
)
def test_the_interval_covers_the_share_that_is_copied(options, sizes):
    """The probability of a copy, exact or near, whatever falls on train by chance."""
    covered = 0
    for seed in range(40):
        ready, _ = gaussian(seed, m=150, n=sizes[0], h=sizes[1], **options)
        interval = copied_fraction(distances=ready).interval
        covered += interval.low <= options["copied"] <= interval.high
    assert covered >= binom.ppf(0.001, 40, 0.95)


def test_forty_percent_near_copies_are_forty_percent():
    """The released audit said 0.0 % (0.0 to 2.0 %), and passed the gate of 1 %."""
    for seed in range(5):
        r = np.random.default_rng(seed)
        train, heldout, generated = (r.normal(size=(n, 20)) for n in (300, 150, 150))
        heldout[:6] = train[200:206] + 0.1 * r.normal(size=(6, 20))
        generated[:60] = train[:60] + 0.2 * r.normal(size=(60, 20))
        result = copied_fraction(distances=distances(generated, train, heldout))
        assert result.interval.low > 0.2 and 0.4 in result.interval


def test_the_closeness_that_can_be_resolved():
    """The largest ratio at which chance puts at most a quarter of the resolution on train."""
    # Decoys at ratios 0.3, 0.15 and 0.04, one sample each of 400, at two to one.
    ratios = [0.3, 0.15, 0.04] + [0.9] * 397
    found = competition([0] * 3 + [1] * 397, [1] * 3 + [0] * 397, [1] * 400, ratios)
    expected = {0.06: COPY, 0.05: 0.2, 0.041: 0.2, 0.03: 0.1, 0.02: 0.1, 0.01: 0.02}
    for resolution, ratio in expected.items():
        assert resolved_ratio(found, resolution) == ratio, resolution
    on_top = competition([0, 1], [1, 0], [5, 5])
    assert resolved_ratio(on_top, 0.01) == 0.0
    assert resolved_ratio(competition([1], [0], [9]), 0.01) == COPY


def test_bad_input():
    sets = gaussian(0)[0]
    with pytest.raises(ValueError, match=r"ratio must lie in \[0, 1\], got 1.5"):
        copied_fraction(distances=sets, ratio=1.5)
    with pytest.raises(ValueError, match="level"):
        copied_fraction(distances=sets, level=0.0)
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="heldout must be given"):
        copied_fraction(generated=x, train=x)
    assert compete(sets).samples == 200
