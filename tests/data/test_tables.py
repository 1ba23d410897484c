import sys

import numpy as np
import pandas as pd
import pytest
import torch

from memdiff.data import (
    align_categories,
    check_comparable,
    from_array,
    from_frame,
    load,
    save_table,
    to_frame,
)


def frame():
    return pd.DataFrame(
        {
            "age": [31, 2**40 + 1, 50],
            "job": ["nurse", "baker", "nurse"],
            "pay": [0.1, 1 / 3, 2e-300],
            "smoker": [True, False, True],
        }
    )


def write(path, table):
    table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path)
    return path


FORMATS = pytest.mark.parametrize("suffix", [".csv", ".parquet"])


@FORMATS
def test_numbers_are_exact_and_text_becomes_codes(tmp_path, suffix):
    data = load(write(tmp_path / f"a{suffix}", frame()))
    assert data.kind == "table" and data.x.dtype == torch.float64
    assert data.columns == ("age", "job", "pay", "smoker")
    assert data.categories == {"job": ("baker", "nurse")}
    assert data.x.tolist() == [
        [31, 1, 0.1, 1],
        [2**40 + 1, 0, 1 / 3, 0],
        [50, 1, 2e-300, 1],
    ]
    assert data.names == ("row 0", "row 1", "row 2")


def test_both_formats_and_a_frame_hash_alike(tmp_path):
    hashes = {load(write(tmp_path / f"a{s}", frame())).sha256 for s in (".csv", ".parquet")}
    assert hashes == {from_frame(frame()).sha256}


def test_random_floats_survive_a_csv_to_the_last_bit(tmp_path):
    values = np.random.default_rng(0).normal(size=(200, 3)) * 10.0 ** np.arange(-200, 100, 100)
    path = write(tmp_path / "a.csv", pd.DataFrame(values, columns=list("abc")))
    assert np.array_equal(load(path).x.numpy(), values)


def test_text_that_is_all_numbers_stays_text(tmp_path):
    path = write(tmp_path / "a.parquet", pd.DataFrame({"zip": ["0123", "00123"], "v": [1, 2]}))
    assert load(path).categories["zip"] == ("00123", "0123")


@FORMATS
def test_limit_and_chosen_categories(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", frame())
    assert load(path, limit=2).x.shape == (2, 4)
    assert load(path, categorical=["age"]).categories["age"] == ("1099511627777", "31", "50")
    with pytest.raises(ValueError, match=r"categorical=\('agee',\) names a column"):
        load(path, categorical=["agee"])


def test_a_csv_without_names(tmp_path, refusal):
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")
    with refusal("train", "a.csv", "header=False"):
        load(tmp_path / "a.csv", name="train")
    data = load(tmp_path / "a.csv", header=False)
    assert data.columns == ("0", "1") and data.x.tolist() == [[1, 2], [3, 4]]


def test_na_is_a_category_and_only_an_empty_field_is_missing(tmp_path):
    (tmp_path / "a.csv").write_text("country,v\nNA,1\nDE,2\n")
    assert load(tmp_path / "a.csv").categories["country"] == ("DE", "NA")


def test_na_among_numbers_is_missing(tmp_path):
    """As R, SQL and many archives write it; a column that is text on purpose keeps it."""
    (tmp_path / "a.csv").write_text("n,v\nNA,1.5\n3,?\n7,nan\n")
    data = load(tmp_path / "a.csv", missing="mean")
    assert data.x.tolist() == [[5, 1.5], [3, 1.5], [7, 1.5]]
    assert data.forms == {"n": "integer"} and not data.categories
    assert load(tmp_path / "a.csv", missing="mean", categorical=("n", "v")).categories == {
        "n": ("3", "7", "NA"),
        "v": ("1.5", "?", "nan"),
    }


def test_numbers_that_lose_their_leading_zeros_are_told(tmp_path):
    (tmp_path / "a.csv").write_text("zip,v,w\n01234,1,0\n94110,2,0\n00501,0.5,7\n")
    (note,) = load(tmp_path / "a.csv").notes
    assert "column 'zip'" in note and "'01234'" in note and "categorical=('zip',)" in note
    assert load(tmp_path / "a.csv", categorical=["zip"]).notes == ()


@pytest.mark.parametrize("gap", [False, True])
def test_types_come_back_as_they_were(tmp_path, gap):
    """Nullable types are for columns that have a value missing."""
    frame = pd.DataFrame({"n": [1, 2, 4], "flag": [True, False, True], "x": [0.5, 1.5, 2.5]})
    if gap:
        frame["n"] = frame["n"].astype("Int64").mask([True, False, False])
    frame.to_parquet(tmp_path / "a.parquet")
    data = load(tmp_path / "a.parquet", missing="category" if gap else None)
    save_table(tmp_path / "b.parquet", data)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "b.parquet"), frame)


