"""A subset of the training points per query that shrinks with the noise, against the exact score.

Reconstructed after GoldDiff (Shang, Sun, Lin, Shen, *Fast and Scalable Analytical Diffusion*,
arXiv:2602.16498): points are ranked by the distances of downsampled images, the nearest of them
anew by full distances, and the nearest of those are summed. How many are kept falls with the
noise. It has no certificate, so that error stands beside time.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.floor import interleaved, two_products
from benchmarks.trajectory import _digits as digits
from memdiff.kernel import PosteriorEngine, Queries

__all__ = ["run", "shrinking_subset"]

POINTS = {"small": 4000, "full": 20000}
QUERIES = 64
SIGMAS = {"small": (10.0, 0.5), "full": (80.0, 20.0, 5.0, 2.0, 1.0, 0.5, 0.1)}
TOLERANCE = 1e-5
# Noise at which a schedule begins and ends (EDM); shares of the points that are ranked anew and
# summed, at both ends. Ours: a reading of the paper, in which they are settings.
LARGEST, SMALLEST = 80.0, 0.002
RANKED, SUMMED = (0.10, 0.25), (0.10, 0.05)


def run(size: str, repeats: int) -> list[dict[str, Any]]:
    """Rows of the table, one a noise level and method.

    Returns:
        ``of the floor``: time over both products; ``error``: largest of the denoiser, relative
        to the residual, against float64.
    """
    data = digits(POINTS[size])
    coarse = _downsampled(data)
    engine, exact = PosteriorEngine(data), PosteriorEngine(data.double())
    generator, rows = torch.Generator().manual_seed(1), []
    for sigma in SIGMAS[size]:
        x = data[:QUERIES] + sigma * torch.randn(QUERIES, data.shape[1], generator=generator)
        queries = Queries.of(x, torch.ones(QUERIES), torch.full((QUERIES,), sigma))
        part = exact(queries)
        residual = part.residual_sum / part.total[:, None]
        calls: dict[str, Any] = {
            "floor": two_products(x, data),
            "memdiff": partial(engine, queries, entropy=False),
            "memdiff, tolerance 1e-5": partial(
                engine, queries, entropy=False, tolerance=TOLERANCE
            ),
            "shrinking subset": partial(shrinking_subset, x, data, coarse, sigma),
        }
        seconds = interleaved(calls, repeats)
        for method in list(calls)[1:]:
            found = calls[method]()
            if not isinstance(found, Tensor):
                found = found.residual_sum / found.total[:, None]
            else:
                found = found.double() - x
            error = (found - residual).norm(dim=1) / residual.norm(dim=1).clamp_min(1e-30)
            rows.append(
                {
                    "points": len(data),
                    "sigma": sigma,
                    "method": method,
                    "of the floor": seconds[method] / seconds["floor"],
                    "error": float(error.max()),
                }
            )
    return rows


def shrinking_subset(x: Tensor, data: Tensor, coarse: Tensor, sigma: float) -> Tensor:
    """Posterior mean over the subset of each query."""
    place = math.log(LARGEST / sigma) / math.log(LARGEST / SMALLEST)
    place = min(max(place, 0.0), 1.0)
    ranked, summed = (
        max(1, round(len(data) * (first + (last - first) * place)))
        for first, last in (RANKED, SUMMED)
    )
    near = torch.cdist(_downsampled(x), coarse).topk(ranked, largest=False)[1]
    mean = torch.empty_like(x)
    for i, some in enumerate(near):
        points = data[some]
        square = ((points - x[i]) ** 2).sum(1)
        square, order = square.topk(min(summed, ranked), largest=False)
        mean[i] = (-square / (2 * sigma**2)).softmax(0) @ points[order]
    return mean


def _downsampled(images: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(images.view(-1, 1, 28, 28), 4).flatten(1)
