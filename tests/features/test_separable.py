"""Area averaging and the DCT against scipy, scikit-image and means by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memdiff.data import from_array
from memdiff.features import DCT, Downscaled, Pixels


def test_downscaling_by_a_whole_number_is_the_mean_of_blocks(images):
    data = images(channels=3, height=12, width=20)
    means = data.x.reshape(12, 3, 4, 3, 5, 4).mean((3, 5))
    torch.testing.assert_close(Downscaled((4, 5)).features(data), means.flatten(1))


def test_downscaling_by_any_ratio_agrees_with_local_means_of_scikit_image(images):
    transform = pytest.importorskip("skimage.transform")
    data = images(height=17, width=13)
    rows = Downscaled((5, 4)).features(data)
    for x, row in zip(data.x, rows, strict=True):
        expected = transform.resize_local_mean(x[0].double().numpy(), (5, 4))
        np.testing.assert_allclose(row.reshape(5, 4), expected, atol=1e-6)


@given(length=st.integers(1, 40), size=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_every_old_pixel_is_shared_out_whole(length, size):
    if size > length:
        return
    matrix = Downscaled.matrix(size, length)
    ones = torch.ones(size, dtype=torch.float64)
    torch.testing.assert_close(matrix.sum(1), ones)
    torch.testing.assert_close(matrix.sum(0), torch.full((length,), size / length).double())


def test_downscaling_to_the_same_size_is_the_identity(images):
    data = images()
    torch.testing.assert_close(Downscaled(16).features(data), data.x.flatten(1))


@pytest.mark.parametrize("length", [1, 2, 7, 32])
def test_the_dct_is_orthonormal(length):
    matrix = DCT.matrix(length, length)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(length, dtype=torch.float64))


def test_the_dct_agrees_with_scipy(images):
    from scipy.fft import dctn

    data = images(channels=3, height=12, width=16)
    expected = dctn(data.x.double().numpy(), axes=(2, 3), norm="ortho")[..., :5, :6]
    rows = DCT((5, 6)).features(data)
    np.testing.assert_allclose(rows, expected.reshape(12, -1), atol=1e-6)


def test_the_whole_dct_keeps_distances_and_a_block_never_increases_them(images):
    data = images(channels=3)
    pixels = torch.pdist(Pixels().features(data).double())
    torch.testing.assert_close(torch.pdist(DCT(16).features(data).double()), pixels)
    assert bool((torch.pdist(DCT(4).features(data).double()) <= pixels * (1 + 1e-6)).all())


def test_float64_images_are_described_in_float64():
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    x[1] = x[0] + 1e-10
    data = from_array(x, encoding="signed", layout="channels_first")
    rows = Downscaled(2).features(data)
    torch.testing.assert_close(
        rows[1] - rows[0], torch.full((4,), 1e-10).double(), rtol=1e-5, atol=0
    )


def test_frames_of_clips_are_described_one_by_one(images):
    x = images(count=12).x.reshape(3, 4, 1, 16, 16)
    clips = from_array(x, encoding="signed", layout="channels_first")
    assert clips.kind == "video"
    one_by_one = DCT(4).features(images(count=12)).reshape(3, -1)
    torch.testing.assert_close(DCT(4).features(clips), one_by_one)


def test_sizes_that_do_not_fit_are_refused(images, refusal):
    with refusal("'downscaled:17'", "at least 17 x 17", "train", "16 x 16"):
        Downscaled(17).features(images())
    for size in (0, -2, 2.5, True, (1, 2, 3), (), "8"):
        with refusal("size", repr(size)):
            DCT(size)


def test_names():
    assert (Downscaled(16).name, DCT((4, 6)).name) == ("downscaled:16", "dct:4x6")
