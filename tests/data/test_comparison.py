import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from memdiff.data import align_categories, check_comparable, from_array, from_frame


def images(name, low, high, shape=(4, 1, 8, 8), **options):
    values = np.random.default_rng(0).uniform(low, high, shape).astype(np.float32)
    return from_array(values, name=name, source=f"{name}.npz", **options)


def test_one_range_is_comparable_whatever_was_stored():
    bytes_ = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    stored = [
        from_array(bytes_),
        from_array((bytes_ / 255).astype(np.float32), value_range=(0, 1)),
        images("generated", -1.1, 1.1),
        images("dark", 0, 0.5, value_range=(-1, 1)),
        images("latents", -4, 4),
    ]
    for a, b in itertools.permutations(stored, 2):
        check_comparable(a, b)


@pytest.mark.parametrize(("low", "high", "shown"), [(0, 1, "[0, 1]"), (0, 255, "[0, 255]")])
@pytest.mark.parametrize("swapped", [False, True])
def test_ranges_that_differ_say_which_and_what_to_pass(low, high, shown, swapped, refusal):
    sets = [images("generated", low, high), images("train", -1, 1)]
    words = f"generated (generated.npz) has pixels in {shown} but train (train.npz) in [-1, 1]"
    if swapped:
        sets.reverse()
        words = f"train (train.npz) has pixels in [-1, 1] but generated (generated.npz) in {shown}"
    remedy = f"load generated (generated.npz) with value_range=({low}, {high})"
    with refusal(words, remedy):
        check_comparable(*sets)
    check_comparable(images("generated", low, high, value_range=(low, high)), sets[-1 + swapped])


def test_two_ranges_that_both_need_mapping(refusal):
    with refusal("value_range=(0, 1)", "value_range=(0, 255)"):
        check_comparable(images("generated", 0, 1), images("train", 0, 255))


def test_byte_vectors_against_small_floats(refusal):
    bytes_ = from_array(np.random.default_rng(0).integers(0, 256, (4, 9), dtype=np.uint8))
    floats = from_array(np.random.default_rng(0).uniform(-1, 1, (4, 9)), name="train")
    with refusal("data", "[0, 255]", "train", "scale them alike"):
        check_comparable(bytes_, floats)
    check_comparable(bytes_, from_array(bytes_.x.double()))


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((4, 3, 8, 8), "load train ({}) with mode='L'"),
        ((4, 1, 9, 8), "load train ({}) with size=(8, 8)"),
        ((4, 2, 1, 8, 8), "give sets of one"),
    ],
)
def test_shapes_that_differ(shape, remedy, tmp_path, refusal):
    """What is in a folder can be loaded in another shape; what is in an array file cannot."""
    generated, other = images("generated", -1, 1), images("train", -1, 1, shape)
    folder = replace(other, source=str(tmp_path))
    for sets in ((generated, folder), (folder, generated)):
        with refusal("generated", "train", remedy.format(tmp_path)):
            check_comparable(*sets)
    if other.kind == "images":
        with refusal("(1, 8, 8)", str(shape[1:]), "give sets of one shape"):
            check_comparable(generated, other)


def test_every_set_is_checked(refusal):
    sets = images("generated", -1, 1), images("train", -1, 1), images("heldout", 0, 1)
    with refusal("heldout"):
        check_comparable(*sets)
    with refusal("none"):
        check_comparable()


def table(name, **columns):
    return from_frame(pd.DataFrame(columns), name=name)


def test_a_table_of_numbers_compares_with_vectors(refusal):
    vectors = from_array(np.zeros((3, 2)), name="generated")
    check_comparable(vectors, table("train", a=[1], b=[2]))
    with refusal("generated", "vectors", "train", "table", "categorical"):
        check_comparable(vectors, table("train", a=[1], b=["x"]))
    with refusal("generated", "vectors", "images"):
        check_comparable(vectors, images("train", -1, 1))


def test_tables_that_differ(refusal):
    train = table("train", a=[1], b=["x"])
    with refusal("column 0 is 'c'", "'a' in train"):
        check_comparable(table("generated", c=[1], b=["x"]), train)
    with refusal("'b'", "categorical in train", "numeric in generated", "categorical=('b',)"):
        check_comparable(table("generated", a=[1], b=[2]), train)
    with refusal("only one has 'd'"):
        check_comparable(table("generated", a=[1], b=["x"], d=[1]), train)
    with refusal("'b'", "align_categories"):
        check_comparable(table("generated", a=[1], b=["y"]), train)


def test_aligned_codes_mean_the_same_category():
    a = table("generated", u=["p", "r", "r"], v=[1, 2, 3], w=["m", "m", "n"])
    b = table("train", u=["q", "p", "a"], v=[1, 2, 3], w=["m", "n", "n"])
    before = a.x.clone()
    one, two = align_categories(a, b)
    check_comparable(one, two)
    assert torch.equal(a.x, before)
    for old, new in ((a, one), (b, two)):
        for column in ("u", "w"):
            position = old.columns.index(column)
            assert [old.categories[column][int(c)] for c in old.x[:, position]] == [
                new.categories[column][int(c)] for c in new.x[:, position]
            ]
    assert one.categories["u"] == ("a", "p", "q", "r")
    assert torch.equal(one.x[:, 1], a.x[:, 1])


def test_aligning_a_number_with_a_category_is_refused(refusal):
    with refusal("'b'", "numeric in generated", "categorical in train"):
        align_categories(table("generated", b=[2]), table("train", b=["x"]))
    vectors = from_array(np.zeros((3, 2)))
    assert align_categories(vectors) == (vectors,)
