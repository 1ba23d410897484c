"""The variance-exploding process."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from memdiff.processes.base import ForwardProcess, check_ratio, positive, time_function

__all__ = ["VE"]


class VE(ForwardProcess):
    r"""Variance exploding: :math:`f = 0`, :math:`g = a^t`.

    :math:`m = 1`, :math:`\sigma^2 = (a^{2t} - 1) / (2 \ln a)`.

    Args:
        base: The base :math:`a > 1`. The paper uses 10.
        t_max: Final time. The paper uses 1.

    References:
        arXiv:2501.15785 (variance exploding process).
    """

    def __init__(self, base: float = 10.0, t_max: float = 1.0) -> None:
        if base <= 1.0:
            raise ValueError(f"base must be above 1, got {base}.")
        self.base = float(base)
        self.t_max = positive("t_max", t_max)

    @override
    @time_function
    def scale(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    @override
    @time_function
    def std(self, t: Tensor) -> Tensor:
        rate = 2.0 * math.log(self.base)
        return (torch.expm1(rate * t) / rate).sqrt()

    @override
    @time_function
    def drift(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    @override
    @time_function
    def diffusion(self, t: Tensor) -> Tensor:
        return torch.exp(math.log(self.base) * t)

    @override
    @time_function
    def time_at_ratio(self, ratio: Tensor) -> Tensor:
        check_ratio(ratio)
        rate = 2.0 * math.log(self.base)
        return torch.log1p(rate * ratio**2) / rate
