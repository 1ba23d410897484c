"""The audit on planted truth: error rates on fresh draws, power on copies."""

import json
from dataclasses import replace

import pytest
import torch
from scipy.stats import binom

from memdiff.audit import AuditSettings, audit, self_check
from memdiff.audit.planted import (
    Digits,
    Gaussian,
    Manifold,
    Mixture,
    PlantedCase,
    StudentT,
    generator_of,
)
from memdiff.audit.self_check import LEVELS, Rate, SelfCheck, examine

DRAWS = 500
LAWS = {law.name: law for law in (Gaussian(), Mixture(), Manifold(), Digits(), StudentT())}


def most(trials, level, chance=1e-4):
    """The number of rejections that a valid test exceeds with this chance."""
    return int(binom.isf(chance, trials, level))


def examined(case, seed, size=100, dimension=8):
    sets = case.draw(size, dimension, generator_of("tests", case.name, case.law.name, seed))
    return sets, examine(sets, AuditSettings(invariance=case.invariance, seed=seed))


def memorizing(case, draws, **options):
    names = [examined(case, seed, **options)[1].verdict.name for seed in range(draws)]
    return names.count("memorizing")


@pytest.fixture(scope="module", params=["Gaussian", "mixture", "manifold", "digits"])
def fresh(request):
    """Everything that is measured on fresh draws of a law, with held-out data."""
    case = PlantedCase("fresh", LAWS[request.param])
    p_values = {"exchange": [], "exceedance": [], "local": [], "verdict": []}
    conformal, verdicts = [], []
    for seed in range(DRAWS):
        _, result = examined(case, seed)
        summary = result.tests.summary
        p_values["exchange"].append(summary.p_share)
        p_values["exceedance"].append(summary.p_distance)
        p_values["local"].append(summary.p_local)
        p_values["verdict"].append(result.verdict.p_value)
        conformal.append(result.tests.flags.p_values)
        verdicts.append(result.verdict.name)
    return p_values, torch.stack(conformal), verdicts


@pytest.mark.slow
@pytest.mark.parametrize("test", ["exchange", "exceedance", "local", "verdict"])
@pytest.mark.parametrize("level", LEVELS)
def test_p_values_are_valid_on_fresh_draws(fresh, test, level):
    rejected = sum(p <= level for p in fresh[0][test])
    assert rejected <= most(DRAWS, level)  # at 500 draws: 15, 45 and 77 rejections


@pytest.mark.slow
def test_the_exchange_test_is_uniform_not_only_valid(fresh):
    # Power is lost where a valid test hardly ever rejects. Conservative by its steps alone.
    p_values = torch.tensor(fresh[0]["exchange"])
    assert int((p_values <= 0.1).sum()) >= int(binom.isf(1 - 1e-4, DRAWS, 0.1)) - 5
    assert 0.45 <= float(p_values.mean()) <= 0.56


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_conformal_p_values_are_valid_on_fresh_draws(fresh, level):
    # Samples of a draw share their held-out points: the error is that of the mean over draws.
    shares = (fresh[1] <= level + 1e-9).to(torch.float64).mean(1)
    assert float(shares.mean()) <= level + 4 * float(shares.std()) / DRAWS**0.5


@pytest.mark.slow
def test_the_false_positive_rate_of_the_verdict(fresh):
    assert fresh[2].count("memorizing") <= most(DRAWS, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["Gaussian", "mixture", "manifold", "digits"])
def test_the_false_positive_rate_without_heldout_data(law):
    case = PlantedCase("fresh, no held-out data", LAWS[law], heldout=False)
    assert memorizing(case, DRAWS) <= most(DRAWS, 0.05)


@pytest.mark.slow
def test_fresh_draws_of_a_curve_at_a_size_where_chance_pairs_abound():
    # A quarter of these were called memorising while near pairs left the held-out data.
    case = PlantedCase("curve", Manifold())
    assert memorizing(case, 40, size=1000, dimension=2) <= most(40, 0.05)


