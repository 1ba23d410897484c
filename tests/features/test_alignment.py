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


@pytest.mark.parametrize("shape", [(32, 32), (28, 40), (40, 24)])
@pytest.mark.parametrize(
    "transform",
    [
        {"angle": math.radians(8)},
        {"angle": math.radians(-8)},
        {"scale": 0.82},
        {"scale": 1.2},
        {"shift": (2.0, 0.0)},
        {"shift": (0.0, 3.0)},
        {"angle": math.radians(5), "scale": 0.9, "shift": (1.0, -2.0)},
    ],
    ids=str,
)
def test_known_transforms_are_recovered(transform, shape):
    truth = {"shift": (0.0, 0.0), "angle": 0.0, "scale": 1.0} | transform
    for seed in range(3):
        image = field(seed, 96)
        sample = 0.7 * views(image, **transform, shape=shape) + 0.1
        point = views(image, shape=shape)
        found = alignment._motion(alignment._prepared(sample), alignment._prepared(point))
        x, y, angle, scale = found.squeeze(0).tolist()
        assert x * max(shape) == pytest.approx(truth["shift"][1], abs=0.3)
        assert y * max(shape) == pytest.approx(truth["shift"][0], abs=0.3)
        assert angle == pytest.approx(truth["angle"], abs=0.02)
        assert math.exp(scale) == pytest.approx(truth["scale"], abs=0.03)


@pytest.mark.parametrize("scale", [0.8, 0.9])
def test_a_crop_is_explained(scale):
    for seed in range(4):
        image = field(seed, 96)
        point, sample = views(image), views(image, scale=scale)
        before = float(plain(sample, point))
        after = float(registered_residual(sample, point))
        assert after < 0.4 * before
        assert after < 0.1


def sums(count=8, channels=3, height=32, width=32, seed=0):
    """Smooth images in [-1, 1] that have nothing to do with each other."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 6, 6, generator=generator) * 1.6 - 0.8
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp_(-1, 1)


def test_other_images_stay_far():
    samples, points = sums(16, seed=0), sums(16, seed=1)
    assert float(registered_residual(samples, points).min()) > 0.25
    assert float(registered_residual(samples, points).median()) > 0.5


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (8, 8), (32, 32), (28, 45), (100, 70)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_copies_have_residual_0_mirrored_or_not(channels, shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(5, channels, *shape, generator=generator) * 2 - 1
    assert registered_residual(x, x).tolist() == [0.0] * 5
    # Blocks of other sizes may round the grey of a mirrored pixel another way.
    assert float(registered_residual(x.flip(-1), x).max()) < 1e-6


def test_mirror_images_count_only_when_asked():
    x = sums()
    assert float(registered_residual(x.flip(-1), x, mirror=False).median()) > 0.4


def test_gain_and_offset_do_not_matter_and_a_negative_is_no_copy():
    x = sums()
    assert float(registered_residual(0.5 * x + 0.3, x).max()) < 0.08
    assert float(registered_residual(-x, x).min()) > 0.4


def test_the_residual_is_never_above_that_of_the_images_as_they_are():
    samples, points = sums(16, seed=0), sums(16, seed=1)
    left = registered_residual(samples, points, mirror=False)
    assert bool((left <= plain(samples, points) + 1e-12).all())


def test_what_the_point_does_not_reach_is_not_explained():
    image = field(3, 96)
    point = views(image)
    far = float(registered_residual(views(image, shift=(0.0, 8.0)), point))
    near = float(registered_residual(views(image, shift=(0.0, 2.0)), point))
    copy = float(registered_residual(views(image, scale=0.9), point))
    assert copy < near < far
    # Where the border of the point is continued instead, this is 0.05.
    assert near > 0.12


def test_images_without_contrast_are_alike_and_like_no_others():
    blank = torch.tensor([-1.0, 0.0, 1.0]).reshape(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    others = sums(3)
    assert float(registered_residual(blank, blank.flip(0)).max()) < 1e-6
    assert float(registered_residual(blank, others).min()) > 0.7
    assert float(registered_residual(others, blank).min()) > 0.7


def test_pairs_do_not_depend_on_their_neighbours(monkeypatch):
    samples, points = sums(9, seed=0), sums(9, seed=0).roll(1, -1).flip(-2)
    points[:4] = 0.7 * samples[:4].roll(2, -1)
    whole = registered_residual(samples, points)
    monkeypatch.setattr(alignment, "_PIXELS_AT_A_TIME", 2 * 32 * 32)
    torch.testing.assert_close(registered_residual(samples, points), whole, rtol=0, atol=1e-4)


def test_results_are_float64_whatever_the_dtype():
    samples, points = sums(4, seed=0), sums(4, seed=1)
    single = registered_residual(samples, points)
    double = registered_residual(samples.double(), points.double())
    assert single.dtype == double.dtype == torch.float64
    torch.testing.assert_close(single, double, rtol=0, atol=1e-6)


def test_no_pairs_give_no_residuals():
    none = torch.zeros(0, 1, 8, 8)
    assert registered_residual(none, none).shape == (0,)


def test_shapes_that_are_no_pairs_are_refused(refusal):
    x = sums(2)
    with refusal("samples", "points", "one shape"):
        registered_residual(x, x[:1])
    with refusal("(B, C, H, W)"):
        registered_residual(x[0], x[0])
