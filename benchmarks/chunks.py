"""Float32 products in chunks of coordinates, added up in float64: time and error of each."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.floor import interleaved, two_products
from benchmarks.trajectory import _digits as digits
from memdiff.kernel import PosteriorEngine, Queries
from memdiff.kernel.choice import Route

__all__ = ["run"]

POINTS = {"small": 4000, "full": 20000}
QUERIES = 256
SIGMAS = {"small": (3.0,), "full": (2.5, 3.0, 4.0, 5.0, 7.0)}
ROUTES = (
    Route.FLOAT32,
    Route.CHUNKS_256,
    Route.CHUNKS_128,
    Route.CHUNKS_64,
    Route.CHUNKS_32,
    Route.MIXED,
)


def run(size: str, repeats: int) -> list[dict[str, Any]]:
    """Rows of the table, one a data set, noise level and route.

    Returns:
        ``memdiff`` is the time over the floor; ``error`` the largest of the log of the sum of
        weights, which is that of the weights, against float64; ``chosen`` whether the engine
        takes the route, for so many of the queries.
    """
    data = {"digits": digits(POINTS[size]), "images": _images(POINTS[size])}
    return [row for name, x in data.items() for row in _rows(name, x, SIGMAS[size], repeats)]


def _images(num: int) -> Tensor:
    """Gaussian points with the spectrum of images, as in the table `scaling`."""
    spectrum = 1.0 / torch.arange(1.0, 785.0)
    deviation = 0.5 * (spectrum / spectrum.mean()).sqrt()
    return torch.randn(num, 784, generator=torch.Generator().manual_seed(0)) * deviation


def _rows(
    name: str, data: Tensor, sigmas: tuple[float, ...], repeats: int
) -> list[dict[str, Any]]:
    engine = PosteriorEngine(data)
    generator, rows = torch.Generator().manual_seed(1), []
    for sigma in sigmas:
        x = data[:QUERIES] + sigma * torch.randn(QUERIES, data.shape[1], generator=generator)
        queries = Queries.of(x, torch.ones(QUERIES), torch.full((QUERIES,), sigma))
        queries = queries.under(engine.log_prior)
        exact = engine.by(Route.FLOAT64, queries)
        truth = exact.top_logit + exact.total.log()
        calls: dict[str, Any] = {"floor": two_products(x, data)}
        for route in ROUTES:
            calls[route.name.lower()] = partial(engine.by, route, queries, False)
        calls["memdiff"] = partial(engine.everything, queries, 0.0, False)
        seconds = interleaved(calls, repeats)
        for method in list(calls)[1:]:
            part = calls[method]()
            error = (part.top_logit + part.total.log() - truth).abs().max()
            rows.append(
                {
                    "data": name,
                    "points": len(data),
                    "sigma": sigma,
                    "route": method.replace("_", " "),
                    "of the floor": seconds[method] / seconds["floor"],
                    "error": float(error),
                }
            )
    return rows