@pytest.mark.parametrize(
    "case",
    [
        PlantedCase("copies", Gaussian(), copied=0.1),
        PlantedCase("copies", Mixture(), copied=0.1),
        PlantedCase("copies of a shrunk model", Gaussian(), copied=0.1, scale=0.7),
        PlantedCase("copies, none held out", Gaussian(), copied=0.1, heldout=False),
    ],
    ids=lambda case: f"{case.name}-{case.law.name}",
)
def test_the_false_discovery_rate_of_the_flagged_list(case):
    rates, found = [], []
    for seed in range(60):
        sets, result = examined(case, seed, dimension=32)
        flagged = result.tests.flags.flagged
        rates.append(int((flagged & ~sets.copied).sum()) / max(1, int(flagged.sum())))
        found.append(float(flagged[sets.copied].to(torch.float64).mean()))
    rates = torch.tensor(rates, dtype=torch.float64)
    assert float(rates.mean()) <= 0.1 + 3 * float(rates.std()) / len(rates) ** 0.5
    assert sum(found) / len(found) > 0.9


@pytest.mark.parametrize("repeats", [1, 2])
def test_one_percent_of_a_thousand_samples_in_32_dimensions(repeats):
    case = PlantedCase("one percent", Gaussian(), copied=0.01, repeats=repeats)
    for seed in range(4):
        sets, result = examined(case, seed, size=1000, dimension=32)
        assert result.verdict.name == "memorizing"
        assert bool(result.tests.flags.flagged[sets.copied].all())
        assert result.verdict.copied_low <= 0.01 <= result.verdict.copied_high


@pytest.mark.parametrize(
    "case",
    [
        PlantedCase("collapse to 1", Gaussian(), points=1),
        PlantedCase("collapse to 5", Gaussian(), points=5),
        PlantedCase("collapse to 20", Gaussian(), points=20),
        PlantedCase("collapse to 5 with spread", Gaussian(), points=5, spread=0.3),
        PlantedCase("collapse to 5, none held out", Gaussian(), points=5, heldout=False),
        PlantedCase("collapse to 5", Digits(), points=5),
        PlantedCase("shrunk", Gaussian(), scale=0.8),
        PlantedCase("shrunk a lot", Gaussian(), scale=0.5),
        PlantedCase("shrunk, none held out", Gaussian(), scale=0.8, heldout=False),
        PlantedCase("inflated", Gaussian(), scale=1.5),
        PlantedCase("overlap", Gaussian(), overlap=0.2),
        PlantedCase("doubled training set", Gaussian(), repeats=2),
        PlantedCase("invariance", Digits(), invariance="flip"),
    ],
    ids=lambda case: f"{case.name}-{case.law.name}",
)
def test_other_defects_are_no_memorisation(case):
    # Valid at 5 %; collapse to 5 points, taken for independent samples, came to 20 %.
    assert memorizing(case, 60, dimension=32) <= most(60, 0.05, 1e-3)


@pytest.mark.parametrize(
    "case",
    [
        PlantedCase("doubled training set", Gaussian(), copied=0.1, repeats=2),
        PlantedCase("overlap", Gaussian(), copied=0.1, overlap=0.2),
        PlantedCase("none held out", Gaussian(), copied=0.1, heldout=False),
        PlantedCase("heavy tails", StudentT(), copied=0.1),
        PlantedCase("curve", Manifold(), copied=0.1),
        PlantedCase("shrunk model", Gaussian(), copied=0.1, scale=0.8),
        PlantedCase("one training point", Gaussian(), copied=0.1, sources=1),
        PlantedCase("all of few training points", Gaussian(), copied=1.0, sources=5),
        PlantedCase("near copies", Gaussian(), copied=0.1, noise=0.3),
        PlantedCase("all near", Gaussian(), copied=1.0, noise=1.0),
        PlantedCase("digits", Digits(), copied=0.1),
        PlantedCase("mirrored", Digits(), copied=0.1, transform="flip", invariance="flip"),
    ],
    ids=lambda case: f"{case.name}-{case.law.name}",
)
def test_copies_are_found_whatever_else_is_wrong(case):
    assert memorizing(case, 8, size=200, dimension=32) == 8


def test_mirrored_copies_are_not_seen_without_the_invariance():
    case = PlantedCase("mirrored, off", Digits(), copied=0.1, transform="flip")
    assert memorizing(case, 20, size=200) <= 4


def test_overlap_is_taken_out_before_it_hides_copies():
    case = PlantedCase("overlap", Gaussian(), copied=0.1, overlap=0.2)
    _, result = examined(case, 0, size=200, dimension=32)
    assert result.distances.size("heldout") == 160


def test_the_bound_holds_the_copies_that_went_unseen():
    # The bound is a 97.5 % limit of the share closer than every reference point.
    case = PlantedCase("one copy", Gaussian(), copied=0.01)
    missed = 0
    for seed in range(60):
        _, result = examined(case, seed, dimension=32)
        missed += result.verdict.upper_bound < 0.01
    assert missed <= most(60, 0.025)


