"""Families of regularised scores: a closed form with one strength, and the strengths to try."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.scores import (
    CollapseTemperature,
    EmpiricalBayes,
    EmpiricalScore,
    Score,
    Smoothed,
    Stopped,
    Tempered,
    Tikhonov,
    silverman_bandwidth,
)

__all__ = ["EARLY_STOP", "EMPIRICAL_BAYES", "SMOOTHED", "TEMPERATURE", "TIKHONOV", "Family"]


@dataclass(frozen=True)
class Family:
    """A regulariser with one strength.

    Attributes:
        name: Name on the command line.
        parameter: What the strength is, with its units.
        build: Makes the regularised score from an empirical score and a strength.
        grid: Candidate strengths for an empirical score, increasing, float64 with shape ``(K,)``.
    """

    name: str
    parameter: str
    build: Callable[[EmpiricalScore, float], Score]
    grid: Callable[[EmpiricalScore], Tensor]


def _scaled_grid(score: EmpiricalScore, low: float, high: float, num: int) -> Tensor:
    """Log-spaced multiples of Silverman's bandwidth."""
    return silverman_bandwidth(score.source) * torch.logspace(
        math.log10(low), math.log10(high), num, dtype=torch.float64
    )


def _log_floor_grid(score: EmpiricalScore) -> Tensor:
    # At x = m x_n + sigma z the kernel sum is at least exp(-|z|^2/2): -d/2 give or take
    # sqrt(d/2) in the exponent, and log N more where all points count. Off the data, where a
    # point is left out, it is far lower: to about twice the exponent.
    dimension = score.source[0].numel()
    spread = max(1.0, math.sqrt(dimension / 2))
    low, high = -dimension - 3 * spread, -dimension / 2 + 5 * spread
    return torch.linspace(low, high + math.log(score.num_points), 41, dtype=torch.float64)


TIKHONOV = Family(
    name="tikhonov",
    parameter="c, in squared units of the data",
    build=Tikhonov,
    grid=lambda score: _scaled_grid(score, 1e-2, 10.0, 31) ** 2,
)
EMPIRICAL_BAYES = Family(
    name="empirical-bayes",
    parameter="log of the floor under the kernel sum",
    build=lambda score, strength: EmpiricalBayes(
        score, convention="kernel_sum", log_floor=strength
    ),
    grid=_log_floor_grid,
)
TEMPERATURE = Family(
    name="temperature",
    parameter="sigma/m below which the temperature rises, in units of the data",
    build=lambda score, strength: Tempered(score, CollapseTemperature(strength)),
    grid=lambda score: _scaled_grid(score, 0.03, 10.0, 21),
)
SMOOTHED = Family(
    name="smoothed",
    parameter="bandwidth h of the averaging noise, in units of x",
    build=lambda score, strength: Smoothed(score, strength, draws=16),
    grid=lambda score: _scaled_grid(score, 0.03, 3.0, 13),
)
EARLY_STOP = Family(
    name="early-stop",
    parameter="sigma/m at which sampling stops, in units of the data",
    build=lambda score, strength: Stopped(score, float(score.process.time_at_ratio(strength))),
    grid=lambda score: _scaled_grid(score, 0.03, 3.0, 21),
)
