"""The posterior over training points: picks a route for each query, and answers by it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from memdiff.kernel.candidates import weight_candidates
from memdiff.kernel.choice import MEASURED, Route, choose, finer_route, is_wrong, precision
from memdiff.kernel.dense import dense
from memdiff.kernel.differences import exact_logits, sum_all, sum_pairs
from memdiff.kernel.points import MemoryPoints, Points, blocks
from memdiff.kernel.products import BLOCK
from memdiff.kernel.queries import Queries
from memdiff.kernel.screen import FloatProduct, IntegerProduct
from memdiff.kernel.softmax import PartialPosterior
from memdiff.kernel.trajectories import Trajectory, TruncatedPosterior

__all__ = ["PosteriorEngine", "refuse_empty"]

# Below this many coordinates the other routes cost more than they save.
_FEW_COORDINATES = 4096
# A gathered float64 distance costs about this many dot products of the screening matrix product,
# and this many coordinates of them (table `posterior`, small sigma).
_GATHER_COST, _GATHER_COORDINATES = 100, 8000
# From so many points on, a screen of floats pays also where all points could be summed in
# float32; one of integers, which costs a quarter, from so many on (table `scaling`, against N).
_MANY_POINTS, _INTEGER_POINTS = 16 * BLOCK, 2 * BLOCK
# So many radii from the centre squares may leave float32, and no point stands out.
_REACH = 1e9
# Below these sizes a tolerance saves nothing.
_TRUNCATED_POINTS, _TRUNCATED_DIMENSIONS = 2048, 64
# Beyond this radius, or below its inverse, squares of the split bound may leave float32.
_TRUNCATED_RADIUS = 1e12
# From this dimension on the screen of the split bound costs less than that of integers.
_SPLIT_DIMENSION = 1024


class PosteriorEngine:
    r"""The posterior over a fixed set of training points.

    Args:
        points: Training points with shape ``(N, d)``, float32 or float64, or what reads them.
        log_prior: :math:`\log \pi_n` with shape ``(N,)``; None for ``-log N``.
        memory_limit: Bound in bytes of temporary memory. Of points in memory the engine keeps a
            centred copy besides and, where screens of 8-bit integers pay, one in these.
        block: Points that a product takes at a time.

    Attributes:
        points: What the routes read.
        dropped_mass: Mass that a screen may leave out: less than rounding.
    """

    def __init__(
        self,
        points: Tensor | Points,
        log_prior: Tensor | None = None,
        *,
        memory_limit: int = 2**26,
        block: int = BLOCK,
    ) -> None:
        self.points = MemoryPoints(points, memory_limit) if isinstance(points, Tensor) else points
        self.dtype, self.num, self.dim = self.points.dtype, self.points.num, self.points.dim
        self.memory_limit, self.block = memory_limit, block
        if log_prior is None:
            log_prior = self.points.half_norm.new_full((self.num,), -math.log(self.num))
        self.log_prior = log_prior.to(torch.float64)
        self.dropped_mass = 1e-9 if self.dtype == torch.float32 else 1e-16
        # Where there is enough to save, what a tolerance lets be left out.
        self._truncated: TruncatedPosterior | None = None
        enough = self.num >= _TRUNCATED_POINTS and self.dim >= _TRUNCATED_DIMENSIONS
        if enough and 1.0 / _TRUNCATED_RADIUS <= self.radius <= _TRUNCATED_RADIUS:
            self._truncated = TruncatedPosterior(self, PosteriorEngine)

    @property
    def radius(self) -> float:
        """Largest distance of a point from the mean of all."""
        return self.points.radius

    def __call__(
        self,
        queries: Queries,
        *,
        tolerance: float = 0.0,
        trajectory: Trajectory | None = None,
        entropy: bool = True,
    ) -> PartialPosterior:
        """Sums over all points.

        Args:
            queries: The queries.
            tolerance: Mass that may be left out, relative to that kept; ``sum_error`` includes
                it. 0 leaves nothing out.
            trajectory: What is remembered of a batch of queries that moves; used with a tolerance.
            entropy: Whether the entropy is asked for; without, its sum may be NaN.

        Returns:
            The sums, with ``top_logit`` the largest true logit.

        Raises:
            ValueError: If no point is left for a query.
        """
        queries = queries.under(self.log_prior)
        result = PartialPosterior.empty(len(queries), self.dim, queries.x.device)
        truncated = self._truncated if tolerance > 0.0 else None
        members = None
        if truncated is not None and trajectory is not None:
            members = trajectory.members(len(queries), self.dim, queries.x.device)
        for rows in self._chunks(queries):
            some = queries.take(rows)
            if truncated is None:
                part = self.everything(some, tolerance, entropy)
            elif members is None or trajectory is None:
                part = self._alone(truncated, some, tolerance, entropy)
            else:
                part = truncated(some, tolerance, entropy, trajectory, members[rows])
            if len(rows) == len(queries):
                result = part
            else:
                result.put(rows, part)
        refuse_empty(result.top_index < 0)
        return result

    def everything(
        self, queries: Queries, tolerance: float, entropy: bool, *, integers: bool = True
    ) -> PartialPosterior:
        """Sums over all points, each query by the cheapest route that is accurate enough.

        Args:
            queries: The queries, under the prior of these points.
            tolerance: Relative error of a weight that rounding may make.
            entropy: Whether the entropy is asked for.
            integers: Whether to try a screen of integers.
        """
        if self.num * self.dim <= _FEW_COORDINATES:
            return self.by(Route.DIFFERENCES, queries)
        left = torch.arange(len(queries), device=queries.x.device)
        result = PartialPosterior.empty(len(queries), self.dim, left.device)
        if integers and self.has_integers:
            left = self._screened(Route.INTEGER_SCREEN, queries, left, result)
        routes = left.new_full((len(queries),), -1)
        if len(left):
            routes[left] = choose(self.points, queries.take(left), tolerance)
            sharp = left if self.num >= _MANY_POINTS else left[routes[left] > Route.FLOAT32]
            # Of many points a screen needs one product where all of them need two.
            lost = self._screened(Route.SCREEN, queries, sharp, result)
            routes[sharp[~torch.isin(sharp, lost)]] = -1
        for route in list(Route)[: Route.SCREEN]:
            rows = (routes == int(route)).nonzero()[:, 0]
            if not len(rows):
                continue
            some = queries.take(rows)
            part = self.by(route, some, entropy)
            if self.dtype == torch.float32 and route in (*MEASURED, Route.MIXED):
                wrong = is_wrong(self.points, some, part, tolerance)
                # Later turns of this loop answer these queries anew.
                routes[rows[wrong]] = finer_route(route, self.points, some)[wrong]
            result.put(rows, part)
        return result

    def by(self, route: Route, queries: Queries, entropy: bool = True) -> PartialPosterior:
        """Sums by one route, whether it is accurate for these queries or not.

        Args:
            route: The route; a screen keeps as many points as it needs.
            queries: The queries, under the prior of these points.
            entropy: Whether the entropy is asked for.
        """
        if route == Route.DIFFERENCES:
            return sum_all(self.points, queries, self.memory_limit)
        if route in (Route.SCREEN, Route.INTEGER_SCREEN):
            return self._by_screen(route, queries, math.inf)[0]
        how = precision(route, self.points)
        return dense(self.points, queries, how, entropy=entropy, block=self.block)

    @property
    def has_integers(self) -> bool:
        """Whether a screen of integers is worth a try."""
        return self.num >= _INTEGER_POINTS and self.points.integers() is not None

    def weights(self, queries: Queries) -> Tensor:
        """All weights, float64 with shape ``(B, N)``, from direct differences; for small B x N."""
        queries = queries.under(self.log_prior)
        logits = queries.x.new_empty(len(queries), self.num)
        for rows in self._chunks(queries):
            for block in blocks(self.num, self.block):
                found = exact_logits(self.points, queries.take(rows), block, self.memory_limit)
                logits[rows, block] = found
        weights = logits.softmax(1)
        return torch.where(weights < 1e-300, 0.0, weights)  # no denormal numbers

    def covariance_product(self, queries: Queries, vectors: Tensor) -> Tensor:
        r"""Product :math:`\mathrm{Cov}_w v` of the posterior covariance with a vector per query.

        Args:
            queries: The queries.
            vectors: :math:`v`, shape ``(B, d)``.

        Returns:
            float64 tensor with shape ``(B, d)``.
        """
        sums = self(queries)
        queries = queries.under(self.log_prior)
        mean = (queries.x + sums.residual_sum / sums.total[:, None]) / queries.scale[:, None]
        mean = mean - self.points.centre
        product = torch.zeros_like(mean)
        for rows in self._chunks(queries):
            along_mean = (mean[rows] * vectors[rows]).sum(1, keepdim=True)
            for block in blocks(self.num, self.block):
                logits = exact_logits(self.points, queries.take(rows), block, self.memory_limit)
                weights = (logits - sums.top_logit[rows, None]).exp() / sums.total[rows, None]
                points = self.points.centred(block, torch.float64) / self.points.unit
                weights *= vectors[rows] @ points.T - along_mean
                product[rows] += weights @ points - weights.sum(1, keepdim=True) * mean[rows]
        return product

    def _alone(
        self, truncated: TruncatedPosterior, queries: Queries, tolerance: float, entropy: bool
    ) -> PartialPosterior:
        """Sums up to a tolerance for queries of which nothing is known from before."""
        if self.dim > _SPLIT_DIMENSION or not self.has_integers:
            return truncated(queries, tolerance, entropy)
        result = PartialPosterior.empty(len(queries), self.dim, queries.x.device)
        rest = torch.arange(len(queries), device=queries.x.device)
        rest = self._screened(Route.INTEGER_SCREEN, queries, rest, result)
        if len(rest):
            part = truncated(queries.take(rest), tolerance, entropy, integers=False)
            result.put(rest, part)
        return result

    def _screened(
        self, route: Route, queries: Queries, rows: Tensor, result: PartialPosterior
    ) -> Tensor:
        """Answer the queries ``rows`` that a screen leaves few points for; return the others."""
        if not len(rows):
            return rows
        some = queries.take(rows)
        far = some.distance(self.points) > _REACH * some.scale * self.radius
        near = (~far).nonzero()[:, 0]
        if len(near):
            price = _GATHER_COST + _GATHER_COORDINATES / self.dim
            most = 1.0 + min(self.block, self.num) / price
            part, crowded = self._by_screen(route, some.take(near), most)
            result.put(rows[near], part)
            far[near] = crowded
        return rows[far]

    def _by_screen(
        self, route: Route, queries: Queries, most: float
    ) -> tuple[PartialPosterior, Tensor]:
        """Sums over the points that a screen keeps; queries given up have empty ones, ``(B,)``."""
        points, product = self.points, IntegerProduct()
        if route == Route.SCREEN:
            product = FloatProduct(self.dim, self.dtype, points.device)  # type: ignore[assignment]
        arguments = (points, queries, product, self.dropped_mass, self.block, most)
        rows, columns, crowded = weight_candidates(*arguments)
        kept = (~crowded).nonzero()[:, 0]
        if len(kept) == len(queries):
            result = sum_pairs(points, queries, (rows, columns), self.memory_limit)
            result.sum_error += 2 * self.dropped_mass * queries.scale * self.radius
            return result, crowded
        result = PartialPosterior.empty(len(queries), self.dim, queries.x.device)
        if len(kept):
            place = torch.full_like(crowded, -1, dtype=torch.int64)
            place[kept] = torch.arange(len(kept), device=kept.device)
            pairs = (place[rows], columns)
            part = sum_pairs(points, queries.take(kept), pairs, self.memory_limit)
            part.sum_error += 2 * self.dropped_mass * queries.scale[kept] * self.radius
            result.put(kept, part)
        return result, crowded

    def _chunks(self, queries: Queries) -> list[Tensor]:
        num = len(queries)
        width = 8 * max(4 * min(self.block, self.num), 4 * self.dim)
        size = max(1, self.memory_limit // width)
        return list(torch.arange(num, device=self.points.device).split(size)) if num else []


def refuse_empty(empty: Tensor) -> None:
    """Raise where no point is left for a query, ``(B,)``."""
    if bool(empty.any()):
        raise ValueError(
            f"no training point is left for query {int(empty.nonzero()[0])}: its condition or "
            "exclusion removes all of them. Give training points that share the condition."
        )
