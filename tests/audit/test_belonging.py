"""Groups by a column, a folder, a pattern and labels; every refusal."""

import numpy as np
import pytest
import torch

from memdiff.audit import audit
from memdiff.audit.belonging import take_groups
from memdiff.data import Dataset


def table(columns, rows, **options):
    return Dataset(torch.tensor(rows, dtype=torch.float64), "table", columns=columns, **options)


def pictures(names, title="train"):
    return Dataset(
        torch.zeros(len(names), 1, 2, 2), "images", "byte", names=tuple(names), name=title
    )


def vectors(count, title="train"):
    return Dataset(torch.arange(2.0 * count).view(-1, 2), "vectors", name=title)


def test_a_column_is_the_group_and_no_feature():
    """Labels are shared by value, also where the codes of categories differ between the sets."""
    categories = {"patient": ("ann", "bob", "eve")}
    train = table(("patient", "x"), [[2, 7.0], [0, 8.0], [2, 9.0]], categories=categories)
    heldout = table(("patient", "x"), [[0, 1.0], [1, 2.0]], categories={"patient": ("bob", "eve")})
    samples = table(("patient", "x"), [[0, 3.0]], categories=categories)
    sets, labels = take_groups(
        {"generated": samples, "train": train, "heldout": heldout}, "patient"
    )
    assert labels["train"].tolist() == [0, 1, 0]  # eve, ann, eve
    assert labels["heldout"].tolist() == [2, 0]  # bob, eve
    for name, values in (
        ("train", [7.0, 8.0, 9.0]),
        ("heldout", [1.0, 2.0]),
        ("generated", [3.0]),
    ):
        assert sets[name].columns == ("x",) and sets[name].x[:, 0].tolist() == values
        assert sets[name].categories == {}


def test_a_numeric_column_and_samples_without_it():
    train = table(("id", "x"), [[10.0, 1.0], [20.0, 2.0], [10.0, 3.0]])
    heldout = table(("id", "x"), [[20.0, 4.0], [30.0, 5.0]])
    sets, labels = take_groups(
        {"generated": table(("x",), [[0.0]]), "train": train, "heldout": heldout}, "id"
    )
    assert labels["train"].tolist() == [0, 1, 0] and labels["heldout"].tolist() == [1, 2]
    assert sets["generated"].columns == sets["train"].columns == ("x",)


@pytest.mark.parametrize("separator", ["/", "\\"])
def test_folders(separator):
    names = [["a/b/0.png", "a/c/1.png", "a/b/2.png"], ["a/c/3.png", "4.png"]]
    train, heldout = ([n.replace("/", separator) for n in part] for part in names)
    sets, labels = take_groups(
        {"train": pictures(train), "heldout": pictures(heldout, "heldout")}, "folder"
    )
    assert labels["train"].tolist() == [0, 1, 0] and labels["heldout"].tolist() == [1, 2]
    assert len(sets["train"]) == 3


@pytest.mark.parametrize(
    ("pattern", "train", "heldout"),
    [(r"p(\d+)_", [0, 1, 0], [1, 2]), (r"_[ab]", [0, 0, 1], [1, 0])],
)
def test_patterns_with_and_without_a_group(pattern, train, heldout):
    names = ["p1_a.png", "p2_a.png", "p1_b.png"], ["p2_b.png", "p3_a.png"]
    _, labels = take_groups(
        {"train": pictures(names[0]), "heldout": pictures(names[1], "heldout")}, pattern
    )
    assert labels["train"].tolist() == train and labels["heldout"].tolist() == heldout


@pytest.mark.parametrize("form", [list, np.array, torch.tensor, tuple])
def test_labels_of_any_form(form):
    sets = {"train": vectors(3), "heldout": vectors(2, "heldout")}
    _, labels = take_groups(sets, {"train": form([7, 9, 7]), "heldout": form([9, 4])})
    assert labels["train"].tolist() == [0, 1, 0] and labels["heldout"].tolist() == [1, 2]
    assert labels["train"].dtype == torch.int64


def test_labels_are_texts_or_numbers():
    sets = {"train": vectors(2)}
    _, labels = take_groups(sets, {"train": ["x", "y"]})
    assert labels["train"].tolist() == [0, 1] and set(labels) == {"train"}


ROWS = {"train": vectors(3), "heldout": vectors(2, "heldout")}
FILES = {
    "train": pictures(["a/0.png", "b/1.png"]),
    "heldout": pictures(["a/2.png", "b"], "heldout"),
}
TABLES = {
    "train": table(("id", "x"), [[1.0, 1.0], [2.0, 2.0]]),
    "heldout": table(("name", "x"), [[1.0, 1.0], [2.0, 2.0]]),
}
ALONE = {"train": table(("id",), [[1.0], [2.0]]), "heldout": table(("id",), [[1.0], [2.0]])}


@pytest.mark.parametrize(
    ("sets", "groups", "words"),
    [
        (ROWS, {"train": [0, 1, 2]}, "labels for train and heldout, got none for heldout"),
        (ROWS, {"train": [0, 1], "heldout": [0, 1]}, "one label for each of the 3 points"),
        (ROWS, {"train": [0, 0, 0], "heldout": [0, 1]}, "at least 2 groups, got one"),
        (ROWS, {"train": [0, 0, 1], "heldout": [5, 5]}, "at least 2 groups, got one"),
        (ROWS, "folder", "rows without names"),
        (ROWS, "id", "rows without names"),
        (TABLES, "id", "must be a column of .*, which has name, x"),
        (TABLES, "age", "must be a column of .*, which has id, x"),
        (ALONE, "id", "no column beside the groups 'id'"),
        (FILES, r"^(\w)/", "must match the name of every point, but not 'b'"),
        (FILES, "(", "must be a column, 'folder' or a regular expression"),
    ],
)
def test_refusals_are_one_sentence(sets, groups, words):
    with pytest.raises(ValueError, match=words) as error:
        take_groups(sets, groups)
    assert "\n" not in str(error.value)


def test_groups_reach_the_tests_and_the_report():
    """Ten copies of one patient's scans are one coincidence."""
    generator = torch.Generator().manual_seed(0)
    train, heldout, samples = torch.randn(3, 120, 6, generator=generator)
    labels = torch.arange(120) // 10
    samples[:10] = train[:10]
    sets = {"generated": samples, "train": train, "heldout": heldout}
    plain = audit(**sets)
    grouped = audit(**sets, groups={"train": labels, "heldout": 100 + labels})
    assert plain.verdict == "memorizing" and grouped.verdict != "memorizing"
    tests = grouped.evidence[0].tests
    assert tests.competition.train_units == tests.competition.heldout_units == 12
    assert grouped.to_dict()["groups"] == {"train": 12, "heldout": 12}
    assert grouped.settings.groups == "labels" and plain.to_dict()["groups"] == {}
