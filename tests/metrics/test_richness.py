import math

import numpy as np
import pytest
import torch

from memdiff.metrics.richness import chao1, good_toulmin


def _draw(rng, p, n):
    """Counts of the kinds; the rest of the probability is draws of no kind."""
    return rng.multinomial(n, np.append(p, 1 - p.sum()))[:-1]


UNIFORM = np.full(200, 0.5 / 200)
ZIPF = 0.5 / np.arange(1, 201) / (1 / np.arange(1, 201)).sum()


@pytest.mark.parametrize("p", [UNIFORM, ZIPF], ids=["uniform", "zipf"])
@pytest.mark.parametrize("t", [0.5, 1.0, 3.0])
def test_new_kinds_are_predicted(p, t):
    """Bias and coverage against the number that a second, independent draw does show."""
    rng = np.random.default_rng(0)
    errors, covered = [], 0
    for _ in range(250):
        first, second = _draw(rng, p, 400), _draw(rng, p, round(400 * t))
        new = ((first == 0) & (second > 0)).sum()
        result = good_toulmin(torch.from_numpy(first), t)
        errors.append(result.value - new)
        covered += result.interval.low <= new <= result.interval.high
    error = np.std(errors) / 250**0.5
    slack = 0.0 if t <= 1 else 2.0  # bias of the smoothing
    assert abs(np.mean(errors)) < 3.5 * error + slack
    assert covered >= 228
    assert result.reliable


def test_good_toulmin_by_hand():
    counts = torch.tensor([0, 1, 1, 1, 2, 2, 3, 0])
    assert good_toulmin(counts, 1.0).value == 3 - 2 + 1
    result = good_toulmin(counts, 0.5)
    assert result.value == pytest.approx(3 / 2 - 2 / 4 + 1 / 8)
    half = 1.959964 * math.sqrt(3 / 4 + 2 / 16 + 1 / 64 + result.value)
    assert result.interval.high == pytest.approx(result.value + half, rel=1e-6)


def test_smoothing_tames_the_series():
    """With counts up to 20 the plain series at t = 5 is of the order 5^20."""
    counts = torch.arange(1, 21).repeat_interleave(3)
    result = good_toulmin(counts, 5.0)
    assert abs(result.value) < 100
    assert not good_toulmin(counts, 50.0).reliable


def test_smoothing_joins_the_plain_series():
    """The cut moves to infinity as t falls to 1, and small counts do not notice it."""
    counts = torch.tensor([1, 1, 1, 1, 1, 1, 2, 2, 2, 3])
    below, above = good_toulmin(counts, 1.0).value, good_toulmin(counts, 1.0 + 1e-12).value
    assert above == pytest.approx(below, abs=0.01)


def test_nothing_seen_leaves_room():
    result = good_toulmin(torch.zeros(5, dtype=torch.int64), 1.0)
    assert result.value == 0
    assert result.interval.high == pytest.approx(-math.log(0.025))


def test_chao1_finds_equally_rare_kinds():
    rng = np.random.default_rng(0)
    found = [chao1(torch.from_numpy(_draw(rng, UNIFORM, 400)), 400) for _ in range(200)]
    values = np.array([result.value for result in found])
    assert values.mean() == pytest.approx(200, abs=3.5 * values.std() / 200**0.5 + 1)
    assert sum(200 in result.interval for result in found) >= 180


def test_chao1_is_a_lower_bound_for_unequal_kinds():
    rng = np.random.default_rng(0)
    found = [chao1(torch.from_numpy(_draw(rng, ZIPF, 400)), 400) for _ in range(100)]
    seen = [(_draw(rng, ZIPF, 400) > 0).sum() for _ in range(100)]
    mean = np.mean([result.value for result in found])
    assert np.mean(seen) + 10 < mean < 190


def test_chao1_by_hand():
    counts = torch.tensor([1, 1, 1, 1, 2, 2, 5])
    result = chao1(counts, 100)
    a, q = 0.99, 2.0
    assert result.value == pytest.approx(7 + a * 16 / 4)
    variance = 2 * (a * q**2 / 2 + a**2 * q**3 + a**2 * q**4 / 4)
    unseen = 4 * a
    factor = math.exp(1.959964 * math.sqrt(math.log(1 + variance / unseen**2)))
    assert result.interval.low == pytest.approx(7 + unseen / factor, rel=1e-6)
    assert result.interval.high == pytest.approx(7 + unseen * factor, rel=1e-6)
    bare = chao1(torch.tensor([1, 1, 1]), 100)
    assert bare.value == pytest.approx(3 + 0.99 * 3)
    assert not bare.reliable
    assert bare.interval.high > 20


def test_chao1_without_singletons_and_without_anything():
    certain = chao1(torch.full((10,), 30))
    assert certain.value == certain.interval.low == 10
    assert certain.interval.high == pytest.approx(10, abs=1e-3)
    twice = chao1(torch.full((10,), 2))
    assert twice.value == 10 < twice.interval.high < 20
    empty = chao1(torch.zeros(3, dtype=torch.int64))
    assert (empty.value, empty.interval.high) == (0, math.inf)


def test_bad_input():
    with pytest.raises(ValueError, match="t must be positive"):
        good_toulmin(torch.tensor([1]), 0.0)
    with pytest.raises(ValueError, match="counts must be non-negative integers"):
        chao1(torch.tensor([1.0]))
    with pytest.raises(ValueError, match="counts must be non-negative integers"):
        good_toulmin(torch.tensor([-1]), 1.0)
    with pytest.raises(ValueError, match="draws must be at least the sum of the counts 3"):
        chao1(torch.tensor([1, 2]), 2)
