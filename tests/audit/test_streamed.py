"""Audits of sets on disk: the report of the same sets in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from memdiff.audit import audit
from memdiff.audit.inputs import duplicate_distance, prepare
from memdiff.data import Dataset, StreamedDataset, load
from memdiff.features import DCT, PCA, FeatureCache, Flip, Pixels, TableColumns
from memdiff.features import descriptor as descriptor_module
from memdiff.neighbors import self_nearest
from memdiff.sources import Rows


def _pictures(folder: Path) -> dict[str, Path]:
    """Smooth random images as bytes; the training set in shards, with a duplicate."""
    random = np.random.default_rng(0)
    waves = random.standard_normal((900, 8, 8)).cumsum(1).cumsum(2)
    images = np.clip(128 + 12 * waves, 0, 255).astype(np.uint8)
    train, heldout, fresh = images[:400], images[400:600], images[600:]
    train[17] = train[300]
    fresh[:40] = train[:40]
    fresh[40:60] = train[40:60, :, ::-1]
    (folder / "train").mkdir()
    for number in range(4):
        np.save(folder / "train" / f"{number}.npy", train[100 * number : 100 * number + 100])
    np.save(folder / "heldout.npy", heldout)
    np.save(folder / "generated.npy", fresh)
    return {
        "generated": folder / "generated.npy",
        "train": folder / "train",
        "heldout": folder / "heldout.npy",
    }


def _sets(folder: Path, above: int | None) -> dict[str, Dataset]:
    return {
        name: load(path, name=name, stream_above=above) for name, path in _pictures(folder).items()
    }


def _no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> Tensor:
        raise AssertionError("the whole set was loaded")

    monkeypatch.setattr(Rows, "tensor", refuse)
    monkeypatch.setattr(StreamedDataset, "in_memory", refuse)


def _assert_same(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            if key not in ("provenance", "seconds"):
                _assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for position, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            _assert_same(mine, theirs, f"{where}[{position}]")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-7, nan_ok=True), where
    elif not (isinstance(one, str) and one.endswith(", on disk")):
        assert one == other, where


@pytest.mark.parametrize(
    "options",
    [
        {"features": ["pixels", "dct:3"], "invariance": "flip"},
        {"features": ["pca:5"], "invariance": "flip", "drop_overlap": True},
        {"features": ["auto"]},  # with registration
    ],
    ids=lambda options: "+".join(options["features"]),
)
def test_the_report_is_that_of_the_loaded_sets(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**options, "pairs": 8}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    loaded = audit(**_sets(tmp_path / "a", None), **options)
    _no_loading(monkeypatch)
    sets = _sets(tmp_path / "b", 0)
    assert all(isinstance(data, StreamedDataset) for data in sets.values())
    streamed = audit(**sets, **options)
    assert streamed.verdict == loaded.verdict == "memorizing"
    mine, theirs = (
        _without_paths(result.to_dict(), folder)
        for result, folder in ((streamed, tmp_path / "b"), (loaded, tmp_path / "a"))
    )
    _assert_same(mine, theirs)
    streamed.to_html(tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 10_000


def _without_paths(found: Any, folder: Path) -> Any:
    if isinstance(found, dict):
        return {key: _without_paths(value, folder) for key, value in found.items()}
    if isinstance(found, list):
        return [_without_paths(value, folder) for value in found]
    return found.replace(str(folder), "") if isinstance(found, str) else found


def test_vectors_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(900, 6, generator=generator) * torch.tensor([1, 1, 1, 100, 1, 1.0])
    sets = {"generated": x[:300], "train": x[250:650], "heldout": x[650:]}
    loaded = audit(**sets, features=["pixels", "table"], pairs=4)
    for name, part in sets.items():
        np.save(tmp_path / f"{name}.npy", part.numpy())
    _no_loading(monkeypatch)
    rows = {name: Rows.open(tmp_path / f"{name}.npy", name) for name in sets}
    streamed = audit(**rows, features=["pixels", "table"], pairs=4)
    for mine, theirs in zip(streamed.evidence, loaded.evidence, strict=True):
        assert mine.tests.p_value == pytest.approx(theirs.tests.p_value)
        assert mine.tests.fraction.value == pytest.approx(theirs.tests.fraction.value)
        assert mine.exchangeability.p_value == theirs.exchangeability.p_value
    assert [pair.train for pair in streamed.pairs] == [pair.train for pair in loaded.pairs]
    streamed.to_html(tmp_path / "report.html")


@pytest.mark.parametrize("limit", [0, 2**26])
def test_features_equal_those_in_memory(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptor_module, "_IN_MEMORY_BYTES", limit)
    for name in "ab":
        (tmp_path / name).mkdir()
    streamed = _sets(tmp_path / "a", 0)["train"]
    loaded = _sets(tmp_path / "b", None)["train"]
    for descriptor in (Pixels(), DCT(3), PCA(4), PCA(4, whiten=True)):
        mine = descriptor.fit(streamed).features(streamed)
        theirs = descriptor.fit(loaded).features(loaded)
        assert isinstance(mine, Rows) == (limit == 0 or descriptor.name == "pixels")
        assert torch.allclose(mine[:], theirs, rtol=1e-5, atol=1e-6), descriptor.name
    for (name, mine), (same, theirs) in zip(
        Flip().variants(streamed), Flip().variants(loaded), strict=True
    ):
        assert name == same and torch.equal(mine.x[:], theirs.x)
    vectors = [
        Dataset(loaded.x.flatten(1), "vectors"),
        StreamedDataset(streamed.x.flatten(), "vectors"),
    ]
    table = [TableColumns().fit(data).features(data)[:] for data in vectors]
    assert torch.allclose(*table, rtol=1e-5, atol=1e-6)


def test_the_file_of_large_features_goes_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptor_module, "_IN_MEMORY_BYTES", 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    data = _sets(tmp_path, 0)["train"]
    rows = DCT(3).features(data)
    part = rows.select(torch.tensor([1, 2]))
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    del rows
    assert part[0].isfinite().all()
    del part
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("limit", [0, 2**26])
def test_cached_features_stay_on_disk(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptor_module, "_IN_MEMORY_BYTES", limit)
    data = _sets(tmp_path, 0)["train"]
    cache = FeatureCache(tmp_path / "cache")
    first, second = cache.features(DCT(3), data), cache.features(DCT(3), data)
    assert (cache.hits, cache.misses) == (1, 1) and isinstance(second, Rows)
    assert torch.equal(first[:], second[:])
    # A set in memory with the same points has the same entry.
    loaded = data.in_memory()
    assert torch.equal(cache.features(DCT(3), loaded), second[:]) and cache.hits == 2
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="are damaged"):
        again = cache.features(DCT(3), data)
    assert torch.equal(again[:], first[:])


def test_the_tolerance_from_some_of_many_points(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    exact = duplicate_distance(x, 0.01, 4000)
    assert exact <= 0.01 * float(self_nearest(x).distances.median())
    monkeypatch.setattr("memdiff.audit.inputs._ASKED", 1000)
    assert duplicate_distance(x, 0.01, 4000) == pytest.approx(exact, rel=0.1)


def test_inputs_on_disk_are_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overlap, dropped or not, distinct values where a set was cleaned, groups."""
    random = np.random.default_rng(0)
    atoms = random.standard_normal((40, 3)).astype(np.float32)
    sets = {name: atoms[random.integers(0, 40, 90)] for name in ("generated", "heldout")}
    sets["train"] = np.unique(atoms, axis=0)[:35]
    for name, x in sets.items():
        np.save(tmp_path / f"{name}.npy", x)
    _no_loading(monkeypatch)
    labels = {name: np.arange(len(sets[name])) for name in ("train", "heldout")}
    for options in ({}, {"drop_overlap": True}, {"groups": labels}):
        order = ("generated", "train", "heldout")
        rows = [Rows.open(tmp_path / f"{name}.npy", name) for name in order]
        if "drop_overlap" in options:
            rows[2] = Rows.joined([rows[2], random.standard_normal((9, 3)).astype(np.float32)])
            rows[1] = Rows.joined([rows[1], random.standard_normal((9, 3)).astype(np.float32)])
        streamed = prepare(*rows, 0.01, **options)
        loaded = prepare(*(one[:] for one in rows), 0.01, **options)
        assert streamed.overlap == loaded.overlap and streamed.notes == loaded.notes
        assert streamed.tolerance == pytest.approx(loaded.tolerance)
        for name in ("compared", "kin", "groups"):
            mine, theirs = getattr(streamed, name), getattr(loaded, name)
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[key], theirs[key]) for key in mine), name
        for name, data in streamed.sets.items():
            assert isinstance(data, StreamedDataset)
            assert torch.equal(data.x[:], loaded.sets[name].x)
