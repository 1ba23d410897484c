"""The exact score of training data on disk: time and memory against their number.

Times are of one evaluation for all queries, in turns over the sizes, from a file that the system
has cached; the memory is of a process that opens the file, builds the score and evaluates it.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.floor import interleaved
from benchmarks.memory import extra_memory, in_own_process
from memdiff.processes import EDM
from memdiff.scores import EmpiricalScore
from memdiff.sources import Rows

__all__ = ["run"]

SIZES = {"small": (20_000, 50_000, 100_000), "full": (100_000, 200_000, 500_000, 1_000_000)}
DIMENSION = 64
SIGMAS = (0.01, 0.5, 10.0)
MEMORY_LIMIT = 2**26


def run(size: str = "small", repeats: int = 3, queries: int = 64) -> list[dict[str, Any]]:
    """Rows of the table: one a number of training points and noise level.

    Args:
        size: ``"small"`` or ``"full"`` (a file of 256 MB; a few minutes).
        repeats: Interleaved repetitions, of which the shortest counts.
        queries: Number of queries.

    Returns:
        One dict a case; ``exponent`` is fitted to the times of all sizes at that noise level.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = {points: _write(Path(folder) / f"{points}.npy", points) for points in SIZES[size]}
        memory = {
            points: in_own_process("benchmarks.streaming", str(path), str(queries))["mb"]
            for points, path in paths.items()
        }
        scores = {
            points: (
                EmpiricalScore(Rows.open(path), EDM(), memory_limit=MEMORY_LIMIT),
                EmpiricalScore(torch.from_numpy(np.load(path)), EDM(), memory_limit=MEMORY_LIMIT),
            )
            for points, path in paths.items()
        }
        for sigma in SIGMAS:
            calls: dict[str, Callable[[], object]] = {}
            for points, (streamed, loaded) in scores.items():
                x = _queries(queries, sigma)
                calls[f"{points} streamed"] = partial(streamed.posterior, x, sigma)
                calls[f"{points} loaded"] = partial(loaded.posterior, x, sigma)
            seconds = interleaved(calls, repeats)
            times = [seconds[f"{points} streamed"] for points in scores]
            exponent = float(np.polyfit(np.log(list(scores)), np.log(times), 1)[0])
            rows += [
                {
                    "points": points,
                    "dimension": DIMENSION,
                    "queries": queries,
                    "sigma": sigma,
                    "seconds": seconds[f"{points} streamed"],
                    "against memory": seconds[f"{points} streamed"] / seconds[f"{points} loaded"],
                    "exponent": exponent,
                    "file_mb": 4 * points * DIMENSION / 1e6,
                    "extra_memory_mb": memory[points],
                    "limit_mb": (MEMORY_LIMIT + 24 * points + 2**25) / 1e6,
                }
                for points in scores
            ]
    return rows


def _write(path: Path, points: int) -> Path:
    """Training points, written in blocks."""
    generator = torch.Generator().manual_seed(0)
    out = np.lib.format.open_memmap(path, "w+", np.float32, (points, DIMENSION))
    for start in range(0, points, 10_000):
        size = min(10_000, points - start)
        out[start : start + size] = torch.randn(size, DIMENSION, generator=generator).numpy()
    out.flush()
    return path


def _queries(queries: int, sigma: float) -> torch.Tensor:
    """Noised copies of the first training points, which every size shares."""
    x = torch.randn(queries, DIMENSION, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(queries, DIMENSION, generator=torch.Generator().manual_seed(1))
    return x + sigma * noise


def _measure(path: str, queries: int) -> None:
    warm = EmpiricalScore(torch.randn(5000, DIMENSION), EDM())
    for sigma in SIGMAS:
        warm.posterior(_queries(queries, sigma), sigma)

    def call() -> None:
        score = EmpiricalScore(Rows.open(path), EDM(), memory_limit=MEMORY_LIMIT)
        for sigma in SIGMAS:
            found = score.posterior(_queries(queries, sigma), sigma)
            assert math.isfinite(float(found.log_density.sum()))

    print(json.dumps({"mb": extra_memory(call)}))


if __name__ == "__main__":
    _measure(sys.argv[1], int(sys.argv[2]))
