"""Each step of the preprocessing against Pillow or by hand, the presets, and stated files."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from memdiff.features import PREPROCESSING_PRESETS, Preprocessing


def noise(count, channels, height, width):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, height, width, generator=generator) * 2 - 1


def test_without_steps_images_go_to_the_unit_range_clamped():
    x = torch.tensor([-1.5, -1.0, 0.0, 0.5, 1.0, 2.0]).reshape(1, 1, 2, 3)
    out = Preprocessing(channels="same")(x)
    assert out.flatten().tolist() == [0.0, 0.0, 0.5, 0.75, 1.0, 1.0]
    assert x.flatten()[0] == -1.5  # the input is left alone


def test_grey_is_repeated_and_colour_becomes_luma():
    grey = noise(2, 1, 4, 4)
    rgb = Preprocessing(channels="rgb")(grey)
    assert rgb.shape == (2, 3, 4, 4)
    for channel in range(3):
        torch.testing.assert_close(rgb[:, channel], (grey[:, 0] + 1) / 2)
    colour = noise(2, 3, 4, 4)
    luma = Preprocessing(channels="grey")(colour)
    unit = (colour + 1) / 2
    expected = 0.299 * unit[:, 0] + 0.587 * unit[:, 1] + 0.114 * unit[:, 2]
    torch.testing.assert_close(luma[:, 0], expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(10, 14), (50, 60)])
def test_resizing_agrees_with_pillow(interpolation, size):
    from PIL import Image

    x = noise(1, 1, 31, 40)
    out = Preprocessing(resize=size, interpolation=interpolation, channels="same")(x)
    method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    source = Image.fromarray(((x[0, 0] + 1) / 2).numpy())  # mode F: Pillow without rounding
    expected = np.asarray(source.resize(size[::-1], method[interpolation]))
    # Places up to 40 in float32 are 4e-6 apart, and neighbouring pixels differ by up to 1.
    np.testing.assert_allclose(out[0, 0], expected.clip(0, 1), rtol=0, atol=1e-5)


def test_a_number_resizes_the_shorter_side_and_the_crop_is_central():
    x = noise(1, 3, 30, 45)
    assert Preprocessing(resize=20)(x).shape == (1, 3, 20, 30)
    assert Preprocessing(resize=20)(x.mT).shape == (1, 3, 30, 20)
    assert Preprocessing(resize=31)(x).shape == (1, 3, 31, 46)  # 46.5, rounded down
    cropped = Preprocessing(crop=(10, 15))(x)
    torch.testing.assert_close(cropped, ((x + 1) / 2)[..., 10:20, 15:30])


def test_antialiasing_matters_when_reducing_and_can_be_turned_off():
    stripes = torch.ones(1, 1, 16, 16)
    stripes[..., ::2] = -1
    smooth = Preprocessing(resize=(4, 4), channels="same")
    assert float((smooth(stripes) - 0.5).abs().max()) < 0.2
    x = noise(1, 1, 16, 16)
    assert not torch.equal(smooth(x), replace(smooth, antialias=False)(x))


def test_normalisation_by_channel():
    x = noise(2, 3, 5, 5)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    out = Preprocessing(mean=mean, std=std)(x)
    for channel in range(3):
        expected = ((x[:, channel] + 1) / 2 - mean[channel]) / std[channel]
        torch.testing.assert_close(out[:, channel], expected)
    one = Preprocessing(mean=(0.5,), std=(0.5,))(x)
    torch.testing.assert_close(one, x)


def test_presets_give_the_published_sizes_and_ranges():
    x = torch.ones(1, 1, 40, 60)
    sizes = {name: tuple(preset(x).shape[1:]) for name, preset in PREPROCESSING_PRESETS.items()}
    assert sizes == {
        "sscd-288": (3, 288, 432),
        "sscd-320": (3, 320, 320),
        "sscd-wen": (3, 224, 224),
        "sscd-amg": (3, 224, 224),
        "imagenet": (3, 224, 224),
        "dinov2": (3, 224, 224),
        "clip": (3, 224, 224),
        "as-is": (3, 40, 60),
    }
    white = {name: preset(x)[0, 0].mean().item() for name, preset in PREPROCESSING_PRESETS.items()}
    imagenet = (1 - 0.485) / 0.229
    for name in ("sscd-288", "sscd-320", "imagenet", "dinov2"):
        assert white[name] == pytest.approx(imagenet, rel=1e-5)
    for name in ("sscd-wen", "sscd-amg", "as-is"):
        assert white[name] == pytest.approx(1.0)
    assert white["clip"] == pytest.approx((1 - 0.48145466) / 0.26862954, rel=1e-5)


def test_bad_attributes_are_refused(refusal):
    for resize in (0, (3,), (3, -1), (2.0, 2), [4, 4], "8"):
        with refusal("resize", "shorter side", repr(resize)):
            Preprocessing(resize=resize)
    for crop in (5, (0, 4)):
        with refusal("crop", repr(crop)):
            Preprocessing(crop=crop)
    with refusal("interpolation", "'lanczos'"):
        Preprocessing(interpolation="lanczos")
    with refusal("channels", "'bgr'"):
        Preprocessing(channels="bgr")
    with refusal("go together"):
        Preprocessing(mean=(0.5,))
    for mean, std in (((), ()), ((0.5,), (0.0,)), ((0.1, 0.2), (1.0,)), ((0.1,), (np.inf,))):
        with refusal("mean and std"):
            Preprocessing(mean=mean, std=std)


def test_images_that_do_not_fit_are_refused(refusal):
    with refusal("4 channels", "mode='RGB'"):
        Preprocessing()(noise(1, 4, 8, 8))
    with refusal("crop=(9, 9)", "(8, 8)"):
        Preprocessing(crop=(9, 9))(noise(1, 3, 8, 8))
    with refusal("3 channels", "the images 1"):
        Preprocessing(channels="same", mean=(0.5,) * 3, std=(0.5,) * 3)(noise(1, 1, 8, 8))


CLIP = {
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "rescale_factor": 0.00392156862745098,
    "resample": 3,
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def write(folder, content, name="preprocessor_config.json"):
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_a_folder_states_its_preprocessing(tmp_path):
    assert Preprocessing.from_folder(write(tmp_path, CLIP)) == PREPROCESSING_PRESETS["clip"]
    vit = {**CLIP, "size": {"height": 384, "width": 384}, "resample": 2, "do_normalize": False}
    del vit["do_center_crop"], vit["crop_size"]
    assert Preprocessing.from_folder(write(tmp_path, vit)) == Preprocessing(resize=(384, 384))
    old = {**CLIP, "size": 224, "crop_size": 224}
    assert Preprocessing.from_folder(write(tmp_path, old)) == PREPROCESSING_PRESETS["clip"]


def test_a_processor_states_it_for_the_image_part(tmp_path):
    write(tmp_path, {"image_processor": CLIP}, "processor_config.json")
    assert Preprocessing.from_folder(tmp_path) == PREPROCESSING_PRESETS["clip"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"do_resize": None}, "do_resize"),
        ({"do_normalize": None}, "do_normalize"),
        ({"image_std": None}, "image_std"),
        ({"crop_size": None}, "crop_size"),
        ({"resample": 1}, "resample=1"),
        ({"size": {"longest_edge": 9}}, "longest_edge"),
        ({"rescale_factor": 1 / 127.5}, "[0, 1]"),
        ({"do_rescale": False}, "[0, 1]"),
    ],
)
def test_a_file_that_leaves_a_step_open_is_refused(tmp_path, refusal, change, word):
    with refusal(word, "preprocessor_config.json", "explicitly"):
        Preprocessing.from_folder(write(tmp_path, {**CLIP, **change}))


def test_folders_without_the_file_are_refused(tmp_path, refusal):
    with refusal("preprocessor_config.json", "sscd-288"):
        Preprocessing.from_folder(tmp_path)
    with refusal("no folder", "absent", error=FileNotFoundError):
        Preprocessing.from_folder(tmp_path / "absent")
    with refusal("not valid JSON"):
        Preprocessing.from_folder(write(tmp_path, "{"))