def test_quotes_spaces_byte_order_mark_and_line_ends(tmp_path):
    text = '\ufeff"a, b", c\r\n1, "x\ny"\r\n2,z\r\n\r\n'
    (tmp_path / "a.csv").write_bytes(text.encode())
    data = load(tmp_path / "a.csv")
    assert data.columns == ("a, b", "c") and data.categories["c"] == ("x\ny", "z")
    assert data.x.tolist() == [[1, 0], [2, 1]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        ("\n\n", ["empty"]),
        ("a,b\n", ["0 rows"]),
        ("a,b\n1,2\n3\n", ["ragged", "record 3", "1 fields"]),
        ("a,b\n1,2\n3,4,5\n", ["ragged", "record 3", "3 fields"]),
        ("a,b\n1,2,\n3,4,\n", ["ragged", "record 2"]),
        ("a,a\n1,2\n", ["two columns called 'a'"]),
        (",a\n0,2\n", ["column 1", "no name"]),
        ("a, \n1,2\n", ["column 2", "no name"]),
        ("a;b\n1;2\n", ["'a;b'", "commas"]),
        ("a\tb\n1\t2\n", ["commas"]),
        ("a,b\n1,\n2,\n", ["column 'b'", "is empty"]),
        ("a,b\n1,2\n3,\n,\n", ["column 'a'", "1 missing", "row 2"]),
        ("a,b\n1,x\n3,\n", ["column 'b'", "1 missing", "row 1"]),
        ("a,b\n1,2\n?,3\n4,5\n", ["column 'a'", "1 missing", "row 1"]),
        ("a,b\n1,2\n-,3\n4,5\n", ["column 'a'", "1 values are not", "'-'", "row 1"]),
        ("a,b\n1,2\ninf,3\n", ["column 'a'", "infinite", "row 1"]),
        ("a,b\n1,2\nnan,3\n4,5\n", ["column 'a'", "row 1"]),
    ],
)
def test_bad_csv_files_are_refused(tmp_path, text, words, refusal):
    (tmp_path / "a.csv").write_text(text)
    with refusal("train", "a.csv", *words):
        load(tmp_path / "a.csv", name="train")


def test_bytes_that_are_no_text_are_refused(tmp_path, refusal):
    (tmp_path / "a.csv").write_bytes(b"a,b\n\xff\xfe\x00,1\n")
    with refusal("a.csv", "damaged"):
        load(tmp_path / "a.csv")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.95])
def test_truncated_parquet_is_refused(tmp_path, keep, refusal):
    path = write(tmp_path / "a.parquet", frame())
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with refusal("a.parquet", "damaged"):
        load(path)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pd.to_timedelta([1, 2, 3], unit="s"), ["timedelta64"]),
        ([1.0, None, 2.0], ["1 missing", "row 1"]),
        ([None, None, None], ["is empty"]),
        ([[1], [2], [3]], ["type object"]),
        ([1, "a", 2], ["type object"]),
    ],
)
def test_columns_of_another_type_are_refused(column, words, refusal):
    with refusal("train", "column 'c'", *words):
        from_frame(frame().assign(c=column), name="train")


def test_pandas_categories_are_codes_of_sorted_names():
    table = frame().assign(c=pd.Categorical(["b", "a", "b"], categories=["b", "a", "unused"]))
    data = from_frame(table)
    assert data.categories["c"] == ("a", "b") and data.x[:, 4].tolist() == [1, 0, 1]


def test_header_is_no_option_of_parquet(tmp_path, refusal):
    with refusal("header=False", "a.parquet"):
        load(write(tmp_path / "a.parquet", frame()), header=False)


@FORMATS
def test_without_pandas_the_message_has_the_command(tmp_path, suffix, monkeypatch, refusal):
    path = write(tmp_path / f"a{suffix}", frame())
    monkeypatch.setitem(sys.modules, "pandas", None)
    with refusal(str(path), "pip install 'memdiff[tables]'", error=ImportError):
        load(path)


def test_dates_are_ordered_numbers_whatever_the_format(tmp_path):
    table = pd.DataFrame(
        {"d": ["1969-12-31", "2024-02-29"], "t": ["2024-01-31 17:05", "2024-02-01"]}
    )
    for suffix in (".csv", ".parquet"):
        data = load(write(tmp_path / f"a{suffix}", table))
        assert data.forms == {"d": "days", "t": "seconds"}
        assert data.x.tolist() == [[-1, 1706720700], [19782, 1706745600]]
    typed = table.apply(pd.to_datetime, format="ISO8601")
    assert torch.equal(load(write(tmp_path / "typed.parquet", typed)).x, data.x)
    python = pd.DataFrame({"d": typed["d"].dt.date, "t": typed["t"]})
    assert torch.equal(load(write(tmp_path / "python.parquet", python)).x, data.x)


