"""The process of Karras et al.: time is the noise level."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from memdiff.processes.base import ForwardProcess, check_ratio, positive, time_function

__all__ = ["EDM"]


class EDM(ForwardProcess):
    r"""The parametrisation of Karras et al. 2022: time is the noise level, :math:`\sigma(t) = t`.

    :math:`f = 0`, :math:`g^2 = 2t`, :math:`m = 1`.

    Args:
        sigma_min: Smallest positive noise level of the sampling grid.
        sigma_max: Noise level at which sampling starts.
        rho: Exponent of the grid.

    References:
        arXiv:2206.00364, table 1 and equation 5.
    """

    def __init__(
        self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
    ) -> None:
        if not 0.0 < sigma_min < sigma_max:
            raise ValueError(
                f"sigma_min and sigma_max must satisfy 0 < sigma_min < sigma_max, "
                f"got {sigma_min} and {sigma_max}."
            )
        self.ratio_min = float(sigma_min)
        self.t_max = float(sigma_max)
        self.rho = positive("rho", rho)

    @override
    @time_function
    def scale(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    @override
    @time_function
    def std(self, t: Tensor) -> Tensor:
        return t.clone()

    @override
    @time_function
    def drift(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    @override
    @time_function
    def diffusion(self, t: Tensor) -> Tensor:
        return (2.0 * t).sqrt()

    @override
    @time_function
    def time_at_ratio(self, ratio: Tensor) -> Tensor:
        check_ratio(ratio)
        return ratio.clone()

    def __repr__(self) -> str:
        return f"EDM(sigma_min={self.ratio_min:g}, sigma_max={self.t_max:g}, rho={self.rho:g})"
