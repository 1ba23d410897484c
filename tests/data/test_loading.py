import numpy as np
import pytest
from PIL import Image

from memdiff.data import load


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set").mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 4), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / f"{seed}.png")
    return tmp_path / "set"


def test_an_unknown_source_lists_what_there_is(refusal):
    words = ("train", "'digit'", "digits, mnist5k, rectangles, points20", ".safetensors")
    with refusal(*words, error=FileNotFoundError):
        load("digit", name="train")


def test_a_path_goes_before_a_built_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "digits" / "x.png")
    assert len(load("digits")) == 1
    assert len(load("points20")) == 20


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "a.npy", np.ones((2, 2)))
    assert len(load("~/a.npy")) == 2


def test_folders_without_data_are_refused(tmp_path, refusal):
    with refusal("train", str(tmp_path), "empty folder"):
        load(tmp_path, name="train")
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.npz").write_text("")
    with refusal("train", "no images, videos or array shards among 2 files", ".npz, .txt"):
        load(tmp_path, name="train")


@pytest.mark.parametrize("file", ["a.txt", "a.pkl", "a.tar.gz", "a.png", "a.mp4", "a"])
def test_files_of_another_kind_are_refused(tmp_path, file, refusal):
    (tmp_path / file).write_bytes(b"junk")
    with refusal("train", str(tmp_path / file), "folder"):
        load(tmp_path / file, name="train")


@pytest.mark.parametrize("suffix", [".NPY", ".Npz"])
def test_the_case_of_a_suffix_does_not_matter(tmp_path, suffix):
    with (tmp_path / f"a{suffix}").open("wb") as stream:
        (np.save if suffix == ".NPY" else np.savez)(stream, np.ones((2, 2)))
    assert len(load(tmp_path / f"a{suffix}")) == 2


@pytest.mark.parametrize(
    ("source", "option"),
    [
        ("set", {"key": "x"}),
        ("set", {"frames": 2}),
        ("set", {"value_range": (0, 1)}),
        ("set", {"categorical": ["a"]}),
        ("a.npy", {"size": 4}),
        ("a.npy", {"mode": "L"}),
        ("a.npy", {"header": False}),
        ("a.csv", {"key": "x"}),
        ("a.csv", {"layout": "channels_last"}),
        ("digits", {"size": 4}),
    ],
)
def test_an_option_that_does_not_apply_is_refused(folder, monkeypatch, source, option, refusal):
    monkeypatch.chdir(folder.parent)
    np.save("a.npy", np.ones((2, 2)))
    (folder.parent / "a.csv").write_text("a,b\n1,2\n")
    with refusal("train", next(iter(option)), "does not apply", source):
        load(source, name="train", **option)


@pytest.mark.parametrize(
    "option",
    [
        {"limit": 0},
        {"limit": -1},
        {"limit": 2.5},
        {"limit": True},
        {"frames": 0},
        {"mode": "rgb"},
        {"size": 0},
        {"size": (4, 0)},
        {"size": (4, 4, 4)},
        {"size": "big"},
        {"size": 4.0},
    ],
)
def test_a_bad_option_is_refused(folder, option, refusal):
    name, value = next(iter(option.items()))
    with refusal("train", name, repr(value)):
        load(folder, name="train", **option)


@pytest.mark.parametrize("size", [7, (7, 7), [7, 7]])
def test_size_may_be_a_number_or_a_pair(folder, size):
    assert load(folder, size=size).shape == (1, 7, 7)


def test_an_error_names_the_set_as_the_caller_does(tmp_path, refusal):
    np.save(tmp_path / "a.npy", np.array([[1.0], [np.nan]]))
    with refusal("generated", "a.npy", "1 NaN", "row 1"):
        load(tmp_path / "a.npy", name="generated")
