"""Tables as vectors and back."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from memdiff.data import TableEncoding, from_frame, to_frame


def mixed():
    """The diabetes patients of scikit-learn with categories, integers, booleans and dates."""
    frame = load_diabetes(as_frame=True, scaled=False).frame
    days = (11 * frame["s1"].astype(int)).to_numpy().astype("timedelta64[D]")
    return frame.assign(
        sex=np.where(frame["sex"] == 1, "male", "female"),
        age=frame["age"].astype(int),
        high=frame["target"] > 200,
        seen=np.datetime64("2001-01-01") + days,
        version=7.1,
    )


def named(loader):
    bunch = loader(as_frame=True)
    return bunch.frame.assign(target=[str(bunch.target_names[i]) for i in bunch.target])


TABLES = {
    "iris": lambda: named(load_iris),
    "wine": lambda: named(load_wine),
    "breast cancer": lambda: named(load_breast_cancer),
    "mixed": mixed,
}


@pytest.mark.parametrize("name", TABLES)
def test_rows_come_back_exactly_and_in_their_types(name):
    frame = TABLES[name]()
    train = from_frame(frame)
    encoding = TableEncoding.fit(train)
    vectors = encoding.encode(train).x
    assert vectors.dtype == torch.float64 and vectors.shape[1] == len(encoding.coordinates)
    for exact in (vectors, vectors.float()):  # also from the precision of a network
        decoded = encoding.decode(exact)
        assert torch.equal(decoded.x, train.x)
    back = to_frame(decoded)
    pd.testing.assert_frame_equal(back, frame, check_dtype=False)
    assert [t.kind for t in back.dtypes] == [t.kind for t in frame.dtypes]


def test_the_encoding_is_that_of_scikit_learn():
    frame = mixed().drop(columns=["seen", "high", "version"])
    numbers = [column for column in frame if column != "sex"]
    peer = make_column_transformer((StandardScaler(), numbers), (OneHotEncoder(), ["sex"]))
    expected = peer.fit_transform(frame)
    expected[:, len(numbers) :] /= np.sqrt(2)
    train = from_frame(frame)
    np.testing.assert_allclose(TableEncoding.fit(train).encode(train).x, expected, atol=1e-12)


def test_anything_decodes_into_the_forms_and_ranges_of_the_training_table():
    train = from_frame(mixed())
    encoding = TableEncoding.fit(train)
    wild = 50 * torch.randn(500, len(encoding.coordinates), generator=torch.manual_seed(0))
    rows = encoding.decode(wild)
    low, high = train.x.min(0).values, train.x.max(0).values
    assert bool(((rows.x >= low) & (rows.x <= high)).all())
    frame = to_frame(rows)
    assert set(frame["sex"]) == {"male", "female"}
    assert frame["age"].dtype == "int64" and frame["high"].dtype == "bool"
    assert frame["seen"].between("2001-01-01", "2015-12-31").all()
    assert (frame["bmi"] * 10).round(6).mod(1).eq(0).all()
    assert (frame["version"] == 7.1).all()


def test_the_middle_of_two_rows_is_between_them():
    table = pd.DataFrame({"age": [20, 31], "day": pd.to_datetime(["2020-01-01", "2020-01-11"])})
    train = from_frame(table.assign(kind=["a", "b"]))
    encoding = TableEncoding.fit(train)
    row = to_frame(encoding.decode(encoding.encode(train).x.mean(0, keepdim=True)))
    assert int(row["age"][0]) == 26 and row["day"][0] == pd.Timestamp("2020-01-06")


def test_json_holds_all_of_it():
    gaps = mixed()
    gaps.loc[::7, "bmi"] = None
    gaps.loc[::5, "sex"] = None
    train = from_frame(gaps, missing="category")
    encoding = TableEncoding.fit(train)
    again = TableEncoding.from_dict(json.loads(json.dumps(encoding.to_dict())))
    assert again == encoding
    rows = again.decode(encoding.encode(train).x)
    assert torch.equal(rows.x, train.x)
    pd.testing.assert_frame_equal(to_frame(rows), to_frame(train))
    for damaged in ({}, {"columns": [{"nam": "a"}]}, {"columns": 3}):
        with pytest.raises(ValueError, match="no description of a table"):
            TableEncoding.from_dict(damaged)


def test_a_number_that_is_missing_is_the_stand_in_again():
    train = from_frame(
        pd.DataFrame({"v": [1.0, 2.0, None, 4.5], "w": [1, 2, 3, 9]}), missing="category"
    )
    encoding = TableEncoding.fit(train)
    vectors = encoding.encode(train).x
    vectors[2, 0] += 0.7  # a network does not hit the mean
    assert encoding.decode(vectors).x[2, 0] == train.x[2, 0] == 2.5


def test_other_tables_are_recoded_by_name(refusal):
    train = from_frame(mixed(), name="train")
    encoding = TableEncoding.fit(train)
    women = from_frame(mixed().query("sex == 'female'"), name="heldout")
    assert women.categories["sex"] == ("female",)
    codes = encoding.conform(women).x[:, 1]
    assert bool((codes == train.categories["sex"].index("female")).all())
    men = from_frame(mixed().query("sex == 'male'"), name="heldout")
    position = encoding.coordinates.index("sex=male")
    assert bool((encoding.encode(men).x[:, position] > 0).all())

    with refusal("heldout", "'sex'", "'diverse'", "row 3", "training table"):
        other = mixed()
        other.loc[3, "sex"] = "diverse"
        encoding.encode(from_frame(other, name="heldout"))
    with refusal("heldout", "lacks the column 'age'"):
        encoding.encode(from_frame(mixed().drop(columns="age"), name="heldout"))
    with refusal("heldout", "a column 'more' more"):
        encoding.encode(from_frame(mixed().assign(more=1), name="heldout"))
    with refusal("heldout", "another order"):
        encoding.encode(from_frame(mixed().iloc[:, ::-1], name="heldout"))
    with refusal("'sex'", "numeric in heldout", "categorical=('sex',)"):
        encoding.encode(from_frame(mixed().assign(sex=1), name="heldout"))
    with refusal("'seen'", "holds dates in the training table but numbers in heldout"):
        encoding.encode(from_frame(mixed().assign(seen=3), name="heldout"))
    with refusal("'seen'", "seconds in heldout", "days"):
        timed = mixed()["seen"] + pd.Timedelta("7h")
        encoding.encode(from_frame(mixed().assign(seen=timed), name="heldout"))


def test_what_cannot_be_modelled_or_decoded(refusal):
    for rows, words in ((1, "only one row"), (5, "the same values in all its rows")):
        same = from_frame(pd.DataFrame({"a": [1.5] * rows, "b": ["x"] * rows}), name="train")
        with refusal("train", words):
            TableEncoding.fit(same).require_model(same)
    train = from_frame(mixed())
    encoding = TableEncoding.fit(train).require_model(train)
    with refusal("(M, 14)", "(3, 2)"):
        encoding.decode(torch.zeros(3, 2))
    with refusal("samples", "1 of 3", "diverged"):
        vectors = torch.zeros(3, 14)
        vectors[1, 3] = float("nan")
        encoding.decode(vectors)
    with refusal("expected a table"):
        TableEncoding.fit(replace(train, x=torch.zeros(3, 1, 2), columns=(), names=()))


def test_columns_of_too_many_categories_are_refused(refusal):
    names = [f"person {i}" for i in range(30_000)]
    train = from_frame(pd.DataFrame({"name": names, "v": range(30_000)}), name="train")
    assert any("'name' looks like an identifier" in note for note in train.notes)
    with refusal("30000 categories of 'name'", "leave that column out"):
        TableEncoding.fit(train).require_model(train)
