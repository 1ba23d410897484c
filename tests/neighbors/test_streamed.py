"""Neighbours and duplicates of rows on disk: those of the rows in memory, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from memdiff.neighbors import Rows, duplicate_groups, nearest, nearest_distinct, self_nearest
from memdiff.sources import rows as rows_module


def _one_file(x: Tensor, folder: Path, name: str) -> Rows:
    np.save(folder / f"{name}.npy", x.numpy())
    return Rows.open(folder / f"{name}.npy", name)


def _shards(x: Tensor, folder: Path, name: str) -> Rows:
    paths = []
    for number, part in enumerate(x.split(211)):
        paths.append(folder / f"{name}-{number}.npy")
        np.save(paths[-1], part.numpy())
    return Rows.open(paths, name)


def _mapped(x: Tensor, folder: Path, name: str) -> np.ndarray:
    np.save(folder / f"{name}.npy", x.numpy())
    return np.load(folder / f"{name}.npy", mmap_mode="r")


STORAGES = [_one_file, _shards, _mapped]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.uint8])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_neighbours_equal_those_in_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    storage: Callable[[Tensor, Path, str], Rows],
    dtype: torch.dtype,
    metric: str,
) -> None:
    monkeypatch.setattr(rows_module, "SPAN_BYTES", 5000)
    generator = torch.Generator().manual_seed(0)
    y = (40 * torch.randn(900, 17, generator=generator) + 120).clamp(1, 255).to(dtype)
    x = (40 * torch.randn(60, 17, generator=generator) + 120).clamp(1, 255).to(dtype)
    x[:20], y[500] = y[300:320], y[3]
    queries, points = storage(x, tmp_path, "queries"), storage(y, tmp_path, "points")
    for options in ({}, {"memory_limit": 2**16}, {"exclude": torch.arange(60) + 290}):
        mine = nearest(queries, points, 3, metric=metric, **options)
        theirs = nearest(x, y, 3, metric=metric, **options)
        assert torch.equal(mine.indices, theirs.indices)
        assert torch.equal(mine.distances, theirs.distances)
    for tolerance in (0.0, 60.0):
        mine, theirs = (duplicate_groups(data, tolerance) for data in (points, y))
        assert torch.equal(mine.labels, theirs.labels)
        assert 1 <= theirs.num_redundant < 899
    groups = duplicate_groups(y).labels
    mine, theirs = (nearest_distinct(x, data, groups, 2) for data in (points, y))
    assert torch.equal(mine.indices, theirs.indices)
    mine, theirs = (self_nearest(data, 2, metric=metric) for data in (points, y))
    assert torch.equal(mine.distances, theirs.distances)


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    y = torch.zeros(900, 4)
    y[444, 2] = torch.nan
    with pytest.raises(ValueError, match=r"points must be finite, got NaN .* row 444"):
        nearest(torch.zeros(2, 4), _shards(y, tmp_path, "points"))


_SCRIPT = """
import json, sys
from pathlib import Path
import torch
from memdiff.neighbors import Rows, nearest

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))

torch.set_num_threads(1)
queries = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
nearest(queries, torch.randn(3000, 256), 2, memory_limit=2**24)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
points = Rows.open(sys.argv[2])
nearest(queries, points if sys.argv[1] == "stream" else points.tensor(), 2, memory_limit=2**24)
print(json.dumps(status("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory by the kernel")
def test_memory_stays_below_the_stated_limit(tmp_path: Path) -> None:
    """A file of 205 MB: 200,000 points of 256 numbers."""
    num = 200_000
    array = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (num, 256))
    generator = torch.Generator().manual_seed(0)
    for start in range(0, num, 10_000):
        array[start : start + 10_000] = torch.randn(10_000, 256, generator=generator).numpy()
    array.flush()
    del array
    limit = 2**24 + 64 * num + 2**25  # hashes are sorted to find duplicates
    used = {}
    for how in ("stream", "load"):
        command = [sys.executable, "-c", _SCRIPT, how, str(tmp_path / "x.npy")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        used[how] = json.loads(done.stdout)
    assert used["stream"] < limit < used["load"], (used, limit)
