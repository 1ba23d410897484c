"""Decimals of a column: rounding gives the floats that the decimals are read as."""

import numpy as np
import pytest

from memdiff.data.decimals import decimals_of, round_to


@pytest.mark.parametrize("decimals", range(9))
def test_decimals_that_were_written_are_found_and_restored(decimals):
    rng = np.random.default_rng(decimals)
    values = np.array([float(f"{v:.{decimals}f}") for v in rng.normal(size=5000) * 1000])
    assert decimals_of(values) == decimals
    noisy = values + rng.uniform(-0.4, 0.4, 5000) * 10.0**-decimals
    assert np.array_equal(round_to(noisy, decimals), values)


def test_numbers_without_an_end_have_none():
    assert decimals_of(np.random.default_rng(0).normal(size=50)) is None
    assert decimals_of(np.array([1.0, 2.5, 1 / 3])) is None
    assert decimals_of(np.array([0.1, 1e300])) is None
    assert decimals_of(np.array([2.0**40, -7.0])) == 0


def test_one_value_of_many_decides():
    values = np.ones(100_000)
    values[77_777] = 0.125
    assert decimals_of(values) == 3


def test_zero_has_no_sign():
    assert not np.signbit(round_to(np.array([-1e-9]), 3))[0]
