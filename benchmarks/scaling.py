"""Time of one evaluation against N, d and sigma, and its memory against N.

The data have the spectrum of images, variance ``1/k`` along the ``k``-th coordinate, scaled to a
standard deviation of 0.5 a coordinate: noise levels read as for pixels in [-1, 1].
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.floor import interleaved, two_products
from benchmarks.memory import extra_memory, in_own_process
from benchmarks.peers import attention, one_shot, paper_loop
from memdiff.kernel import PosteriorEngine, Queries

__all__ = ["run"]

QUERIES = 256
# The point that all scans pass through: points, dimension, sigma.
CENTRE = {"small": (4000, 256, 1.0), "full": (16000, 784, 1.0)}
POINTS = {"small": (500, 1000, 2000, 4000), "full": (1000, 2000, 4000, 8000, 16000, 32000, 64000)}
DIMENSIONS = {"small": (2, 16, 128), "full": (2, 8, 32, 128, 512, 2048)}
SIGMAS = {"small": (1e-3, 0.1, 10.0), "full": (1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)}
MEMORY = {"small": (4000, 16000), "full": (4000, 16000, 64000, 256000)}
MEMORY_DIMENSION = 64
# Training points that the loop over them sees; its time is scaled up.
LOOPED = 300


def run(size: str, repeats: int) -> list[dict[str, Any]]:
    """Measure the scans.

    Args:
        size: ``"small"`` or ``"full"``.
        repeats: Runs in turns of which the shortest counts.

    Returns:
        One dict a place and method; ``against`` names the scan. ``seconds`` is one evaluation at
        256 queries, ``memory_mb`` what it takes at its highest beside the data.
    """
    points, dimension, sigma = CENTRE[size]
    rows: list[dict[str, Any]] = []
    for num in POINTS[size]:
        rows += _times("N", num, dimension, sigma, repeats)
    for width in DIMENSIONS[size]:
        rows += _times("d", points, width, sigma, repeats)
    for level in SIGMAS[size]:
        rows += _times("sigma", points, dimension, level, repeats)
    for num in MEMORY[size]:
        rows += [_memory(method, num) for method in ("memdiff", "one-shot softmax")]
    return rows


def _case(points: int, dimension: int, sigma: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    spectrum = 1.0 / torch.arange(1.0, dimension + 1)
    deviation = 0.5 * (spectrum / spectrum.mean()).sqrt()
    data = torch.randn(points, dimension, generator=generator) * deviation
    chosen = torch.randint(0, points, (QUERIES,), generator=generator)
    return data[chosen] + sigma * torch.randn(QUERIES, dimension, generator=generator), data


def _times(
    against: str, points: int, dimension: int, sigma: float, repeats: int
) -> list[dict[str, Any]]:
    x, data = _case(points, dimension, sigma)
    engine = PosteriorEngine(data)
    ones, level = torch.ones(QUERIES), torch.full((QUERIES,), sigma)
    some = data[:LOOPED]
    calls: dict[str, Callable[[], object]] = {
        "floor": two_products(x, data),
        "memdiff": lambda: engine(Queries.of(x, ones, level)),
        "memdiff, tolerance 1e-5": lambda: engine(Queries.of(x, ones, level), tolerance=1e-5),
        "SDPA with bias": lambda: attention(x, data, sigma),
        "one-shot softmax": lambda: one_shot(x, data, sigma),
        "paper's loop": lambda: paper_loop(x, some, sigma),
    }
    seconds = interleaved(calls, repeats)
    seconds["paper's loop"] *= points / len(some)
    floor = seconds["floor"]
    place = {"against": against, "points": points, "dimension": dimension, "sigma": sigma}
    return [
        {**place, "method": name, "seconds": value, "of the floor": value / floor}
        for name, value in seconds.items()
    ]


def _memory(method: str, points: int) -> dict[str, Any]:
    found = in_own_process("benchmarks.scaling", method, str(points))
    place = {"against": "memory", "points": points, "dimension": MEMORY_DIMENSION, "sigma": 1.0}
    return {**place, "method": method, "memory_mb": found["mb"]}


def _measure_memory(method: str, points: int) -> None:
    x, data = _case(points, MEMORY_DIMENSION, 1.0)
    engine = PosteriorEngine(data)
    ones, level = torch.ones(QUERIES), torch.full((QUERIES,), 1.0)
    small = slice(0, 1000)
    warm = PosteriorEngine(data[small])  # code and buffers of the libraries are no part of it
    if method == "memdiff":
        warm(x[:8], ones[:8], level[:8])
        mb = extra_memory(lambda: engine(Queries.of(x, ones, level)))
    else:
        one_shot(x[:8], data[small], 1.0)
        mb = extra_memory(lambda: one_shot(x, data, 1.0))
    print(json.dumps({"mb": mb}))


if __name__ == "__main__":
    _measure_memory(sys.argv[1], int(sys.argv[2]))
