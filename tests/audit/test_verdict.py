"""The rule, branch by branch, on tests whose numbers are given."""

import math
from dataclasses import replace

import pytest
import torch

from memdiff.audit import DescriptorTest, decide
from memdiff.audit.verdict import NOT_EXCHANGEABLE, samples_needed, undecidable
from memdiff.metrics import Distances, copied_fraction, copying_tests, exchangeability

QUIET = DescriptorTest(
    p_copy=0.6,
    p_share=0.5,
    p_cell=1.0,
    p_exchangeable=0.4,
    copied=-0.01,
    copied_low=0.0,
    copied_high=0.004,
    ratio=1 / 3,
    flagged=0.0,
    repeated=0.0,
    nearer=0.52,
    nearer_expected=0.5,
    tail_ratio=0.6,
    upper_bound=0.006,
    upper_ratio=1 / 3,
)
COPIES = replace(
    QUIET,
    p_copy=1e-6,
    copied=0.1,
    copied_low=0.08,
    copied_high=0.12,
    flagged=0.09,
    upper_bound=0.12,
)


def verdict(*tests, level=0.05, resolution=0.01, samples=1000, **options):
    named = {f"feature {i}": test for i, test in enumerate(tests)}
    return decide(named, samples=samples, level=level, resolution=resolution, **options)


def test_p_value_of_a_descriptor():
    assert QUIET.p_value == 0.5
    assert replace(QUIET, p_copy=0.001).p_value == 0.001


# The four verdicts.


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "not detected"),
        ({"p_copy": 0.05, "copied_low": 0.001}, "memorizing"),
        ({"p_copy": 0.0501, "copied_low": 0.001}, "not detected"),
        ({"p_share": 0.05}, "overfitting"),
        ({"p_share": 0.0501}, "not detected"),
        # Both reject, and no copies stand out: samples follow train as a whole.
        ({"p_copy": 0.01, "p_share": 0.01}, "overfitting"),
        ({"p_copy": 0.01, "p_share": 0.01, "copied_low": 0.001}, "memorizing"),
        ({"p_copy": 0.01, "p_share": 0.01, "p_cell": 0.01}, "memorizing"),
        ({"p_copy": 0.01, "p_share": 0.01, "p_cell": 0.06}, "overfitting"),
        # The tests for copies alone: a few samples stand out, the rest are as fresh data.
        ({"p_copy": 0.01, "p_share": 0.06}, "memorizing"),
        # The share test rejects, and the interval excludes 0.
        ({"p_share": 0.01, "copied_low": 0.001}, "memorizing"),
        ({"upper_bound": 0.0101}, "inconclusive"),
        ({"upper_bound": 0.01}, "not detected"),
        ({"p_share": 0.01, "upper_bound": 0.9}, "overfitting"),
        ({"p_exchangeable": 0.01, "p_copy": 1e-9}, "inconclusive"),
        ({"p_exchangeable": 0.0101, "p_copy": 1e-9}, "memorizing"),
        ({"p_exchangeable": 0.01}, "inconclusive"),
    ],
    ids=str,
)
def test_branches(changes, name):
    assert verdict(replace(QUIET, **changes)).name == name


def test_the_resolution_belongs_to_the_bound():
    assert verdict(replace(QUIET, upper_bound=0.03)).name == "inconclusive"
    assert verdict(replace(QUIET, upper_bound=0.03), resolution=0.05).name == "not detected"


@pytest.mark.parametrize("level", [0.01, 0.2])
def test_the_level_is_the_one_that_was_asked_for(level):
    for p, name in ((level, "memorizing"), (1.01 * level, "not detected")):
        decision = verdict(replace(QUIET, p_copy=p, p_share=1.0, copied_low=0.01), level=level)
        assert (decision.name, decision.level, decision.p_value) == (name, level, p)


# Several descriptors.


@pytest.mark.parametrize("name", ["p_copy", "p_share", "p_cell", "p_exchangeable"])
def test_descriptors_share_the_level(name):
    """Each p-value counts as often as there are descriptors."""
    at = NOT_EXCHANGEABLE if name == "p_exchangeable" else 0.05
    base = {"p_cell": {"p_copy": 0.001, "p_share": 0.001}}.get(name, {})
    for descriptors in (1, 2, 3):
        quiet = [QUIET] * (descriptors - 1)
        within = verdict(*quiet, replace(QUIET, **base, **{name: at / descriptors}))
        beyond = verdict(*quiet, replace(QUIET, **base, **{name: 1.01 * at / descriptors}))
        assert within.name != beyond.name, descriptors


