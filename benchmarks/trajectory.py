"""Whole trajectories of the exact score: an 18-step EDM Heun run against 35 evaluations' floor."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.floor import two_products
from memdiff.data import load
from memdiff.processes import EDM
from memdiff.samplers import Heun, sample
from memdiff.scores import EmpiricalScore
from memdiff.training import AffineAugmentation

__all__ = ["run"]

DIMENSION = 784
# Small sets are where a screen has the least to save.
POINTS = {"small": (6000,), "full": (60000, 6000)}
QUERIES = {"small": 64, "full": 256}
TOLERANCES = {"small": (0.0, 1e-5), "full": (0.0, 1e-6, 1e-5)}
# Samples that are drawn by the exact score too.
COMPARED = 4
EVALUATIONS = 35


def run(size: str = "full", repeats: int = 2) -> list[dict[str, Any]]:
    """Rows of the table, one a data set and tolerance.

    Args:
        size: ``"small"`` or ``"full"`` (the sizes of the targets).
        repeats: Runs in turns of which the shortest counts.

    Returns:
        ``first run`` and ``memdiff`` (later ones) are the time of ``sample`` over that of 35
        pairs of products; the first run also sets up. ``counted`` is the share of work that the
        stats of the run tell, without measuring time; ``difference`` the largest one between a
        coordinate of a sample and of that drawn with tolerance 0.
    """
    cases: dict[str, tuple[Callable[[int], Tensor], float]] = {
        "digits": (_digits, 0.6),
        "8-dimensional surface": (_surface, 0.3),
        "isotropic": (_isotropic, 1.1),
    }
    rows = []
    for num in POINTS[size]:
        for name, (make, target) in cases.items():
            data = make(num)
            for tolerance in TOLERANCES[size]:
                row = _trajectory(data, tolerance, QUERIES[size], repeats)
                # The targets are of the large size, but for that of any data.
                if tolerance > 0.0:
                    row["target"] = target if num > 6000 else 1.1
                rows.append({"data": name, **row})
    return rows


def _trajectory(data: Tensor, tolerance: float, queries: int, repeats: int) -> dict[str, Any]:
    process, sampler = EDM(), Heun(18)
    latents = torch.randn(queries, DIMENSION, generator=torch.Generator().manual_seed(1))
    floor = two_products(latents, data)
    score = EmpiricalScore(data, process, tolerance=tolerance)
    floors, runs = [_seconds(floor)], []
    # The first run also sets up; a view asks for nothing but what a run needs.
    first = _seconds(lambda: sample(score, latents, sampler=sampler))
    for _ in range(repeats):
        floors.append(_seconds(floor))
        runs.append(_seconds(lambda: sample(score, latents, sampler=sampler)))
    found = sample(score, latents[:COMPARED], sampler=sampler)
    plain = EmpiricalScore(data, process, tolerance=0.0)
    exact = sample(plain, latents[:COMPARED], sampler=sampler)
    levels = sample(score, latents, sampler=sampler).stats.levels
    products = sum(level.products for level in levels)
    dense = sum(level.dense_products for level in levels)
    return {
        "queries": queries,
        "points": len(data),
        "dimension": DIMENSION,
        "tolerance": tolerance,
        "floor_seconds": min(floors),
        "first run": first / (EVALUATIONS * min(floors)),
        "memdiff": min(runs) / (EVALUATIONS * min(floors)),
        "counted": products / dense if dense else 1.0,
        "collapsed": sum(level.collapsed for level in levels) / (EVALUATIONS * queries),
        "difference": float((found.x - exact.x).abs().max()),
    }


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _digits(num: int) -> Tensor:
    """MNIST digits under random affine maps."""
    images = load("mnist5k").x.to(torch.float32).reshape(-1, 1, 28, 28)
    generator = torch.Generator().manual_seed(0)
    maps = AffineAugmentation(degrees=15.0, shift=0.1, zoom=0.15)
    chosen = images[torch.arange(num) % len(images)]
    mapped = [maps(part, generator) for part in chosen.split(5000)]
    return torch.cat(mapped).reshape(num, -1)


def _surface(num: int) -> Tensor:
    """A smooth surface of eight dimensions, in a subspace of 24."""
    generator = torch.Generator().manual_seed(0)
    latent = torch.rand(num, 8, generator=generator, dtype=torch.float64)
    waves = torch.cat([torch.sin(k * torch.pi * latent) / k for k in (1, 2, 3)], 1)
    points = waves @ torch.randn(24, DIMENSION, generator=generator, dtype=torch.float64)
    return (0.5 * points / points.std()).to(torch.float32)


def _isotropic(num: int) -> Tensor:
    return 0.5 * torch.randn(num, DIMENSION, generator=torch.Generator().manual_seed(0))
