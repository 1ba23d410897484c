import itertools

import numpy as np
import pytest
import torch

from memdiff.metrics import exchange


def test_moments_and_p_value_by_enumeration():
    """Every relabelling of a pool of eight points, against formulas and sampled p-value."""
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(8, 2, generator=generator, dtype=torch.float64)
    generated = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    result = exchange(generated=generated, train=pool[:3], heldout=pool[3:], permutations=40_000)
    owner = torch.cdist(generated, pool).argmin(1)
    counts = np.bincount(owner.numpy(), minlength=8)
    totals = np.array([counts[list(c)].sum() for c in itertools.combinations(range(8), 3)])
    assert result.value == counts[:3].sum() / 30
    assert result.mean == pytest.approx(totals.mean())
    assert result.variance == pytest.approx(totals.var())
    assert result.z == pytest.approx((counts[:3].sum() - totals.mean()) / totals.std())
    assert result.p_value == pytest.approx((totals >= counts[:3].sum()).mean(), abs=0.01)
    assert result.effective_points == pytest.approx(900 / (counts**2).sum())
    assert result.null.value == 3 / 8


def test_p_values_are_uniform_on_fresh_draws(planted):
    p, shares, variances = [], [], []
    for seed in range(500):
        data = planted(8, 40, seed)
        result = exchange(
            generated=data.fresh(), train=data.train, heldout=data.heldout, permutations=199
        )
        p.append(result.p_value)
        shares.append(result.value)
        variances.append(result.variance / 40**2)
    p = np.array(p)
    for level in (0.01, 0.05, 0.1):
        assert (p <= level).mean() <= level + 3 * (level / 500) ** 0.5
    assert (p <= 0.5).mean() == pytest.approx(0.5, abs=0.08)
    assert np.mean(shares) == pytest.approx(0.5, abs=4 * np.std(shares) / 500**0.5)
    # The variance has a relative error of about (2/500)^(1/2) over 500 data sets.
    assert np.var(shares) == pytest.approx(np.mean(variances), rel=0.2)


def test_the_deviation_is_not_binomial(planted):
    data = planted(32)
    result = exchange(generated=data.fresh(), train=data.train, heldout=data.heldout)
    # Over 120 data sets the share deviates by 0.021 (0.0014) and this formula says 0.0213 to
    # 0.0261; a binomial would say 0.0158.
    assert 0.0205 < result.variance**0.5 / 1000 < 0.027
    half = (result.null.interval.high - result.null.interval.low) / 2
    assert half == pytest.approx(1.96 * result.variance**0.5 / 1000, rel=0.1)


def test_copies(planted):
    data = planted(32)
    sets = {"train": data.train, "heldout": data.heldout}
    all_copied = exchange(generated=data.copies(), **sets)
    assert all_copied.value == 1
    assert all_copied.p_value == 1e-4
    assert (all_copied.scores == 0).all()
    some = exchange(generated=data.mixed(0.2), **sets)
    assert some.value == pytest.approx(0.6, abs=0.07)
    assert some.p_value < 0.01
    doubled = exchange(
        generated=data.copies(), train=torch.cat([data.train] * 2), heldout=data.heldout
    )
    assert (doubled.value, doubled.null.value) == (1, 2 / 3)
    assert doubled.p_value == 1e-4


def test_collapse_is_not_copying(planted):
    for seed in range(6):
        data = planted(8, 100, seed)
        result = exchange(generated=data.collapsed(), train=data.train, heldout=data.heldout)
        assert result.value in (0, 1)
        assert result.effective_points == 1
        assert result.p_value > 0.4


def test_unequal_sizes(planted):
    data = planted(4, 500)
    result = exchange(generated=data.fresh(), train=data.train, heldout=data.heldout[:100])
    assert result.null.value == pytest.approx(5 / 6)
    assert result.value in result.null.interval


def test_ties_are_broken_at_random(planted):
    # Every point is in both sets: no sample is nearer to one.
    data = planted(3, 400)
    result = exchange(generated=data.fresh(), train=data.train, heldout=data.train)
    assert result.ties == 400
    assert result.value == pytest.approx(0.5, abs=0.1)
    again = exchange(generated=data.train, train=data.train, heldout=data.train, seed=1)
    assert (again.scores == 1).all()


def test_bad_input(planted):
    data = planted(2, 20)
    sets = {"generated": data.fresh(), "train": data.train}
    with pytest.raises(ValueError, match="heldout must be given for the exchange test"):
        exchange(**sets)
    with pytest.raises(ValueError, match="permutations must be at least 1"):
        exchange(**sets, heldout=data.heldout, permutations=0)
