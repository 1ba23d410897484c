"""Principal axes against scikit-learn, in each of the three ways they are computed."""

import numpy as np
import pytest
import torch

from memdiff.data import from_array
from memdiff.features import PCA
from memdiff.features import pca as pca_module


def spectrum(count, width, seed=0):
    """Points around (5, ..., 5) whose deviations fall by 0.8 from axis to axis."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator).double()).Q
    return (x * 0.8 ** torch.arange(width)) @ rotation + 5.0


@pytest.fixture(params=["covariance", "gram", "randomised"])
def problem(request, monkeypatch):
    """A training set that is decomposed in the way named, in several blocks."""
    monkeypatch.setattr(pca_module, "_BLOCK", 17)
    if request.param == "randomised":
        monkeypatch.setattr(pca_module, "_EXACT_UP_TO", 10)
    shape = (40, 60) if request.param == "gram" else (90, 40)
    name = {"gram": "_from_gram", "randomised": "_randomised"}.get(
        request.param, "_from_covariance"
    )
    called = []
    original = getattr(pca_module, name)
    monkeypatch.setattr(pca_module, name, lambda *a: called.append(name) or original(*a))
    yield from_array(spectrum(*shape), name="train")
    assert called  # the test exercised the way it names


def test_axes_and_variances_agree_with_scikit_learn(problem):
    from sklearn.decomposition import PCA as Reference

    reference = Reference(6, svd_solver="full").fit(problem.x.numpy())
    fitted = PCA(6).fit(problem)
    found = fitted.principal
    signs = np.sign((found.axes.numpy() * reference.components_).sum(1))
    np.testing.assert_allclose(found.axes, signs[:, None] * reference.components_, atol=1e-7)
    np.testing.assert_allclose(found.explained_variance, reference.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(
        found.explained_variance_ratio, reference.explained_variance_ratio_, rtol=1e-9
    )
    expected = reference.transform(problem.x.numpy()) * signs
    np.testing.assert_allclose(fitted.features(problem), expected, atol=1e-6)


def test_axes_are_orthonormal_with_a_positive_largest_entry(problem):
    axes = PCA(8).fit(problem).principal.axes
    torch.testing.assert_close(axes @ axes.T, torch.eye(8, dtype=torch.float64))
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    assert bool((largest > 0).all())


def test_whitened_training_features_have_unit_covariance(problem):
    rows = PCA(5, whiten=True).fit(problem).features(problem)
    torch.testing.assert_close(torch.cov(rows.T), torch.eye(5, dtype=torch.float64))


def test_fitting_twice_gives_the_same_bits(problem):
    assert PCA(5).fit(problem).fingerprint == PCA(5).fit(problem).fingerprint


def test_other_sets_are_centred_by_the_mean_of_train():
    train = from_array(spectrum(50, 4), name="train")
    fitted = PCA(4).fit(train)
    shifted = from_array(train.x + 3.0)
    moved = fitted.features(shifted) - fitted.features(train)
    torch.testing.assert_close(moved.norm(dim=1), torch.full((50,), 6.0).double())


def test_pixels_are_brought_to_one_range_before_the_fit(images):
    signed = images(count=20)
    unit = from_array((signed.x + 1) / 2, encoding="unit", layout="channels_first")
    a, b = PCA(3).fit(signed).principal, PCA(3).fit(unit).principal
    torch.testing.assert_close(a.explained_variance, b.explained_variance, rtol=1e-5, atol=1e-8)


def test_explained_variance_is_reported(images):
    settings = PCA(3).fit(images()).settings
    assert 0 < settings["explained_variance"] <= 1
    assert "explained_variance" not in PCA(3).settings


def test_more_components_than_directions_are_refused(refusal):
    few = from_array(spectrum(5, 20), name="train")
    with refusal("components=5", "train", "at most 4"):
        PCA(5).fit(few)
    flat = from_array(torch.randn(30, 2) @ torch.randn(2, 9), name="train")
    with refusal("components=3", "2 directions", "train"):
        PCA(3).fit(from_array(flat.x.double() @ torch.eye(9).double(), name="train"))
    constant = from_array(torch.full((30, 9), 0.1), name="train")
    with refusal("components=1", "0 directions"):
        PCA(1).fit(constant)
    with refusal("components", "0"):
        PCA(0)


def test_use_before_the_fit_and_another_shape_are_refused(images, refusal):
    with refusal("'pca:2'", "not fitted", "fit(train)"):
        PCA(2).features(images())
    with refusal("'pca:2'", "not fitted"):
        _ = PCA(2).principal
    fitted = PCA(2).fit(images())
    with refusal("'pca:2'", "(1, 16, 16)", "generated", "(1, 8, 8)"):
        fitted.features(images(height=8, width=8, name="generated"))
