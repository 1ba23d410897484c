"""All tests of copying on one competition: how the level is shared, and what fresh data give.

The cases without copies are those on which the released audit said "memorizing" in 33 to 100 % of
the draws: blank frames, categories with more held-out points, columns in thousands, zero-inflated
tables, duplicates, collapse, patients.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from competing import FRESH, distances, fresh_distances
from scipy.stats import binom

from memdiff.metrics import compete, copied_fraction, copying_tests

DRAWS = 25


def gaussian(seed=0, copies=0, n=120, h=120, m=120, dim=12):
    rng = np.random.default_rng(seed)
    generated, train, heldout = (rng.standard_normal((size, dim)) for size in (m, n, h))
    generated[:copies] = train[:copies]
    return distances(generated, train, heldout)


@pytest.fixture(scope="module", params=FRESH, ids=lambda case: case.__name__)
def fresh(request):
    return [
        copying_tests(fresh_distances(request.param, seed), seed=seed, resolution=0.05)
        for seed in range(DRAWS)
    ]


def most(level, draws=DRAWS, chance=1e-3):
    """What a valid test exceeds with this chance."""
    return binom.isf(chance, draws, level)


@pytest.mark.parametrize("level", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("name", ["tail", "share"])
def test_the_exact_tests_reject_fresh_draws_as_often_as_stated(fresh, name, level):
    p_values = np.array([getattr(one, name).p_value for one in fresh])
    assert (p_values <= level).sum() <= most(level)


def test_all_together_reject_fresh_draws_as_often_as_stated(fresh):
    """Local exceedance and repeated cell under their assumptions, which these cases strain."""
    for name in ("p_copy", "p_share", "p_value"):
        assert sum(getattr(one, name) <= 0.05 for one in fresh) <= most(0.05), name


def test_fresh_draws_have_intervals_that_hold_0_and_empty_lists(fresh):
    assert sum(one.fraction.interval.low > 0 for one in fresh) <= most(0.025)
    assert sum(bool(one.list.flagged.any()) for one in fresh) <= most(0.1)


def test_the_closeness_of_the_bound_leaves_room_for_the_resolution(fresh):
    for one in fresh:
        assert one.resolved.ratio <= one.fraction.ratio == pytest.approx(1 / 3)
        allowed = 0.25 * 0.05 * one.competition.samples
        chance = one.resolved.by_chance
        assert chance <= allowed or one.resolved.ratio == 0.0


def test_the_level_is_shared_among_the_tests():
    """Two fifths for the tail, a fifth for each other; the parts add up to one."""
    found = copying_tests(gaussian())
    p_values = dict.fromkeys(("tail", "share", "local", "cell"), 1.0)

    def combined(**given):
        parts = {
            name: replace(getattr(found, name), p_value=p)
            for name, p in {**p_values, **given}.items()
        }
        return replace(found, **parts)

    assert combined(tail=0.02).p_copy == pytest.approx(0.05)
    assert combined(local=0.01).p_copy == pytest.approx(0.05)
    assert combined(cell=0.01).p_copy == combined(cell=0.01).p_cell == pytest.approx(0.05)
    assert combined(share=0.01).p_share == pytest.approx(0.05)
    assert combined(share=0.01).p_copy == 1.0 and combined(tail=0.01).p_share == 1.0
    assert combined(tail=0.01, share=0.001).p_value == pytest.approx(0.005)
    assert combined(tail=0.9).p_copy == 1.0
    alone = replace(combined(tail=0.02), local=None, cell=None)
    assert alone.p_copy == pytest.approx(0.05) and alone.p_cell == 1.0


def test_held_out_points_of_one_group_leave_two_tests():
    rng = np.random.default_rng(0)
    groups = {"train": torch.arange(50), "heldout": torch.zeros(40, dtype=torch.int64)}
    found = copying_tests(
        distances(
            *rng.standard_normal((3, 50, 4))[:2], rng.standard_normal((40, 4)), groups=groups
        )
    )
    assert found.local is None and found.cell is None
    assert found.competition.heldout_units == 1 and found.p_cell == 1.0
    assert 0 < found.p_value <= 1


def test_all_parts_speak_of_one_competition():
    ready = gaussian(copies=12)
    found = copying_tests(ready, rate=0.2)
    assert found.tail.p_value < 0.001 and found.list.rate == 0.2
    assert found.fraction == replace(
        copied_fraction(competition=compete(ready)), scores=found.fraction.scores
    )
    assert found.list.flagged[:12].all()
    for one in (found.share, found.fraction, found.list):
        assert torch.equal(one.scores, found.tail.scores)
    other = compete(gaussian(seed=1))
    assert copying_tests(ready, competition=other).competition is other


@pytest.mark.parametrize("seed", range(4))
def test_copies_among_few_held_out_points_are_seen_by_the_local_exceedance(seed):
    found = copying_tests(gaussian(seed, copies=20, n=3000, h=200, m=400))
    assert found.p_copy <= 0.05 < 2.5 * found.tail.p_value


@pytest.mark.parametrize("seed", range(4))
def test_one_point_copied_often_is_seen_by_the_repeated_cell(seed):
    generated, train, heldout = np.random.default_rng(seed).standard_normal((3, 300, 12))
    generated[:15] = train[7]
    found = copying_tests(distances(generated, train, heldout))
    assert found.p_cell <= 0.05 < min(2.5 * found.tail.p_value, found.p_share)
    assert found.cell.members.nonzero()[:, 0].tolist() == list(range(15))


@pytest.mark.parametrize("seed", range(4))
def test_samples_that_follow_as_a_whole_are_seen_by_the_share_test(seed):
    rng = np.random.default_rng(seed)
    generated, train, heldout = rng.standard_normal((3, 300, 12))
    found = copying_tests(distances(train + generated, train, heldout))
    assert found.p_share <= 0.05 and found.p_cell == 1.0
