"""Schedules of averaged weights."""

import pytest

from memdiff.training.averages import LinearWarmup, PowerWarmup


def test_power_warmup() -> None:
    schedule = PowerWarmup()
    assert schedule.decay_at(5) is None
    assert schedule.decay_at(100) == 0.0
    assert schedule.decay_at(110) == pytest.approx(1 - 11 ** (-2 / 3))
    assert schedule.decay_at(2_000_000) == 0.9999
    assert PowerWarmup(decay=0.99, every=1, after=0, power=0.0).decay_at(7) == 0.99


def test_linear_warmup_averages_over_a_ninth_of_the_steps() -> None:
    """Weights that are the number of their step: their average lags by a tenth of the steps."""
    average = 0.0
    for step in range(5000):
        keep = LinearWarmup().decay_at(step)
        average = keep * average + (1 - keep) * (step + 1)
    assert average == pytest.approx(0.9 * 5000, rel=0.01)
    assert LinearWarmup(0.9).decay_at(5000) == 0.9


def test_bad_decays_are_refused() -> None:
    for bad in (lambda: PowerWarmup(decay=1.0), lambda: LinearWarmup(1.0)):
        with pytest.raises(ValueError, match="decay must lie in"):
            bad()
