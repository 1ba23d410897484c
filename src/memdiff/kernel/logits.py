"""Logits of blocks of points from matrix products."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from memdiff.kernel.integers import IntegerRows, ProductBuffer
from memdiff.kernel.points import Points
from memdiff.kernel.prior import Prior
from memdiff.kernel.products import gemm_path

__all__ = ["BlockLogits", "GroupedTop", "IntegerLogits"]

_GROUP = 64
# Stands for the range of log prior weights where some are -inf.
_FINITE = 1e4
# Coordinates that a careful product sums before it adds them to others.
_LENGTH = 1024


class BlockLogits:
    """``query @ centred.T - curvature * half_norm + factor * terms - offset``, block by block.

    Where all queries are at one noise level, everything but the conditions and exclusions is the
    bias of one fused product.

    Args:
        points: The training points.
        query: Centred and scaled queries ``(B, d)``; its dtype is that of the product.
        curvature: Factor of half the squared norms, ``(B,)``.
        prior: The other terms.
        factor: Their factor, ``(B,)``.
        careful: Whether products are torch's own, and long ones taken in parts, whose rounding is
            that of smaller values; a little slower.

    Attributes:
        offset: What is left out of all logits of a query, so that fewer digits are lost: the
            part of the bias that points have in common, float64 ``(B,)``.
    """

    def __init__(
        self,
        points: Points,
        query: Tensor,
        curvature: Tensor,
        prior: Prior,
        factor: Tensor,
        *,
        careful: bool = False,
    ) -> None:
        self.points, self.query, self.prior = points, query, prior
        self.curvature, self.factor = curvature, factor
        self.common = (float(points.half_norm.mean()), float(prior.log_prior.max()))
        self.offset = factor * self.common[1] - curvature * self.common[0]
        self.parts = max(1, points.dim // _LENGTH) if careful else 0
        self.path = gemm_path(points.dim, query.dtype, query.device)
        self.uniform = bool((curvature == curvature[:1]).all() & (factor == factor[:1]).all())

    def largest(self) -> float:
        """Bound of the magnitude of all logits; infinite with conditions and exclusions."""
        if self.prior.extra is not None or self.prior.exclude is not None:
            return math.inf
        radius, terms = self.points.radius, self.common[1] - float(self.prior.log_prior.min())
        product = self.query.norm(dim=1).to(torch.float64) * radius
        bound = product + 0.5 * self.curvature * radius**2 + self.factor * terms
        return float(bound.max()) if len(bound) else 0.0

    def bias(self, block: slice) -> Tensor:
        """What a block adds to the products of queries at one noise level, ``(K,)``."""
        half_norm = self.points.half_norm[block] - self.common[0]
        log_prior = self.prior.log_prior[block] - self.common[1]
        bias = self.factor[:1] * log_prior - self.curvature[:1] * half_norm
        return bias.to(self.query.dtype)

    def __call__(self, block: slice, centred: Tensor, bias: Tensor | None = None) -> Tensor:
        """Logits of a block, ``(B, K)``.

        Args:
            block: The points.
            centred: Less their centre, ``(K, d)``.
            bias: What :meth:`bias` gives, where it is known; of queries at one noise level.
        """
        if self.uniform:
            values = self._product(centred, self.bias(block) if bias is None else bias)
        else:
            half_norm = self.points.half_norm[block] - self.common[0]
            log_prior = self.prior.log_prior[block] - self.common[1]
            dtype = self.query.dtype
            values = self._product(centred, None)
            unit = self.points.radius**2 or 1.0  # the squares of some data overflow float32
            rows = (unit * self.curvature).to(dtype)[:, None]
            values.addcmul_(rows, (half_norm / unit).to(dtype)[None], value=-1.0)
            values.addcmul_(self.factor.to(dtype)[:, None], log_prior.to(dtype)[None])
        self.prior.restrict(values, block, self.factor)
        return values

    def _product(self, centred: Tensor, bias: Tensor | None) -> Tensor:
        if not self.parts:
            return self.path.logits(self.query, centred, bias)
        # Torch's own products round less than others do, and take slices without a copy.
        queries, points = self.query.chunk(self.parts, 1), centred.chunk(self.parts, 1)
        values = torch.mm(queries[0], points[0].T)
        for query, coordinates in zip(queries[1:], points[1:], strict=True):
            values.addmm_(query, coordinates.T)
        return values if bias is None else values.add_(bias)


class IntegerLogits:
    r"""What :class:`BlockLogits` computes, from 8-bit integers, with what is certain of it.

    With ``u`` the unit of the values, those of the integers are
    :math:`V = (-D^2/2 + \sigma^2 c)/u`, a logit besides the same constant, with the distance
    ``D`` between the rounded query and the rounded point. That is off by at most
    :math:`e = |e_x| + m |e_X|`, so that :math:`D^2/2` is off by at most :math:`e D + e^2/2`,
    whichever of the two distances ``D`` is.

    Args:
        points: The training points; they have integers.
        centred: Queries less ``m`` times the centre, ``(B, d)``.
        factor: :math:`m/u`, ``(B,)``.
        curvature: :math:`m^2/u`, ``(B,)``.
        prior: The other terms of the logits.
        variance: :math:`\sigma^2/u`, ``(B,)``.
    """

    def __init__(
        self,
        points: Points,
        centred: Tensor,
        factor: Tensor,
        curvature: Tensor,
        prior: Prior,
        variance: Tensor,
    ) -> None:
        self.points, self.prior = points, prior
        self.curvature, self.variance = curvature, variance
        self.query = IntegerRows.of(centred.to(torch.float32))
        near = points.integers()
        assert near is not None
        self.near = near
        self.buffer = ProductBuffer()
        self.strength = (factor * self.query.step).to(torch.float32)[:, None]
        scale = curvature / factor
        unit = scale / factor
        self.common = (float(points.half_norm.mean()), float(prior.log_prior.max()))
        offset = variance * self.common[1] - curvature * self.common[0]
        self.base = self.query.half_norm / unit - offset
        self.most = variance * (self.common[1] + prior.bound)
        self.unit = unit
        self.error = self.query.error + scale * near.error.max()
        # Rounding of the values to float32, which those of points have in common.
        length = (2.0 * self.query.half_norm).sqrt()
        terms = self.common[1] - float(prior.log_prior.min()) + prior.bound
        radius = 1.1 * scale * points.radius
        size = radius * (length + radius) / unit + variance * min(terms, _FINITE)
        self.rounding = 8.0 * 2.0**-24 * size
        self.uniform = bool((curvature == curvature[:1]).all() & (variance == variance[:1]).all())

    def __call__(self, block: slice) -> Tensor:
        """Values of a block, float32 ``(B, K)``; written over by the next call."""
        near = self.near[block]
        values = self.query.products(near, self.buffer)
        half_norm = near.half_norm - self.common[0]
        log_prior = self.prior.log_prior[block] - self.common[1]
        if self.uniform:
            bias = self.variance[:1] * log_prior - self.curvature[:1] * half_norm
            torch.addcmul(bias.to(values.dtype)[None], values, self.strength, out=values)
        else:
            unit = self.points.radius**2 or 1.0  # the squares of some data overflow float32
            rows = (unit * self.curvature).to(values.dtype)[:, None]
            values.mul_(self.strength)
            values.addcmul_(rows, (half_norm / unit).to(values.dtype)[None], value=-1.0)
            values.addcmul_(self.variance.to(values.dtype)[:, None], log_prior.to(values.dtype))
        self.prior.restrict(values, block, self.variance)
        return values

    def lowered(self, value: Tensor) -> Tensor:
        """The least that a logit can be whose value is given, or the other way round; ``(B,)``."""
        square = 2.0 * self.unit * (self.most - (value - self.base))
        change = self.error * square.clamp_min(0.0).sqrt() + 0.5 * self.error**2
        return (value - change / self.unit - self.rounding).nan_to_num(-math.inf)


class GroupedTop:
    """Largest values of the rows of a block, by groups of columns, so that few are looked at.

    Args:
        values: ``(B, K)``.

    Attributes:
        top: Largest value of each row, ``(B,)``.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.size = _GROUP if values.shape[1] % _GROUP == 0 else values.shape[1]
        self.groups = values.view(len(values), -1, self.size).amax(2)
        self.top, self.group = self.groups.max(1)

    def position(self, rows: Tensor) -> Tensor:
        """Column of the (first) largest value of some rows."""
        group = self.group[rows]
        members = self.values.view(len(self.values), -1, self.size)[rows, group]
        return group * self.size + members.argmax(1)

    def reaching(self, bound: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns of the values that are at least the bound ``(B,)`` of their row."""
        rows, groups = (self.groups >= bound[:, None]).nonzero(as_tuple=True)
        members = self.values.view(len(self.values), -1, self.size)[rows, groups]
        some, columns = (members >= bound[rows, None]).nonzero(as_tuple=True)
        return rows[some], groups[some] * self.size + columns
