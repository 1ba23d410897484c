import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memdiff.data import Dataset


def make(count=10, **fields):
    x = torch.arange(count * 2, dtype=torch.float64).reshape(count, 2)
    return Dataset(x, "vectors", name="train", labels=torch.arange(count), **fields)


@given(
    count=st.integers(2, 60),
    share=st.floats(0.001, 0.999),
    seed=st.integers(0, 2**31),
    as_count=st.booleans(),
)
def test_a_split_is_a_partition_in_order(count, share, seed, as_count):
    size = max(1, min(count - 1, round(share * count)))
    a, b = make(count).split(size if as_count else share, seed=seed)
    assert len(a) == size and len(a) + len(b) == count
    assert sorted(a.labels.tolist() + b.labels.tolist()) == list(range(count))
    for part in (a, b):
        assert part.labels.tolist() == sorted(part.labels.tolist())
        assert part.names == tuple(f"row {i}" for i in part.labels.tolist())
        assert torch.equal(part.x[:, 0], 2.0 * part.labels)


def test_a_split_depends_on_its_seed_alone():
    assert make().split(0.5, seed=3)[0].names == make().split(5, seed=3)[0].names
    splits = {make().split(0.5, seed=seed)[0].names for seed in range(20)}
    assert len(splits) > 10


@pytest.mark.parametrize("size", [0, 10, -1, 0.0, 1.0, 1.5, float("nan"), True, "half"])
def test_a_split_that_leaves_a_part_empty_is_refused(size, refusal):
    with refusal("size", "1 to 9", "train"):
        make().split(size)
    with refusal("train", "at least 2", "split"):
        make(1).split(0.5)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ([3, 1, 1], [3, 1, 1]),
        (torch.tensor([-1, 0]), [9, 0]),
        (torch.arange(10) % 4 == 0, [0, 4, 8]),
        (slice(2, 8, 3), [2, 5]),
        (slice(None, None, -4), [9, 5, 1]),
    ],
)
def test_subset_carries_points_labels_and_names(index, expected):
    part = make().subset(index)
    assert part.labels.tolist() == expected
    assert part.x[:, 0].tolist() == [2.0 * i for i in expected]
    assert part.names == tuple(f"row {i}" for i in expected)


def test_a_subset_owns_its_points():
    data = make()
    data.subset(slice(0, 2)).x.zero_()
    assert data.x[1, 0] == 2.0


@pytest.mark.parametrize(
    ("index", "word"),
    [
        ([10], "10"),
        ([-11], "-11"),
        ([], "no point"),
        (torch.zeros(10, dtype=torch.bool), "no point"),
        (slice(5, 5), "no point"),
        ([0.5], "float32"),
        (torch.ones(9, dtype=torch.bool), "(9,)"),
        ([[1]], "(1, 1)"),
    ],
)
def test_a_bad_index_is_refused(index, word, refusal):
    with refusal("index", word):
        make().subset(index)


def test_require_at_least_is_a_sentence(refusal):
    assert make().require_at_least(10) is not None
    with refusal("train has 1 point;", "at least 2 are needed", "for a ratio"):
        make(1).require_at_least(2, "for a ratio")


def test_the_hash_sees_values_order_and_categories_but_no_names():
    data = make()
    same = Dataset(data.x.clone(), "vectors", name="other", names=tuple("abcdefghij"))
    assert data.sha256 == same.sha256
    assert data.subset(list(range(9, -1, -1))).sha256 != data.sha256
    a, b = (
        Dataset(data.x, "table", columns=("u", "v"), categories={"v": names})
        for names in (("p", "q"), ("p", "r"))
    )
    assert a.sha256 != b.sha256


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"names": ("a",)}, "1 names"),
        ({"labels": torch.zeros(3)}, "3 labels"),
        ({"columns": ("a",)}, "1 names"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, word, refusal):
    with refusal("data", word):
        Dataset(torch.zeros(2, 2), "table", **fields)


@pytest.mark.parametrize("shape", [(0, 2), (3,), (), (3, 0)])
def test_an_empty_set_is_refused(shape, refusal):
    with refusal(str(shape), "at least one point"):
        Dataset(torch.zeros(shape), "vectors")


def test_describe_is_one_line_with_what_matters():
    data = Dataset(
        torch.zeros(2, 1, 4, 4),
        "images",
        "signed",
        source="faces",
        labels=torch.tensor([0, 0]),
        notes=("3 other files passed over",),
    )
    assert data.describe() == (
        "data (faces): 2 images of shape (1, 4, 4), float32, in [-1, 1], 1 distinct labels, "
        "3 other files passed over"
    )
