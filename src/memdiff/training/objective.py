r"""Training objective: denoising score matching with explicit regularisers.

For a draw :math:`x = m x_0 + \sigma z` of a point with ``d`` values,

.. math::
    \frac{\lambda}{d} \left( |s(x, t) + z/\sigma|^2 + \rho(s, x, t) \right),

with the times drawn from a law, :math:`\lambda` any weighting of :mod:`memdiff.objectives`, and
:math:`\rho` any penalty. The Tikhonov penalty of the paper is
:math:`\rho = (c/\sigma^2)\, s^T C s`; with :math:`\lambda = \sigma^2` and :math:`C = I` the loss
is the paper's :math:`\mathrm{mean}\,|\sigma s + z|^2 + c\, \mathrm{mean}\,|s|^2`.

References:
    Baptista et al., arXiv:2501.15785 (Tikhonov regularisation of training).
    Karras, Aittala, Aila, Laine, arXiv:2206.00364, table 1 (loss weighting, noise distribution).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from memdiff.objectives import Draws, TimeLaw, UniformTime, Weighting, draw, sigma2
from memdiff.processes import ForwardProcess
from memdiff.scores.base import Score, per_sample
from memdiff.scores.covariance import Covariance

__all__ = [
    "Augmentation",
    "EDMWeighting",
    "LogNormalRatio",
    "Losses",
    "Objective",
    "Penalty",
    "TikhonovPenalty",
    "edm_objective",
]

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""A function of clean points ``(B, *S)`` and a generator to points of the same shape."""


class Penalty(Protocol):
    r"""Explicit regulariser :math:`\rho` of the objective."""

    def __call__(self, s: Tensor, draws: Draws) -> Tensor:
        r"""The penalty of each draw, before the weight :math:`\lambda`.

        Args:
            s: The score at the draws, float64 with shape ``(B, *S)``, differentiable.
            draws: The draws.

        Returns:
            float64 tensor with shape ``(B,)``.
        """


@dataclass(frozen=True, eq=False)
class TikhonovPenalty:
    r"""The Tikhonov penalty :math:`\rho = (c/\sigma^2)\, s^T C s`.

    The minimiser of the penalised empirical objective is
    :class:`memdiff.scores.Tikhonov`\ ``(s_N, strength, covariance)``, whatever the weighting.

    Attributes:
        strength: :math:`c \ge 0`, in squared units of the data.
        covariance: :math:`C`; None for the identity.

    Raises:
        ValueError: If ``strength`` is negative or not finite.

    References:
        arXiv:2501.15785 (Tikhonov regularisation).
    """

    strength: float
    covariance: Covariance | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength < math.inf:
            raise ValueError(f"strength must be finite and non-negative, got {self.strength}.")

    def __call__(self, s: Tensor, draws: Draws) -> Tensor:
        """The penalty of each draw, float64 with shape ``(B,)``."""
        weighted = s if self.covariance is None else self.covariance.apply_to(s)
        square = (s * weighted).flatten(1).sum(dim=1)
        return self.strength / draws.process.std(draws.t) ** 2 * square


@dataclass(frozen=True)
class LogNormalRatio:
    r"""Noise-to-signal ratios with :math:`\ln(\sigma/m) \sim N(P_{mean}, P_{std}^2)`.

    Ratios above the one at ``t_max`` are brought down to it.

    Attributes:
        mean: :math:`P_{mean}`.
        std: :math:`P_{std}`.

    References:
        arXiv:2206.00364, table 1: -1.2 and 1.2 for data of standard deviation 0.5.
    """

    mean: float = -1.2
    std: float = 1.2

    def __call__(self, process: ForwardProcess, num: int, generator: torch.Generator) -> Tensor:
        """Draw ``num`` times, float64 with shape ``(num,)``."""
        normal = torch.randn(
            num, generator=generator, device=generator.device, dtype=torch.float64
        )
        ratio = (self.mean + self.std * normal).exp()
        ratio = ratio.clamp_max(float(process.ratio(process.t_max)))
        return process.time_at_ratio(ratio).clamp_max(process.t_max)


@dataclass(frozen=True)
class EDMWeighting:
    r"""The weight for which the loss is that of Karras et al., in units of the score.

    Their loss is :math:`\frac{u^2 + \sigma_d^2}{(u \sigma_d)^2} |D - x_0|^2` with
    :math:`u = \sigma/m`. As :math:`|D - x_0|^2 = u^2 \sigma^2 |s + z/\sigma|^2`, it is
    :math:`\lambda = \sigma^2 (u^2 + \sigma_d^2)/\sigma_d^2`.

    Attributes:
        sigma_data: :math:`\sigma_d`, standard deviation of the data.

    References:
        arXiv:2206.00364, table 1 and equation 8.
    """

    sigma_data: float = 0.5

    def __call__(self, process: ForwardProcess, t: Tensor) -> Tensor:
        r""":math:`\lambda` with the shape of ``t``."""
        u = process.ratio(t)
        return process.std(t) ** 2 * (u**2 + self.sigma_data**2) / self.sigma_data**2


