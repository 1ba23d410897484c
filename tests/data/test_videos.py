import sys

import numpy as np
import pytest
import torch
from PIL import Image

from memdiff.data import load


def clip(seed, frames=4, shape=(6, 5, 3)):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(frames)]


def save(path, frames, **options):
    first, *rest = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=rest, duration=40, **options)


LOSSLESS = {"webp": {"lossless": True}, "png": {}}


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_lossless_animations_are_exact(tmp_path, suffix):
    for seed in range(2):
        save(tmp_path / f"{seed}.{suffix}", clip(seed), **LOSSLESS[suffix])
    data = load(tmp_path)
    assert data.kind == "video" and data.encoding == "signed" and data.shape == (4, 3, 6, 5)
    bytes_ = ((data.x + 1) * 127.5).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()
    assert np.array_equal(bytes_, np.stack([clip(0), clip(1)]))
    assert data.names == (f"0.{suffix}", f"1.{suffix}")


def test_gif_frames_are_those_of_pillow_in_order(tmp_path):
    greys = [np.full((6, 5), value, dtype=np.uint8) for value in (0, 80, 160, 240)]
    save(tmp_path / "x.gif", greys)
    x = load(tmp_path).x
    assert ((x[0, :, 0, 0, 0] + 1) * 127.5).round().tolist() == [0, 80, 160, 240]
    assert load(tmp_path, mode="L").shape == (4, 1, 6, 5)
    assert load(tmp_path, frames=2).shape == (2, 3, 6, 5)
    assert load(tmp_path, size=3).shape == (4, 3, 3, 3)


def test_a_still_gif_is_an_image(tmp_path):
    Image.fromarray(clip(0)[0]).save(tmp_path / "x.gif")
    assert load(tmp_path).kind == "images"


def test_class_folders_are_labels(tmp_path):
    for where in ("run", "walk"):
        (tmp_path / where).mkdir()
        save(tmp_path / where / "x.gif", clip(0))
    assert load(tmp_path).label_names == ("run", "walk")


def test_mixed_lengths_and_sizes_are_named(tmp_path, refusal):
    save(tmp_path / "a.png", clip(0))
    save(tmp_path / "b.png", clip(1, frames=3))
    with refusal("train", "'a.png' is (4, 3, 6, 5)", "'b.png' is (3, 3, 6, 5)", "frames="):
        load(tmp_path, name="train")
    assert load(tmp_path, frames=3).shape == (3, 3, 6, 5)
    with refusal("b.png", "3 frames", "frames=4"):
        load(tmp_path, frames=4)
    save(tmp_path / "b.png", clip(1, shape=(4, 4, 3)))
    with refusal("'b.png' is (4, 3, 4, 4)", "size=(H, W)"):
        load(tmp_path)


def test_images_among_clips_are_refused(tmp_path, refusal):
    save(tmp_path / "a.png", clip(0))
    Image.fromarray(clip(0)[0]).save(tmp_path / "b.png")
    with refusal("mixes images and videos", "'a.png'", "'b.png'"):
        load(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "webp", "gif"])
def test_truncated_animations_are_named(tmp_path, suffix, refusal):
    save(tmp_path / f"x.{suffix}", clip(0, shape=(64, 64, 3)))
    whole = (tmp_path / f"x.{suffix}").read_bytes()
    (tmp_path / f"x.{suffix}").write_bytes(whole[: int(0.8 * len(whole))])
    with refusal("train", f"x.{suffix}"):
        load(tmp_path, name="train")


def test_without_opencv_the_message_has_the_command(tmp_path, monkeypatch, refusal):
    (tmp_path / "x.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with refusal("x.mp4", "pip install 'memdiff[video]'", error=ImportError):
        load(tmp_path)


def write_video(path, frames):
    cv2 = pytest.importorskip("cv2")
    code = {".avi": "MJPG", ".mp4": "mp4v"}[path.suffix]
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 10.0, (width, height))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_videos_keep_frames_order_and_colour(tmp_path, suffix):
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (128, 128, 128)]
    write_video(tmp_path / f"x{suffix}", [np.full((32, 48, 3), c, np.uint8) for c in colours])
    data = load(tmp_path)
    assert data.shape == (4, 3, 32, 48)
    means = ((data.x.mean(dim=(0, 3, 4)) + 1) * 127.5).numpy()
    assert np.abs(means - np.array(colours)).max() < 12
    assert load(tmp_path, frames=2, size=8, mode="L").shape == (2, 1, 8, 8)


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
@pytest.mark.parametrize("keep", [0.0, 0.05, 0.5])
def test_truncated_videos_are_named(tmp_path, suffix, keep, refusal):
    write_video(tmp_path / f"x{suffix}", clip(0, frames=20, shape=(32, 32, 3)))
    whole = (tmp_path / f"x{suffix}").read_bytes()
    (tmp_path / f"x{suffix}").write_bytes(whole[: int(keep * len(whole))])
    with refusal("train", f"x{suffix}"):
        load(tmp_path, name="train")
