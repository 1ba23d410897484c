"""Thumbnails: what they forget, what they keep, and images without contrast."""

import numpy as np
import pytest
import torch
from PIL import Image

from memdiff.data import from_array
from memdiff.features import Downscaled, Thumbnail, parse_invariance


def described(x, side=8, **how):
    data = from_array(x, **({"encoding": "signed", "layout": "channels_first"} | how))
    return Thumbnail(side).features(data)


def test_features_are_standardised_cell_means(images):
    data = images(count=3, height=12, width=20)
    cells = Downscaled(4).features(data).double()
    cells = cells - cells.mean(1, keepdim=True)
    expected = cells / (cells.std(1, correction=0, keepdim=True) + 0.02) / 4
    torch.testing.assert_close(Thumbnail(4).features(data).double(), expected, rtol=0, atol=1e-6)


def test_brightness_and_contrast_do_not_matter(images):
    x = images(count=5).x
    plain, edited = described(x), described(0.6 * x - 0.2)
    assert float((plain - edited).norm(dim=1).max()) < 0.05
    assert float(torch.cdist(plain, plain).fill_diagonal_(9).min()) > 0.3


def test_fine_detail_does_not_matter(images):
    x = images(count=5, height=32, width=32).x
    checkers = 0.2 * (-1.0) ** torch.arange(32).add(torch.arange(32)[:, None])
    torch.testing.assert_close(described(x + checkers), described(x), rtol=0, atol=1e-6)


def test_images_without_contrast_are_all_alike():
    levels = torch.tensor([-1.0, 0.0, 0.3, 1.0]).reshape(-1, 1, 1, 1).expand(-1, 3, 9, 9)
    assert float(described(levels).abs().max()) < 1e-6


def test_faint_contrast_is_noise_and_not_content():
    faint = 1e-3 * torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert float(described(faint).norm(dim=1).max()) < 0.05


def test_encodings_give_the_same_features():
    pixels = torch.randint(0, 256, (4, 3, 10, 14), generator=torch.Generator().manual_seed(0))
    x = pixels.to(torch.float64)
    signed = described(x / 127.5 - 1)
    torch.testing.assert_close(described(x / 255, encoding="unit"), signed)
    torch.testing.assert_close(described(x, encoding="byte"), signed)
    half = described(pixels.to(torch.uint8), encoding=None)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), signed, rtol=0, atol=1e-5)


def test_grey_is_that_of_pillow():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(pixels[0]).convert("L"))[None, None]
    colour = Thumbnail(4).features(from_array(pixels))
    torch.testing.assert_close(colour, Thumbnail(4).features(from_array(grey)), rtol=0, atol=5e-3)


def test_transparent_pixels_do_not_count_and_the_shape_of_a_cut_out_does(images):
    x = images(count=2, channels=4).x
    x[:, 3, :8] = -1.0
    other = x.clone()
    other[:, :3, :8] = 0.7
    torch.testing.assert_close(described(x), described(other))
    black = torch.full((2, 4, 16, 16), -1.0)
    black[0, 3, 4:12, 4:12] = black[1, 3, :8, :8] = 1.0
    rows = described(black)
    assert float((rows[0] - rows[1]).norm()) > 0.5


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 3), (30, 31)])
def test_images_of_any_size_and_aspect_are_described(shape):
    x = torch.rand(3, 1, *shape, dtype=torch.float64) * 2 - 1
    rows = described(x)
    assert rows.shape == (3, 64)
    assert bool(rows.isfinite().all())


def test_cells_of_a_smaller_image_repeat_its_pixels(images):
    small = images(count=3, height=4, width=4).x
    repeated = small.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(described(small), described(repeated))


def test_clips_are_standardised_as_a_whole(images):
    frames = images(count=6).x.reshape(3, 2, 1, 16, 16)
    clips = from_array(frames, encoding="signed", layout="channels_first")
    rows = Thumbnail(4).features(clips)
    assert rows.shape == (3, 32)
    assert float(rows.double().mean(1).abs().max()) < 1e-7


def test_the_search_is_told_to_mirror():
    assert parse_invariance(Thumbnail.invariance).names == ("identity", "flip")
    assert Downscaled.invariance is None


@pytest.mark.parametrize("side", [0, 1, -3, 2.5, True, "8"])
def test_sides_that_are_none_are_refused(side, refusal):
    with refusal("side", "thumbnail", repr(side)):
        Thumbnail(side)
