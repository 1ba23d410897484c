"""Missing values: what stands in for them, the same in every set, and empty on the way out."""

import numpy as np
import pandas as pd
import pytest

from memdiff.data import align_categories, check_comparable, from_frame, load, save_table, to_frame
from memdiff.data.missing import Completion


def frame():
    return pd.DataFrame(
        {
            "age": [20.0, None, 41.0, 30.0],
            "size": [1.25, 2.5, None, 1.0],
            "job": ["b", None, "a", "b"],
            "smoker": [True, None, False, True],
            "seen": ["2020-01-01", "2020-01-04", None, "2020-01-01"],
            "whole": [1, 2, 3, 4],
        }
    )


def test_rows_with_missing_values_are_left_out():
    data = from_frame(frame(), missing="drop")
    assert data.names == ("row 0", "row 3") and data.completion is None
    assert data.categories == {"job": ("b",)} and data.x[:, 2].tolist() == [0, 0]
    assert data.notes == ("2 rows with missing values left out",)


def test_means_have_the_decimals_of_their_column():
    data = from_frame(frame(), missing="mean")
    assert data.columns == tuple(frame().columns)
    assert data.x[1].tolist()[:4] == [30.0, 2.5, 1.0, 1.0]  # 91 / 3 years; most are b and True
    assert data.x[2, 1] == 1.58  # 4.75 / 3
    assert data.x[2, 4] - data.x[0, 4] == 1  # days
    assert data.forms["age"] == "integer" and data.forms["smoker"] == "boolean"


def test_missing_is_a_category_and_has_an_indicator():
    data = from_frame(frame(), missing="category")
    assert data.columns == (
        *("age", "age missing", "size", "size missing", "job"),
        *("smoker", "smoker missing", "seen", "seen missing", "whole"),
    )
    assert data.categories["job"] == ("a", "b", "missing")
    assert data.x[:, 4].tolist() == [1, 2, 0, 1]
    assert data.categories["age missing"] == ("no", "yes")
    assert data.x[:, 1].tolist() == [0, 1, 0, 0]
    assert Completion.from_dict(data.completion.to_dict()) == data.completion


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_files_have_the_gaps_of_the_data(tmp_path, suffix):
    data = from_frame(frame(), missing="category")
    path = save_table(tmp_path / f"a{suffix}", data)
    again = load(path, missing="category")
    assert again.columns == data.columns and again.categories == data.categories
    assert np.array_equal(again.x, data.x) and again.forms == data.forms
    assert to_frame(data).isna().sum().tolist() == [1, 1, 1, 1, 1, 0]
    if suffix == ".csv":
        assert path.read_text().splitlines()[1:3] == [
            "20,1.25,b,True,2020-01-01,1",
            ",2.5,,,2020-01-04,2",
        ]


def test_other_sets_are_filled_with_what_stands_in_the_training_set():
    """With means of its own, a set would be told by its filled rows alone."""
    train = from_frame(frame(), name="train", missing="category")
    other = frame().iloc[::-1].assign(age=[None, 90, 90, None], size=[1.0, 1.0, 1.0, 1.0])
    alone = from_frame(other, name="other", missing="category")
    with pytest.raises(ValueError, match="column"):
        check_comparable(*align_categories(train, alone))
    like = from_frame(other, name="other", missing="category", like=train)
    check_comparable(*align_categories(train, like))
    assert like.columns == train.columns
    assert like.x[0, 0] == train.x[1, 0] == 30 and alone.x[0, 0] == 90
    assert like.x[:, 1].tolist() == [1, 0, 0, 1] and like.x[:, 3].tolist() == [0, 0, 0, 0]
    filled = from_frame(
        other, missing="mean", like=from_frame(frame().assign(job="z"), missing="mean")
    )
    assert filled.categories["job"] == ("a", "b", "z")  # the most frequent one of train


def test_names_that_are_taken_and_rules_that_are_unknown(refusal):
    with refusal("'age missing'", "rename"):
        from_frame(frame().assign(**{"age missing": 1}), missing="category")
    with refusal("'job'", "'missing'", "rename"):
        from_frame(frame().assign(job=["missing", None, "a", "a"]), missing="category")
    with refusal("missing must be", "'zero'"):
        from_frame(frame(), missing="zero")
    with refusal("every row", "missing='mean'"):
        from_frame(frame().iloc[1:3], missing="drop")
    with refusal("'age'", "1 missing", "row 1", "missing='drop'"):
        from_frame(frame())
    for rule in ("drop", "mean", "category"):
        with refusal("'gone'", "is empty"):
            from_frame(frame().assign(gone=None), missing=rule)


def test_a_category_called_missing_stays_one_where_nothing_is_missing():
    table = pd.DataFrame({"job": ["missing", "a"], "v": [1.0, None]})
    data = from_frame(table, missing="category")
    assert to_frame(data)["job"].tolist() == ["missing", "a"]
