r"""Exponential moving averages of weights: the average itself and how its decay warms up.

A constant decay :math:`\beta` averages over about the last :math:`1/(1 - \beta)` steps, which in a
short run reaches back to the initial weights. A warm-up lets that span grow with the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

__all__ = ["DecaySchedule", "LinearWarmup", "PowerWarmup", "update_average"]


@dataclass(frozen=True)
class LinearWarmup:
    r"""A span that grows in proportion to the step.

    The decay at step :math:`k` is :math:`\min(\mathrm{decay},\ (1 + k)/(10 + k))`: an average over
    about the last ninth of the steps so far.

    Attributes:
        decay: Largest decay, in [0, 1).
    """

    decay: float = 0.99999

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"decay must lie in [0, 1), got {self.decay}.")

    def decay_at(self, step: int) -> float:
        """Return the decay of the update after optimiser step ``step``, from 0."""
        return min(self.decay, (1 + step) / (10 + step))


@dataclass(frozen=True)
class PowerWarmup:
    r"""The schedule of the ``ema-pytorch`` package, which the authors of [B25] use.

    Every ``every`` steps the average moves to the weights with decay
    :math:`\min(\mathrm{decay},\ 1 - (1 + k - \mathrm{after})^{-\mathrm{power}})` at step
    :math:`k`; up to step ``after`` it is a copy. With the defaults it is over about the last
    :math:`10 k^{2/3}` steps and reaches the nominal 0.9999 only at a million steps.

    Attributes:
        decay: Largest decay, in [0, 1).
        every: Steps between updates.
        after: Steps before averaging starts.
        power: Exponent of the warm-up; 0 for a decay that is constant.
    """

    decay: float = 0.9999
    every: int = 10
    after: int = 100
    power: float = 2.0 / 3.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0 or self.every < 1 or self.after < 0 or self.power < 0.0:
            raise ValueError(
                f"decay must lie in [0, 1), every be at least 1, after and power not negative, "
                f"got {self}."
            )

    def decay_at(self, step: int) -> float | None:
        """Return the decay of the update after step ``step`` (from 0), or None for none."""
        if step % self.every:
            return None
        if step <= self.after:
            return 0.0
        if self.power == 0.0:
            return self.decay
        return min(self.decay, 1.0 - (1.0 + step - self.after) ** -self.power)


DecaySchedule: TypeAlias = LinearWarmup | PowerWarmup
"""Schedule of the decay of a moving average."""


@torch.no_grad()
def update_average(averaged: nn.Module, current: nn.Module, decay: float) -> None:
    r"""Move an average of weights: :math:`\bar w \leftarrow \beta \bar w + (1 - \beta) w`.

    Buffers are copied.

    Args:
        averaged: The average, changed in place.
        current: The module with the weights :math:`w`, of the same structure.
        decay: :math:`\beta` in [0, 1).
    """
    pairs = list(zip(averaged.parameters(), current.parameters(), strict=True))
    if pairs:
        torch._foreach_lerp_([a for a, _ in pairs], [c for _, c in pairs], 1.0 - decay)
    for average, buffer in zip(averaged.buffers(), current.buffers(), strict=True):
        average.copy_(buffer)
