"""Sums over all points: each query by the cheapest route that is accurate enough."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from memdiff.kernel.accuracy import exact_at, measured_error
from memdiff.kernel.dense import dense
from memdiff.kernel.direct import direct
from memdiff.kernel.partial import PartialPosterior
from memdiff.kernel.points import Points
from memdiff.kernel.prior import Prior
from memdiff.kernel.products import BLOCK
from memdiff.kernel.rounding import (
    logit_error,
    rounding_factor,
    typical_factor,
    unit_roundoff,
)
from memdiff.kernel.screening import crowd, screened

__all__ = ["Routes"]

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
# No tolerance makes logits rougher than this: statistics keep five digits.
_ROUGHEST = 1e-5

_DENSE, _DENSE_CAREFUL, _DENSE_MIXED, _DENSE_DOUBLE, _SCREENED, _DIRECT = range(6)
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
_INTEGER_POINTS = 2 * BLOCK
# So many radii from the centre squares may leave float32, and no point stands out.
_REACH = 1e9
# From this dimension on, torch's own products are tried where the fastest are not accurate.
_LONG = 512


class Routes:
    """The posterior over a fixed set of training points, with nothing left out.

    Few points that matter are found by a screen and summed by direct differences; many are all
    summed by matrix products, in float32 where that is accurate.

    Args:
        points: The training points.
        log_prior: Log prior weights, float64 ``(N,)``.
        memory_limit: Bound in bytes of temporary memory.

    Attributes:
        dropped_mass: Mass that a screen may leave out: less than rounding.
    """

    def __init__(self, points: Points, log_prior: Tensor, memory_limit: int) -> None:
        self.points, self.log_prior, self.memory_limit = points, log_prior, memory_limit
        self.dtype, self.num, self.dim = points.dtype, points.num, points.dim
        # Largest logit error of the dense route.
        single = self.dtype == torch.float32
        self.tolerance, self.dropped_mass = (2e-6, 1e-9) if single else (1e-13, 1e-16)

    def __call__(
        self,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        prior: Prior,
        *,
        tolerance: float = 0.0,
        entropy: bool = True,
        integers: bool = True,
    ) -> PartialPosterior:
        r"""Sums over all points.

        Args:
            x: Queries, float64 ``(B, d)``.
            scale: :math:`m`, ``(B,)``.
            sigma: :math:`\sigma`, ``(B,)``, positive.
            prior: Their prior.
            tolerance: Relative error of a weight that rounding may make.
            entropy: Whether the entropy is asked for; without, its sum may be NaN.
            integers: Whether to try :meth:`by_integers`; False where that was done.
        """
        if self.num * self.dim <= _DIRECT_COORDINATES:
            return direct(self.points, x, scale, sigma, prior, self.memory_limit)
        if integers and self.has_integers:
            result, rest = self.by_integers(x, scale, sigma, prior)
            if len(rest):
                some = (x[rest], scale[rest], sigma[rest], prior.take(rest))
                part = self(*some, tolerance=tolerance, entropy=entropy, integers=False)
                result.put(rest, part)
            return result
        routes = self._choices(x, scale, sigma, prior, tolerance)
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
            elif route == _SCREENED:
                part, _ = screened(self.points, *some, self.dropped_mass, self.memory_limit)
            else:
                part = direct(self.points, *some, self.memory_limit)
            if route in (_DENSE, _DENSE_CAREFUL, _DENSE_MIXED) and self.dtype == torch.float32:
                wrong = self._wrong(part, *some, tolerance)
                double = self._is_accurate(*some, torch.float64, 0.0)
                # Later turns of this loop answer these queries anew.
                routes[rows[wrong]] = torch.where(double, _DENSE_DOUBLE, _DIRECT)[wrong]
            result.put(rows, part)
        return result

    @property
    def has_integers(self) -> bool:
        """Whether :meth:`by_integers` is worth a try."""
        return self.num >= _INTEGER_POINTS and self.points.integers() is not None

    def by_integers(
        self, x: Tensor, scale: Tensor, sigma: Tensor, prior: Prior
    ) -> tuple[PartialPosterior, Tensor]:
        """Answer the queries that a screen of 8-bit integers leaves few points for.

        Arguments as of a call; only where :attr:`has_integers`.

        Returns:
            The sums, and the queries that are not among them, int64.
        """
        reach = _REACH * scale * self.points.radius
        wild = (x - scale[:, None] * self.points.centre).norm(dim=1) > reach
        result = PartialPosterior.empty(len(x), self.dim, x.device)
        rows = (~wild).nonzero()[:, 0]
        if len(rows):
            some = (x[rows], scale[rows], sigma[rows], prior.take(rows))
            limits = (self.dropped_mass, self.memory_limit)
            most = 1.0 + min(BLOCK, self.num) / self._candidate_cost
            part, crowded = screened(self.points, *some, *limits, integers=True, most=most)
            wild[rows] = crowded
            result.put(rows, part)
        return result, wild.nonzero()[:, 0]

    @property
    def _candidate_cost(self) -> float:
        """Inner products of a screen that one more candidate is worth."""
        return _GATHER_COST + _GATHER_COORDINATES / self.dim

    def _crowded(self, x: Tensor, scale: Tensor, sigma: Tensor, prior: Prior) -> Tensor:
        """Whether a look at the first points tells that a screen keeps too many, ``(B,)``."""
        probe = slice(0, min(BLOCK, self.num))
        kept = crowd(self.points, x, scale, sigma, prior, probe, self.dropped_mass)
        return (kept - 1) * self._candidate_cost > probe.stop

    def _choices(
        self, x: Tensor, scale: Tensor, sigma: Tensor, prior: Prior, tolerance: float
    ) -> Tensor:
        """The cheapest accurate route of every query, int64 with shape ``(B,)``."""
        single = self._is_accurate(x, scale, sigma, prior, self.dtype, tolerance)
        careful = torch.zeros_like(single)
        mixed = self.dtype == torch.float32
        # Sums of float32 weights are off by about a unit of the radius: too much near a residual.
        unit = unit_roundoff(torch.float32)
        close = 2.0 * unit * scale * self.points.radius > 0.3 * _CLOSE * sigma * math.sqrt(
            self.dim
        )
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
        rough = 2.0 * unit_roundoff(torch.float32) * scale * self.points.radius
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
