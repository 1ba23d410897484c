"""Registration: known transforms are undone, and what is no transform is not."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from memdiff.features import alignment, registered_residual


def field(seed, size=64):
    """A smooth random image as a function of real coordinates, its spline."""
    noise = np.random.default_rng(seed).standard_normal((size, size))
    smooth = ndimage.gaussian_filter(noise, 4, mode="wrap")
    return smooth / np.abs(smooth).max()


def views(image, shift=(0.0, 0.0), angle=0.0, scale=1.0, shape=(32, 32)):
    """The middle of the image, seen through a known transform; splines, not bilinear."""
    h, w = shape
    y, x = np.meshgrid(np.arange(h) - (h - 1) / 2, np.arange(w) - (w - 1) / 2, indexing="ij")
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    centre = (np.array(image.shape) - 1) / 2
    where = np.stack(
        [cos * y + sin * x + shift[0] + centre[0], cos * x - sin * y + shift[1] + centre[1]]
    )
    seen = ndimage.map_coordinates(image, where, order=3, mode="reflect")
    return torch.from_numpy(seen)[None, None]


def plain(a, b):
    """The residual as the images are."""
    return alignment._residual(alignment._prepared(a), alignment._prepared(b))


@pytest.mark.parametrize("shape", [(32, 32), (28, 40), (16, 16)])
@pytest.mark.parametrize(
    "transform",
    [
        {"angle": math.radians(4)},
        {"angle": math.radians(-4)},
        {"scale": 0.82},
        {"angle": math.radians(5), "scale": 0.85},
        {"scale": 0.9, "shift": (1.0, -1.0)},
    ],
    ids=str,
)
def test_known_transforms_are_undone(transform, shape):
    for seed in range(4):
        image = field(seed, 96)
        point = views(image, shape=shape)
        sample = views(image, **transform, shape=shape)
        before = float(plain(sample, point))
        after = float(registered_residual(sample, point))
        assert after < 0.8 * before
        assert after < 0.12
