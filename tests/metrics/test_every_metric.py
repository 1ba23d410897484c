"""Every measurement on ready distances of every metric: none is shut out by a default.

Two truths decide. Brute force gives the statistics. And the cosine distance of points is half the
squared Euclidean distance of their unit vectors, so that what compares distances must find the
same in both, and what reads off their size must find it transformed.
"""

import inspect
import warnings

import numpy as np
import pytest
import torch

import memdiff.metrics
from memdiff.metrics import Distances, compete, exchangeability, fidelity, ratio

METRICS = ("euclidean", "cosine")
COPIES = 12


def make_sets(dim=5, sizes=(60, 80, 50), seed=0):
    """Points whose lengths say nothing: Euclidean neighbours are other ones than by the cosine."""
    generator = torch.Generator().manual_seed(seed)
    sets = {}
    for name, size in zip(("generated", "train", "heldout"), sizes, strict=True):
        points = torch.randn(size, dim, generator=generator, dtype=torch.float64)
        sets[name] = points * torch.exp(torch.randn(size, 1, generator=generator).double())
    sets["generated"][:COPIES] = sets["train"][:COPIES]
    return sets


def unit(sets):
    return {name: x / x.norm(dim=1, keepdim=True) for name, x in sets.items()}


# How scores by the cosine follow from those of unit vectors.


def same(scores):
    return scores


def halved_square(scores):  # lengths
    return scores**2 / 2


def square(scores):  # ratios of lengths
    return scores**2


# Name, arguments, the one metric that it is defined in, how scores follow, what must agree.
MEASUREMENTS = [
    ("authenticity", {}, None, square, ["value", "interval", "null", "indices"]),
    ("authenticity", {"group_duplicates": False}, None, square, ["value", "interval", "null"]),
    ("calibrated_l2", {"neighbors": 8}, "euclidean", None, []),
    (
        "copied_fraction",
        {},
        None,
        same,
        ["value", "interval", "null", "targets", "decoys", "both", "by_chance"],
    ),
    ("copied_fraction", {"ratio": 0.9}, None, same, ["value", "interval", "targets", "decoys"]),
    *(
        ("data_copying", {"cells": c, "min_share": 0.0}, None, same, ["value", "p_value", "cells"])
        for c in (1, 3)
    ),
    ("discoveries", {}, None, same, ["value", "interval", "flagged", "units", "ratio"]),
    ("extraction", {}, None, halved_square, ["value", "interval", "copied", "copies"]),
    ("extraction", {"threshold": 1e-9}, None, halved_square, ["value", "null", "copied"]),
    ("extraction", {"flagged": torch.arange(5)}, None, halved_square, ["value", "copied"]),
    ("fidelity", {}, None, same, ["value", "interval", "precision", "recall", "density"]),
    ("fld", {"epochs": 3}, None, None, []),
    ("local_exceedance", {}, None, square, ["value", "p_value", "rank", "hits", "effective"]),
    ("maximal_similarity", {}, "cosine", None, []),
    ("mifid", {}, "cosine", None, []),
    ("ratio", {"threshold": 1.0}, None, square, ["value", "interval", "null", "dimension"]),
    ("ratio", {"group_duplicates": False, "dimension": 4.0}, None, square, ["dimension"]),
    ("repeated_cell", {}, None, square, ["value", "p_value", "sample", "members"]),
    ("share_test", {}, None, same, ["value", "interval", "null", "p_value", "z"]),
    ("tail_test", {}, None, same, ["value", "interval", "null", "p_value", "cut", "ratio"]),
    ("tail_test", {"within": 1.0}, None, same, ["value", "p_value", "cut", "ratio", "cuts"]),
    ("tolerance_fraction", {"tolerances": 1e-9}, None, halved_square, ["value", "null"]),
    ("vendi", {"kernel": "cosine"}, None, same, ["value", "interval", "null"]),
    ("vendi", {"kernel": "rbf"}, None, None, []),
]


def title(case):
    return "-".join([case[0], *(str(value) for value in case[1].values())]).replace(" ", "")


def run(name, arguments, sets, metric):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # FLD says that samples are copies
        return getattr(memdiff.metrics, name)(
            distances=Distances(**sets, metric=metric), **arguments
        )


def test_the_table_holds_every_measurement_that_takes_distances():
    public = {
        name
        for name in memdiff.metrics.__all__
        if inspect.isfunction(getattr(memdiff.metrics, name))
        and "distances" in inspect.signature(getattr(memdiff.metrics, name)).parameters
    }
    assert public == {case[0] for case in MEASUREMENTS}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", MEASUREMENTS, ids=title)
