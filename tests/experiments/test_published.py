"""Published values, and what agreement with them means."""

import json
from importlib import resources

import numpy as np
import pytest

from memdiff.experiments.published import (
    READING_ERROR,
    allowed_difference,
    compare_sweep,
    published,
)


def test_every_number_of_the_file_is_reachable():
    raw = json.loads((resources.files("memdiff.experiments") / "published.json").read_text())
    values = published()
    closed, network = raw["closed_form"], raw["network"]
    assert list(values.tikhonov.values) == closed["tikhonov_figure"]["c"]
    assert list(values.tikhonov.fraction) == closed["tikhonov_figure"]["fraction"]
    assert list(values.empirical_bayes.values) == closed["empirical_bayes_figure"]["floor"]
    assert list(values.empirical_bayes.fraction) == closed["empirical_bayes_figure"]["fraction"]
    assert values.empirical_bayes.convention == "kernel_sum"
    assert (values.tikhonov.t_end, values.empirical_bayes.t_end) == (0.0, 1e-6)
    assert values.unregularised == {"VE": 1.0, "VP": 1.0}
    table = network["singularity_table"]
    without = [list(row) for row in values.network.without_singularity]
    assert without == table["without"] and np.shape(without) == (4, 10)
    assert [list(row) for row in values.network.with_singularity] == table["with"]
    assert list(values.network.steps) == table["steps"]
    figure = [list(row) for row in values.network.tikhonov_fraction]
    assert figure == network["tikhonov_figure"]["fraction_by_tolerance"]


@pytest.mark.parametrize("fraction", [0.0, 0.004, 0.135, 0.5, 0.99, 1.0])
def test_equal_fractions_agree_and_different_ones_do_not(fraction):
    """Two samples from one distribution: the tolerance less the reading error covers them."""
    random = np.random.default_rng(0)
    for num in (200, 1000):
        ours = random.binomial(num, fraction, 20_000) / num
        theirs = random.binomial(1000, fraction, 20_000) / 1000
        allowed = np.array([allowed_difference(q, num) for q in np.unique(theirs)])
        allowed = allowed[np.searchsorted(np.unique(theirs), theirs)] - READING_ERROR
        assert (np.abs(ours - theirs) > allowed).mean() < 0.006
        far = fraction + (0.25 if fraction <= 0.5 else -0.25)
        ours = random.binomial(num, far, 20_000) / num
        assert (np.abs(ours - theirs) > allowed + READING_ERROR).mean() > 0.99


def test_compare_sweep_judges_every_point():
    sweep = published().tikhonov
    good = compare_sweep(sweep.fraction, sweep, num=1000)
    assert good.within and not any(good.difference) and "1000 samples here" in good.tolerance
    for index, allowed in enumerate(good.allowed):
        measured = list(sweep.fraction)
        measured[index] += allowed * 1.01
        bad = compare_sweep(measured, sweep, num=1000)
        assert not bad.within and bad.difference[index] == pytest.approx(allowed * 1.01)
    with pytest.raises(ValueError, match=r"measured has 2 values.*has 9"):
        compare_sweep([0.0, 1.0], sweep, num=1000)