@dataclass(frozen=True)
class Losses:
    """Losses of a batch, one for each draw, per value of a point.

    Attributes:
        denoising: float64 with shape ``(B,)``.
        penalty: float64 with shape ``(B,)``; 0 without a penalty.
    """

    denoising: Tensor
    penalty: Tensor

    @property
    def total(self) -> Tensor:
        """Their sum, with shape ``(B,)``."""
        return self.denoising + self.penalty


@dataclass(frozen=True, eq=False)
class Objective:
    r"""Denoising objective with a law of times, a weight and a regulariser.

    Attributes:
        times: Law of the times.
        weighting: The weight :math:`\lambda`.
        penalty: The explicit regulariser :math:`\rho`, or None.
        augmentation: Applied to clean points before they are noised, or None.
    """

    times: TimeLaw = field(default_factory=UniformTime)
    weighting: Weighting = sigma2
    penalty: Penalty | None = None
    augmentation: Augmentation | None = None

    def draw(
        self,
        process: ForwardProcess,
        x0: Tensor,
        generator: torch.Generator,
        y: Tensor | None = None,
    ) -> Draws:
        """Noise a batch of clean points, each with its own time and noise.

        Args:
            process: The forward process.
            x0: Clean points with shape ``(B, *S)``.
            generator: Source of all randomness.
            y: Their conditions with shape ``(B,)`` or ``(B, k)``.

        Returns:
            The draws; their ``index`` counts within the batch.

        Raises:
            ValueError: If the augmentation changes the shape.
        """
        if self.augmentation is not None:
            augmented = self.augmentation(x0, generator)
            if augmented.shape != x0.shape:
                raise ValueError(
                    f"augmentation must keep the shape {tuple(x0.shape)}, "
                    f"got {tuple(augmented.shape)}."
                )
            x0 = augmented
        index = torch.arange(len(x0))
        return draw(process, x0, len(x0), generator, times=self.times, index=index, y=y)

    def __call__(self, score: Score, draws: Draws) -> Losses:
        """Losses at the draws, differentiable in the parameters of the score.

        Args:
            score: The score.
            draws: Noised points of its process.

        Returns:
            The losses.

        Raises:
            ValueError: If the weighting returns another shape than that of the times.
        """
        sigma = draws.process.std(draws.t)
        weight = self.weighting(draws.process, draws.t).to(torch.float64)
        if weight.shape != draws.t.shape:
            raise ValueError(
                f"weighting must return one weight a time, shape {tuple(draws.t.shape)}, "
                f"got {tuple(weight.shape)}."
            )
        weight = weight / draws.x[0].numel()
        residual = score.residual(draws.x, draws.t, draws.y).to(torch.float64)
        error = residual / per_sample(sigma, residual) + draws.z
        denoising = weight / sigma**2 * (error**2).flatten(1).sum(dim=1)
        if self.penalty is None:
            return Losses(denoising, torch.zeros_like(denoising))
        s = residual / per_sample(sigma**2, residual)
        return Losses(denoising, weight * self.penalty(s, draws))


def edm_objective(
    sigma_data: float = 0.5,
    *,
    penalty: Penalty | None = None,
    augmentation: Augmentation | None = None,
) -> Objective:
    r"""Return the objective of Karras et al., its noise levels in units of the data.

    :math:`P_{mean} = -1.2`, :math:`P_{std} = 1.2` are for :math:`\sigma_{data} = 0.5`; for other
    data the ratios scale along, :math:`P_{mean} = -1.2 + \ln(\sigma_{data}/0.5)`.

    Args:
        sigma_data: Standard deviation of the data, positive.
        penalty: The explicit regulariser, or None.
        augmentation: Applied to clean points, or None.

    Returns:
        The objective.

    Raises:
        ValueError: If ``sigma_data`` is not positive.

    References:
        arXiv:2206.00364, table 1.
    """
    if not 0.0 < sigma_data < math.inf:
        raise ValueError(f"sigma_data must be positive and finite, got {sigma_data}.")
    return Objective(
        times=LogNormalRatio(-1.2 + math.log(sigma_data / 0.5), 1.2),
        weighting=EDMWeighting(sigma_data),
        penalty=penalty,
        augmentation=augmentation,
    )
