import numpy as np
import pytest
import torch
from scipy.stats import betabinom

from memdiff.metrics import Distances, exceedance, excess_copies
from memdiff.metrics.exceedance import _count, _p_value, _rates


def sets_of(generated, heldout):
    """One-dimensional sets whose distances to train (two far points at 0) are the given ones."""
    column = lambda values: torch.as_tensor(values, dtype=torch.float64)[:, None]  # noqa: E731
    return {
        "generated": column(generated),
        "heldout": column(heldout),
        "train": column([0.0, 1e6]),
    }


def test_the_published_beta_binomial_oracle():
    # |H| = 500, M = 800, j = 10.
    null = betabinom(800, 10, 491)
    assert null.mean() == pytest.approx(15.97, abs=0.01)
    assert null.std() == pytest.approx(6.37, abs=0.01)
    assert _p_value(25, 800, 10, 500) == pytest.approx(0.099, abs=5e-4)
    assert _p_value(35, 800, 10, 500) == pytest.approx(0.0078, abs=5e-5)
    assert _p_value(0, 800, 10, 500) == 1


def test_counts_and_thresholds_by_hand():
    sets = sets_of([0.5, 1.5, 1.6, 2.5, 9.0], [1.0, 2.0, 3.0, 4.0])
    result = exceedance(**sets, ranks=(1, 2, 4))
    assert result.counts == (1, 3, 4)
    assert result.thresholds == (1.0, 2.0, 4.0)
    assert result.expected == (1.0, 2.0, 4.0)
    assert result.value == 0.2
    assert result.null.value == 0.2
    for count, rank, p in zip(result.counts, result.ranks, result.p_values, strict=True):
        assert p == pytest.approx(betabinom.sf(count - 1, 5, rank, 5 - rank))
    assert result.p_value == pytest.approx(min(1, 3 * min(result.p_values)))
    excess = excess_copies(**sets, quantile=0.4)
    assert (excess.rank, excess.count, excess.threshold) == (2, 3, 2.0)
    assert excess.value == pytest.approx((0.6 - 0.4) / (1 - 0.4))
    assert excess.p_value == result.p_values[1]


def test_rank_one_has_the_geometric_tail():
    # P(B >= b) is about (M/(M+H))^b.
    assert _p_value(5, 1000, 1, 1000) == pytest.approx(0.5**5, rel=0.01)


def test_the_law_under_the_null():
    """Counts of exchangeable continuous data against the exact law, by moments and by level."""
    rng = np.random.default_rng(0)
    m, h, j = 80, 50, 3
    counts = np.array([_count(rng.random(m), rng.random(h), j, i) for i in range(4000)])
    null = betabinom(m, j, h + 1 - j)
    assert counts.mean() == pytest.approx(null.mean(), abs=4 * null.std() / 4000**0.5)
    assert counts.std() == pytest.approx(null.std(), rel=0.05)
    p = np.array([_p_value(int(count), m, j, h) for count in counts])
    for level in (0.01, 0.05, 0.1):
        assert (p <= level).mean() <= level + 3 * (level / 4000) ** 0.5
        assert (p <= level).mean() >= 0.4 * level


def test_ties_keep_the_law():
    # All distances are one of two values: without random ties the test would be far off.
    rng = np.random.default_rng(0)
    m, h, j = 80, 50, 3
    counts = [
        _count(rng.integers(0, 2, m).astype(float), rng.integers(0, 2, h).astype(float), j, i)
        for i in range(3000)
    ]
    null = betabinom(m, j, h + 1 - j)
    assert np.mean(counts) == pytest.approx(null.mean(), abs=4 * null.std() / 3000**0.5)
    assert np.std(counts) == pytest.approx(null.std(), rel=0.06)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 1.0])
def test_planted_copies_in_32_dimensions(planted, share):
    values, covered = [], 0
    for seed in range(4):
        data = planted(32, 500, seed)
        result = excess_copies(generated=data.mixed(share), train=data.train, heldout=data.heldout)
        values.append(result.value)
        covered += share in result.interval
    assert np.mean(values) == pytest.approx(share, abs=0.01)
    assert covered >= 3
    if share >= 0.05:
        assert result.p_value < 1e-3
        assert result.value > result.null.interval.high


def test_one_percent_of_copies_is_found_by_rank_one(planted):
    data = planted(32)
    sets = {"generated": data.mixed(0.01), "train": data.train, "heldout": data.heldout}
    distances = Distances(**sets)
    result = exceedance(distances=distances)
    assert result.ranks == (1, 10, 50)
    assert result.counts[0] >= 10
    assert result.p_value < 0.01
    assert exceedance(**sets).counts == result.counts


def test_a_doubled_training_set_hides_nothing(planted):
    data = planted(8, 300)
    result = excess_copies(
        generated=data.copies(), train=torch.cat([data.train] * 2), heldout=data.heldout
    )
    assert result.value > 0.95


def test_the_interval_with_a_fixed_threshold_is_clopper_pearson():
    # Fresh distances that are all larger than some samples and smaller than the others.
    samples = np.concatenate([np.zeros(30), np.ones(70)])
    low, high = _rates(samples, np.linspace(0.4, 0.6, 50), 5, 0.9, 0, draws=400_000)
    assert (low, high) == pytest.approx((0.2249, 0.3842), abs=2e-3)
    low, high = _rates(np.ones(100), np.linspace(0.4, 0.6, 50), 5, 0.9, 0, draws=400_000)
    assert low == 0
    assert high == pytest.approx(1 - 0.05 ** (1 / 100), abs=5e-4)


def test_coverage_of_the_interval():
    rng = np.random.default_rng(0)
    share, covered, trials = 0.05, 0, 300
    for trial in range(trials):
        copies = rng.binomial(200, share)
        samples = np.concatenate([np.zeros(copies), rng.random(200 - copies)])
        low, high = _rates(samples, rng.random(200), 4, 0.9, trial)
        base = 4 / 201
        covered += (low - base) / (1 - base) <= share <= (high - base) / (1 - base)
    assert covered / trials >= 0.9 - 3 * (0.09 / trials) ** 0.5


def test_bad_input(planted):
    data = planted(2, 20)
    sets = {"generated": data.fresh(), "train": data.train}
    with pytest.raises(ValueError, match="heldout must be given for a comparison"):
        exceedance(**sets)
    with pytest.raises(ValueError, match="heldout must be given for a comparison"):
        excess_copies(**sets)
    with pytest.raises(ValueError, match=r"ranks must lie between 1 and .* 20, got \[21\]"):
        exceedance(**sets, heldout=data.heldout, ranks=[21])
    with pytest.raises(ValueError, match="quantile must lie"):
        excess_copies(**sets, heldout=data.heldout, quantile=1.0)
