import numpy as np
import pytest
import torch
from PIL import Image

from memdiff.data import load


def picture(seed=0, shape=(6, 5, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def to_bytes(x):
    """The 8-bit pixels that a decoded image stands for, channels last."""
    return ((x + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp", "bmp", "tif", "TIFF", "ppm"])
@pytest.mark.parametrize("shape", [(6, 5, 3), (6, 5)])
def test_decoding_is_exact_to_the_byte(folder, suffix, shape):
    for seed in range(3):
        Image.fromarray(picture(seed, shape)).save(folder / f"{seed}.{suffix}")
    mode = None if suffix != "webp" else ("RGB" if len(shape) == 3 else "L")
    data = load(folder, mode=mode)
    assert data.kind == "images" and data.encoding == "signed" and data.x.dtype == torch.float32
    assert data.stored == "uint8"
    for seed in range(3):
        with Image.open(folder / f"{seed}.{suffix}") as image:
            expected = np.asarray(image.convert(mode) if mode else image).reshape(6, 5, -1)
        assert np.array_equal(to_bytes(data.x[seed]), expected)


def test_a_folder_and_an_array_of_the_same_pixels_are_the_same(folder, tmp_path):
    for seed in range(3):
        Image.fromarray(picture(seed)).save(folder / f"{seed}.png")
    np.savez(tmp_path / "a.npz", np.stack([picture(seed) for seed in range(3)]))
    assert load(folder).sha256 == load(tmp_path / "a.npz").sha256


def test_the_hash_follows_content_and_order_not_names(folder):
    for seed in range(3):
        Image.fromarray(picture(seed)).save(folder / f"{seed}.png")
    before = load(folder).sha256
    (folder / "2.png").rename(folder / "7.png")
    assert load(folder).sha256 == before
    (folder / "7.png").rename(folder / "00.png")
    assert load(folder).sha256 != before


def test_natural_order_and_limit(folder):
    for name in ("img10", "img2", "IMG1", "b", "img02"):
        Image.fromarray(picture()).save(folder / f"{name}.png")
    names = ("b.png", "IMG1.png", "img02.png", "img2.png", "img10.png")
    assert load(folder).names == names
    assert load(folder, limit=2).names == names[:2]


def test_class_folders_are_labels(folder):
    for where in ("dog", "cat/a", "cat/b", "class10", "class9"):
        (folder / where).mkdir(parents=True)
        Image.fromarray(picture()).save(folder / where / "x.png")
    data = load(folder)
    assert data.label_names == ("cat", "class9", "class10", "dog")
    assert data.names[:2] == ("cat/a/x.png", "cat/b/x.png")
    assert data.labels.tolist() == [0, 0, 1, 2, 3]
    Image.fromarray(picture()).save(folder / "loose.png")
    assert load(folder).labels is None


def test_one_class_folder_is_no_label(folder):
    (folder / "train").mkdir()
    Image.fromarray(picture()).save(folder / "train" / "x.png")
    assert load(folder).labels is None


def test_links_are_followed_once(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.fromarray(picture()).save(elsewhere / "x.png")
    (folder / "link").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(folder)
    assert load(folder).names == ("link/x.png",)


def test_other_and_hidden_files_are_passed_over_and_noted(folder):
    Image.fromarray(picture()).save(folder / "x.png")
    for name in (".DS_Store", "Thumbs.db", ".hidden.png"):
        (folder / name).write_bytes(b"junk")
    assert load(folder).notes == ()
    (folder / "metadata.json").write_text("{}")
    assert load(folder).notes == ("1 other files passed over",)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_camera_s_orientation_is_applied(folder, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture()).save(folder / "x.png", exif=exif)
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }[orientation](picture())
    assert np.array_equal(to_bytes(load(folder).x[0]), upright)


def test_palette_and_bilevel_images_lose_nothing(folder):
    palette = Image.fromarray(picture()).quantize(16)
    palette.save(folder / "x.png")
    assert np.array_equal(to_bytes(load(folder).x[0]), np.asarray(palette.convert("RGB")))
    Image.fromarray(picture(shape=(6, 5)) > 127).save(folder / "x.png")
    assert load(folder).x.unique().tolist() == [-1.0, 1.0]


def test_sixteen_bits_are_kept_and_can_be_coloured(folder):
    deep = np.random.default_rng(0).integers(0, 65536, (6, 5), dtype=np.uint16)
    Image.fromarray(deep).save(folder / "x.png")
    data = load(folder)
    assert data.stored == "uint16" and data.x.shape == (1, 1, 6, 5)
    assert np.array_equal(((data.x[0, 0].double() + 1) * 32767.5).round().numpy(), deep)
    colour = load(folder, mode="RGB").x
    assert torch.equal(colour, data.x.expand(1, 3, 6, 5))
    Image.fromarray(picture(shape=(6, 5))).save(folder / "y.png")
    assert load(folder, mode="L").x.shape == (2, 1, 6, 5)


def test_resizing_sixteen_bits_is_close_to_resizing_eight(folder, tmp_path):
    smooth = (np.outer(np.sin(np.arange(32) / 6) + 1, np.ones(32)) * 127).astype(np.uint8)
    Image.fromarray(smooth).save(folder / "x.png")
    (tmp_path / "deep").mkdir()
    Image.fromarray(smooth.astype(np.uint16) * 257).save(tmp_path / "deep" / "x.png")
    shallow, deep = load(folder, size=(8, 16)).x, load(tmp_path / "deep", size=(8, 16)).x
    assert shallow.shape == (1, 1, 8, 16)
    assert (shallow - deep).abs().max() <= 1.01 / 127.5


def test_float_images_keep_their_values(folder):
    values = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    Image.fromarray(values).save(folder / "x.tif")
    data = load(folder)
    assert np.array_equal(data.x[0, 0].numpy(), values) and data.stored == "float32"
    assert data.encoding == "free"


def test_mixed_sizes_are_named_and_can_be_resized(folder, refusal):
    Image.fromarray(picture(shape=(6, 5, 3))).save(folder / "a.png")
    Image.fromarray(picture(shape=(6, 5, 3))).save(folder / "b.png")
    Image.fromarray(picture(shape=(4, 7, 3))).save(folder / "c.png")
    with refusal("train", "'a.png' is RGB 5x6", "'c.png' is RGB 7x4", "size=(H, W)"):
        load(folder, name="train")
    data = load(folder, size=(6, 5))
    with Image.open(folder / "c.png") as image:
        expected = np.asarray(image.resize((5, 6), Image.Resampling.BICUBIC))
    assert np.array_equal(to_bytes(data.x[0]), picture())
    assert np.array_equal(to_bytes(data.x[2]), expected)
    assert load(folder, size=3).shape == (3, 3, 3)


def test_mixed_modes_are_named_and_can_be_converted(folder, refusal):
    Image.fromarray(picture()).save(folder / "a.png")
    Image.fromarray(picture(shape=(6, 5))).save(folder / "b.png")
    with refusal("train", "'a.png' is RGB", "'b.png' is L", "mode='L'"):
        load(folder, name="train")
    grey, colour = load(folder, mode="L"), load(folder, mode="RGB")
    assert grey.shape == (1, 6, 5) and colour.shape == (3, 6, 5)
    expected = np.asarray(Image.fromarray(picture()).convert("L"))[..., None]
    assert np.array_equal(to_bytes(grey.x[0]), expected)
    assert torch.equal(colour.x[1, 0], grey.x[1, 0])


@pytest.mark.parametrize("kind", ["RGBA", "LA", "transparent colour"])
def test_alpha_needs_a_mode(folder, kind, refusal):
    if kind == "transparent colour":
        Image.fromarray(picture()).save(folder / "x.png", transparency=(1, 2, 3))
    else:
        Image.fromarray(picture(shape=(6, 5, len(kind))), kind).save(folder / "x.png")
    with refusal("x.png", "alpha", "mode='RGB'"):
        load(folder)
    assert load(folder, mode="RGB").shape == (3, 6, 5)
    kept = load(folder, mode="RGBA")
    assert kept.shape == (4, 6, 5)
    assert torch.equal(kept.x[:, :3], load(folder, mode="RGB").x)


def test_other_colour_models_need_a_mode(folder, refusal):
    Image.fromarray(picture(shape=(6, 5, 4)), "CMYK").save(folder / "x.jpg")
    with refusal("x.jpg", "CMYK", "mode='RGB'"):
        load(folder)
    assert load(folder, mode="RGB").shape == (3, 6, 5)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "gif"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.9])
def test_truncated_images_are_named_and_never_zero(folder, suffix, keep, refusal):
    for name in ("a", "b"):
        Image.fromarray(picture(shape=(64, 64, 3))).save(folder / f"{name}.{suffix}")
    path = folder / f"b.{suffix}"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with refusal("train", f"b.{suffix}"):
        load(folder, name="train")


def test_an_image_that_is_none_is_named(folder, refusal):
    (folder / "x.png").write_text("not an image")
    with refusal("train", "x.png", "damaged"):
        load(folder, name="train")
    (folder / "x.png").unlink()
    (folder / "y.jpg").write_text("<html>404</html>")
    with refusal("y.jpg", "damaged"):
        load(folder)


def test_damaged_bytes_in_a_png_are_named(folder, refusal):
    Image.fromarray(picture(shape=(64, 64, 3))).save(folder / "x.png")
    damaged = bytearray((folder / "x.png").read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    (folder / "x.png").write_bytes(damaged)
    with refusal("x.png", "damaged"):
        load(folder)


def test_several_pages_are_refused(folder, refusal):
    page = Image.fromarray(picture())
    page.save(folder / "x.tif", save_all=True, append_images=[page])
    with refusal("x.tif", "2 pages"):
        load(folder)


def test_deep_images_that_do_not_convert_are_refused(folder, refusal):
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(folder / "x.png")
    with refusal("x.png", "16-bit", "RGBA"):
        load(folder, mode="RGBA")
    (folder / "x.png").unlink()
    Image.fromarray(np.full((4, 4), 70000, dtype=np.int32)).save(folder / "x.tif")
    with refusal("x.tif", "70000"):
        load(folder)
    Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)).save(folder / "x.tif")
    with refusal("NaN", "row 0"):
        load(folder)
    with refusal("x.tif", "floating-point"):
        load(folder, mode="L")


def test_floating_point_pixels_take_a_range_and_integers_have_one(tmp_path, refusal):
    pixels = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    assert load(tmp_path).encoding == "unit"
    data = load(tmp_path, value_range=(0, 1))
    assert data.encoding == "signed"
    np.testing.assert_allclose(data.x[0, 0], 2 * pixels - 1, atol=1e-6)
    Image.fromarray((255 * pixels).astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.tif").unlink()
    with refusal("value_range=", str(tmp_path), "integers"):
        load(tmp_path, value_range=(0, 255))
