"""The engine: routes through the training points, chosen by accuracy and cost."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from memdiff.posterior.partial import LOGIT_FLOOR, PartialPosterior
from memdiff.posterior.prior import LogPrior, Prior

__all__ = ["PosteriorEngine"]

# Below this many coordinates the routes other than `direct` cost more than they save.
_DIRECT_COORDINATES = 4096
# A gathered float64 distance costs about this many dot products of the screening matrix product.
_GATHER_COST = 100
_BLOCK = 2048

_DENSE, _DENSE_DOUBLE, _SCREENED, _DIRECT = range(4)


class PosteriorEngine:
    r"""The posterior over a fixed set of training points.

    Args:
        points: Training points with shape ``(N, d)``, float32 or float64.
        log_prior: :math:`\log \pi_n` with shape ``(N,)``; None for ``-log N``.
        memory_limit: Bound in bytes of temporary memory. The engine keeps one centred copy of the
            points besides.
    """

    def __init__(
        self, points: Tensor, log_prior: Tensor | None = None, *, memory_limit: int = 2**26
    ) -> None:
        self.points = points
        self.dtype = points.dtype
        self.num, self.dim = points.shape
        self.memory_limit = memory_limit
        uniform = points.new_full((self.num,), -math.log(self.num), dtype=torch.float64)
        self.log_prior = uniform if log_prior is None else log_prior.to(torch.float64)
        self.centre = points.mean(0, dtype=torch.float64)
        self.centred = torch.empty_like(points)
        self.half_norm = points.new_empty(self.num, dtype=torch.float64)
        for block in self._blocks(max(1, memory_limit // (16 * self.dim))):
            difference = points[block].to(torch.float64) - self.centre
            self.centred[block] = difference
            self.half_norm[block] = 0.5 * (difference**2).sum(1)
        self.radius = float((2.0 * self.half_norm.max()).sqrt())
        # Largest logit error of the dense route, and mass that screening may leave out.
        single = self.dtype == torch.float32
        self.tolerance, self.dropped_mass = (2e-6, 1e-9) if single else (1e-13, 1e-16)

    def __call__(
        self,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        *,
        log_prior: LogPrior | None = None,
        log_prior_bound: float = 0.0,
        exclude: Tensor | None = None,
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

        Returns:
            The sums, with ``top_logit`` the largest true logit.

        Raises:
            ValueError: If no point is left for a query.
        """
        x, scale, sigma = _double(x, scale, sigma)
        result = PartialPosterior.empty(len(x), self.dim, x.device)
        for rows in self._query_chunks(len(x)):
            prior = Prior(self.log_prior, log_prior, exclude, rows, log_prior_bound)
            result.put(rows, self._chunk(x[rows], scale[rows], sigma[rows], prior))
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
            for block in self._blocks(_BLOCK):
                arguments = (x[rows], scale[rows], sigma[rows], prior)
                logits[rows, block] = self._exact_logits(*arguments, block)
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
        mean = (x + sums.residual_sum / sums.total[:, None]) / scale[:, None] - self.centre
        product = torch.zeros_like(mean)
        for rows in self._query_chunks(len(x)):
            prior = Prior(self.log_prior, log_prior, exclude, rows)
            along_mean = (mean[rows] * vectors[rows]).sum(1, keepdim=True)
            for block in self._blocks(_BLOCK):
                arguments = (x[rows], scale[rows], sigma[rows], prior)
                logits = self._exact_logits(*arguments, block)
                weights = (logits - sums.top_logit[rows, None]).exp() / sums.total[rows, None]
                points = self._centred(block, torch.float64)
                weights *= vectors[rows] @ points.T - along_mean
                product[rows] += weights @ points - weights.sum(1, keepdim=True) * mean[rows]
        return product

    def logit_error(self, x: Tensor, scale: Tensor, sigma: Tensor, dtype: torch.dtype) -> Tensor:
        r"""Bound of the rounding error of a logit that comes from a matrix product in ``dtype``.

        A dot product of length ``d`` is off by at most :math:`c\,u\,|a||b|`, with
        :math:`c = 8 + 4 \sqrt d` (Higham and Mary 2019, with probability above 0.999) and ``u``
        the unit roundoff of ``dtype``.
        """
        length = (x - scale[:, None] * self.centre).norm(dim=1)
        magnitude = scale * self.radius * (length + scale * self.radius)
        return _rounding_factor(self.dim) * _unit_roundoff(dtype) * magnitude / sigma**2

    def _chunk(self, x: Tensor, scale: Tensor, sigma: Tensor, prior: Prior) -> PartialPosterior:
        if self.num * self.dim <= _DIRECT_COORDINATES:
            return self._direct(x, scale, sigma, prior)
        routes = self._routes(x, scale, sigma, prior)
        result = PartialPosterior.empty(len(x), self.dim, x.device)
        for route in routes.unique().tolist():
            rows = (routes == route).nonzero()[:, 0]
            arguments = (x[rows], scale[rows], sigma[rows], prior.take(rows))
            if route == _DENSE:
                part = self._dense(*arguments, self.dtype)
            elif route == _DENSE_DOUBLE:
                part = self._dense(*arguments, torch.float64)
            elif route == _SCREENED:
                part = self._screened(*arguments)
            else:
                part = self._direct(*arguments)
            result.put(rows, part)
        return result

    def _routes(self, x: Tensor, scale: Tensor, sigma: Tensor, prior: Prior) -> Tensor:
        """The cheapest accurate route of every query, int64 with shape ``(B,)``."""
        single = self._is_accurate(x, scale, sigma, prior, self.dtype)
        if bool(single.all()):
            return torch.full((len(x),), _DENSE, device=x.device)
        double = self._is_accurate(x, scale, sigma, prior, torch.float64)
        # A look at the first points tells where screening would keep too many candidates.
        probe = slice(0, min(_BLOCK, self.num))
        kept, _ = self._screen(x, scale, sigma, prior, [probe])
        crowded = torch.bincount(kept, minlength=len(x)) * _GATHER_COST > probe.stop
        routes = torch.where(crowded, torch.where(double, _DENSE_DOUBLE, _DIRECT), _SCREENED)
        return torch.where(single, _DENSE, routes)

    def _is_accurate(
        self, x: Tensor, scale: Tensor, sigma: Tensor, prior: Prior, dtype: torch.dtype
    ) -> Tensor:
        """Whether logits from a product in ``dtype`` give weights of the accuracy asked for.

        Decided on the rounding error to be expected, which is smaller than its bound by the
        factor in front of it: what is certified is the bound, what is chosen is the route.
        """
        error = self._error(x, scale, sigma, prior, dtype)
        return error * (2.0 / _rounding_factor(self.dim)) <= self.tolerance

    def _error(
        self, x: Tensor, scale: Tensor, sigma: Tensor, prior: Prior, dtype: torch.dtype
    ) -> Tensor:
        return self.logit_error(x, scale, sigma, dtype) + _unit_roundoff(dtype) * prior.bound

    def _dense(
        self,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        prior: Prior,
        dtype: torch.dtype,
    ) -> PartialPosterior:
        """Online softmax with the logits from a product in ``dtype``."""
        centred_x = x - scale[:, None] * self.centre
        query = ((scale / sigma**2)[:, None] * centred_x).to(dtype)
        curvature = (scale / sigma) ** 2
        top = torch.full_like(scale, -math.inf, dtype=dtype)
        index = torch.full_like(scale, -1, dtype=torch.int64)
        total, entropy = torch.zeros_like(scale), torch.zeros_like(scale)
        weighted = torch.zeros_like(x)
        for block in self._blocks(_BLOCK):
            points = self._centred(block, dtype)
            logits = self._logits(query, points, block, curvature, None, prior)
            block_top = logits.amax(1)
            better = (block_top > top).nonzero()[:, 0]
            index[better] = logits[better].argmax(1) + block.start
            new_top = torch.maximum(top, block_top)
            # While nothing has been seen, both are -inf: shift by 0, and the sums stay empty.
            shift = torch.where(new_top == -math.inf, 0.0, new_top)
            moved = (top - shift).to(torch.float64)
            factor = moved.exp()
            logits.sub_(shift[:, None]).clamp_(min=LOGIT_FLOOR)
            block_weights = logits.exp()
            seen = (new_top != -math.inf).to(torch.float64)
            moved = torch.where(moved == -math.inf, 0.0, moved)
            entropy = factor * (entropy + moved * total)
            entropy += seen * torch.linalg.vecdot(logits, block_weights)
            total = factor * total + seen * block_weights.sum(1)
            weighted = factor[:, None] * weighted + seen[:, None] * (block_weights @ points)
            top = new_top
        constant = (centred_x**2).sum(1) / (2 * sigma**2)
        residual = scale[:, None] * weighted - total[:, None] * centred_x
        # The product over a block sums up to 2048 terms of the size of the radius.
        roundoff = _unit_roundoff(dtype) * _rounding_factor(_BLOCK)
        return PartialPosterior(
            top_logit=top.to(torch.float64) - constant,
            top_index=index,
            total=total,
            residual_sum=residual,
            entropy_sum=entropy,
            logit_error=self._error(x, scale, sigma, prior, dtype),
            sum_error=roundoff * scale * self.radius
            + 4 * _unit_roundoff(torch.float64) * centred_x.norm(dim=1),
        )

    def _screened(self, x: Tensor, scale: Tensor, sigma: Tensor, prior: Prior) -> PartialPosterior:
        """Logits of the points that can matter, by direct differences."""
        rows, columns = self._screen(x, scale, sigma, prior, self._blocks(_BLOCK))
        counts = torch.bincount(rows, minlength=len(x))
        result = PartialPosterior.empty(len(x), self.dim, x.device)
        # Queries of similar candidate counts go together, padded to the largest of them.
        bucket = counts.clamp_min(1).log2().ceil()
        for size in bucket.unique():
            members = (bucket == size).nonzero()[:, 0]
            arguments = (x[members], scale[members], sigma[members], prior.take(members))
            candidates = _padded(members, rows, columns, counts)
            result.put(members, self._direct(*arguments, candidates))
        return result

    def _screen(
        self, x: Tensor, scale: Tensor, sigma: Tensor, prior: Prior, blocks: list[slice]
    ) -> tuple[Tensor, Tensor]:
        """Pairs (query, point) within reach of the largest logit among ``blocks``.

        All points that are left out carry less than ``dropped_mass`` of the weight together, by
        a margin that covers the rounding of the product.
        """
        # In units of squared distance, sigma^2 times the logit: no overflow as sigma -> 0.
        query = (scale[:, None] * (x - scale[:, None] * self.centre)).to(self.dtype)
        error = self._error(x, scale, sigma, prior, self.dtype)
        margin = sigma**2 * (2 * error + math.log(self.num / self.dropped_mass))
        top = torch.full_like(scale, -math.inf, dtype=self.dtype)
        bound = top
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for block in blocks:
            values = self._logits(query, self.centred[block], block, scale**2, sigma**2, prior)
            top = torch.maximum(top, values.amax(1))
            # Rounded down, so that the margin is never cut short.
            bound = (top.to(torch.float64) - margin).to(self.dtype)
            bound = torch.nextafter(bound, torch.full_like(bound, -math.inf))
            bound = torch.where(top == -math.inf, math.inf, bound)
            rows, columns = (values >= bound[:, None]).nonzero(as_tuple=True)
            found.append((rows, columns + block.start, values[rows, columns]))
            if sum(len(part[0]) for part in found) * 32 > self.memory_limit:
                found = [_filter(found, bound)]
        rows, columns, _ = _filter(found, bound)
        return rows, columns

    def _direct(
        self,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        prior: Prior,
        candidates: Tensor | None = None,
    ) -> PartialPosterior:
        """Direct differences in float64 with all points, or with ``candidates`` ``(B, K)``.

        Padding among the candidates is marked by -1.
        """
        count = self.num if candidates is None else candidates.shape[1]
        width = min(count, max(1, self.memory_limit // (32 * self.dim)))
        height = max(1, self.memory_limit // (32 * self.dim * width))
        result = PartialPosterior.empty(len(x), self.dim, x.device)
        for rows in torch.arange(len(x), device=x.device).split(height):
            part = PartialPosterior.empty(len(rows), self.dim, x.device)
            some = prior.take(rows)
            for first in range(0, count, width):
                block = slice(first, min(first + width, count))
                if candidates is None:
                    index = torch.arange(block.start, block.stop, device=x.device)[None]
                    points, log_prior = self.points[block][None], some.block(block)
                else:
                    index = candidates[rows, block]
                    points, log_prior = self.points[index.clamp_min(0)], some.at(index)
                difference = scale[rows, None, None] * points.to(torch.float64) - x[rows, None]
                logits = log_prior - _square(difference) / (2 * sigma[rows, None] ** 2)
                part = part.merge(_summed(logits, difference, index))
            result.put(rows, part)
        # What decides is the rounding of the logits within reach of the largest one.
        reach = result.top_logit.abs() + math.log(self.num) + 40.0
        result.logit_error = _unit_roundoff(torch.float64) * (self.dim + 8) * reach
        length = x.norm(dim=1) + scale * (self.radius + self.centre.norm())
        result.sum_error = _rounding_factor(count) * _unit_roundoff(torch.float64) * length
        if candidates is not None:
            result.sum_error = result.sum_error + 2 * self.dropped_mass * scale * self.radius
        return result

    def _exact_logits(
        self, x: Tensor, scale: Tensor, sigma: Tensor, prior: Prior, block: slice
    ) -> Tensor:
        """Logits of one block from direct differences, float64 with shape ``(B, K)``."""
        logits = prior.block(block).expand(len(x), -1).clone()
        points = self.points[block].to(torch.float64)
        height = max(1, self.memory_limit // (32 * self.dim * len(points)))
        for rows in torch.arange(len(x), device=x.device).split(height):
            difference = scale[rows, None, None] * points[None] - x[rows, None]
            logits[rows] -= _square(difference) / (2 * sigma[rows, None] ** 2)
        return logits

    def _logits(
        self,
        query: Tensor,
        points: Tensor,
        block: slice,
        curvature: Tensor,
        factor: Tensor | None,
        prior: Prior,
    ) -> Tensor:
        """``query @ points.T - curvature * half_norm + factor * terms`` with shape ``(B, K)``.

        Where all queries are at one noise level, everything but the conditions and exclusions is
        the bias of one fused product.
        """
        half_norm, log_prior = self.half_norm[block], self.log_prior[block]
        if bool((curvature == curvature[0]).all()) and (
            factor is None or bool((factor == factor[0]).all())
        ):
            weight = 1.0 if factor is None else factor[0]
            bias = weight * log_prior - curvature[0] * half_norm
            values = torch.addmm(bias.to(query.dtype), query, points.T)
        else:
            values = query @ points.T
            rows = curvature.to(query.dtype)[:, None]
            values.addcmul_(rows, half_norm.to(query.dtype)[None], value=-1.0)
            scaled = log_prior[None] if factor is None else factor[:, None] * log_prior[None]
            values.add_(scaled.to(query.dtype))
        prior.restrict(values, block, factor)
        return values

    def _centred(self, block: slice, dtype: torch.dtype) -> Tensor:
        if dtype == self.dtype:
            return self.centred[block]
        return (self.points[block].to(torch.float64) - self.centre).to(dtype)

    def _blocks(self, size: int) -> list[slice]:
        return [slice(i, min(i + size, self.num)) for i in range(0, self.num, size)]

    def _query_chunks(self, num: int) -> list[Tensor]:
        width = 8 * max(4 * min(_BLOCK, self.num), 4 * self.dim)
        size = max(1, self.memory_limit // width)
        return list(torch.arange(num, device=self.points.device).split(size)) if num else []


def _double(x: Tensor, scale: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In float64, with sigma away from 0: its square must not underflow."""
    double = torch.float64
    return x.to(double), scale.to(double), sigma.to(double).clamp_min(1e-150)


def _square(difference: Tensor) -> Tensor:
    """Squared norms over the last axis; a reduction over a few numbers is slower than a loop."""
    if difference.shape[-1] > 8:
        return (difference**2).sum(-1)
    first, *others = difference.unbind(-1)
    total = first * first
    for coordinate in others:
        total.addcmul_(coordinate, coordinate)
    return total


def _summed(logits: Tensor, difference: Tensor, index: Tensor) -> PartialPosterior:
    """Sums over the points of one block: logits ``(B, K)``, difference ``(B, K, d)``."""
    top, position = logits.max(1)
    shift = torch.where(top == -math.inf, 0.0, top)
    shifted = (logits - shift[:, None]).clamp_min(10 * LOGIT_FLOOR)
    weights = torch.where(logits == -math.inf, 0.0, shifted.exp())
    chosen = index.expand(len(top), -1).gather(1, position[:, None])[:, 0]
    return PartialPosterior(
        top_logit=top,
        top_index=torch.where(top == -math.inf, -1, chosen),
        total=weights.sum(1),
        residual_sum=torch.einsum("bk,bkd->bd", weights, difference),
        entropy_sum=(weights * shifted).sum(1),
        logit_error=torch.zeros_like(top),
        sum_error=torch.zeros_like(top),
    )


def _filter(
    found: list[tuple[Tensor, Tensor, Tensor]], bound: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates (query, point, value) that still reach the bound of their query."""
    rows, columns, values = (torch.cat(parts) for parts in zip(*found, strict=True))
    keep = values >= bound[rows]
    return rows[keep], columns[keep], values[keep]


def _padded(members: Tensor, rows: Tensor, columns: Tensor, counts: Tensor) -> Tensor:
    """Candidates of some of the queries as a matrix ``(len(members), K)``, padded with -1."""
    order = rows.argsort(stable=True)
    columns = columns[order]
    starts = counts.cumsum(0) - counts
    width = int(counts[members].max())
    position = torch.arange(width, device=rows.device)[None]
    source = (starts[members, None] + position).clamp_max(max(len(columns) - 1, 0))
    if not len(columns):
        return torch.full((len(members), 1), -1, dtype=torch.int64, device=rows.device)
    return torch.where(position < counts[members, None], columns[source], -1)


def _rounding_factor(length: int) -> float:
    """Factor c of the bound ``c u |a||b|`` on the error of a dot product of that length."""
    return 8.0 + 4.0 * math.sqrt(length)


def _unit_roundoff(dtype: torch.dtype) -> float:
    """Unit roundoff of a matrix product in ``dtype`` under torch's current precision setting."""
    if dtype == torch.float32:
        reduced = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}
        return reduced[torch.get_float32_matmul_precision()]
    return 2.0**-53
