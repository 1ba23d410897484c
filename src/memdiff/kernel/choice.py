"""The choice of a route through all points: the cheapest that is accurate for each query.

Nothing here is a bound: errors are expected, or measured on a few pairs of the call, and checked
afterwards at the heaviest point of every query.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

from memdiff.kernel.dense import BlockLogits, Precision
from memdiff.kernel.differences import exact_at
from memdiff.kernel.points import Points
from memdiff.kernel.products import BLOCK
from memdiff.kernel.queries import Queries
from memdiff.kernel.rounding import LogitRounding, unit_roundoff
from memdiff.kernel.softmax import PartialPosterior

__all__ = [
    "MEASURED",
    "Route",
    "choose",
    "exact_route",
    "finer_route",
    "is_wrong",
    "measured_error",
    "precision",
]


class Route(IntEnum):
    """The ways through the points; see :mod:`memdiff.kernel`."""

    FLOAT32 = 0
    CHUNKS_256 = 1
    CHUNKS_128 = 2
    CHUNKS_64 = 3
    CHUNKS_32 = 4
    MIXED = 5
    FLOAT64 = 6
    DIFFERENCES = 7
    SCREEN = 8
    INTEGER_SCREEN = 9


# Coordinates that one product sums; time and error of each are in table `chunks`.
_CHUNKS = {
    Route.CHUNKS_256: 256,
    Route.CHUNKS_128: 128,
    Route.CHUNKS_64: 64,
    Route.CHUNKS_32: 32,
}
MEASURED = (Route.FLOAT32, *_CHUNKS)
"""Routes whose logits come from float32 products."""

# Logits may be off by so much without a look, by so much if it is measured, and the largest one
# afterwards: the accuracy contract is 1e-5 (1e-12 for float64 points), of which sums need a part.
_EXPECTED = {torch.float32: 2e-6, torch.float64: 1e-13}
_MEASURED_ERROR, _CHECKED_ERROR = 8e-6, 8e-6
# What the rounding of a sum of float32 weights may be, relative to the residual.
_CLOSE = 5e-6
# Errors of products are seldom below this part of what is expected.
_LEAST_ERROR = 0.02
# No tolerance makes logits rougher than this: statistics keep five digits.
ROUGHEST = 1e-5
# Up to this dimension sums in float64 cost little (table `posterior`, 2 dimensions).
_SHORT = 8
# Pairs whose errors are measured, and the largest of all errors over the largest of those.
_QUERIES, _POINTS, _SAFETY = 16, 64, 2.0


def precision(route: Route, points: Points) -> Precision:
    """How a route through all points computes."""
    double, own = torch.float64, points.dtype
    if route == Route.FLOAT32:
        return Precision(own, own, own)
    if route in _CHUNKS:
        return Precision(double, own, own, _CHUNKS[route])
    return Precision(double, own, own if route == Route.MIXED else double)


def choose(points: Points, queries: Queries, tolerance: float) -> Tensor:
    """The cheapest accurate route through all points of every query, int64 ``(B,)``.

    Args:
        points: The training points.
        queries: The queries.
        tolerance: Relative error of a weight that rounding may make.
    """
    single = points.dtype == torch.float32
    # Sums of float32 weights are off by about a unit of the radius: too much near a residual.
    unit = 2.0 * unit_roundoff(torch.float32) * queries.scale * points.radius
    close = unit > 0.3 * _CLOSE * queries.sigma * math.sqrt(points.dim)
    routes = exact_route(points, queries)
    mixed = ~close & single & (points.dim > _SHORT) & (routes == int(Route.FLOAT64))
    routes[mixed] = int(Route.MIXED)
    rounding = LogitRounding.of(points, queries, points.dtype)
    rough = max(min(tolerance, ROUGHEST), _EXPECTED[points.dtype])
    settled = rounding.expected <= _EXPECTED[points.dtype]
    if tolerance > 0.0:
        settled |= rounding.typical <= rough
    routes[settled] = int(Route.FLOAT32)
    if not single:
        return routes
    hopeful = ~settled & ~close & (_LEAST_ERROR * rounding.expected <= _MEASURED_ERROR)
    left = hopeful.nonzero()[:, 0]
    found, nearest = torch.zeros_like(rounding.magnitude), None
    for route in MEASURED:
        length = _CHUNKS.get(route, points.dim)
        # Errors fall about as the root of the length: routes that are bound to fail are not tried.
        promise = found[left] * math.sqrt(length / points.dim) <= 2.0 * _MEASURED_ERROR
        if not bool(promise.any()) or (route in _CHUNKS and points.dim < 2 * length):
            continue
        error, nearest = measured_error(points, queries.take(left), route, nearest)
        if route == Route.FLOAT32:
            found[left] = error
        good = error <= _MEASURED_ERROR
        routes[left[good]] = int(route)
        if bool(good.any()):
            left, nearest = left[~good], None
    return routes


def exact_route(points: Points, queries: Queries) -> Tensor:
    """The route that is accurate whatever was measured, int64 ``(B,)``."""
    rounding = LogitRounding.of(points, queries, torch.float64)
    good = rounding.expected <= _EXPECTED[points.dtype]
    return torch.where(good, int(Route.FLOAT64), int(Route.DIFFERENCES))


def finer_route(route: Route, points: Points, queries: Queries) -> Tensor:
    """The route of queries that one of float32 products turned out too rough for, ``(B,)``."""
    if route < Route.CHUNKS_32 and points.dim >= 2 * _CHUNKS[Route.CHUNKS_32]:
        return torch.full_like(queries.prior.rows, int(Route.CHUNKS_32))
    return exact_route(points, queries)


def measured_error(
    points: Points, queries: Queries, route: Route, nearest: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Estimate of the largest error of a logit by a route of float32 products.

    Errors of a real product are well below their bound, by how much depends on the data and on
    the library. They are taken for a few queries, at points spread over the first block and at
    the nearest ones there, and carried to all queries in proportion to the bound.

    Args:
        points: The training points.
        queries: The queries.
        route: The route.
        nearest: Points of the first block, one near each query that is looked at, where they are
            known from another route.

    Returns:
        float64 tensor with shape ``(B,)``, a measurement and no bound; and the points that were
        nearest.
    """
    bound = LogitRounding.of(points, queries, torch.float32).probable
    device = queries.x.device
    rows = torch.linspace(0, len(queries) - 1, min(_QUERIES, len(queries)), device=device).long()
    some, block = queries.take(rows), slice(0, min(BLOCK, points.num))
    logits = BlockLogits(points, some, precision(route, points))
    spread = torch.linspace(0, block.stop - 1, min(_POINTS, block.stop), device=device).long()
    whole = nearest is None
    if nearest is None:
        centred = points.centred(block, torch.float32)
        values = logits(block, logits.operands(centred), logits.bias(block))
        nearest = values.argmax(1)
        columns = torch.cat([spread, nearest])
        values = values[:, columns].to(torch.float64)
    else:
        columns = torch.cat([spread, nearest])
        centred = ((points.gather(columns) - points.centre) * points.unit).to(torch.float32)
        values = logits.products(logits.operands(centred)).to(torch.float64)
        values += logits.terms(columns)
    strength = some.scale / some.sigma**2
    exact = (strength[:, None] * some.centred(points)) @ (points.gather(columns) - points.centre).T
    exact += logits.terms(columns)
    if whole:
        exact += some.prior.at(columns[None].expand(len(rows), -1))
        exact -= some.prior.log_prior[columns]
    exact = torch.where(torch.isfinite(exact), exact, values)
    error = (values - exact).abs()
    return _SAFETY * (error.amax(1) / bound[rows]).max() * bound, nearest


def is_wrong(points: Points, queries: Queries, part: PartialPosterior, tolerance: float) -> Tensor:
    """Queries whose float32 sums are found to be less accurate than asked for, ``(B,)``."""
    top = exact_at(points, queries, part.top_index)
    limit = max(_CHECKED_ERROR, 4.0 * min(tolerance, ROUGHEST))
    wrong = (top - part.top_logit).abs() > limit
    residual = (part.residual_sum / part.total[:, None]).norm(dim=1)
    rough = 2.0 * unit_roundoff(torch.float32) * queries.scale * points.radius
    wrong |= rough > max(_CLOSE, tolerance) * residual
    return wrong & (part.top_index >= 0)
