"""The contract of an experiment."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memdiff.experiments.experiment import Context, Experiment, Figure, Outcome, jsonable
from memdiff.report.pictures import image_png

FIGURE = Figure("f", image_png(torch.zeros(1, 2, 2)), "caption", "alt")

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_jsonable_is_the_identity_on_json_and_survives_a_round_trip(value):
    assert jsonable(value) == value
    assert json.loads(json.dumps(jsonable(value), allow_nan=False)) == value


def test_jsonable_brings_arrays_and_scalars_to_plain_types():
    value = jsonable(
        {"a": np.float32(0.5), "b": (np.bool_(True), torch.tensor([[1, 2]])), "c": np.int64(3)}
    )
    assert value == {"a": 0.5, "b": [True, [[1, 2]]], "c": 3}
    assert type(value["b"][0]) is bool and type(value["c"]) is int and type(value["a"]) is float


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1.0, math.nan]}, r"measured\['a'\]\[1\] is nan"),
        ({"a": torch.tensor(math.inf)}, r"measured\['a'\] is inf"),
        ({1: 2}, "JSON keys are strings"),
        ({"a": {1, 2}}, "is a set"),
        ({"a": b"x"}, "is a bytes"),
    ],
)
def test_values_with_no_json_form_are_refused_by_name(value, message):
    with pytest.raises(ValueError, match=message):
        Outcome(value, None, None, "", "finding")


def test_outcomes_that_cannot_be_read_are_refused():
    good = {"measured": {}, "published": None, "within": None, "tolerance": "", "finding": "f"}
    Outcome(**good)
    assert Outcome(**{**good, "within": np.bool_(True), "tolerance": "t"}).within is True
    for change, message in (
        ({"within": True}, "without a tolerance"),
        ({"within": 1, "tolerance": "t"}, "within must be True"),
        ({"finding": " "}, "finding is empty"),
        ({"figures": [FIGURE, FIGURE]}, "distinct names"),
    ):
        with pytest.raises(ValueError, match=message):
            Outcome(**{**good, **change})


def test_names_are_command_line_words():
    for name in ("Upper", "two words", "a/b", "-a", ""):
        with pytest.raises(ValueError, match="lower-case words"):
            Experiment(name, "t", "q", "r", lambda context: None)


def test_context_picks_and_seeds(tmp_path):
    quick, paper = Context("quick", 3, tmp_path), Context("paper", 3, tmp_path)
    assert (quick.pick(quick=1, paper=2), paper.pick(quick=1, paper=2)) == (1, 2)
    expected = torch.randn(3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(torch.randn(3, generator=quick.generator(2)), expected)
    quick.progress("no one listens")


def test_a_torn_partial_result_is_computed_anew(tmp_path):
    context = Context("quick", 0, tmp_path)
    context.cached("part", lambda: {"a": 1})
    context.cached_arrays("arrays", lambda: {"x": np.arange(1000)})
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert context.cached("part", lambda: {"a": 2}) == {"a": 2}
    assert context.cached_arrays("arrays", lambda: {"x": np.arange(3)})["x"].tolist() == [0, 1, 2]
