"""The rule, branch by branch, on tests whose numbers are given."""

from dataclasses import replace

import pytest

from memdiff.audit import DescriptorTest, decide
from memdiff.audit.verdict import heldout_needed, samples_needed
from memdiff.metrics import clopper_pearson

QUIET = DescriptorTest(
    p_distance=0.6,
    p_local=0.7,
    p_share=0.5,
    copied=-0.01,
    copied_low=-0.01,
    copied_high=0.004,
    upper_bound=0.006,
)


def verdict(*tests, level=0.05, resolution=0.01, samples=1000, reference=1000, has_heldout=True):
    return decide(
        {f"feature {i}": test for i, test in enumerate(tests)},
        samples=samples,
        reference=reference,
        has_heldout=has_heldout,
        level=level,
        resolution=resolution,
    )


def test_p_value_of_a_descriptor():
    assert QUIET.p_value == 1.0  # twice the smaller one is cut at 1
    assert replace(QUIET, p_share=0.01).p_value == 0.02
    assert replace(QUIET, p_distance=0.001, p_local=0.004).p_value == 0.008
    # Both exceedance tests have to reject.
    assert replace(QUIET, p_distance=1e-9).p_value == 1.0
    assert replace(QUIET, p_local=1e-9).p_value == 1.0
    # Without held-out data nothing is shared out, and no exchange test runs.
    alone = replace(QUIET, p_distance=0.03, p_local=0.04, p_share=None)
    assert alone.p_value == 0.04


@pytest.mark.parametrize(("p", "name"), [(0.025, "memorizing"), (0.02501, "not detected")])
def test_the_level_belongs_to_the_rejections(p, name):
    for test in (replace(QUIET, p_share=p), replace(QUIET, p_distance=p, p_local=p)):
        decision = verdict(test)
        assert decision.name == name
        assert decision.p_value == 2 * p
        assert decision.level == 0.05


def test_descriptors_share_the_level():
    seen = replace(QUIET, p_distance=0.01, p_local=0.01, upper_bound=0.02)
    assert verdict(seen).p_value == 0.02
    two = verdict(QUIET, seen)
    assert (two.name, two.p_value, two.descriptor) == ("memorizing", 0.04, "feature 1")
    assert "in the features feature 1" in two.sentence
    three = verdict(QUIET, QUIET, seen)
    assert three.p_value == pytest.approx(0.06)
    assert three.name == "inconclusive"  # the bound is the largest over descriptors
    assert three.upper_bound == 0.02


@pytest.mark.parametrize(("bound", "name"), [(0.01, "not detected"), (0.0101, "inconclusive")])
def test_without_evidence_the_bound_decides(bound, name):
    assert verdict(replace(QUIET, upper_bound=bound)).name == name
    assert verdict(replace(QUIET, upper_bound=bound), resolution=0.05).name == "not detected"


def test_evidence_comes_before_the_bound():
    assert verdict(replace(QUIET, p_share=0.001, upper_bound=0.0)).name == "memorizing"
    assert verdict(replace(QUIET, p_share=0.001, upper_bound=0.9)).name == "memorizing"


def test_estimates_are_cut_at_zero():
    decision = verdict(QUIET)
    assert (decision.copied, decision.copied_low, decision.copied_high) == (0.0, 0.0, 0.004)
    assert verdict(replace(QUIET, upper_bound=-0.001)).upper_bound == 0.0


def test_sentences_say_what_was_found():
    copies = replace(
        QUIET, p_distance=1e-6, p_local=1e-6, copied=0.1, copied_low=0.08, copied_high=0.12
    )
    assert verdict(copies).sentence == (
        "An estimated 10.0% of the samples (8.0% to 12.0%) are closer to the training data than "
        "held-out data would be (p = 2e-06)."
    )
    alone = replace(copies, p_share=None)
    assert "than the training data among themselves would be" in (
        verdict(alone, has_heldout=False).sentence
    )
    slight = verdict(replace(QUIET, p_share=0.001)).sentence
    assert "nearer to the training points than to held-out points" in slight
    assert "few of them are outright copies" in slight
    assert verdict(QUIET).sentence == (
        "No sign of copying (p = 1). These data allow a copied fraction of up to 0.60%, below the "
        "resolution of 1.0%."
    )


def test_inconclusive_says_what_would_decide():
    few = replace(QUIET, upper_bound=0.05)
    sentence = verdict(few, samples=100, reference=100).sentence
    assert "cannot exclude a copied fraction of 5.0%" in sentence
    assert "about 736 samples instead of 100 and about 800 held-out points instead of 100" in (
        sentence
    )
    assert "training or held-out" in (
        verdict(few, samples=100, reference=100, has_heldout=False).sentence
    )
    sentence = verdict(few, samples=5000, reference=100).sentence
    assert "samples instead" not in sentence and "800 held-out points instead of 100" in sentence
    assert "More samples and more held-out points" in (
        verdict(few, samples=5000, reference=5000).sentence
    )


@pytest.mark.parametrize("resolution", [0.2, 0.05, 0.01, 0.001])
def test_the_samples_asked_for_bound_what_they_should(resolution):
    needed = samples_needed(resolution)
    assert clopper_pearson(0, needed).high <= resolution / 2
    assert clopper_pearson(0, needed - 1).high > resolution / 2
    assert 1 / (heldout_needed(resolution) + 1) < resolution / 8
