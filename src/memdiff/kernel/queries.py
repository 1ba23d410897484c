"""Queries: points, noise levels, and the terms of their logits besides the distance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from memdiff.kernel.points import Points

__all__ = ["Prior", "Queries", "Terms"]

Terms = Callable[[Tensor, slice | Tensor], Tensor]
"""Terms of the logits as a function of the indices of some queries, ``(B',)``, and of some points:
a slice of length ``K``, or indices ``(B', K)``. It returns ``(B', K)``; ``-inf`` leaves out."""


@dataclass(frozen=True)
class Prior:
    r"""The terms of the logits besides the distance.

    Attributes:
        log_prior: :math:`\log \pi_n` of the points, float64 ``(N,)``.
        terms: Further terms (conditions), or None.
        exclude: Point that each query leaves out, int64 ``(B,)``, -1 for none; or None.
        rows: Numbers by which ``terms`` knows the queries, ``(B,)``.
        bound: Largest finite magnitude of ``terms``.
    """

    log_prior: Tensor
    terms: Terms | None
    exclude: Tensor | None
    rows: Tensor
    bound: float = 0.0

    def take(self, rows: Tensor) -> Prior:
        """The same for some of the queries."""
        exclude = None if self.exclude is None else self.exclude[rows]
        return replace(self, exclude=exclude, rows=self.rows[rows])

    def block(self, block: slice) -> Tensor:
        """Terms of a block of points, float64 with shape ``(B, K)`` or ``(1, K)``."""
        terms = self.log_prior[block][None]
        if self.terms is not None:
            terms = terms + self.terms(self.rows, block)
        if self.exclude is not None:
            index = torch.arange(block.start, block.stop, device=terms.device)
            terms = torch.where(self.exclude[:, None] == index[None], -math.inf, terms)
        return terms

    def at(self, index: Tensor) -> Tensor:
        """Terms of the points ``index`` ``(B, K)``, float64; ``-inf`` where it is -1."""
        terms = self.log_prior[index.clamp_min(0)]
        if self.terms is not None:
            terms = terms + self.terms(self.rows, index.clamp_min(0))
        left_out = index < 0
        if self.exclude is not None:
            left_out = left_out | (index == self.exclude[:, None])
        return torch.where(left_out, -math.inf, terms)

    def restrict(self, values: Tensor, block: slice, factor: Tensor, least: float) -> None:
        """Add what differs between queries, conditions and exclusions, to values in place.

        Args:
            values: Values of a block of points, ``(B, K)``, without those terms.
            block: The points.
            factor: Multiplies the terms, ``(B,)``.
            least: Value of what is left out: an infinity.
        """
        if self.terms is not None:
            terms = factor[:, None] * self.terms(self.rows, block)
            values.add_(torch.where(terms.isinf(), least, terms).to(values.dtype))
        if self.exclude is not None:
            inside = (self.exclude >= block.start) & (self.exclude < block.stop)
            rows = inside.nonzero()[:, 0]
            values[rows, self.exclude[rows] - block.start] = least


@dataclass(frozen=True)
class Queries:
    r"""Queries of the posterior, the one record that travels through the kernel.

    Attributes:
        x: Float64 ``(B, d)``.
        scale: :math:`m`, float64 ``(B,)``, positive.
        sigma: :math:`\sigma`, float64 ``(B,)``, positive.
        prior: The terms of the logits besides the distance.
    """

    x: Tensor
    scale: Tensor
    sigma: Tensor
    prior: Prior
    _known: dict[int, tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(
        cls,
        x: Tensor,
        scale: Tensor,
        sigma: Tensor,
        *,
        terms: Terms | None = None,
        bound: float = 0.0,
        exclude: Tensor | None = None,
    ) -> Queries:
        r"""Queries in float64.

        Args:
            x: ``(B, d)``, any floating dtype.
            scale: :math:`m`, ``(B,)``, positive.
            sigma: :math:`\sigma`, ``(B,)``, non-negative. At 0 the weights are the limit: uniform
                over the nearest points.
            terms: Terms of the logits by query and point (conditions).
            bound: Largest finite magnitude of those terms; it enters bounds of rounding errors.
            exclude: Index of a point to leave out for each query, int64 ``(B,)``, -1 for none.
        """
        double = torch.float64
        rows = torch.arange(len(x), device=x.device)
        nothing = torch.empty(0, dtype=double, device=x.device)
        # The square of sigma must not underflow.
        width = sigma.to(double).clamp_min(1e-150)
        prior = Prior(nothing, terms, exclude, rows, bound)
        return cls(x.to(double), scale.to(double), width, prior)

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor) -> Queries:
        """Some of the queries; all of them in their order are the record itself."""
        if len(rows) == len(self) and bool((rows[1:] > rows[:-1]).all()):
            return self
        return Queries(self.x[rows], self.scale[rows], self.sigma[rows], self.prior.take(rows))

    def under(self, log_prior: Tensor) -> Queries:
        """The same queries of points with these log prior weights."""
        return replace(self, prior=replace(self.prior, log_prior=log_prior))

    def centred(self, points: Points) -> Tensor:
        r""":math:`x - m c` with the centre ``c`` of the points, ``(B, d)``; not to be changed."""
        return self._from_centre(points)[0]

    def distance(self, points: Points) -> Tensor:
        """Norm of :meth:`centred`, ``(B,)``."""
        return self._from_centre(points)[1]

    def _from_centre(self, points: Points) -> tuple[Tensor, Tensor]:
        """Both, taken once: every route and every bound asks for them."""
        known = self._known.get(id(points))
        if known is None:
            centred = torch.addcmul(self.x, self.scale[:, None], points.centre[None], value=-1.0)
            known = self._known[id(points)] = (centred, centred.norm(dim=1))
        return known

    @property
    def is_uniform(self) -> bool:
        """Whether all are at one scale and noise level."""
        one = (self.scale == self.scale[:1]) & (self.sigma == self.sigma[:1])
        return bool(one.all())

    @property
    def is_plain(self) -> bool:
        """Whether no conditions and exclusions differ between the queries."""
        return self.prior.terms is None and self.prior.exclude is None
