"""The variance-preserving process."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from memdiff.processes.base import ForwardProcess, check_ratio, positive, time_function

__all__ = ["VP"]


class VP(ForwardProcess):
    r"""Variance preserving with a linear rate.

    :math:`\beta(t) = \beta_{min} + t\,(\beta_{max} - \beta_{min})`, :math:`f = -\beta/2`,
    :math:`g^2 = \beta`, :math:`m = e^{-A/2}`, :math:`\sigma^2 = 1 - m^2`,
    :math:`A(t) = t \beta_{min} + t^2 (\beta_{max} - \beta_{min})/2`.

    Args:
        beta_min: Rate at time 0, non-negative. The paper uses 0.001.
        beta_max: Rate at time 1, above ``beta_min`` or equal to it and positive. The paper uses 3.
        t_max: Final time. The paper uses 1.

    References:
        arXiv:2501.15785 (variance preserving process).
    """

    def __init__(self, beta_min: float = 0.001, beta_max: float = 3.0, t_max: float = 1.0) -> None:
        if not 0.0 <= beta_min <= beta_max or beta_max <= 0.0:
            raise ValueError(
                f"beta_min and beta_max must satisfy 0 <= beta_min <= beta_max and beta_max > 0, "
                f"got {beta_min} and {beta_max}."
            )
        self.beta_min = float(beta_min)
        self.beta_max = float(beta_max)
        self.t_max = positive("t_max", t_max)

    def _integrated(self, t: Tensor) -> Tensor:
        return t * self.beta_min + 0.5 * t**2 * (self.beta_max - self.beta_min)

    @override
    @time_function
    def scale(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self._integrated(t))

    @override
    @time_function
    def std(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self._integrated(t))).sqrt()

    @override
    @time_function
    def drift(self, t: Tensor) -> Tensor:
        return -0.5 * (self.beta_min + t * (self.beta_max - self.beta_min))

    @override
    @time_function
    def diffusion(self, t: Tensor) -> Tensor:
        return (self.beta_min + t * (self.beta_max - self.beta_min)).sqrt()

    @override
    @time_function
    def time_at_ratio(self, ratio: Tensor) -> Tensor:
        check_ratio(ratio)
        integrated = torch.log1p(ratio**2)
        slope = self.beta_max - self.beta_min
        root = (self.beta_min**2 + 2.0 * slope * integrated).sqrt()
        return 2.0 * integrated / (self.beta_min + root).clamp_min(1e-300)