def test_the_descriptor_that_saw_copies_decides():
    """Not the one with the smallest p-value, if that saw no copies."""
    follows = replace(QUIET, p_share=1e-9)
    decision = verdict(follows, replace(COPIES, p_copy=0.001), replace(COPIES, p_copy=0.0001))
    assert decision.name == "memorizing" and decision.descriptor == "feature 2"
    assert decision.p_value == pytest.approx(3e-4)
    assert (decision.copied, decision.copied_low, decision.copied_high) == (0.1, 0.08, 0.12)
    assert "in the features feature 2 (p = 0.0003)" in decision.sentence
    assert verdict(QUIET, follows).descriptor == "feature 1"
    assert verdict(QUIET, QUIET).p_value == 1.0
    assert "in the features" not in verdict(COPIES).sentence


def test_the_bound_is_the_loosest_of_all_descriptors():
    loose = replace(QUIET, upper_bound=0.02, upper_ratio=0.1)
    for tests in ((QUIET, loose), (loose, QUIET)):
        decision = verdict(*tests)
        assert (decision.name, decision.upper_bound, decision.upper_ratio) == (
            "inconclusive",
            0.02,
            0.1,
        )
        assert "closer than 0.1 of the distance to the next point" in decision.sentence


def test_one_descriptor_in_which_the_sets_differ_takes_the_verdict():
    decision = verdict(COPIES, replace(COPIES, p_exchangeable=1e-6))
    assert decision.name == "inconclusive" and decision.p_value == 1.0
    (reason,) = decision.reasons
    assert reason == decision.sentence
    assert "not exchangeable in the features feature 1 (p = 2e-06)" in reason
    assert "no groups were given" in reason


# What was found before the tests.


def test_problems_come_before_everything():
    decision = verdict(COPIES, problems=["The held-out data are the training data."])
    assert decision.name == "inconclusive" and decision.p_value == 1.0
    assert decision.reasons == ("The held-out data are the training data.",)
    both = verdict(replace(COPIES, p_exchangeable=0.0), problems=["One."])
    assert len(both.reasons) == 2 and both.sentence == " ".join(both.reasons)


def test_doubts_take_an_absence_of_evidence_and_nothing_else():
    doubts = ["The split has leaked."]
    decision = verdict(QUIET, doubts=doubts)
    assert decision.name == "inconclusive" and decision.reasons == ()
    assert decision.sentence == "No sign of copying (p = 0.5). The split has leaked."
    assert decision.p_value == 0.5
    assert verdict(COPIES, doubts=doubts).name == "memorizing"
    assert verdict(replace(QUIET, p_share=0.01), doubts=doubts).name == "overfitting"


# Numbers and sentences.


def test_estimates_are_cut_at_zero():
    decision = verdict(QUIET)
    assert (decision.copied, decision.copied_low, decision.copied_high) == (0.0, 0.0, 0.004)
    assert decision.ratio == 1 / 3 and decision.resolution == 0.01


def test_copies_with_an_estimate():
    assert verdict(COPIES).sentence == (
        "An estimated 10.0% (8.0% to 12.0%) of the samples are copies of training points, closer "
        "than a third of the distance to the next point, beyond what falls on held-out points by "
        "chance (p = 1e-06)."
    )


def test_memorizing_with_an_interval_that_holds_0_says_why():
    cell = replace(QUIET, p_copy=0.01, p_cell=0.01, repeated=0.05, copied=0.05, copied_high=0.1)
    assert verdict(cell).sentence == (
        "One training point is copied again and again: 5.0% of the samples repeat it (p = 0.01). "
        "The interval of the copied fraction, 5.0% (0.0% to 10.0%), counts distinct training "
        "points and so includes 0."
    )
    few = replace(QUIET, p_copy=0.01, copied=0.006, copied_high=0.02, flagged=0.007)
    assert verdict(few).sentence == (
        "0.7% of the samples are flagged as copies of training points (p = 0.01). The interval "
        "of the copied fraction, 0.6% (0.0% to 2.0%) closer than a third of the distance to the "
        "next point, includes 0 since chance could account for any few of them."
    )
    slight = replace(QUIET, p_copy=0.01, copied=0.001, copied_high=0.01)
    assert verdict(slight).sentence == (
        "Some samples are closer to training points than chance allows, and the rest are not "
        "(p = 0.01). They are no copies closer than a third of the distance to the next point "
        "beyond chance, 0.1% (0.0% to 1.0%): look at the closest pairs, up to a ratio of 0.60."
    )
    for test in (cell, few, slight):
        assert verdict(test).name == "memorizing"


