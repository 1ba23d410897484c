import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from memdiff.data import load
from memdiff.run.writing import save_arrays

X = np.random.default_rng(0).normal(size=(6, 3))
Y = np.arange(6)


def write(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        tensors = {key: torch.from_numpy(np.asarray(value)) for key, value in arrays.items()}
        torch.save(tensors, path) if path.suffix == ".pt" else save_file(tensors, path)
    return path


SUFFIXES = pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])


@SUFFIXES
@pytest.mark.parametrize("key", ["x", "images", "samples", "data", "arr_0", "anything"])
@pytest.mark.parametrize("label", ["y", "labels", "label", "targets", None])
def test_points_and_labels_are_found(tmp_path, suffix, key, label):
    arrays = {key: X} | ({label: Y} if label else {})
    data = load(write(tmp_path / f"a{suffix}", arrays))
    assert data.x.dtype == torch.float64
    assert np.array_equal(data.x.numpy(), X)
    assert (data.labels is None) == (label is None)
    if label:
        assert data.labels.tolist() == Y.tolist()
    assert data.names[5] == "row 5" and data.source.endswith(f"a{suffix}")


@SUFFIXES
def test_all_formats_hash_alike_and_cut_alike(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", {"x": X, "y": Y})
    np.save(tmp_path / "b.npy", X)
    assert load(path).sha256 == load(tmp_path / "b.npy").sha256
    cut = load(path, limit=2)
    assert np.array_equal(cut.x.numpy(), X[:2]) and cut.labels.tolist() == [0, 1]
    assert len(load(path, limit=100)) == 6


@SUFFIXES
def test_key_chooses_and_ambiguity_is_refused(tmp_path, suffix, refusal):
    path = write(tmp_path / f"a{suffix}", {"u": X, "v": X + 1})
    assert np.array_equal(load(path, key="v").x.numpy(), X + 1)
    with refusal("train", "'u', 'v'", "key="):
        load(path, name="train")
    with refusal("no array 'w'", "'u', 'v'"):
        load(path, key="w")
    with refusal("'x'", "'data'", "key="):
        load(write(tmp_path / f"b{suffix}", {"x": X, "data": X + 1}))


def test_images_with_labels_as_guided_diffusion_saves_them(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", pixels, Y)
    data = load(tmp_path / "a.npz")
    assert data.x.shape == (6, 3, 8, 8) and data.labels.tolist() == Y.tolist()


def test_an_only_label_like_array_is_the_data(tmp_path):
    np.savez(tmp_path / "a.npz", y=X)
    data = load(tmp_path / "a.npz")
    assert np.array_equal(data.x.numpy(), X) and data.labels is None


def test_a_saved_encoding_is_believed(tmp_path):
    dark = torch.full((2, 1, 4, 4), 0.5)
    save_arrays(tmp_path / "a", x=dark, encoding="signed")
    save_arrays(tmp_path / "b", x=dark)
    assert load(tmp_path / "a.npz").encoding == "signed"
    assert load(tmp_path / "b.npz").encoding == "unit"
    assert torch.equal(load(tmp_path / "a.npz").x, dark)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_half_precision_becomes_float32(tmp_path, dtype, suffix):
    x = torch.randn(4, 2).to(dtype)
    path = tmp_path / f"a{suffix}"
    torch.save(x, path) if suffix == ".pt" else save_file({"x": x}, path)
    assert load(path).x.dtype == torch.float32
    assert torch.equal(load(path).x, x.float())


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f4"])
def test_npy_round_trip(tmp_path, order, dtype):
    values = np.array(X, dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", values)
    assert np.array_equal(load(tmp_path / "a.npy").x.numpy(), values)


def test_a_mapped_npy_never_changes_on_disk(tmp_path, recwarn):
    np.save(tmp_path / "a.npy", X)
    before = (tmp_path / "a.npy").read_bytes()
    load(tmp_path / "a.npy").x.add_(1.0)
    assert (tmp_path / "a.npy").read_bytes() == before
    assert np.array_equal(load(tmp_path / "a.npy").x.numpy(), X)
    assert not recwarn.list


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_files_are_mapped_not_read(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    np.save(path, X) if suffix == ".npy" else write(path, {"x": X})
    data = load(path)
    assert str(path) in Path("/proc/self/maps").read_text()
    assert len(data) == 6


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pt"])
def test_pickles_are_never_executed(tmp_path, suffix, refusal):
    path = tmp_path / f"a{suffix}"
    evil = np.array([Evil()], dtype=object)
    if suffix == ".npz":
        np.savez(path, x=evil)
    elif suffix == ".npy":
        np.save(path, evil)
    else:
        torch.save({"x": Evil()}, path)
    with refusal("train", f"a{suffix}", "Python objects"):
        load(path, name="train")
    path.write_bytes(pickle.dumps(Evil()))
    with refusal("train", f"a{suffix}"):
        load(path, name="train")


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pt", ".safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.05, 0.5, 0.97])
def test_truncated_files_are_named(tmp_path, suffix, keep, refusal):
    path = tmp_path / f"a{suffix}"
    values = np.random.default_rng(0).normal(size=(50, 20))
    np.save(path, values) if suffix == ".npy" else write(path, {"x": values})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with refusal("train", str(path)):
        load(path, name="train")


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pt", ".safetensors"])
def test_noise_is_named(tmp_path, suffix, refusal):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(np.random.default_rng(0).bytes(2000))
    with refusal(str(path)):
        load(path)


def test_a_damaged_member_of_an_npz_is_named(tmp_path, refusal):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros(1000))
    damaged = bytearray(path.read_bytes())
    damaged[4000] ^= 0xFF
    path.write_bytes(damaged)
    with refusal(str(path), "damaged"):
        load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no array")
    with refusal(str(path)):
        load(path)
    np.savez(path)
    with refusal(str(path), "no array"):
        load(path)


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"a": 1}, 3, (torch.zeros(2), 1)])
def test_a_pt_of_something_else_is_refused(tmp_path, content, refusal):
    torch.save(content, tmp_path / "a.pt")
    with refusal("a.pt", type(content).__name__, "dictionary of tensors"):
        load(tmp_path / "a.pt")


def test_key_for_a_single_array_is_refused(tmp_path, refusal):
    np.save(tmp_path / "a.npy", X)
    with refusal("key='x'", "single array"):
        load(tmp_path / "a.npy", key="x")
