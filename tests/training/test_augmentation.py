"""Random affine maps against maps that are known."""

from __future__ import annotations

import pytest
import scipy.ndimage
import torch

from memdiff.training import AffineAugmentation


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


IMAGES = torch.rand(6, 2, 8, 8, generator=drawn(), dtype=torch.float64)


def test_nothing_asked_for_changes_nothing():
    assert torch.equal(AffineAugmentation()(IMAGES, drawn()), IMAGES)
    assert not AffineAugmentation().changes and AffineAugmentation(zoom=0.1).changes


@pytest.mark.parametrize("shape", [(8, 8), (8, 12), (12, 8)])
def test_rotation_against_scipy(shape):
    """A smooth bump in the middle, turned; a forgotten aspect ratio would shear it."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij")
    cy, cx = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    bump = torch.exp(-((x - cx - 1.0) ** 2 + 0.3 * (y - cy) ** 2) / 2.0)
    turned = AffineAugmentation(degrees=40)(bump[None].expand(5, *shape), drawn())
    uniform = torch.rand(5, 5, generator=drawn(), dtype=torch.float64)
    for image, draw in zip(turned, uniform[:, 0], strict=True):
        angle = float(40 * (2 * draw - 1))
        expected = scipy.ndimage.rotate(
            bump.numpy(), angle, reshape=False, order=1, mode="nearest"
        )
        assert torch.allclose(image, torch.from_numpy(expected), atol=1e-9)


def test_shift_moves_the_mean_by_the_shift():
    bump = torch.zeros(400, 21, 21, dtype=torch.float64)
    bump[:, 10, 10] = 1.0
    moved = AffineAugmentation(shift=0.2)(bump, drawn())
    place = torch.arange(21, dtype=torch.float64)
    columns = (moved.sum(1) * place).sum(1) - 10
    uniform = torch.rand(400, 5, generator=drawn(), dtype=torch.float64)
    assert torch.allclose(columns, -(2 * uniform[:, 2] - 1) * 0.2 * 21, atol=1e-9)


def test_zoom_changes_the_second_moment():
    place = torch.arange(41, dtype=torch.float64) - 20
    bump = torch.exp(-(place[:, None] ** 2 + place[None] ** 2) / 50).expand(30, 41, 41)
    zoomed = AffineAugmentation(zoom=0.3)(bump, drawn())
    uniform = torch.rand(30, 5, generator=drawn(), dtype=torch.float64)
    size = 1 + 0.3 * (2 * uniform[:, 1] - 1)
    variance = (zoomed.sum(1) * place**2).sum(1) / zoomed.sum((1, 2))
    assert torch.allclose(variance, 25 * size**2, rtol=0.05)


def test_mirror_takes_half():
    images = IMAGES[:1].expand(4000, -1, -1, -1)
    same = (AffineAugmentation(mirror=True)(images, drawn()) == images).flatten(1).all(1)
    assert 0.46 < same.double().mean() < 0.54


def test_same_state_same_maps_and_values_stay_in_range():
    law = AffineAugmentation(degrees=30, shift=0.2, zoom=0.2, mirror=True)
    first, second = law(IMAGES, drawn(3)), law(IMAGES, drawn(3))
    assert torch.equal(first, second) and first.dtype == IMAGES.dtype
    assert IMAGES.min() <= first.min() and first.max() <= IMAGES.max()
    assert torch.equal(law(IMAGES[:, 0], drawn(3)), first[:, 0])  # channels turn together


@pytest.mark.parametrize("wrong", [{"degrees": 200}, {"shift": -0.1}, {"zoom": float("nan")}])
def test_out_of_range(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must lie in"):
        AffineAugmentation(**wrong)


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="needs images"):
        AffineAugmentation(shift=0.1)(torch.zeros(3, 5), drawn())
