r"""The contract of a forward process.

A linear stochastic differential equation carries data to noise,

.. math::
    dx = f(t)\, x\, dt + g(t)\, dW, \qquad
    x(t) \mid x_0 \sim N(m(t)\, x_0,\; \sigma(t)^2 I), \qquad
    m' = f m, \quad (\sigma^2)' = 2 f \sigma^2 + g^2,

with :math:`m(0) = 1` and :math:`\sigma(0) = 0`. Everything that memdiff does depends on a process
only through the four functions ``scale`` (:math:`m`), ``std`` (:math:`\sigma`), ``drift``
(:math:`f`), ``diffusion`` (:math:`g`) and the inverse of the noise-to-signal ratio
:math:`\sigma / m`.

To add a process, subclass :class:`ForwardProcess`, set ``t_max`` and write the four functions,
each under :func:`time_function`:

>>> class VarianceExplodingLinear(ForwardProcess):
...     '''sigma(t)^2 = t: Brownian motion.'''
...     t_max = 100.0
...     @time_function
...     def scale(self, t):
...         return torch.ones_like(t)
...     @time_function
...     def std(self, t):
...         return t.sqrt()
...     @time_function
...     def drift(self, t):
...         return torch.zeros_like(t)
...     @time_function
...     def diffusion(self, t):
...         return torch.ones_like(t)
>>> VarianceExplodingLinear().time_at_ratio(3.0)
tensor(9.0000, dtype=torch.float64)

``memdiff.testing.check_process`` verifies the identities above for it. ``time_at_ratio`` is found
by bisection unless the subclass gives a closed form.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["ForwardProcess", "check_ratio", "positive", "time_function"]


def time_function(function: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Any], Tensor]:
    """Let a method of one time argument take floats and tensors of any dtype.

    The method itself sees a float64 tensor; the caller gets the dtype that it passed (float64 for
    a Python number), so that small times keep their digits.
    """

    @functools.wraps(function)
    def wrapped(self: ForwardProcess, t: float | Tensor) -> Tensor:
        if not isinstance(t, Tensor):
            return function(self, torch.as_tensor(t, dtype=torch.float64))
        value = function(self, t.to(torch.float64))
        return value.to(t.dtype) if t.is_floating_point() else value

    return wrapped


class ForwardProcess(ABC):
    """A linear forward process; see the module for the contract and an example of a new one.

    Attributes:
        t_max: Final time of the forward process, where sampling starts.
        ratio_min: Smallest positive noise-to-signal ratio on the default grid of fixed-step
            samplers.
        rho: Exponent of that grid (Karras et al. 2022, equation 5).
    """

    t_max: float
    ratio_min: float = 0.002
    rho: float = 7.0

    @abstractmethod
    def scale(self, t: float | Tensor) -> Tensor:
        """Signal scale :math:`m(t)`, of the shape of ``t``."""

    @abstractmethod
    def std(self, t: float | Tensor) -> Tensor:
        r"""Noise standard deviation :math:`\sigma(t)`, of the shape of ``t``."""

    @abstractmethod
    def drift(self, t: float | Tensor) -> Tensor:
        """Drift rate :math:`f(t)` (the drift itself is ``f(t) x``), of the shape of ``t``."""

    @abstractmethod
    def diffusion(self, t: float | Tensor) -> Tensor:
        """Diffusion coefficient :math:`g(t)`, not its square, of the shape of ``t``."""

    def ratio(self, t: float | Tensor) -> Tensor:
        r"""Noise-to-signal ratio :math:`\sigma(t) / m(t)`: the noise in units of the data."""
        return self.std(t) / self.scale(t)

    def time_at_ratio(self, ratio: float | Tensor) -> Tensor:
        r"""Time at which :math:`\sigma(t)/m(t)` equals ``ratio``; the inverse of :meth:`ratio`.

        Args:
            ratio: Noise-to-signal ratio, non-negative, any shape.

        Returns:
            Times of the same shape; float64 for a Python number, else the dtype of ``ratio``.

        Raises:
            ValueError: If a ratio is negative, not finite, or (for a process without a closed
                form) above the one reached at ``t_max``.
        """
        return _invert(self, ratio)

    def time_grid(self, steps: int, t_end: float = 0.0) -> Tensor:
        r"""Decreasing times of a fixed-step sampler, from ``t_max`` to ``t_end``.

        The noise-to-signal ratios are spaced as in Karras et al. 2022, equation 5:
        uniform in :math:`(\sigma/m)^{1/\rho}`. With ``t_end = 0`` the last positive ratio is
        ``ratio_min`` and the last time is 0, which for :class:`EDM` is the published grid.

        Args:
            steps: Number of steps, at least 1.
            t_end: Final time, at least 0 and below ``t_max``.

        Returns:
            float64 tensor with shape ``(steps + 1,)``.

        Raises:
            ValueError: If ``steps`` or ``t_end`` is out of range.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}.")
        if not 0.0 <= t_end < self.t_max:
            raise ValueError(f"t_end must lie in [0, t_max) = [0, {self.t_max:g}), got {t_end:g}.")
        to_zero = t_end == 0.0
        low = self.ratio_min if to_zero else float(self.ratio(t_end))
        high = float(self.ratio(self.t_max))
        count = steps if to_zero else steps + 1
        fraction = torch.linspace(0.0, 1.0, count, dtype=torch.float64)
        root = 1.0 / self.rho
        ratios = (high**root + fraction * (low**root - high**root)) ** self.rho
        times = self.time_at_ratio(ratios)
        times[0] = self.t_max
        if to_zero:
            return torch.cat([times, torch.zeros(1, dtype=torch.float64)])
        times[-1] = t_end
        return times

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value:g}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fields})"


@time_function
def _invert(process: ForwardProcess, ratio: Tensor) -> Tensor:
    """Bisection on a geometric bracket, to the last digit of float64."""
    check_ratio(ratio)
    high_ratio = float(process.ratio(process.t_max))
    if bool((ratio > high_ratio * (1 + 1e-12)).any()):
        raise ValueError(
            f"ratio {float(ratio.max()):g} is above sigma/m = {high_ratio:g}, the largest that "
            f"{process!r} reaches at t_max = {process.t_max:g}."
        )
    low = torch.full_like(ratio, -745.0)  # log of the smallest positive double
    high = torch.full_like(ratio, math.log(process.t_max))
    for _ in range(80):
        middle = 0.5 * (low + high)
        below = process.ratio(middle.exp()) < ratio
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.where(ratio == 0, torch.zeros_like(ratio), high.exp())


def check_ratio(ratio: Tensor) -> None:
    """Refuse noise-to-signal ratios that are negative or not finite."""
    if not bool((torch.isfinite(ratio) & (ratio >= 0)).all()):
        raise ValueError(f"ratio sigma/m must be finite and non-negative, got {ratio.tolist()}.")


def positive(name: str, value: float) -> float:
    """Return the value of an argument that must be positive and finite."""
    if not (math.isfinite(value) and value > 0.0):
        raise ValueError(f"{name} must be positive and finite, got {value}.")
    return float(value)
