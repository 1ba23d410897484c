"""The flagged list: its rule in closed form, its false-discovery rate, what counts as one."""

import numpy as np
import pytest
from competing import distances

from memdiff.metrics import clopper_pearson, discoveries
from memdiff.metrics.tail import CLOSE


def spread_out(train, heldout):
    """Pool points that are equally far from each other, with one more coordinate."""
    points = np.c_[1000.0 * np.eye(train + heldout), np.zeros(train + heldout)]
    return points[:train], points[train:]


def beside(point, length):
    shifted = point.copy()
    shifted[-1] = length
    return shifted


def ladder(labels, train, heldout):
    """Samples of growing ratio beside points that labels say are of train or held-out."""
    points = {"t": iter(train), "h": iter(heldout)}
    return np.array([beside(next(points[c]), 5.0 * (i + 1)) for i, c in enumerate(labels)])


@pytest.mark.parametrize(
    ("labels", "rate", "flagged"),
    [
        ("t" * 10, 0.1, 10),  # (1 + 0)/10
        ("t" * 9, 0.1, 0),
        ("t" * 5, 0.2, 5),
        ("tttttttttthtttttttttt", 0.1, 20),  # (1 + 1)/20 at the end
        ("tttttttttthttttttttt", 0.1, 10),  # 19 targets and a decoy: back to the first ten
        ("h" + "t" * 19, 0.1, 0),
        ("h" + "t" * 20, 0.1, 20),
        ("h" * 12, 0.5, 0),
        ("th" * 10, 0.5, 0),
    ],
)
def test_the_list_ends_at_the_largest_closeness_that_fits(labels, rate, flagged):
    train, heldout = spread_out(40, 40)
    result = discoveries(
        distances=distances(ladder(labels, train, heldout), train, heldout), rate=rate
    )
    expected = np.flatnonzero(np.array(list(labels)) == "t")[:flagged]
    assert result.flagged.nonzero()[:, 0].tolist() == expected.tolist()
    assert result.units == flagged and result.value == flagged / len(labels)
    assert result.interval == clopper_pearson(flagged, len(labels))
    last = 5.0 * (expected[-1] + 1) if flagged else 0.0
    assert result.ratio == pytest.approx(last / np.hypot(last, 1000 * 2**0.5), rel=1e-6)
    assert result.rate == rate


@pytest.mark.parametrize(("train", "heldout", "rate", "least"), [
    (40, 40, 0.1, 10), (40, 40, 0.05, 20), (80, 20, 0.1, 40), (20, 80, 0.1, 3), (30, 90, 0.5, 1),
])  # fmt: skip
def test_least_units(train, heldout, rate, least):
    """With one copied point less the list is empty, with this many it is not."""
    sets = spread_out(train, heldout)
    for copies, expected in ((least - 1, 0), (least, least)):
        if copies:
            found = discoveries(distances=distances(sets[0][:copies], *sets), rate=rate)
            assert found.units == expected
            assert found.least_units == least


def test_a_repeated_fresh_sample_counts_once():
    """40 samples beside one training point are one coincidence, and ten are copies of ten."""
    train, heldout = spread_out(40, 40)
    repeated = np.array([beside(train[0], 1.0)] * 40)
    assert not discoveries(distances=distances(repeated, train, heldout)).flagged.any()
    many = np.concatenate([repeated, train[1:10]])
    result = discoveries(distances=distances(many, train, heldout))
    assert result.flagged.all() and result.units == 10 and result.value == 1.0


def test_samples_farther_than_the_list_stay_off_it():
    """A second sample of a listed point, beyond the threshold, is not flagged."""
    train, heldout = spread_out(40, 40)
    samples = np.concatenate([train[:10], [beside(train[0], 900.0)], [beside(heldout[0], 3.0)]])
    result = discoveries(distances=distances(samples, train, heldout))
    assert result.flagged.tolist() == [True] * 10 + [False] * 2 and result.ratio == 0.0


def test_nothing_beyond_two_thirds_is_listed():
    train, heldout = spread_out(40, 40)
    samples = np.array([beside(point, 1500.0) for point in train[:20]])
    ready = distances(samples, train, heldout)
    assert not discoveries(distances=ready).flagged.any()
    assert discoveries(distances=ready, within=1.0).flagged.all()
    assert 1500 / np.hypot(1500, 1000 * 2**0.5) > CLOSE


def test_values_of_both_sets_are_flagged_for_nobody():
    """Blank frames come last, and half of a tie is no copy."""
    train, heldout = spread_out(40, 40)
    train[30:], heldout[30:] = 7.0, 7.0
    samples = np.concatenate([train[:12], np.full((9, train.shape[1]), 7.0)])
    result = discoveries(distances=distances(samples, train, heldout))
    assert result.flagged.tolist() == [True] * 12 + [False] * 9


@pytest.mark.parametrize(
    ("sizes", "copies"), [((150, 150), 25), ((300, 100), 60), ((100, 300), 15)]
)
@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_false_discovery_rate_among_units(sizes, copies, rate):
    """The mean share of listed training points that no copy was made of; and power."""
    wrong, right = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        train, heldout = (rng.standard_normal((n, 3)) for n in sizes)
        generated = np.concatenate([train[:copies], rng.standard_normal((200, 3))])
        flagged = discoveries(distances=distances(generated, train, heldout), rate=rate).flagged
        from_train = np.array([((train - g) ** 2).sum(1).argmin() for g in generated[flagged]])
        listed = set(from_train.tolist()) if flagged.any() else set()
        wrong.append(sum(i >= copies for i in listed) / max(len(listed), 1))
        right.append(sum(i < copies for i in listed) / copies)
    assert np.mean(wrong) <= rate + 3 * np.std(wrong) / len(wrong) ** 0.5
    assert np.mean(right) > 0.9


def test_bad_input():
    ready = distances(*np.random.default_rng(0).standard_normal((3, 9, 2)))
    for rate in (0.0, 1.0, -1):
        with pytest.raises(ValueError, match="rate must lie between 0 and 1"):
            discoveries(distances=ready, rate=rate)
    with pytest.raises(ValueError, match="heldout must be given"):
        discoveries(generated=ready.data("generated"), train=ready.data("train"))
