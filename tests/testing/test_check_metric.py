"""The suite accepts every metric of the library and names planted defects."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch

from memdiff.metrics import (
    Authenticity,
    Distances,
    MetricResult,
    Null,
    authenticity,
    calibrated_l2,
    clopper_pearson,
    copied_fraction,
    data_copying,
    discoveries,
    extraction,
    fidelity,
    fld,
    local_exceedance,
    maximal_similarity,
    mifid,
    ratio,
    repeated_cell,
    share_test,
    tail_test,
    tolerance_fraction,
    vendi,
)
from memdiff.testing import check_metric


@pytest.fixture(scope="module")
def sets():
    generator = torch.Generator().manual_seed(0)
    fresh, train, heldout = torch.randn(3, 120, 8, generator=generator)
    return {"generated": fresh, "train": train, "heldout": heldout}


# k-means starts from random points of train, FLD halves it at random.
UNORDERED = {"train_order": False}
METRICS = [
    (authenticity, "low", "low", {}),
    (partial(calibrated_l2, neighbors=10), "high", "low", {}),
    (copied_fraction, "high", "low", {}),
    (partial(copied_fraction, ratio=0.7), "high", "low", {}),
    (data_copying, "low", "low", UNORDERED),
    (partial(data_copying, cells=1), "low", "low", {}),
    (discoveries, "high", "low", {}),
    (extraction, "high", "low", {}),
    (fidelity, None, None, {}),
    (partial(fld, epochs=10), "high", "high", UNORDERED),
    (partial(maximal_similarity, threshold=0.9), "high", "high", {}),
    (mifid, "high", "low", {"fresh_tolerance": 1.0}),  # FID of so few points has no digits
    (local_exceedance, "high", "low", {}),
    (ratio, "high", "low", {}),
    (repeated_cell, None, "low", {}),  # none of the samples repeats
    (share_test, "high", "low", {}),
    (tail_test, "high", "low", {}),
    (partial(tail_test, within=1.0), "high", "low", {}),
    (partial(tolerance_fraction, tolerances=0.5), "high", "low", {}),
    (vendi, None, None, {}),
    (partial(vendi, kernel="rbf"), None, None, {}),
]


@pytest.mark.filterwarnings("ignore:(FLD|gap) is")
@pytest.mark.parametrize(
    ("metric", "value", "scores", "options"),
    METRICS,
    ids=[str(getattr(row[0], "func", row[0]).__name__) for row in METRICS],
)
def test_accepts_the_metrics_of_the_library(metric, value, scores, options, sets):
    check_metric(metric, **sets, value=value, scores=scores, **options)


def by_position(generated=None, train=None, heldout=None):
    return authenticity(generated=generated, train=train, heldout=heldout)


def no_result(*, generated, train, heldout=None):
    return authenticity(generated=generated, train=train, heldout=heldout).value


def thawed(*, generated, train, heldout=None):
    @dataclass
    class Loose:
        value: float
        scores: torch.Tensor
        interval: object
        null: object

    result = authenticity(generated=generated, train=train, heldout=heldout)
    return Loose(result.value, result.scores, result.interval, result.null)


def without_null(*, generated, train, heldout=None):
    result = authenticity(generated=generated, train=train, heldout=heldout)
    return replace(result, null=None)


def single_precision(*, generated, train, heldout=None):
    result = authenticity(generated=generated, train=train, heldout=heldout)
    return replace(result, scores=result.scores.float())


def interval_of_another_number(*, generated, train, heldout=None):
    result = authenticity(generated=generated, train=train, heldout=heldout)
    return replace(result, interval=clopper_pearson(0, 120))


def centres_its_input(*, generated, train, heldout=None):
    train -= train.mean(0)
    return authenticity(generated=generated, train=train, heldout=heldout)


def global_randomness(*, generated, train, heldout=None):
    torch.rand(())
    return authenticity(generated=generated, train=train, heldout=heldout)


def never_the_same(*, generated, train, heldout=None, calls=[0]):  # noqa: B006
    calls[0] += 1
    result = authenticity(generated=generated, train=train, heldout=heldout)
    return replace(result, scores=result.scores + calls[0])


def first_samples_only(*, generated, train, heldout=None):
    # As the first images that are written before a folder is full (metrics.md 12.10).
    result = authenticity(generated=generated, train=train, heldout=heldout)
    scores = torch.where(torch.arange(len(generated)) < 21, 9.0, result.scores)
    return replace(result, scores=scores)


def scores_out_of_order(*, generated, train, heldout=None):
    result = authenticity(generated=generated, train=train, heldout=heldout)
    return replace(result, scores=result.scores.sort().values)


def first_half_of_train(*, generated, train, heldout=None):
    return authenticity(generated=generated, train=train[: len(train) // 2], heldout=heldout)


def gram_in_float32(*, generated, train, heldout=None):
    if generated.dtype == torch.float64:
        return ratio(generated=generated, train=train, heldout=heldout)
    squares = generated.square().sum(1)[:, None] + train.square().sum(1) - 2 * generated @ train.T
    near = squares.clamp(min=0).sqrt().to(torch.float64).topk(2, largest=False).values
    result = ratio(generated=generated, train=train, heldout=heldout)
    return replace(result, scores=near[:, 0] / near[:, 1] * (1 + 1e-4))


def takes_nan_for_far(*, generated, train, heldout=None):
    sets = {"generated": generated, "train": train, "heldout": heldout}
    sets = {key: None if x is None else x.nan_to_num(9.0) for key, x in sets.items()}
    return authenticity(**sets)


def wrong_exception(*, generated, train, heldout=None):
    if not torch.isfinite(generated).all():
        raise RuntimeError("not finite")
    return authenticity(generated=generated, train=train, heldout=heldout)


def anonymous_complaint(*, generated, train, heldout=None):
    if not torch.isfinite(generated).all():
        raise ValueError("The queries are not finite, which cannot be.")
    return authenticity(generated=generated, train=train, heldout=heldout)


def lecture(*, generated, train, heldout=None):
    if not torch.isfinite(generated).all():
        raise ValueError("generated is not finite.\nSee the manual.")
    return authenticity(generated=generated, train=train, heldout=heldout)


def null_of_something_else(*, generated, train, heldout=None):
    result = authenticity(generated=generated, train=train, heldout=heldout)
    return replace(result, null=Null(0.05, clopper_pearson(6, 120), "one half is not it either"))


def upside_down(*, generated, train, heldout=None):
    result = authenticity(generated=generated, train=train, heldout=heldout)
    null = Null(1.0 - result.null.value, None, "turned")
    ends = clopper_pearson(round((1 - result.value) * 120), 120)
    return Authenticity(1.0 - result.value, result.scores, ends, null, result.indices)


def scores_upside_down(*, generated, train, heldout=None):
    result = authenticity(generated=generated, train=train, heldout=heldout)
    return replace(result, scores=-result.scores)


def indexes_the_wrong_radii(*, generated, train, heldout=None):
    """Radii of training points at places counted among the samples (metrics.md 12.6)."""
    found = Distances(generated=generated, train=train, heldout=heldout)
    result = authenticity(distances=found)
    radius = found.to_train("train").distances[:, 0]
    near = found.to_train("generated").distances[:, 0]
    scores = near / radius[torch.arange(len(near)) % len(radius)]
    return replace(result, scores=scores)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (by_position, "keyword-only"),
        (no_result, "return a memdiff.metrics.MetricResult"),
        (thawed, "return a memdiff.metrics.MetricResult"),
        (without_null, "have a null"),
        (single_precision, "float64 scores"),
        (interval_of_another_number, "within its interval"),
        (centres_its_input, "must not change train"),
        (global_randomness, "global random state"),
        (never_the_same, "two calls differ"),
        (first_samples_only, "order of the samples"),
        (scores_out_of_order, "order of the samples"),
        (first_half_of_train, "order of the training points"),
        (gram_in_float32, "float64 input must agree"),
        (takes_nan_for_far, "refuse nan in generated.*but returned"),
        (wrong_exception, "refuse nan in generated with a ValueError, got RuntimeError"),
        (anonymous_complaint, "name generated"),
        (lecture, "in one sentence"),
        (null_of_something_else, "near its null"),
        (upside_down, "half of the samples copied must be lower"),
        (scores_upside_down, "scores of copies must be lower"),
        (indexes_the_wrong_radii, "order of the samples"),
    ],
)
def test_names_the_defect(metric, message, sets):
    sets = {key: points.clone() for key, points in sets.items()}
    with pytest.raises(AssertionError, match=message):
        check_metric(metric, **sets, value="low", scores="low")


def test_a_metric_that_never_moves_has_no_direction(sets):
    def constant(*, generated, train, heldout=None):
        result = authenticity(generated=generated, train=train, heldout=heldout)
        return MetricResult(0.5, result.scores, None, Null(0.5, None, "itself"))

    check_metric(constant, **sets, value=None, scores="low")
    with pytest.raises(AssertionError, match=r"must be lower than without, got 0\.5 and 0\.5"):
        check_metric(constant, **sets, value="low", scores="low")


def test_refuses_what_cannot_be_checked(sets):
    with pytest.raises(ValueError, match="train must be floating"):
        check_metric(ratio, **{**sets, "train": torch.ones(8)}, value="high", scores="low")
    with pytest.raises(ValueError, match="generated must be of even length"):
        check_metric(
            ratio, **{**sets, "generated": sets["generated"][1:]}, value="high", scores="low"
        )
