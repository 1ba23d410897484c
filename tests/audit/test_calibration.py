"""The audit on planted truth: error rates on fresh draws, power on copies, and its own check."""

import json
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom

from memdiff.audit import AuditSettings, SelfCheck, audit, self_check
from memdiff.audit.planted.cases import CASES, LADDER
from memdiff.audit.planted.laws import (
    Blanks,
    Categorical,
    Digits,
    Gaussian,
    LargeColumn,
    Manifold,
    MixedTable,
    Mixture,
    Patients,
    StudentT,
    TwoClasses,
    TwoWidths,
    Windows,
    ZeroInflated,
)
from memdiff.audit.planted.models import (
    Collapse,
    Copies,
    Dropped,
    EditedCopies,
    Interpolation,
    Kernel,
    Scaled,
)
from memdiff.audit.planted.photographs import EDITS, Patches, edited
from memdiff.audit.planted.rounds import Round, rounds
from memdiff.audit.planted.row import Rate, examine_planted
from memdiff.audit.planted.sets import PlantedCase, generator_of

DRAWS = 36
LAWS = [Gaussian(), Mixture(), Manifold(), Digits(), StudentT()]
WRONG = ("memorizing", "overfitting")


def most(trials, level, chance=1e-4):
    """The number of rejections that a valid test exceeds with this chance."""
    return int(binom.isf(chance, trials, level))


def examined(case, seed, size=100, dimension=8):
    sizes = case.sizes or (size, size, size)
    one = Round(case, case.law.dimension or dimension, sizes, 1)
    return examine_planted(one, 77, seed)


def verdicts(case, draws, **options):
    return [examined(case, seed, **options)[1].decision.name for seed in range(draws)]


def named(case):
    return f"{case.name}-{case.law.name}".replace(" ", "_")


@pytest.fixture(
    scope="module",
    params=[
        PlantedCase("fresh", Gaussian()),
        # Ties: values that several points hold.
        PlantedCase("fresh", Categorical(), sizes=(100, 60, 150)),
        PlantedCase("fresh", ZeroInflated()),
        PlantedCase("fresh", LargeColumn(table=True)),
        PlantedCase("fresh", Patients(), groups=True),
    ],
    ids=named,
)
def fresh(request):
    """Everything that is measured on fresh draws of a law."""
    draws = [examined(request.param, seed)[1] for seed in range(DRAWS)]
    tests = [draw.evidence[0].tests for draw in draws]
    return {
        "tail": [one.tail.p_value for one in tests],
        "share": [one.share.p_value for one in tests],
        "exchangeable": [draw.evidence[0].exchangeability.p_value for draw in draws],
        "verdict": [draw.decision.name for draw in draws],
        "flagged": [len(draw.flagged) for draw in draws],
    }


@pytest.mark.slow
@pytest.mark.parametrize("test", ["tail", "share", "exchangeable"])
@pytest.mark.parametrize("level", [0.01, 0.05, 0.2])
def test_p_values_are_valid_on_fresh_draws(fresh, test, level):
    assert sum(p <= level for p in fresh[test]) <= most(DRAWS, level)


@pytest.mark.slow
def test_fresh_draws_are_not_accused(fresh):
    assert sum(name in WRONG for name in fresh["verdict"]) <= most(DRAWS, 0.05)
    assert sum(number > 0 for number in fresh["flagged"]) <= most(DRAWS, 0.05)


def test_the_share_test_is_uniform_and_not_only_valid():
    # Power is lost where a valid test hardly ever rejects.
    case = PlantedCase("fresh", Gaussian())
    p_values = [examined(case, s)[1].evidence[0].tests.share.p_value for s in range(40)]
    assert sum(p <= 0.2 for p in p_values) >= int(binom.isf(1 - 1e-4, 40, 0.2))
    assert 0.3 <= float(np.mean(p_values)) <= 0.7