@pytest.mark.parametrize(
    ("case", "dimension"),
    [
        (PlantedCase("copies", Gaussian(), copied=0.05, repeats=2, overlap=0.1), 8),
        (PlantedCase("none held out", Mixture(), heldout=False), 8),
        (PlantedCase("mirrored", Digits(), copied=0.1, transform="flip", invariance="flip"), 64),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_is_calibrated_is_what_an_audit_runs(case, dimension):
    sets, result = examined(case, 7, size=150, dimension=dimension)
    whole = audit(
        generated=sets.generated,
        train=sets.train,
        heldout=sets.heldout,
        invariance=case.invariance,
        seed=7,
    )
    assert whole.decision == result.verdict
    (evidence,) = whole.evidence
    assert evidence.test == result.tests.summary
    assert torch.equal(evidence.flags.p_values, result.tests.flags.p_values)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_planted_sets_are_what_they_say(law):
    case = PlantedCase("all", law, copied=0.25, repeats=2, overlap=0.5)
    sets = case.draw(40, 8, generator_of("sets"))
    again = case.draw(40, 8, generator_of("sets"))
    assert torch.equal(sets.generated, again.generated)
    train, generated = sets.train.flatten(1), sets.generated.flatten(1)
    is_copy = (generated[:, None] == train[None]).all(2).any(1)
    assert torch.equal(is_copy, sets.copied) and int(sets.copied.sum()) == 10
    assert torch.equal(sets.train[:40], sets.train[40:])
    assert torch.equal(sets.heldout[:20], sets.train[:20])
    assert not (sets.heldout[20:].flatten(1)[:, None] == train[None]).all(2).any()


def test_noise_is_in_units_of_the_neighbour_distance():
    case = PlantedCase("near", Gaussian(), copied=1.0, noise=0.3)
    sets = case.draw(400, 32, generator_of("noise"))
    near = torch.cdist(sets.train, sets.train).fill_diagonal_(torch.inf).amin(1).median()
    moved = torch.cdist(sets.generated, sets.train).amin(1)
    assert float(moved.median() / near) == pytest.approx(0.3, rel=0.05)


@pytest.fixture(scope="module")
def quick():
    return self_check(seed=3, repetitions=1)


def test_self_check_reports_every_case(quick):
    assert quick.to_dict() == json.loads(json.dumps(quick.to_dict()))
    assert {row.dimension for row in quick.rows} == {2, 32, 64}
    for row in quick.rows:
        assert sum(rate.hits for rate in row.verdicts.values()) == row.repetitions == 1
        assert ("exchange" in row.rejections) is row.heldout
    table = quick.table()
    assert table.count("\n| exact copies 100 %") == 2
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1


def test_self_check_depends_on_nothing_but_its_seed(quick):
    stages = []
    again = self_check(seed=3, repetitions=1, progress=lambda *stage: stages.append(stage))
    assert again == quick
    assert [done for _, done, _ in stages] == list(range(1, len(quick.rows) + 1))
    with pytest.raises(ValueError, match="preset must be 'quick' or 'full', got 'slow'"):
        self_check(preset="slow")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        self_check(repetitions=0)


@pytest.mark.parametrize(
    ("memorizes", "rates", "demanded", "discoveries", "problem"),
    [
        (False, (10, 100), 0.0, 0.0, None),
        (
            False,
            (25, 100),
            0.0,
            0.0,
            "called memorizing in 25.0% of 100 draws, claimed at most 5%",
        ),
        (True, (85, 100), 0.9, 0.0, None),
        (True, (60, 100), 0.9, 0.0, "expected at least 90%"),
        (True, (100, 100), 0.9, 0.3, "30.0% of the flagged samples are no copies"),
    ],
)
def test_self_check_fails_where_the_audit_is_not_as_good_as_its_word(
    quick, memorizes, rates, demanded, discoveries, problem
):
    hits, trials = rates
    row = replace(
        quick.rows[0],
        memorizes=memorizes,
        demanded=demanded,
        verdicts={"memorizing": Rate.of([True] * hits + [False] * (trials - hits))},
        false_discoveries=discoveries,
        false_discoveries_error=0.02,
    )
    check = SelfCheck("quick", 0, AuditSettings(), (row,))
    assert check.passed is (problem is None)
    assert problem is None or problem in check.problems[0]