def test_ready_distances_of_either_metric_are_measured_or_refused_for_a_reason(case, metric):
    name, arguments, only, _, _ = case
    if only not in (None, metric):
        with pytest.raises(ValueError, match=f"distances must have metric='{only}'"):
            run(name, arguments, make_sets(), metric)
        return
    result = run(name, arguments, make_sets(), metric)
    assert result.value == result.value
    assert result.scores.shape == (60,)


def assert_agree(found, expected):
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    elif hasattr(expected, "__dataclass_fields__"):
        for field in expected.__dataclass_fields__:
            assert_agree(getattr(found, field), getattr(expected, field))
    elif isinstance(expected, tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_agree(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize("case", [case for case in MEASUREMENTS if case[3]], ids=title)
def test_the_cosine_measures_what_unit_vectors_measure(case):
    """Catches a part of a measurement that is Euclidean whatever it is given."""
    name, arguments, _, follow, agreeing = case
    sets = make_sets()
    ours = run(name, arguments, sets, "cosine")
    theirs = run(name, arguments, unit(sets), "euclidean")
    assert_agree(ours.scores, follow(theirs.scores))
    for attribute in agreeing:
        assert_agree(getattr(ours, attribute), getattr(theirs, attribute))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["fld", "vendi"])
def test_what_reads_the_points_alone_does_not_ask_for_a_metric(name, metric):
    sets = make_sets()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected = getattr(memdiff.metrics, name)(**sets)
    assert_agree(run(name, {}, sets, metric), expected)


def brute_force(x, y, metric):
    x, y = x.numpy(), y.numpy()
    if metric == "euclidean":
        return np.linalg.norm(x[:, None] - y[None], axis=-1)
    lengths = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)
    return 1.0 - x @ y.T / lengths


@pytest.mark.parametrize("metric", METRICS)
def test_competition_against_brute_force(metric):
    """The competition itself, and the exchangeability of its pool, of which there is no metric."""
    sets = make_sets()
    ready = Distances(**sets, metric=metric)
    found = compete(ready)
    to_train, to_heldout = (
        brute_force(sets["generated"], sets[name], metric) for name in ("train", "heldout")
    )
    first, second = np.sort(np.concatenate([to_train, to_heldout], 1), axis=1)[:, :2].T
    lengths = np.abs(first / second) ** (0.5 if metric == "cosine" else 1.0)
    lengths[:COPIES] = 0.0
    np.testing.assert_allclose(found.ratios, lengths, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.target_share, to_train.min(1) < to_heldout.min(1))
    plain = exchangeability(Distances(**unit(sets)))
    if metric == "cosine":
        assert exchangeability(ready).agreement == plain.agreement
        assert exchangeability(ready).p_value == plain.p_value


def test_balls_of_the_cosine_against_brute_force():
    sets, k = make_sets(), 3
    result = fidelity(distances=Distances(**sets, metric="cosine"), neighbors=k)
    between = brute_force(sets["generated"], sets["train"], "cosine")
    radii = np.sort(brute_force(sets["train"], sets["train"], "cosine"), axis=1)[:, k]
    own = np.sort(brute_force(sets["generated"], sets["generated"], "cosine"), axis=1)[:, k]
    held = between <= radii + 1e-12
    assert result.coverage.value == held.any(0).mean()
    assert result.precision.value == held.any(1).mean()
    assert result.density.value == pytest.approx(held.sum() / (k * len(between)))
    assert result.recall.value == (between <= own[:, None] + 1e-12).any(0).mean()


@pytest.mark.parametrize("metric", METRICS)
def test_the_ratio_of_fresh_samples_is_what_chance_says(metric):
    """On a great sphere of dimension 2: k^2 for lengths, and k for the cosine."""
    generator = torch.Generator().manual_seed(0)
    sets = {
        name: torch.randn(2000, 3, generator=generator, dtype=torch.float64)
        for name in ("generated", "train")
    }
    result = ratio(distances=Distances(**unit(sets), metric=metric))
    assert result.dimension == pytest.approx(2.0, abs=0.15)
    assert result.chance == pytest.approx(1 / 9 if metric == "euclidean" else 1 / 3, abs=0.02)
    assert result.chance in result.interval


def test_parallel_points_have_no_say_in_the_dimension():
    train = make_sets()["train"]
    plain = ratio(distances=Distances(generated=train[:5], train=train, metric="cosine"))
    doubled = torch.cat([train, 2 * train])  # different points, no distance
    found = ratio(distances=Distances(generated=train[:5], train=doubled, metric="cosine"))
    assert plain.dimension is not None
    assert found.dimension is None and found.chance is None
