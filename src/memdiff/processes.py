r"""Forward (noising) processes.

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

References:
    Baptista, Dasgupta, Kovachki, Oberai, Stuart, *Memorization and Regularization in Generative
    Diffusion Models*, arXiv:2501.15785.
    Karras, Aittala, Aila, Laine, *Elucidating the Design Space of Diffusion-Based Generative
    Models*, arXiv:2206.00364.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["EDM", "VE", "VP", "ForwardProcess", "LinearInterpolant", "time_function"]


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
    _check_ratio(ratio)
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


def _check_ratio(ratio: Tensor) -> None:
    if not bool((torch.isfinite(ratio) & (ratio >= 0)).all()):
        raise ValueError(f"ratio sigma/m must be finite and non-negative, got {ratio.tolist()}.")


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
        self.t_max = _positive("t_max", t_max)

    @time_function
    def scale(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.ones_like(t)

    @time_function
    def std(self, t: Tensor) -> Tensor:  # noqa: D102
        rate = 2.0 * math.log(self.base)
        return (torch.expm1(rate * t) / rate).sqrt()

    @time_function
    def drift(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.zeros_like(t)

    @time_function
    def diffusion(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.exp(math.log(self.base) * t)

    @time_function
    def time_at_ratio(self, ratio: Tensor) -> Tensor:  # noqa: D102
        _check_ratio(ratio)
        rate = 2.0 * math.log(self.base)
        return torch.log1p(rate * ratio**2) / rate


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
        self.t_max = _positive("t_max", t_max)

    def _integrated(self, t: Tensor) -> Tensor:
        return t * self.beta_min + 0.5 * t**2 * (self.beta_max - self.beta_min)

    @time_function
    def scale(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.exp(-0.5 * self._integrated(t))

    @time_function
    def std(self, t: Tensor) -> Tensor:  # noqa: D102
        return (-torch.expm1(-self._integrated(t))).sqrt()

    @time_function
    def drift(self, t: Tensor) -> Tensor:  # noqa: D102
        return -0.5 * (self.beta_min + t * (self.beta_max - self.beta_min))

    @time_function
    def diffusion(self, t: Tensor) -> Tensor:  # noqa: D102
        return (self.beta_min + t * (self.beta_max - self.beta_min)).sqrt()

    @time_function
    def time_at_ratio(self, ratio: Tensor) -> Tensor:  # noqa: D102
        _check_ratio(ratio)
        integrated = torch.log1p(ratio**2)
        slope = self.beta_max - self.beta_min
        root = (self.beta_min**2 + 2.0 * slope * integrated).sqrt()
        return 2.0 * integrated / (self.beta_min + root).clamp_min(1e-300)


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
        self.rho = _positive("rho", rho)

    @time_function
    def scale(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.ones_like(t)

    @time_function
    def std(self, t: Tensor) -> Tensor:  # noqa: D102
        return t.clone()

    @time_function
    def drift(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.zeros_like(t)

    @time_function
    def diffusion(self, t: Tensor) -> Tensor:  # noqa: D102
        return (2.0 * t).sqrt()

    @time_function
    def time_at_ratio(self, ratio: Tensor) -> Tensor:  # noqa: D102
        _check_ratio(ratio)
        return ratio.clone()

    def __repr__(self) -> str:
        return f"EDM(sigma_min={self.ratio_min:g}, sigma_max={self.t_max:g}, rho={self.rho:g})"


class LinearInterpolant(ForwardProcess):
    r"""Linear interpolation between data and noise, as in flow matching.

    :math:`m = 1 - t`, :math:`\sigma = t`, hence :math:`f = -1/(1-t)`, :math:`g^2 = 2t/(1-t)`.

    Args:
        t_max: Final time, below 1, where ``f`` and ``g`` are infinite. At the default the signal
            that is left in the start of the samplers has scale 0.001.

    References:
        Lipman et al., *Flow Matching for Generative Modeling*, arXiv:2210.02747, section 4.1.
    """

    def __init__(self, t_max: float = 0.999) -> None:
        if not 0.0 < t_max < 1.0:
            raise ValueError(
                f"t_max must lie in (0, 1), got {t_max}: the drift is infinite at t = 1."
            )
        self.t_max = float(t_max)

    @time_function
    def scale(self, t: Tensor) -> Tensor:  # noqa: D102
        return 1.0 - t

    @time_function
    def std(self, t: Tensor) -> Tensor:  # noqa: D102
        return t.clone()

    @time_function
    def drift(self, t: Tensor) -> Tensor:  # noqa: D102
        return -1.0 / (1.0 - t)

    @time_function
    def diffusion(self, t: Tensor) -> Tensor:  # noqa: D102
        return (2.0 * t / (1.0 - t)).sqrt()

    @time_function
    def time_at_ratio(self, ratio: Tensor) -> Tensor:  # noqa: D102
        _check_ratio(ratio)
        return ratio / (1.0 + ratio)


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0.0):
        raise ValueError(f"{name} must be positive and finite, got {value}.")
    return float(value)