@pytest.mark.parametrize(
    "case",
    [
        PlantedCase("copies", Gaussian(), Copies(0.1)),
        PlantedCase("copies of a shrunk model", Gaussian(), Copies(0.1, others=Scaled(0.7))),
        PlantedCase("copies", MixedTable(), Copies(0.1)),
    ],
    ids=named,
)
def test_the_false_discovery_rate_of_the_flagged_list(case):
    rates, found = [], []
    for seed in range(15):
        sets, result = examined(case, seed, size=200, dimension=32)
        flagged = torch.zeros(200, dtype=torch.bool)
        flagged[result.flagged] = True
        rates.append(int((flagged & ~sets.copied).sum()) / max(1, int(flagged.sum())))
        found.append(float(flagged[sets.copied].double().mean()))
    assert np.mean(rates) <= 0.1 + 3 * np.std(rates, ddof=1) / len(rates) ** 0.5
    assert np.mean(found) > 0.9


@pytest.mark.parametrize("repeats", [1, 2])
def test_one_percent_of_a_thousand_samples_in_32_dimensions(repeats):
    case = PlantedCase("one percent", Gaussian(), Copies(0.01, distinct=True), repeats=repeats)
    for seed in range(2):
        sets, result = examined(case, seed, size=1000, dimension=32)
        assert result.decision.name == "memorizing"
        assert bool(torch.isin(sets.copied.nonzero()[:, 0], result.flagged).all())
        assert result.decision.copied_low <= 0.01 <= result.decision.copied_high


@pytest.mark.parametrize(
    "case",
    [
        PlantedCase("collapse to 1", Gaussian(), Collapse(1)),
        PlantedCase("collapse to 5", Gaussian(), Collapse(5)),
        PlantedCase("collapse to 20 with spread", Gaussian(), Collapse(20, 0.3)),
        PlantedCase("shrunk", Gaussian(), Scaled(0.5)),
        PlantedCase("inflated", Gaussian(), Scaled(1.5)),
        PlantedCase("overlap", Gaussian(), overlap=0.2),
        PlantedCase("doubled training set", Gaussian(), repeats=2),
        PlantedCase("train without duplicates", Gaussian(), heldout_repeats=0.3),
        PlantedCase("one tight class only", TwoClasses(), Dropped((1,))),
        PlantedCase("windows", Windows()),
    ],
    ids=named,
)
def test_other_defects_are_no_memorisation(case):
    names = verdicts(case, 15, dimension=32)
    assert sum(name in WRONG for name in names) <= most(15, 0.05, 1e-3)


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_blank_frames_are_no_copies(share):
    names = verdicts(PlantedCase("blank frames", Blanks(share)), 8)
    assert sum(name in WRONG for name in names) <= most(8, 0.05, 1e-3)


