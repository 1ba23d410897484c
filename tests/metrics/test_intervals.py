import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from memdiff.metrics import Interval, bootstrap, clopper_pearson


@pytest.mark.parametrize(("trials", "high"), [(100, 0.036), (1000, 0.0037), (10000, 0.00037)])
def test_zero_hits_is_not_zero_rate(trials, high):
    interval = clopper_pearson(0, trials)
    assert interval.low == 0
    assert interval.high == pytest.approx(high, rel=0.01)


@settings(deadline=None)
@given(st.integers(1, 500), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_equals_scipy(trials, share, level):
    hits = round(share * trials)
    interval = clopper_pearson(hits, trials, level)
    expected = binomtest(hits, trials).proportion_ci(level, method="exact")
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("rate", [0.001, 0.02, 0.3, 0.5, 0.97])
def test_coverage_is_at_least_the_level(rate):
    hits = np.arange(51)
    covered = [rate in clopper_pearson(int(hit), 50, 0.9) for hit in hits]
    assert binom.pmf(hits, 50, rate)[covered].sum() >= 0.9


def test_bootstrap_of_a_mean_matches_its_standard_error():
    samples = torch.randn(400, generator=torch.Generator().manual_seed(0))
    interval = bootstrap(torch.mean, samples, level=0.9, draws=3000)
    error = float(samples.std()) / 20
    centre = float(samples.mean())
    assert interval.low == pytest.approx(centre - 1.645 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(centre + 1.645 * error, abs=0.15 * error)
    assert interval == bootstrap(torch.mean, samples, level=0.9, draws=3000)
    assert interval != bootstrap(torch.mean, samples, level=0.9, draws=3000, seed=1)


def test_bootstrap_resamples_rows():
    pairs = torch.arange(50.0)[:, None].repeat(1, 2)
    interval = bootstrap(lambda rows: (rows[:, 0] - rows[:, 1]).abs().max(), pairs)
    assert (interval.low, interval.high) == (0, 0)


def test_both_ends_belong_to_an_interval():
    interval = Interval(0.1, 0.2, 0.95, "")
    assert 0.1 in interval
    assert 0.2 in interval
    assert 0.21 not in interval


def test_bad_input():
    with pytest.raises(ValueError, match="hits and trials must"):
        clopper_pearson(3, 2)
    with pytest.raises(ValueError, match="hits and trials must"):
        clopper_pearson(0, 0)
    with pytest.raises(ValueError, match="level must lie"):
        clopper_pearson(0, 1, 1.0)
    with pytest.raises(ValueError, match="samples and draws"):
        bootstrap(torch.mean, torch.zeros(0))
