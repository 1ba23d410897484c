"""The engine: routes through the training points, chosen by accuracy and cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from memdiff.posterior.accuracy import exact_at, measured_error
from memdiff.posterior.certified import CertifiedPosterior
from memdiff.posterior.dense import dense
from memdiff.posterior.direct import direct, exact_logits
from memdiff.posterior.locking import Trajectory
from memdiff.posterior.partial import PartialPosterior
from memdiff.posterior.points import Points, TensorPoints, blocks
from memdiff.posterior.prior import LogPrior, Prior
from memdiff.posterior.rounding import (
    logit_error,
    rounding_factor,
    typical_factor,
    unit_roundoff,
)
from memdiff.posterior.screening import crowd, screened
from memdiff.products import BLOCK

__all__ = ["PosteriorEngine"]

# Below this many coordinates the routes other than `direct` cost more than they save.
_DIRECT_COORDINATES = 4096
# A gathered float64 distance costs about this many dot products of the screening matrix product,
# and this many coordinates of them.
_GATHER_COST, _GATHER_COORDINATES = 100, 8000
# What a measured error of a logit may be, and that of the largest one afterwards.
_MEASURED_TOLERANCE, _CHECKED_TOLERANCE = 8e-6, 8e-6
# What the rounding of a sum of float32 weights may be, relative to the residual.
_CLOSE = 5e-6
# Errors of products are seldom below this part of what is expected.
_LEAST_ERROR = 0.02
# Below these sizes a tolerance saves nothing.
_PRUNED_POINTS, _PRUNED_DIMENSIONS = 2048, 64
# Beyond this radius, or below its inverse, no tolerance is made use of.
_PRUNED_RADIUS = 1e12

# No tolerance makes logits rougher than this: statistics keep five digits.
_ROUGHEST = 1e-5

_DENSE, _DENSE_CAREFUL, _DENSE_MIXED, _DENSE_DOUBLE, _SCREENED, _INTEGER, _DIRECT = range(7)
# Dtypes of logits, weights and sums of the dense routes; None for that of the points.
_DTYPES: dict[int, tuple[torch.dtype | None, torch.dtype | None, torch.dtype | None]] = {
    _DENSE: (None, None, None),
    _DENSE_CAREFUL: (None, None, None),
    _DENSE_MIXED: (torch.float64, None, None),
    _DENSE_DOUBLE: (torch.float64, None, torch.float64),
}
# Up to this dimension sums in float64 cost little.
_SHORT = 8
# From so many points on, a look at the first block pays also where all of them could be summed.
_LOOK_POINTS = 16 * BLOCK
# The same for a screen of integers, which costs a quarter.
_INTEGER_POINTS = 4 * BLOCK
# From this dimension on the screen of the split bound costs less than that of integers.
_SPLIT_DIMENSION = 1024
# From this dimension on, products in parts are more accurate.
_LONG = 512


class PosteriorEngine:
    r"""The posterior over a fixed set of training points.

    Args:
        points: Training points with shape ``(N, d)``, float32 or float64, or what reads them.
        log_prior: :math:`\log \pi_n` with shape ``(N,)``; None for ``-log N``.
        memory_limit: Bound in bytes of temporary memory. Of points in memory the engine keeps a
            centred copy besides.

    Attributes:
        points: What the routes read.
    """

    def __init__(
        self,
        points: Tensor | Points,
        log_prior: Tensor | None = None,
        *,
        memory_limit: int = 2**26,
    ) -> None:
        self.points = TensorPoints(points, memory_limit) if isinstance(points, Tensor) else points
        self.dtype, self.num, self.dim = self.points.dtype, self.points.num, self.points.dim
        self.memory_limit = memory_limit
        uniform = torch.full(
            (self.num,), -math.log(self.num), dtype=torch.float64, device=self.points.device
        )
        self.log_prior = uniform if log_prior is None else log_prior.to(torch.float64)
        # Largest logit error of the dense route, and mass that screening may leave out.
        single = self.dtype == torch.float32
        self.tolerance, self.dropped_mass = (2e-6, 1e-9) if single else (1e-13, 1e-16)
        # Where there is enough to save, what a tolerance lets be left out.
        self._certified: CertifiedPosterior | None = None
        enough = self.num >= _PRUNED_POINTS and self.dim >= _PRUNED_DIMENSIONS
        # The screen is of squares in float32, with rounding bounds of normal numbers.
        if enough and 1.0 / _PRUNED_RADIUS <= self.radius <= _PRUNED_RADIUS:
            arguments = (self.points, self.log_prior, _coordinate_route, memory_limit)
            self._certified = CertifiedPosterior(*arguments)

    @property
    def radius(self) -> float:
        """Largest distance of a point from the mean of all."""
        return self.points.radius

    def __call__(
        self,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        *,
        log_prior: LogPrior | None = None,
        log_prior_bound: float = 0.0,
        exclude: Tensor | None = None,
        tolerance: float = 0.0,
        trajectory: Trajectory | None = None,
        entropy: bool = True,
    ) -> PartialPosterior:
        r"""Sums over all points.

        Args:
            x: Queries with shape ``(B, d)``; used in float64 whatever their dtype.
            scale: :math:`m`, shape ``(B,)``, positive.
            sigma: :math:`\sigma`, shape ``(B,)``, non-negative. At 0 the weights are the limit:
                uniform over the nearest points.
            log_prior: Terms added to the logits (conditions), as a function of the indices of
                some queries, shape ``(B',)``, and of some points: a slice of length ``K``, or
                indices with shape ``(B', K)``. It returns shape ``(B', K)``; ``-inf`` leaves a
                point out.
            log_prior_bound: Largest finite magnitude of those terms; it enters the bound of
                rounding errors.
            exclude: Index of a point to leave out for each query, int64, shape ``(B,)``; -1 for
                none.
            tolerance: Mass that may be left out, relative to that kept; ``sum_error`` includes
                it. 0 leaves nothing out.
            trajectory: What is remembered of a batch of queries that moves; used with a tolerance.
            entropy: Whether the entropy is asked for; without, its sum may be NaN.

        Returns:
            The sums, with ``top_logit`` the largest true logit.

        Raises:
            ValueError: If no point is left for a query.
        """
        x, scale, sigma = _double(x, scale, sigma)
        result = PartialPosterior.empty(len(x), self.dim, x.device)
        certified = self._certified if tolerance > 0.0 else None
        everything = partial(self._chunk, tolerance=tolerance, entropy=entropy)
        members = None
        if certified is not None and trajectory is not None:
            members = trajectory.members(len(x), self.dim, x.device)
        for rows in self._query_chunks(len(x)):
            prior = Prior(self.log_prior, log_prior, exclude, rows, log_prior_bound)
            arguments = (x[rows], scale[rows], sigma[rows], prior)
            if certified is None:
                part = everything(*arguments)
            elif members is None:
                part = self._alone(certified, *arguments, tolerance, entropy)
            else:
                some = members[rows]
                moving = (trajectory, some)
                part = certified(everything, *arguments, tolerance, *moving, entropy=entropy)
            result.put(rows, part)
        if bool((result.top_index < 0).any()):
            query = int((result.top_index < 0).nonzero()[0])
            raise ValueError(
                f"no training point is left for query {query}: its condition or exclusion "
                "removes all of them. Give training points that share the condition."
            )
        return result

    def weights(
        self,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        *,
        log_prior: LogPrior | None = None,
        exclude: Tensor | None = None,
    ) -> Tensor:
        """All weights, float64 with shape ``(B, N)``, from direct differences; for small B x N."""
        x, scale, sigma = _double(x, scale, sigma)
        logits = x.new_empty(len(x), self.num)
        for rows in self._query_chunks(len(x)):
            prior = Prior(self.log_prior, log_prior, exclude, rows)
            for block in blocks(self.num, BLOCK):
                arguments = (x[rows], scale[rows], sigma[rows], prior, block)
                logits[rows, block] = exact_logits(self.points, *arguments, self.memory_limit)
        weights = logits.softmax(1)
        return torch.where(weights < 1e-300, 0.0, weights)  # no denormal numbers

    def covariance_product(
        self,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        vectors: Tensor,
        *,
        log_prior: LogPrior | None = None,
        exclude: Tensor | None = None,
    ) -> Tensor:
        r"""Product :math:`\mathrm{Cov}_w v` of the posterior covariance with one vector a query.

        Args:
            x: Queries, ``(B, d)``; further arguments as in :meth:`__call__`.
            scale: :math:`m`, shape ``(B,)``.
            sigma: :math:`\sigma`, shape ``(B,)``.
            vectors: :math:`v`, shape ``(B, d)``.
            log_prior: As in :meth:`__call__`.
            exclude: As in :meth:`__call__`.

        Returns:
            float64 tensor with shape ``(B, d)``.
        """
        sums = self(x, scale, sigma, log_prior=log_prior, exclude=exclude)
        x, scale, sigma = _double(x, scale, sigma)
        mean = (x + sums.residual_sum / sums.total[:, None]) / scale[:, None] - self.points.centre
        product = torch.zeros_like(mean)
        for rows in self._query_chunks(len(x)):
            prior = Prior(self.log_prior, log_prior, exclude, rows)
            along_mean = (mean[rows] * vectors[rows]).sum(1, keepdim=True)
            for block in blocks(self.num, BLOCK):
                arguments = (x[rows], scale[rows], sigma[rows], prior, block)
                logits = exact_logits(self.points, *arguments, self.memory_limit)
                weights = (logits - sums.top_logit[rows, None]).exp() / sums.total[rows, None]
                points = self.points.centred(block, torch.float64)
                weights *= vectors[rows] @ points.T - along_mean
                product[rows] += weights @ points - weights.sum(1, keepdim=True) * mean[rows]
        return product

    def _alone(
        self,
        certified: CertifiedPosterior,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        prior: Prior,
        tolerance: float,
        entropy: bool,
    ) -> PartialPosterior:
        """Sums up to a tolerance for queries of which nothing is known from before."""
        some = (x, scale, sigma, prior)
        chunk = partial(self._chunk, tolerance=tolerance, entropy=entropy)
        if self.dim > _SPLIT_DIMENSION or not self._integers:
            return certified(chunk, *some, tolerance, entropy=entropy)
        result = PartialPosterior.empty(len(x), self.dim, x.device)
        crowded = self._crowded(*some, integers=True)
        rows = (~crowded).nonzero()[:, 0]
        if len(rows):
            some = (x[rows], scale[rows], sigma[rows], prior.take(rows))
            limits = (self.dropped_mass, self.memory_limit)
            result.put(rows, screened(self.points, *some, *limits, integers=True))
        rows = crowded.nonzero()[:, 0]
        if len(rows):
            some = (x[rows], scale[rows], sigma[rows], prior.take(rows))
            chunk = partial(chunk, integers=False)
            result.put(rows, certified(chunk, *some, tolerance, entropy=entropy))
        return result

    @property
    def _integers(self) -> bool:
        """Whether to look at the points as integers first."""
        return self.num >= _INTEGER_POINTS and self.points.integers() is not None

    def _chunk(
        self,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        prior: Prior,
        tolerance: float = 0.0,
        entropy: bool = True,
        integers: bool = True,
    ) -> PartialPosterior:
        if self.num * self.dim <= _DIRECT_COORDINATES:
            return direct(self.points, x, scale, sigma, prior, self.memory_limit)
        routes = self._routes(x, scale, sigma, prior, tolerance, integers and self._integers)
        result = PartialPosterior.empty(len(x), self.dim, x.device)
        for route in range(_DIRECT + 1):
            rows = (routes == route).nonzero()[:, 0]
            if not len(rows):
                continue
            some = (x[rows], scale[rows], sigma[rows], prior.take(rows))
            if route in _DTYPES:
                logits, weights, sums = (dtype or self.dtype for dtype in _DTYPES[route])
                dtypes = (logits, weights, sums)
                careful = route == _DENSE_CAREFUL
                part = dense(self.points, *some, *dtypes, careful=careful, entropy=entropy)
            elif route in (_SCREENED, _INTEGER):
                limits = (self.dropped_mass, self.memory_limit)
                part = screened(self.points, *some, *limits, integers=route == _INTEGER)
            else:
                part = direct(self.points, *some, self.memory_limit)
            if route in (_DENSE, _DENSE_CAREFUL, _DENSE_MIXED) and self.dtype == torch.float32:
                wrong = self._wrong(part, *some, tolerance)
                double = self._is_accurate(*some, torch.float64, 0.0)
                # Later turns of this loop answer these queries anew.
                routes[rows[wrong]] = torch.where(double, _DENSE_DOUBLE, _DIRECT)[wrong]
            result.put(rows, part)
        return result

    def _routes(
        self,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        prior: Prior,
        tolerance: float,
        integers: bool,
    ) -> Tensor:
        """The cheapest accurate route of every query, int64 with shape ``(B,)``."""
        routes = torch.full_like(scale, _INTEGER, dtype=torch.int64)
        rows = torch.arange(len(x), device=x.device)
        if integers:
            rows = self._crowded(x, scale, sigma, prior, integers=True).nonzero()[:, 0]
        if len(rows):
            some = (x[rows], scale[rows], sigma[rows], prior.take(rows))
            routes[rows] = self._routes_of_reals(*some, tolerance)
        return routes

    def _crowded(
        self, x: Tensor, scale: Tensor, sigma: Tensor, prior: Prior, *, integers: bool = False
    ) -> Tensor:
        """Whether a look at the first points tells that a screen keeps too many, ``(B,)``."""
        probe = slice(0, min(BLOCK, self.num))
        arguments = (self.points, x, scale, sigma, prior, probe, self.dropped_mass)
        kept = crowd(*arguments, integers=integers)
        cost = _GATHER_COST + _GATHER_COORDINATES / self.dim
        return (kept - 1) * cost > probe.stop

    def _routes_of_reals(
        self, x: Tensor, scale: Tensor, sigma: Tensor, prior: Prior, tolerance: float
    ) -> Tensor:
        """The cheapest accurate route but for that of integers."""
        single = self._is_accurate(x, scale, sigma, prior, self.dtype, tolerance)
        careful = torch.zeros_like(single)
        mixed = self.dtype == torch.float32
        # Sums of float32 weights are off by about a unit of the radius: too much near a residual.
        unit = unit_roundoff(torch.float32)
        close = 2.0 * unit * scale * self.radius > 0.3 * _CLOSE * sigma * math.sqrt(self.dim)
        if mixed:
            error = self._expected_error(x, scale, sigma, prior, self.dtype)
            hopeful = ~single & ~close & (_LEAST_ERROR * error <= _MEASURED_TOLERANCE)
            rows = hopeful.nonzero()[:, 0]
            if len(rows):
                some = (x[rows], scale[rows], sigma[rows], prior.take(rows))
                single[rows] = measured_error(self.points, *some) <= _MEASURED_TOLERANCE
                if self.dim > _LONG and not bool(single[rows].any()):
                    found = measured_error(self.points, *some, careful=True)
                    careful[rows] = found <= _MEASURED_TOLERANCE
        settled = single | careful
        if bool(settled.all()) and self.num < _LOOK_POINTS:
            return torch.where(single, _DENSE, _DENSE_CAREFUL)
        crowded = self._crowded(x, scale, sigma, prior)
        double = self._is_accurate(x, scale, sigma, prior, torch.float64, 0.0)
        passes = torch.where(
            close | (not mixed) | (self.dim <= _SHORT), _DENSE_DOUBLE, _DENSE_MIXED
        )
        everything = torch.where(double, passes, _DIRECT)
        everything = torch.where(careful, _DENSE_CAREFUL, everything)
        everything = torch.where(single, _DENSE, everything)
        # Of many points a screen needs one product where all of them need two.
        few = ~crowded & ((self.num >= _LOOK_POINTS) | ~settled)
        return torch.where(few, _SCREENED, everything)

    def _wrong(
        self,
        part: PartialPosterior,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        prior: Prior,
        tolerance: float,
    ) -> Tensor:
        """Queries whose float32 sums are found to be less accurate than asked for, ``(B,)``."""
        top = exact_at(self.points, x, scale, sigma, prior, part.top_index)
        limit = max(_CHECKED_TOLERANCE, 4.0 * min(tolerance, _ROUGHEST))
        wrong = (top - part.top_logit).abs() > limit
        residual = (part.residual_sum / part.total[:, None]).norm(dim=1)
        rough = 2.0 * unit_roundoff(torch.float32) * scale * self.radius
        wrong |= rough > max(_CLOSE, tolerance) * residual
        return wrong & (part.top_index >= 0)

    def _expected_error(
        self, x: Tensor, scale: Tensor, sigma: Tensor, prior: Prior, dtype: torch.dtype
    ) -> Tensor:
        return self._error_bound(x, scale, sigma, prior, dtype) * (2.0 / rounding_factor(self.dim))

    def _error_bound(
        self, x: Tensor, scale: Tensor, sigma: Tensor, prior: Prior, dtype: torch.dtype
    ) -> Tensor:
        error = logit_error(self.points, x, scale, sigma, dtype)
        return error + unit_roundoff(dtype) * prior.bound

    def _is_accurate(
        self,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        prior: Prior,
        dtype: torch.dtype,
        tolerance: float,
    ) -> Tensor:
        """Whether logits from a product in ``dtype`` give weights of the accuracy asked for.

        Decided on the rounding error to be expected, which is smaller than its bound by the
        factor in front of it: what is certified is the bound, what is chosen is the route. With
        a tolerance, the typical error has to stay below it.
        """
        arguments = (x, scale, sigma, prior, dtype)
        accurate = self._expected_error(*arguments) <= self.tolerance
        if tolerance > 0.0:
            typical = self._error_bound(*arguments) * typical_factor(self.dim)
            accurate = accurate | (typical <= max(min(tolerance, _ROUGHEST), self.tolerance))
        return accurate

    def _query_chunks(self, num: int) -> list[Tensor]:
        width = 8 * max(4 * min(BLOCK, self.num), 4 * self.dim)
        size = max(1, self.memory_limit // width)
        return list(torch.arange(num, device=self.points.device).split(size)) if num else []


def _coordinate_route(
    coordinates: Tensor, log_prior: Tensor, memory_limit: int
) -> Callable[[Tensor, Tensor, Tensor, Prior], PartialPosterior]:
    """The routes through all points, in coordinates ``(N, K)`` of theirs."""
    return PosteriorEngine(coordinates, log_prior, memory_limit=memory_limit)._chunk


def _double(x: Tensor, scale: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In float64, with sigma away from 0: its square must not underflow."""
    double = torch.float64
    return x.to(double), scale.to(double), sigma.to(double).clamp_min(1e-150)