@pytest.mark.parametrize(
    ("case", "size"),
    [
        (PlantedCase("patients, no groups", Patients()), 200),
        (PlantedCase("no held-out data", Gaussian(), Copies(0.2), heldout=False), 200),
        (PlantedCase("shifted", Gaussian(), shift=1.0), 200),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_sets_that_allow_no_verdict_get_none(case, size):
    assert verdicts(case, 6, size=size) == ["inconclusive"] * 6


@pytest.mark.parametrize(
    "case",
    [
        PlantedCase("doubled training set", Gaussian(), Copies(0.1), repeats=2),
        PlantedCase("overlap", Gaussian(), Copies(0.1), overlap=0.2),
        PlantedCase("heavy tails", StudentT(), Copies(0.1)),
        PlantedCase("curve", Manifold(), Copies(0.1)),
        PlantedCase("shrunk model", Gaussian(), Copies(0.1, others=Scaled(0.8))),
        PlantedCase("collapse", Gaussian(), Copies(0.1, distinct=True, others=Collapse(10))),
        PlantedCase("one training point", Gaussian(), Copies(0.1, sources=1)),
        PlantedCase("nothing but one training point", Gaussian(), Copies(1.0, sources=1)),
        PlantedCase("near copies", Gaussian(), Copies(0.1, 0.3)),
        PlantedCase("wide class", TwoWidths(), Copies(0.1, absolute=0.05, of_class=0)),
        PlantedCase("mixed table", MixedTable(), Copies(0.1)),
        PlantedCase("digits", Digits(), Copies(0.1)),
        PlantedCase("mirrored", Digits(), Copies(0.1, transform="flip"), invariance="flip"),
    ],
    ids=named,
)
def test_copies_are_found_whatever_else_is_wrong(case):
    assert verdicts(case, 3, size=200, dimension=32) == ["memorizing"] * 3


def test_samples_that_follow_the_training_points_are_no_copies():
    case = PlantedCase("all near", Gaussian(), Copies(1.0, 1.0))
    assert set(verdicts(case, 4, size=200, dimension=8)) <= set(WRONG)
    case = PlantedCase("interpolated", Gaussian(), Interpolation())
    assert set(verdicts(case, 3, size=200, dimension=8)) <= set(WRONG)


def test_a_kernel_density_is_memorising_then_overfitting_then_neither():
    names = [verdicts(case, 1, size=500)[0] for case in LADDER]
    order = ["memorizing", "overfitting", "inconclusive", "not detected"]
    steps = [order.index(name) for name in names]
    assert steps == sorted(steps) and steps[0] == 0


def test_forty_percent_near_copies_are_estimated_and_gated():
    (case,) = [case for case in CASES if case.estimate]
    for seed in range(3):
        sets, result = examined(case, seed, dimension=20)
        assert result.decision.name == "memorizing" and result.gate_failed
        assert 0.35 <= result.decision.copied <= 0.45
        assert len(result.flagged) >= 0.8 * int(sets.copied.sum())


def test_edited_copies_are_found_with_the_defaults():
    for edit in ("brightness", "mirrored"):
        case = PlantedCase(edit, Patches(), EditedCopies(edit, 15))
        assert verdicts(case, 1, size=150) == ["memorizing"]


@pytest.mark.parametrize(
    "case",
    [
        PlantedCase("copies", Gaussian(), Copies(0.05), repeats=2, overlap=0.1),
        PlantedCase("patients", Patients(), Copies(0.2), groups=True),
        PlantedCase("mirrored", Digits(), Copies(0.1, transform="flip"), invariance="flip"),
        PlantedCase("none held out", Mixture(), heldout=False),
    ],
    ids=named,
)
def test_what_is_calibrated_is_what_an_audit_runs(case):
    sets, result = examined(case, 7, size=160)
    whole = audit(
        generated=sets.generated,
        train=sets.train,
        heldout=sets.heldout,
        groups=sets.groups,
        invariance=case.invariance,
        fail_above=0.01,
        seed=7,
    )
    assert whole.decision == result.decision
    assert whole.settings == result.settings
    assert whole.gate_failed is result.gate_failed
    assert list(whole.flagged) == result.flagged.tolist()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_planted_sets_are_what_they_say(law):
    case = PlantedCase("all", law, Copies(0.25), repeats=2, overlap=0.5)
    sets, again = (case.draw((40, 40, 40), 8, generator_of("sets")) for _ in range(2))
    assert torch.equal(sets.generated.x, again.generated.x)
    train, heldout = sets.train.x.flatten(1), sets.heldout.x.flatten(1)
    is_copy = (sets.generated.x.flatten(1)[:, None] == train[None]).all(2).any(1)
    assert torch.equal(is_copy, sets.copied) and int(sets.copied.sum()) == 10
    assert torch.equal(train[:40], train[40:])
    assert torch.equal(heldout[:20], train[:20])
    assert not (heldout[20:][:, None] == train[None]).all(2).any()


def test_noise_is_in_units_of_the_neighbour_distance():
    case = PlantedCase("near", Gaussian(), Copies(1.0, 0.3))
    sets = case.draw((400, 400, 400), 32, generator_of("noise"))
    near = torch.cdist(sets.train.x, sets.train.x).fill_diagonal_(torch.inf).amin(1).median()
    moved = torch.cdist(sets.generated.x, sets.train.x).amin(1)
    assert float(moved.median() / near) == pytest.approx(0.3, rel=0.05)
    assert sets.width == pytest.approx(0.3)


def test_models_do_what_they_say():
    rng = generator_of("models")
    law = Mixture()
    fresh, train, _ = law.split((200, 200, 10), 4, rng)
    assert set(law.classes(Dropped((0, 3)).sample(law, fresh, train, rng).x)) == {0, 3}
    assert len(np.unique(Collapse(5).sample(law, fresh, train, rng).x, axis=0)) == 5
    shrunk = Scaled(0.5).sample(law, fresh, train, rng).x
    assert np.allclose(shrunk.std(0), 0.5 * fresh.std(0), rtol=1e-4)
    near, wide = (Kernel(place).sample(law, fresh, train, rng) for place in (0.0, 1.0))
    assert near.width == pytest.approx(0.1) and near.copied.all() and not wide.copied.any()
    # Between two points: nearer to both than they are to each other.
    x = Interpolation(1).sample(law, fresh, train, rng).x
    apart = torch.cdist(torch.tensor(x), torch.tensor(train)).sort(1).values
    between = torch.cdist(torch.tensor(train), torch.tensor(train)).fill_diagonal_(9e9).amin(1)
    assert float(apart[:, 0].max()) <= float(between.max())


def test_edits_change_images_and_keep_their_form():
    rng = generator_of("edits")
    images, others = Patches().draw(4, 0, rng), Patches().draw(4, 0, rng)
    for edit in EDITS:
        found = edited(images, edit, others, rng)
        assert found.shape == images.shape and found.dtype == np.uint8
        assert np.array_equal(found, images) is (edit == "exact")


def test_every_case_is_drawn():
    planned = list(rounds("full"))
    assert {id(one.case) for one in planned} == {id(case) for case in CASES}
    keys = [(one.case.name, one.case.law.name, one.dimension, one.sizes) for one in planned]
    assert len(set(keys)) == len(keys)
    # A case without copies has draws enough, over its sizes, to see three times the level.
    draws = Counter()
    for one in planned:
        if one.case.truth == "fresh":
            draws[one.case.name, one.case.law.name, one.dimension] += one.repetitions
    assert min(draws.values()) >= 20
    assert all(one.repetitions == 3 for one in rounds("quick", 3))


def test_small_cases_can_be_examined():
    for one in list(rounds("quick", 1))[::2]:
        if max(one.sizes) <= 200 and one.dimension == 2:
            sets, result = examine_planted(one, 5, 0)
            assert len(sets.copied) == one.sizes[0]
            assert result.decision.name == "inconclusive" or sets.heldout is not None


@pytest.fixture
def few(monkeypatch):
    """A self-check of a few rows."""
    cases = [
        PlantedCase("fresh", Gaussian()),
        PlantedCase("copies", Gaussian(), Copies(0.2), "copies", 0.9),
        PlantedCase("none", Gaussian(), truth="unfair", demanded=1.0, right=("inconclusive",)),
        PlantedCase("digits", Digits(), Copies(0.1), "copies"),
        *(LADDER[0], LADDER[-1]),
    ]
    plan = [Round(case, 8, (60, 60, 60), 3) for case in cases]
    # The package exports a function of the module's name.
    module = sys.modules["memdiff.audit.planted.checking"]
    monkeypatch.setattr(module, "rounds", lambda preset, repetitions: plan)
    return plan


def test_self_check_reports_every_case(few):
    stages = []
    check = self_check(seed=3, progress=lambda *stage: stages.append(stage))
    assert check.to_dict() == json.loads(json.dumps(check.to_dict()))
    assert [row.case for row in check.rows] == [one.case.name for one in few]
    for row in check.rows:
        assert sum(rate.hits for rate in row.verdicts.values()) == row.repetitions == 3
        for tests in row.rejections.values():
            assert {"tail", "share", "all", "exchangeability"} <= set(tests)
    assert set(check.rows[3].rejections) == {"pixels", "thumbnail:8"}
    assert check.rows[1].found > 0.5 and check.rows[0].found is None
    assert [done for _, done, _ in stages] == list(range(1, len(few) + 1))
    table = check.table()
    assert table.count("\n| copies |") == 1 and table.count("**") == 8
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1


def test_self_check_depends_on_nothing_but_its_seed(few):
    check = self_check(seed=3)
    few.reverse()
    again = self_check(seed=3, workers=2)
    assert again.rows == check.rows[::-1]
    assert self_check(seed=4).rows[0] != again.rows[0]


def test_self_check_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="preset must be 'quick' or 'full', got 'slow'"):
        self_check(preset="slow")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        self_check(repetitions=0)


def rates(hits, trials, name):
    found = dict.fromkeys(("memorizing", "overfitting", "not detected", "inconclusive"), 0)
    found |= {name: hits}
    found["inconclusive"] += trials - hits
    return {
        verdict: Rate.of([True] * number + [False] * (trials - number))
        for verdict, number in found.items()
    }


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"truth": "fresh", "verdicts": rates(10, 100, "memorizing")}, None),
        (
            {"truth": "fresh", "verdicts": rates(25, 100, "memorizing")},
            "called memorizing or overfitting in 25.0% of 100 draws, claimed at most 5%",
        ),
        ({"truth": "fresh", "verdicts": rates(25, 100, "overfitting")}, "claimed at most 5%"),
        ({"truth": "unfair", "verdicts": rates(25, 100, "overfitting")}, "claimed at most 5%"),
        ({"truth": "follows", "verdicts": rates(99, 100, "overfitting")}, None),
        ({"demanded": 0.9, "verdicts": rates(85, 100, "memorizing")}, None),
        (
            {"demanded": 0.9, "verdicts": rates(60, 100, "memorizing")},
            "expected at least 90%",
        ),
        (
            {"false_discoveries": 0.3, "false_discoveries_error": 0.01},
            "30.0% of the flagged samples are no copies",
        ),
        ({"estimated": Rate.of([False] * 100)}, "estimated within the limits in 0.0%"),
        ({"exact": True, "covered": Rate.of([False] * 100)}, "holds the truth in 0.0%"),
        (
            {"truth": "fresh", "rejections": {"pixels": {"tail": Rate.of([True] * 100)}}},
            "the tail test of pixels rejects in 100.0%",
        ),
    ],
)
def test_self_check_fails_where_the_audit_is_not_as_good_as_its_word(few, changes, problem):
    blank = {
        "truth": "copies",
        "repetitions": 100,
        "demanded": 0.0,
        "ladder": "",
        "covered": None,
        "exact": False,
        "rejections": {},
        "verdicts": rates(0, 100, "memorizing"),
        "false_discoveries": 0.0,
        "false_discoveries_error": 0.01,
    }
    del few[1:]
    row = replace(self_check(seed=3).rows[0], **(blank | changes))
    check = SelfCheck("quick", 0, AuditSettings(), (row,))
    assert check.passed is (problem is None)
    assert problem is None or problem in check.problems[0]


def test_a_ladder_that_rises_is_a_problem(few):
    del few[:4]
    first, last = self_check(seed=3).rows
    low = {"repetitions": 40, "verdicts": rates(0, 40, "memorizing")}
    high = {"repetitions": 40, "verdicts": rates(40, 40, "memorizing")}
    other = {"demanded": 0.0, "false_discoveries": 0.0, "rejections": {}, "covered": None}

    def check(one, two):
        rows = (replace(first, **one, **other), replace(last, **two, **other))
        return SelfCheck("quick", 0, AuditSettings(), rows)

    assert check(high, low).passed
    assert "more often than kernel density, step 0" in check(low, high).problems[0]