def test_times_with_a_zone_are_instants():
    texts = ["2024-01-01T00:00:00Z", "2024-01-01 02:00:00+02:00", "2023-12-31T19:00:00.5-0500"]
    data = from_frame(pd.DataFrame({"t": texts}))
    assert data.forms == {"t": "seconds UTC"}
    assert (data.x[:, 0] - data.x[0, 0]).tolist() == [0, 0, 0.5]
    zoned = pd.to_datetime(pd.Series(texts), utc=True, format="ISO8601").dt.tz_convert(
        "Asia/Tokyo"
    )
    assert torch.equal(from_frame(pd.DataFrame({"t": zoned})).x, data.x)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["2024-01-01", "2024-01-02", "soon"], ["1 values are none", "'soon'", "row 2"]),
        (["2024-01-01", "2024-02-30", "2024-03-01"], ["'2024-02-30'", "row 1"]),
        (["2024-01-01", "2024-02-01", "01/02/2024"], ["'01/02/2024'", "row 2"]),
        (["01/02/2024", "02/02/2024", "x"], ["'01/02/2024'", "misread", "categorical=('d',)"]),
        (["1.2.24", "3.4.25", "5.6.26"], ["'1.2.24'", "misread"]),
        (["2024-01-01 10:00Z", "2024-01-01 10:00", "2024-01-01"], ["1 times with", "2 without"]),
    ],
)
def test_dates_that_can_be_misread_are_refused(values, words, refusal):
    with refusal("column 'd' of train", *words):
        from_frame(pd.DataFrame({"d": values}), name="train")
    assert from_frame(pd.DataFrame({"d": values}), categorical=["d"]).categories["d"]


def test_days_are_compared_with_times_in_seconds():
    days = from_frame(pd.DataFrame({"d": ["2024-01-01", "2024-01-02"]}), name="train")
    times = from_frame(pd.DataFrame({"d": ["2024-01-01 00:00", "2024-01-02"]}), name="generated")
    one, two = align_categories(times, days)
    check_comparable(one, two)
    assert torch.equal(one.x, two.x)
    numbers = from_frame(pd.DataFrame({"d": [1, 2]}), name="generated")
    with pytest.raises(ValueError, match="holds dates in train but numbers in generated"):
        check_comparable(numbers, days)


@FORMATS
def test_what_is_saved_is_what_is_loaded(tmp_path, suffix):
    table = frame().assign(
        day=pd.to_datetime(["2024-01-31", "1850-05-05", "2024-02-29"]),
        time=pd.to_datetime(["2024-01-31 10:00", "2024-01-31 00:00", "2024-02-29 00:00"]),
        instant=pd.to_datetime(["2024-01-31T10:00:00.250Z"] * 2 + ["2024-02-29T00:00:00.000Z"]),
        text=["a, b", 'say "x"', "NA"],
    )
    data = from_frame(table)
    again = load(save_table(tmp_path / f"a{suffix}", data))
    assert torch.equal(again.x, data.x) and again.categories == data.categories
    assert again.forms == data.forms and again.columns == data.columns
    pd.testing.assert_frame_equal(to_frame(again), to_frame(data))
    assert list(tmp_path.iterdir()) == [tmp_path / f"a{suffix}"]


def test_columns_without_names_are_saved_without(tmp_path):
    path = save_table(tmp_path / "a.csv", from_array(np.array([[1.5, 2.0], [3.0, 4.0]])))
    assert path.read_text() == "1.5,2.0\n3.0,4.0\n"
    assert load(path, header=False).columns == ("0", "1")


def test_only_tables_are_saved_as_tables(tmp_path, refusal):
    with refusal(".csv or .parquet", "a.xlsx"):
        save_table(tmp_path / "a.xlsx", from_frame(frame()))
    with refusal("(1, 8, 8)", "expected rows"):
        save_table(tmp_path / "a.csv", from_array(np.zeros((2, 8, 8)), value_range=(0, 1)))
    assert not list(tmp_path.iterdir())


def test_columns_that_look_like_identifiers_are_noted():
    table = pd.DataFrame(
        {
            "id": range(100, 120),
            "name": [f"person {i}" for i in range(20)],
            "score": np.random.default_rng(0).normal(size=20),
            "day": pd.date_range("2024-01-01", periods=20),
            "age": [30, 30, *range(18)],
        }
    )
    notes = from_frame(table).notes
    assert len(notes) == 2 and "'id'" in notes[0] and "'name'" in notes[1]
    assert from_frame(table.iloc[:19]).notes == ()


def test_values_in_place_of_names(tmp_path, refusal):
    (tmp_path / "a.csv").write_text("5.1,3.5,setosa\n4.9,3.0,setosa\n")
    with refusal("a.csv", "5.1, 3.5", "header=False"):
        load(tmp_path / "a.csv")
    (tmp_path / "years.csv").write_text("country,1990,2000\nDE,1,2\n")
    assert load(tmp_path / "years.csv").columns == ("country", "1990", "2000")


def test_categories_keep_their_text(tmp_path):
    (tmp_path / "a.csv").write_text("zip,v\n0123,1\n00123,2\n")
    data = load(tmp_path / "a.csv", categorical=["zip"])
    assert data.categories["zip"] == ("00123", "0123")
    assert to_frame(data)["zip"].tolist() == ["0123", "00123"]
