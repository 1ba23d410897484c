import sys

import numpy as np
import pandas as pd
import pytest
import torch

from memdiff.data import from_frame, load


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
    with pytest.raises(ValueError, match="categorical names the column 'agee'"):
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
        ("a,b\n1,2\n?,3\n4,5\n", ["column 'a'", "1 values are not", "'?'", "row 1"]),
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
        (pd.to_datetime(["2020-01-01"] * 3), ["datetime64"]),
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
