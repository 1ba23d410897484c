"""Nearest neighbours against the floor of their matrix product, in one run.

The floor is the bare product ``queries @ points.T`` in blocks, by the fastest of the forms and
blockings tried. Times are interleaved, so that a busy machine slows both.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.memory import extra_memory, in_own_process
from memdiff.neighbors import RowData, Rows, nearest

__all__ = ["run"]

# (queries, points, features)
SIZES = {"small": (8000, 8000, 512), "full": (50000, 50000, 512)}


def run(size: str = "small", repeats: int = 3, k: int = 3) -> list[dict[str, Any]]:
    """The row of the table; a tenth of the queries are near copies.

    Args:
        size: ``"small"`` or ``"full"`` (the size of the target; minutes a repeat).
        repeats: Interleaved repetitions, of which the shortest counts.
        k: Number of neighbours.

    Returns:
        One dict.
    """
    queries, points, features = SIZES[size]
    x, y = _sets(size)
    nearest(x[:64], y[:64], 1)
    floors = []
    times: dict[str, list[float]] = {"memdiff": [], "streamed": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "points.npy"
        np.save(path, y.numpy())
        sets: dict[str, RowData] = {"memdiff": y, "streamed": Rows.open(path)}
        for _ in range(repeats):
            floors.append(_product_seconds(x, y))
            for name, searched in sets.items():
                start = time.perf_counter()
                nearest(x, searched, k)
                times[name].append(time.perf_counter() - start)
    memory = in_own_process("benchmarks.neighbors", size, str(k))["mb"]
    return [
        {
            "queries": queries,
            "points": points,
            "features": features,
            "k": k,
            "floor_seconds": min(floors),
            **{name: min(found) / min(floors) for name, found in times.items()},
            "target": 1.3,
            "extra_memory_mb": memory,
        }
    ]


def _sets(size: str) -> tuple[Tensor, Tensor]:
    queries, points, features = SIZES[size]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(queries, features, generator=generator)
    y = torch.randn(points, features, generator=generator)
    copied = min(queries // 10, points)
    x[:copied] = y[:copied] + 1e-3 * x[:copied]
    return x, y


def _product_seconds(x: Tensor, y: Tensor) -> float:
    """All inner products, kept nowhere; the best form and blocking of a short trial."""

    def product(rows: int, columns: int, fused: bool, x: Tensor, y: Tensor) -> None:
        bias = torch.zeros(columns)
        for b, a in itertools.product(y.split(columns), x.split(rows)):
            if fused:
                torch.addmm(bias[: len(b)], a, b.T)
            else:
                torch.mm(a, b.T)

    def seconds(form: tuple[int, int, bool], x: Tensor, y: Tensor) -> float:
        start = time.perf_counter()
        product(*form, x, y)
        return time.perf_counter() - start

    forms = list(itertools.product((512, 1024), (2048, 4096), (False, True)))
    trial = {form: seconds(form, x[:4096], y[:4096]) for form in forms * 2}
    return seconds(min(trial, key=lambda form: trial[form]), x, y)


def _measure(size: str, k: int) -> None:
    x, y = _sets(size)
    nearest(x[:64], y[:64], 1)
    print(json.dumps({"mb": extra_memory(lambda: nearest(x, y, k))}))


if __name__ == "__main__":
    _measure(sys.argv[1], int(sys.argv[2]))
