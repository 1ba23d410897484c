"""Arrays on disk: the same rows as numpy and safetensors read, and bad files in one sentence."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from memdiff.sources import ArrayFile

DTYPES = ["bool", "uint8", "int16", "uint16", "int64", "float16", "float32", "float64"]


def _array(dtype: str, rows: int = 41) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 200, (rows, 3, 2))
    return (values > 99) if dtype == "bool" else values.astype(dtype)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_npy_rows_equal_numpy(tmp_path: Path, dtype: str, order: str) -> None:
    array = _array(dtype)
    np.save(tmp_path / "x.npy", array.astype(array.dtype.newbyteorder(order)))
    file = ArrayFile.open(tmp_path / "x.npy")
    index = torch.tensor([40, 0, 3, 3, 2, 17])
    assert (file.shape, file.dtype) == (array.shape, getattr(torch, dtype))
    assert torch.equal(file.read(5, 23), torch.from_numpy(array[5:23]))
    assert torch.equal(file.gather(index), torch.from_numpy(array[index.numpy()]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.uint8])
def test_safetensors_rows_equal_the_library(tmp_path: Path, dtype: torch.dtype) -> None:
    x = torch.arange(60).reshape(20, 3).to(dtype)
    save_file({"y": torch.arange(20), "x": x}, tmp_path / "x.safetensors")
    file = ArrayFile.open(tmp_path / "x.safetensors", key="x")
    assert torch.equal(file.read(2, 19), x[2:19])
    assert torch.equal(file.gather(torch.tensor([7, 1, 19])), x[[7, 1, 19]])
    assert set(ArrayFile.open_all(tmp_path / "x.safetensors")) == {"x", "y"}


@pytest.mark.parametrize("width", [1, 700, 5000, 300_000])
def test_gathering_any_rows_of_any_width(tmp_path: Path, width: int) -> None:
    # Widths on both sides of what is read together, skipped, and cut.
    rows = min(3000, 6_000_000 // width)
    array = np.random.default_rng(1).integers(0, 255, (rows, width), dtype=np.uint8)
    np.save(tmp_path / "x.npy", array)
    file = ArrayFile.open(tmp_path / "x.npy")
    generator = torch.Generator().manual_seed(0)
    for count in (1, 5, rows):
        index = torch.randint(0, rows, (count,), generator=generator)
        assert np.array_equal(file.gather(index).numpy(), array[index.numpy()])
    assert file.gather(torch.empty(0, dtype=torch.int64)).shape == (0, width)


def test_a_file_is_a_few_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((100_000, 4)))
    file = ArrayFile.open(tmp_path / "x.npy")
    assert len(pickle.dumps(file)) < 1000
    assert pickle.loads(pickle.dumps(file)) == file


def test_version_2_headers(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(3, 2)
    with (tmp_path / "x.npy").open("wb") as stream:
        np.lib.format.write_array(stream, array, version=(2, 0))
    assert torch.equal(ArrayFile.open(tmp_path / "x.npy").read(0, 3), torch.from_numpy(array))


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, keep: int) -> None:
    path = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        np.save(path, np.ones((50, 3)))
    else:
        save_file({"x": torch.ones(50, 3)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="truncated") as caught:
        ArrayFile.open(path, "train")
    assert "train" in str(caught.value) and str(path) in str(caught.value)


def test_a_file_cut_or_gone_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.ones((50, 3)))
    file = ArrayFile.open(path, "train")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"train .* ends in row 22 of 50: it was truncated"):
        file.read(0, 50)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"train .* has gone"):
        file.gather(torch.tensor([1]))


def test_what_cannot_be_read_by_rows_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.asfortranarray(np.ones((4, 3))))
    with pytest.raises(ValueError, match="column by column"):
        ArrayFile.open(tmp_path / "f.npy")
    np.save(tmp_path / "o.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="pickled Python objects"):
        ArrayFile.open(tmp_path / "o.npy")
    np.save(tmp_path / "c.npy", np.ones((4, 3), dtype=complex))
    with pytest.raises(ValueError, match="dtype complex128"):
        ArrayFile.open(tmp_path / "c.npy")
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="arrays 'a', 'b'"):
        ArrayFile.open(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"\.npy or \.safetensors"):
        ArrayFile.open(tmp_path / "x.npz")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        ArrayFile.open(tmp_path / "none.npy")