def test_overfitting_says_how_much_nearer():
    test = replace(QUIET, p_share=0.001, nearer=0.7, copied=0.002)
    assert verdict(test).sentence == (
        "The samples follow the training points: 70.0% of them are nearer to a training point "
        "than to any held-out point, where chance gives 50.0% (p = 0.001). No copies stand out "
        "closer than a third of the distance to the next point (0.2%, 0.0% to 0.4%)."
    )


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (1 / 3, "closer than a third of the distance to the next point"),
        (0.05, "closer than 0.05 of the distance to the next point"),
        (0.0, "to the last digit"),
    ],
)
def test_not_detected_says_at_which_closeness(ratio, words):
    assert verdict(replace(QUIET, upper_ratio=ratio)).sentence == (
        f"No sign of copying (p = 0.5). Copies {words} make up at most 0.60% of the samples, less "
        "than the resolution of 1.0%."
    )


def test_inconclusive_says_what_would_decide():
    few = replace(QUIET, upper_bound=0.05)
    sentence = verdict(few, samples=100).sentence
    assert "cannot exclude that 5.0% of the samples are copies closer than a third" in sentence
    assert "about 437 samples instead of 100" in sentence
    many = verdict(few, samples=5000).sentence
    assert "samples instead" not in many and "more held-out points would decide" in many


@pytest.mark.parametrize(
    ("p", "text"), [(0.0, "below 1e-300"), (1e-4, "0.0001"), (3.4e-7, "3e-07")]
)
def test_p_values_in_words(p, text):
    assert f"(p = {text})" in verdict(replace(COPIES, p_copy=p)).sentence


@pytest.mark.parametrize("resolution", [0.2, 0.05, 0.01, 0.001])
def test_the_samples_asked_for_bound_what_they_should(resolution):
    """Against the limit of the copied fraction itself, with no sample near to anything."""
    needed = samples_needed(resolution)
    # (1 - high)^m = (1 - 0.95)/4
    for m, within in ((needed, True), (needed - 1, False)):
        high = 1 - (0.05 / 4) ** (1 / m)
        assert (high <= resolution) == within
    if needed < 500:
        pool = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
        far = copied_fraction(
            generated=torch.full((needed, 4), 100.0), train=pool[:15], heldout=pool[15:]
        )
        assert far.interval.high == pytest.approx(resolution, rel=0.1)
        assert far.interval.high <= resolution


def test_without_held_out_data():
    options = {"samples": 50, "level": 0.05, "resolution": 0.01}
    decision = undecidable("There are no held-out data.", samples_on_train=0, **options)
    assert decision.name == "inconclusive" and decision.p_value == 1.0
    assert decision.sentence == "There are no held-out data." and len(decision.reasons) == 1
    assert (decision.copied_low, decision.copied_high, decision.upper_bound) == (0.0, 1.0, 1.0)
    copied = undecidable("There are no held-out data.", samples_on_train=7, **options)
    assert "7 of the 50 samples equal a training point in every value" in copied.sentence


def test_the_summary_takes_each_number_from_its_place():
    generator = torch.Generator().manual_seed(0)
    generated, train, heldout = torch.randn(3, 200, 8, generator=generator)
    generated[:20] = train[:20]
    generated[20:40] = train[33]
    ready = Distances(generated=generated, train=train, heldout=heldout)
    tests, split = copying_tests(ready), exchangeability(ready)
    found = DescriptorTest.of(tests, split)
    assert (found.p_copy, found.p_share, found.p_cell) == (
        tests.p_copy,
        tests.p_share,
        tests.p_cell,
    )
    assert found.p_exchangeable == split.p_value
    assert found.copied == tests.fraction.value > 0.1
    assert (found.copied_low, found.copied_high) == (
        tests.fraction.interval.low,
        tests.fraction.interval.high,
    )
    assert found.flagged == tests.list.value and found.repeated == tests.cell.value == 0.1
    assert (found.nearer, found.nearer_expected) == (tests.share.value, 0.5)
    assert found.tail_ratio == tests.tail.ratio
    assert found.upper_bound == tests.resolved.interval.high
    assert found.upper_ratio == tests.resolved.ratio
    assert all(math.isfinite(value) for value in vars(found).values())
