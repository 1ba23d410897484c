"""Tables: one unit for every column, and categories by name."""

from dataclasses import replace

import pytest
import torch

from memdiff.data import align_categories, from_array
from memdiff.features import TableColumns


def distance(rows, a, b):
    return float((rows[a] - rows[b]).norm())


def test_numbers_are_standardised_by_the_training_set(table):
    train, other = table(), table(seed=1, name="generated")
    fitted = TableColumns().fit(train)
    rows = fitted.features(train)[:, :2]
    torch.testing.assert_close(rows.mean(0), torch.zeros(2).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(rows.std(0, correction=0), torch.ones(2).double())
    mean, std = train.x[:, :2].mean(0), train.x[:, :2].std(0, correction=0)
    torch.testing.assert_close(fitted.features(other)[:, :2], (other.x[:, :2] - mean) / std)


def test_a_mismatch_of_categories_is_one_standard_deviation(table):
    train = table()
    x = train.x[:1].repeat(4, 1)
    x[:, 3] = torch.tensor([0.0, 1.0, 2.0, 0.0])
    x[3, 0] += train.x[:, 0].std(correction=0)
    probe = replace(train, x=x, names=())
    rows = TableColumns().fit(train).features(probe)
    assert distance(rows, 0, 1) == pytest.approx(1.0)
    assert distance(rows, 1, 2) == pytest.approx(1.0)
    assert distance(rows, 0, 3) == pytest.approx(1.0)
    assert distance(rows, 1, 3) == pytest.approx(2**0.5)
    heavy = TableColumns(mismatch=3.0).fit(train).features(probe)
    assert distance(heavy, 0, 1) == pytest.approx(3.0)


def test_any_departure_from_a_constant_counts_once(table):
    train = table()
    x = train.x[:1].repeat(4, 1)
    x[:, 2] = torch.tensor([7.1, 7.1 + 1e-9, 1e9, -3.0], dtype=torch.float64)
    rows = TableColumns().fit(train).features(replace(train, x=x, names=()))
    assert rows[:, 2].tolist() == [0.0, 1.0, 1.0, -1.0]


def test_columns_name_the_features_in_their_order(table):
    train = table()
    fitted = TableColumns().fit(train)
    assert fitted.columns == (
        "income",
        "z",
        "version",
        "job=baker",
        "job=clerk",
        "job=smith",
    )
    hot = fitted.features(train)[:, 3:] > 0
    assert torch.equal(hot.int().argmax(1), train.x[:, 3].long())
    assert bool((hot.sum(1) == 1).all())
    assert TableColumns().columns == ()


def test_vectors_are_columns_without_names():
    vectors = from_array(torch.randn(30, 2) * torch.tensor([1.0, 100.0]))
    fitted = TableColumns().fit(vectors)
    assert fitted.columns == ("0", "1")
    rows = fitted.features(vectors)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.std(0, correction=0), torch.ones(2))


def test_categories_are_compared_by_name_not_by_code(table, refusal):
    train = table()
    other = replace(
        table(seed=1, name="generated"), categories={"job": ("baker", "miller", "smith")}
    )
    with refusal("generated", "other categories", "align_categories"):
        TableColumns().fit(train).features(other)
    train, other = align_categories(train, other)
    rows = TableColumns().fit(train).features(other)
    assert rows.shape[1] == 3 + 4
    assert torch.equal((rows[:, 3:] > 0).int().argmax(1), other.x[:, 3].long())


def test_use_before_the_fit_and_other_columns_are_refused(table, refusal):
    with refusal("'table'", "fit(train)"):
        TableColumns().features(table())
    fitted = TableColumns().fit(table())
    with refusal("4 columns", "latents", "3"):
        fitted.features(from_array(torch.randn(5, 3), name="latents"))
    with refusal("'income'", "generated", "'salary'"):
        other = replace(table(name="generated"), columns=("salary", "z", "version", "job"))
        fitted.features(other)
    for mismatch in (0, -1.0, float("inf"), float("nan"), "1"):
        with refusal("mismatch", repr(mismatch)):
            TableColumns(mismatch=mismatch)
