"""Conformance suite of a forward process."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from memdiff.processes import ForwardProcess
from memdiff.testing.requirement import require, require_close

__all__ = ["check_process"]


def check_process(process: ForwardProcess, *, tolerance: float = 1e-6) -> None:
    r"""Check that a process is what :mod:`memdiff.processes` says a process is.

    - :math:`m(0) = 1`, :math:`\sigma(0) = 0`, and both are finite and positive on ``(0, t_max]``;
    - :math:`m' = f m` and :math:`(\sigma^2)' = 2 f \sigma^2 + g^2`, by differences of order 4;
    - :math:`\sigma/m` increases, and ``time_at_ratio`` inverts it from 1e-8 to ``t_max``;
    - functions of time keep shape and dtype (float64 for a Python number);
    - ``time_at_ratio`` refuses negative and NaN ratios; ``time_grid`` decreases between its ends.

    Args:
        process: The process.
        tolerance: Relative tolerance of the differential identities. The inverse is held to
            1e-9.

    Raises:
        AssertionError: Naming the first thing that is wrong.

    Example:
        >>> from memdiff.processes import VP
        >>> check_process(VP(beta_min=0.1, beta_max=20.0))
    """
    t_max = process.t_max
    require(math.isfinite(t_max) and t_max > 0, f"t_max must be positive and finite, got {t_max}.")
    _check_shapes_and_dtypes(process)
    _check_ends(process)
    _check_identities(process, tolerance)
    _check_inverse(process)
    _check_grid(process)


def _functions(process: ForwardProcess) -> dict[str, Callable[[float | Tensor], Tensor]]:
    return {
        "scale": process.scale,
        "std": process.std,
        "drift": process.drift,
        "diffusion": process.diffusion,
        "time_at_ratio": process.time_at_ratio,
    }


def _check_shapes_and_dtypes(process: ForwardProcess) -> None:
    middle = 0.5 * process.t_max
    ratio = float(process.ratio(middle))
    for name, function in _functions(process).items():
        point = ratio if name == "time_at_ratio" else middle
        value = function(point)
        require(
            isinstance(value, Tensor) and value.shape == () and value.dtype == torch.float64,
            f"{name} of a Python number must be a float64 tensor with shape (), got {value!r}.",
        )
        for dtype in (torch.float32, torch.float64):
            for shape in ((), (3,), (2, 2)):
                argument = torch.full(shape, point, dtype=dtype)
                before = argument.clone()
                result = function(argument)
                require(
                    result.shape == shape and result.dtype == dtype,
                    f"{name} must keep shape {shape} and dtype {dtype}, "
                    f"got {tuple(result.shape)} and {result.dtype}.",
                )
                require(
                    torch.equal(argument, before) and result.data_ptr() != argument.data_ptr(),
                    f"{name} must neither change nor return its argument itself.",
                )
                require_close(
                    result,
                    value.expand(shape),
                    1e-6 * abs(float(value)),
                    f"{name} must not depend on the shape or dtype of its argument",
                )


def _check_ends(process: ForwardProcess) -> None:
    m, sigma = float(process.scale(0.0)), float(process.std(0.0))
    require(m == 1.0, f"scale(0) must be 1, got {m}.")
    require(sigma == 0.0, f"std(0) must be 0, got {sigma}.")
    t = _times(process)
    for name, function in _functions(process).items():
        if name == "time_at_ratio":
            continue
        value = function(t)
        require(
            bool(torch.isfinite(value).all()), f"{name} must be finite on (0, t_max], got {value}."
        )
        if name != "drift":
            require(bool((value >= 0).all()), f"{name} must not be negative, got {value}.")
    require(bool((process.scale(t) > 0).all()), "scale must be positive on (0, t_max].")


def _times(process: ForwardProcess) -> Tensor:
    small = torch.logspace(-6, -2, 9, dtype=torch.float64)
    return process.t_max * torch.cat([small, torch.linspace(0.02, 1.0, 50, dtype=torch.float64)])


def _derivative(function: Callable[[Tensor], Tensor], t: Tensor, h: Tensor) -> Tensor:
    """Central difference of order 4."""
    near, far = function(t + h) - function(t - h), function(t + 2 * h) - function(t - 2 * h)
    return (8.0 * near - far) / (12.0 * h)


def _check_identities(process: ForwardProcess, tolerance: float) -> None:
    t = _times(process)[:-1]
    h = 1e-3 * torch.minimum(t, process.t_max - t)
    m, variance = process.scale(t), process.std(t) ** 2
    f, g = process.drift(t), process.diffusion(t)

    expected = f * m
    require_close(
        _derivative(process.scale, t, h),
        expected,
        tolerance * (expected.abs() + m / t),
        "scale and drift must satisfy m' = f m",
    )
    expected = 2.0 * f * variance + g**2
    require_close(
        _derivative(lambda time: process.std(time) ** 2, t, h),
        expected,
        tolerance * ((2.0 * f * variance).abs() + g**2),
        "std, drift and diffusion must satisfy (sigma^2)' = 2 f sigma^2 + g^2",
    )


def _check_inverse(process: ForwardProcess) -> None:
    rises = process.ratio(_times(process)).diff() > 0
    require(bool(rises.all()), "ratio sigma/m must increase with time.")
    high = float(process.ratio(process.t_max))
    wanted = torch.logspace(-8, math.log10(high), 60, dtype=torch.float64).clamp(max=high)
    times = process.time_at_ratio(wanted)
    require_close(
        process.ratio(times),
        wanted,
        1e-9 * wanted,
        "time_at_ratio must invert ratio from 1e-8 to its value at t_max",
    )
    require(
        float(process.time_at_ratio(0.0)) == 0.0,
        f"time_at_ratio(0) must be 0, got {float(process.time_at_ratio(0.0))}.",
    )
    for bad in (-1.0, math.nan):
        try:
            process.time_at_ratio(bad)
        except ValueError:
            continue
        raise AssertionError(f"time_at_ratio({bad}) must raise a ValueError.")


def _check_grid(process: ForwardProcess) -> None:
    high = float(process.ratio(process.t_max))
    require(
        0.0 < process.ratio_min < high,
        f"ratio_min must lie between 0 and sigma/m at t_max, {high:g}, got {process.ratio_min:g}.",
    )
    for t_end in (0.0, 0.1 * process.t_max):
        grid = process.time_grid(10, t_end)
        require(
            grid.shape == (11,)
            and bool((grid.diff() < 0).all())
            and float(grid[0]) == process.t_max
            and float(grid[-1]) == t_end,
            f"time_grid(10, {t_end:g}) must decrease from t_max to t_end in 10 steps, got {grid}.",
        )
