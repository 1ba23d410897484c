"""Data sets on disk: equal in every respect to the same set in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from memdiff.data import Dataset, StreamedDataset, load


def _values(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    random = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return (2 * random.random(shape) - 1).astype(dtype)
    return random.integers(0, 2 if dtype == "bool" else 200, shape).astype(dtype)


def _assert_equal(streamed: Dataset, loaded: Dataset) -> None:
    assert isinstance(streamed, StreamedDataset) and not isinstance(loaded, StreamedDataset)
    assert torch.equal(streamed.x.tensor(), loaded.x)
    assert streamed.x.dtype == loaded.x.dtype and streamed.shape == loaded.shape
    for name in ("kind", "encoding", "stored", "name", "source", "sha256"):
        assert getattr(streamed, name) == getattr(loaded, name), name
    assert tuple(streamed.names) == loaded.names
    if loaded.labels is not None:
        assert streamed.labels is not None and torch.equal(streamed.labels, loaded.labels)


@pytest.mark.parametrize("shape", [(90,), (90, 5), (90, 8, 8), (90, 3, 8, 8), (90, 8, 8, 3)])
@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "uint16", "int64", "float16", "float32", "float64"]
)
def test_one_file_equals_the_loaded_one(
    tmp_path: Path, shape: tuple[int, ...], dtype: str
) -> None:
    np.save(tmp_path / "x.npy", _values(shape, dtype))
    streamed = load(tmp_path / "x.npy", name="train", stream_above=0)
    _assert_equal(streamed, load(tmp_path / "x.npy", name="train"))


@pytest.mark.parametrize(
    "options",
    [
        {"limit": 33},
        {"value_range": (0, 255)},
        {"value_range": (-1, 1)},
        {"layout": "channels_last"},
    ],
    ids=str,
)
def test_options_mean_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    low = options.get("value_range", (0, 1))[0]
    values = _values((90, 3, 8, 3), "float32") if low else _values((90, 3, 8, 3), "uint8")
    np.save(tmp_path / "x.npy", values)
    options = {"layout": "channels_first", **options}
    streamed = load(tmp_path / "x.npy", stream_above=0, **options)
    _assert_equal(streamed, load(tmp_path / "x.npy", **options))


def test_large_integers_become_float64(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1, 2], [2**24 + 1, -5]]))
    streamed = load(tmp_path / "x.npy", stream_above=0)
    assert streamed.x.dtype == torch.float64
    _assert_equal(streamed, load(tmp_path / "x.npy"))


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_shards_are_one_set_in_natural_order(tmp_path: Path, suffix: str) -> None:
    x = torch.from_numpy(_values((110, 1, 8, 8), "uint8"))
    labels = torch.arange(110) % 7
    for number in range(11):
        part = slice(10 * number, 10 * number + 10)
        path = tmp_path / f"train-{number}{suffix}"
        if suffix == ".npy":
            np.save(path, x[part].numpy())
        else:
            save_file({"x": x[part].contiguous(), "y": labels[part].clone()}, path)
    (tmp_path / "index.json").write_text("{}")
    for source in (tmp_path, tmp_path / f"train-*{suffix}"):
        streamed, loaded = load(source, stream_above=0), load(source)
        _assert_equal(streamed, loaded)
        assert torch.equal(loaded.x, x.to(torch.float32) / 127.5 - 1)
        assert (streamed.labels is not None) == (suffix == ".safetensors")
    assert load(tmp_path, stream_above=0).notes == ("1 other files passed over",)
    _assert_equal(load(tmp_path, limit=25, stream_above=0), load(tmp_path, limit=25))


def test_only_what_is_large_stays_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", _values((90, 1, 8, 8), "uint8"))
    size = 4 * 90 * 64  # decoded, not stored
    assert not isinstance(load(tmp_path / "x.npy", stream_above=size), StreamedDataset)
    assert isinstance(load(tmp_path / "x.npy", stream_above=size - 1), StreamedDataset)
    np.save(tmp_path / "f.npy", np.asfortranarray(_values((90, 5), "float32")))
    assert len(load(tmp_path / "f.npy", stream_above=10_000)) == 90
    with pytest.raises(ValueError, match="column by column"):
        load(tmp_path / "f.npy", stream_above=0)


def test_parts_stay_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", _values((90, 5), "float32"))
    streamed, loaded = load(tmp_path / "x.npy", stream_above=0), load(tmp_path / "x.npy")
    index = torch.tensor([3, -1, 3, 50])
    _assert_equal(streamed.subset(index), loaded.subset(index))
    _assert_equal(streamed.subset(slice(80, 10, -7)), loaded.subset(slice(80, 10, -7)))
    _assert_equal(
        streamed.subset(index).subset([2, 0]).renamed("a"),
        loaded.subset(index).subset([2, 0]).renamed("a"),
    )
    for mine, theirs in zip(streamed.split(0.3), loaded.split(0.3), strict=True):
        _assert_equal(mine, theirs)
    assert streamed.describe() == loaded.describe() + ", on disk"
    back = streamed.in_memory()
    assert torch.equal(back.x, loaded.x) and back.names == loaded.names


@pytest.mark.parametrize("shape", [(90, 5), (90, 1, 8, 8)])
def test_a_value_that_is_not_finite_is_found(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = _values(shape, "float32")
    values[57].flat[3] = np.nan
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(ValueError, match=r"train .*x\.npy.* 1 of 90 points .* index 57"):
        load(tmp_path / "x.npy", name="train", stream_above=0)


def test_bad_shards_in_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    with pytest.raises(ValueError, match="empty folder"):
        load(folder, stream_above=0)
    with pytest.raises(FileNotFoundError, match="matches no file"):
        load(folder / "*.npy", stream_above=0)
    np.save(folder / "a.npy", np.zeros((4, 3), dtype=np.float32))
    np.save(folder / "b.npy", np.zeros((4, 3), dtype=np.float64))
    with pytest.raises(ValueError, match=r"every shard .* torch.float64 in .*b\.npy"):
        load(folder, stream_above=0)
    np.save(folder / "b.npy", np.zeros((4, 2), dtype=np.float32))
    with pytest.raises(ValueError, match=r"every shard .* \(2,\) .* in .*b\.npy"):
        load(folder)
    np.save(folder / "b.npy", np.zeros((4, 3), dtype=np.float32))
    (folder / "b.npy").write_bytes((folder / "b.npy").read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"b\.npy.* is truncated"):
        load(folder, stream_above=0)
    (folder / "b.npy").unlink()
    (folder / "b.txt").write_text("")
    with pytest.raises(ValueError, match=r"b\.txt', which cannot be a shard"):
        load(folder / "*")
    save_file({"x": torch.ones(2, 3), "y": torch.arange(2)}, folder / "b.safetensors")
    with pytest.raises(ValueError, match="labels in 1 of 2 shards"):
        load(folder)
    with pytest.raises(ValueError, match=r"size= does not apply .* a folder of shards"):
        load(folder, size=4)
    np.save(tmp_path / "dark.npy", np.ones((5, 4, 4), dtype=np.uint8))
    with pytest.raises(ValueError, match="binary, or almost black"):
        load(tmp_path / "dark.npy", stream_above=0)
