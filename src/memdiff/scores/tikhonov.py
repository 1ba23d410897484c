r"""Tikhonov regularisation of score matching.

Adding :math:`E_t \lambda\, E\, \gamma(t) |s|^2` with :math:`\gamma = c / \sigma^2` to the
empirical objective changes its minimiser to

.. math::
    s = \frac{s_N}{1 + \gamma} = \frac{m D - x}{\sigma^2 + c},
    \qquad \text{or} \qquad s = (\sigma^2 I + c\, C)^{-1} (m D - x)

for the penalty :math:`\gamma\, s^T C s` with a covariance :math:`C`.

References:
    Baptista et al., arXiv:2501.15785 (Tikhonov regularisation). The form with a
    covariance follows from the same first-order condition.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from memdiff.scores.base import Score, expand_time, per_sample
from memdiff.scores.covariance import Covariance
from memdiff.scores.regularised import RegularisedScore

__all__ = ["Tikhonov"]


class Tikhonov(RegularisedScore):
    r"""The score :math:`(\sigma^2 I + c\, C)^{-1} \sigma^2 s`, finite down to :math:`\sigma = 0`.

    Args:
        score: The score to regularise.
        strength: :math:`c \ge 0`, in squared units of the data (with a covariance: of the data
            over the covariance). 0 leaves the score as it is.
        covariance: :math:`C`; None for the identity.

    Raises:
        ValueError: If ``strength`` is negative or not finite.
    """

    covariance: Covariance | None

    def __init__(
        self, score: Score, strength: float, covariance: Covariance | None = None
    ) -> None:
        super().__init__(score)
        if not 0 <= strength < math.inf:
            raise ValueError(f"strength must be finite and non-negative, got {strength}.")
        self.strength = float(strength)
        self.covariance = covariance

    def forward(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        """The regularised score, of the shape and dtype of ``x``; finite at sigma = 0."""
        return self._shrunk(self.score.residual(x, t, y), x, t).to(x.dtype)

    @override
    def residual(
        self,
        x: Tensor,
        t: float | Tensor,
        y: Tensor | None = None,
        *,
        exclude: Tensor | None = None,
    ) -> Tensor:
        variance = self.process.std(expand_time(t, x)) ** 2
        shrunk = self._shrunk(self.score.residual(x, t, y, exclude=exclude), x, t)
        return (per_sample(variance, x) * shrunk).to(x.dtype)

    def _shrunk(self, residual: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
        variance = self.process.std(expand_time(t, x)) ** 2
        residual = residual.to(torch.float64)
        if self.covariance is not None and self.strength > 0:
            return self.covariance.solve(residual, variance, self.strength)
        return residual / per_sample(variance + self.strength, x)

    @override
    def extra_repr(self) -> str:
        return f"strength={self.strength:g}"
