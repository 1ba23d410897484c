"""The engine: routes through the training points, chosen by accuracy and cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from memdiff.kernel.certified import CertifiedPosterior
from memdiff.kernel.direct import exact_logits
from memdiff.kernel.locking import Trajectory
from memdiff.kernel.partial import PartialPosterior
from memdiff.kernel.points import Points, TensorPoints, blocks
from memdiff.kernel.prior import LogPrior, Prior
from memdiff.kernel.products import BLOCK
from memdiff.kernel.routing import Routes

__all__ = ["PosteriorEngine"]

# Below these sizes a tolerance saves nothing.
_PRUNED_POINTS, _PRUNED_DIMENSIONS = 2048, 64
# Beyond this radius, or below its inverse, no tolerance is made use of.
_PRUNED_RADIUS = 1e12
# From this dimension on the screen of the split bound costs less than that of integers.
_SPLIT_DIMENSION = 1024


class PosteriorEngine:
    r"""The posterior over a fixed set of training points.

    Args:
        points: Training points with shape ``(N, d)``, float32 or float64, or what reads them.
        log_prior: :math:`\log \pi_n` with shape ``(N,)``; None for ``-log N``.
        memory_limit: Bound in bytes of temporary memory. Of points in memory the engine keeps a
            centred copy besides and, where screens of 8-bit integers pay, one in these.

    Attributes:
        points: What the routes read.
        routes: The routes through all points.
        dropped_mass: Mass that their screens may leave out.
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
        self.routes = Routes(self.points, self.log_prior, memory_limit)
        self.dropped_mass = self.routes.dropped_mass
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
        everything = partial(self.routes, tolerance=tolerance, entropy=entropy)
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
        everything = partial(self.routes, tolerance=tolerance, entropy=entropy)
        some = (x, scale, sigma, prior)
        if self.dim > _SPLIT_DIMENSION or not self.routes.has_integers:
            return certified(everything, *some, tolerance, entropy=entropy)
        result, rest = self.routes.by_integers(*some)
        if len(rest):
            everything = partial(everything, integers=False)
            some = (x[rest], scale[rest], sigma[rest], prior.take(rest))
            result.put(rest, certified(everything, *some, tolerance, entropy=entropy))
        return result

    def _query_chunks(self, num: int) -> list[Tensor]:
        width = 8 * max(4 * min(BLOCK, self.num), 4 * self.dim)
        size = max(1, self.memory_limit // width)
        return list(torch.arange(num, device=self.points.device).split(size)) if num else []


def _coordinate_route(
    coordinates: Tensor, log_prior: Tensor, memory_limit: int
) -> Callable[[Tensor, Tensor, Tensor, Prior], PartialPosterior]:
    """The routes through all points, in coordinates ``(N, K)`` of theirs."""
    return Routes(TensorPoints(coordinates, memory_limit), log_prior, memory_limit)


def _double(x: Tensor, scale: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In float64, with sigma away from 0: its square must not underflow."""
    double = torch.float64
    return x.to(double), scale.to(double), sigma.to(double).clamp_min(1e-150)
