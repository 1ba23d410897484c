"""Crossings and fits of the onset law, against least squares and planted laws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import linregress
from scipy.stats import t as student

from memdiff.experiments.power_law import crossing, fit_power_law


def test_without_censoring_it_is_least_squares_with_its_interval() -> None:
    generator = np.random.default_rng(0)
    sizes = np.repeat([16.0, 32.0, 64.0, 128.0], 4)
    times = np.exp(2.0 + 0.9 * np.log(sizes) + 0.2 * generator.standard_normal(16))
    law = fit_power_law(sizes.tolist(), times.tolist(), [1e9] * 16)
    known = linregress(np.log(sizes), np.log(times))
    half = student.ppf(0.975, 14) * known.stderr
    assert law is not None
    assert law.exponent == pytest.approx(known.slope, abs=1e-5)
    assert (law.low, law.high) == pytest.approx((known.slope - half, known.slope + half), abs=1e-5)
    assert law.at(50.0) == pytest.approx(np.exp(known.intercept) * 50.0**known.slope, rel=1e-4)


def test_censored_runs_are_not_dropped() -> None:
    # Of the largest size only the early runs are seen: dropping the others biases the exponent.
    generator = np.random.default_rng(1)
    sizes = np.repeat([16.0, 32.0, 64.0, 128.0], 6)
    fitted, dropped, covered = [], [], 0
    for _ in range(12):
        times = np.exp(2.0 + np.log(sizes) + 0.3 * generator.standard_normal(24))
        end = np.exp(2.0) * 128.0 * 0.85
        seen = [time if time < end else None for time in times.tolist()]
        law = fit_power_law(sizes.tolist(), seen, [end] * 24)
        assert law is not None
        assert law.censored == sum(one is None for one in seen)
        fitted.append(law.exponent)
        covered += law.low <= 1.0 <= law.high
        kept = [i for i, one in enumerate(seen) if one is not None]
        dropped.append(linregress(np.log(sizes[kept]), np.log(times[kept])).slope)
    assert abs(np.mean(fitted) - 1.0) < 0.06
    assert abs(np.mean(dropped) - 1.0) > 0.08
    assert covered >= 9


def test_no_exponent_is_made_up() -> None:
    assert fit_power_law([4, 4, 8, 8], [None] * 4, [10] * 4) is None
    assert fit_power_law([4, 4, 4, 8], [5.0, 5.0, 6.0, None], [10] * 4) is None


def test_crossing_is_that_of_the_rising_fit() -> None:
    # The single high value at 10 is noise: pooled with what follows it stays below the level.
    assert crossing([10, 20, 40, 80], [0.6, 0.0, 0.0, 1.0], 0.5) == pytest.approx(
        40.0 * 2.0 ** (0.3 / 0.8)
    )
    assert crossing([10, 20, 40], [0.0, 0.1, 0.2], 0.5) is None
    assert crossing([10, 20], [0.7, 0.9], 0.5) == 10.0
    assert crossing([100, 400], [0.0, 1.0], 0.5) == pytest.approx(200.0)
