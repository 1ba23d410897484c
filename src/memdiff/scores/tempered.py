r"""Temperature: flatter weights over the training points.

.. math::
    w_n \propto \pi_n^{} \exp\Big(-\frac{|x - m x_n|^2}{2 \sigma^2 \tau}\Big), \qquad \tau \ge 1 .

A constant temperature only replaces :math:`\sigma` by :math:`\sigma \sqrt{\tau}` in the weights,
and still collapses as :math:`\sigma \to 0`; so does the published rule per level, whose effective
width :math:`\sqrt{\sigma s_{collapse}}` vanishes more slowly. Stop at ``t_end > 0``, or use
another regulariser, where that matters.

References:
    Zhou, Zhang, Wright, *Smoothing the Score Function for Generalization in Diffusion Models*,
    arXiv:2601.19285. Reconstructed from the published description; the truncation to the nearest
    100 points that the authors use for speed is left out.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from memdiff.scores.base import expand_time
from memdiff.scores.empirical import EmpiricalScore
from memdiff.scores.regularised import RegularisedScore

__all__ = ["CollapseTemperature", "InverseTemperature", "TemperatureRule", "Tempered"]


class TemperatureRule(ABC):
    """Temperature as a function of the noise level."""

    @abstractmethod
    def __call__(self, ratio: Tensor) -> Tensor:
        """Temperature at noise-to-signal ratio ``sigma / m`` (float64, any shape), at least 1."""


@dataclass(frozen=True)
class CollapseTemperature(TemperatureRule):
    r"""The published rule :math:`\tau = \max(s / (\sigma/m), 1)`.

    Attributes:
        collapse: Noise-to-signal ratio :math:`s` below which a single point would dominate.
    """

    collapse: float

    def __post_init__(self) -> None:
        _require_positive(collapse=self.collapse)

    @override
    def __call__(self, ratio: Tensor) -> Tensor:
        return (self.collapse / ratio.clamp_min(1e-150)).clamp_min(1.0)


@dataclass(frozen=True)
class InverseTemperature(TemperatureRule):
    r"""The published variant :math:`\tau = a / (\sigma/m)` below a ratio, 1 above it.

    Attributes:
        constant: The factor :math:`a` (published: 5 to 10).
        collapse: Noise-to-signal ratio up to which the rule holds.
    """

    constant: float
    collapse: float

    def __post_init__(self) -> None:
        _require_positive(constant=self.constant, collapse=self.collapse)

    @override
    def __call__(self, ratio: Tensor) -> Tensor:
        tempered = (self.constant / ratio.clamp_min(1e-150)).clamp_min(1.0)
        return torch.where(ratio <= self.collapse, tempered, torch.ones_like(ratio))


class Tempered(RegularisedScore):
    r"""Empirical score with the logits of its weights divided by a temperature.

    Args:
        score: The empirical score.
        temperature: :math:`\tau \ge 1`, a number or a rule per noise level.

    Raises:
        ValueError: If a constant temperature is below 1 or not finite.
    """

    score: EmpiricalScore

    def __init__(self, score: EmpiricalScore, temperature: float | TemperatureRule) -> None:
        if not isinstance(score, EmpiricalScore):
            raise ValueError(
                f"score must be an EmpiricalScore, whose weights are known, got "
                f"{type(score).__name__}: regularise the other way round."
            )
        if not isinstance(temperature, TemperatureRule) and not 1 <= temperature < math.inf:
            raise ValueError(f"temperature must be finite and at least 1, got {temperature}.")
        super().__init__(score)
        self.temperature = temperature

    @override
    def residual(
        self,
        x: Tensor,
        t: float | Tensor,
        y: Tensor | None = None,
        *,
        exclude: Tensor | None = None,
    ) -> Tensor:
        tau: float | Tensor
        if isinstance(self.temperature, TemperatureRule):
            tau = self.temperature(self.process.ratio(expand_time(t, x)))
        else:
            tau = self.temperature
        return self.score.residual(x, t, y, exclude=exclude, temperature=tau)

    @override
    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}.")
