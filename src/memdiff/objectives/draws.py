r"""Noised points, drawn once and shared by every score that is compared on them.

Two scores measured on the same :class:`Draws` differ by what they are and not by their luck:
the difference of their losses has a far smaller error than either loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from memdiff.processes import ForwardProcess
from memdiff.sources import Rows

__all__ = ["DataLaw", "Draws", "LogUniformRatio", "TimeLaw", "UniformTime", "draw", "rademacher"]


@dataclass(frozen=True)
class UniformTime:
    r"""Times uniform on ``[t_min, t_max]``.

    Attributes:
        t_min: Smallest time; None for ``1e-5 t_max`` of the process, as is usual. At 0 the
            denoising loss is undefined.
        t_max: Largest time; None for that of the process.
    """

    t_min: float | None = None
    t_max: float | None = None

    def __call__(self, process: ForwardProcess, num: int, generator: torch.Generator) -> Tensor:
        """Draw ``num`` times, float64 with shape ``(num,)``."""
        high = process.t_max if self.t_max is None else self.t_max
        low = 1e-5 * process.t_max if self.t_min is None else self.t_min
        if not 0.0 < low <= high <= process.t_max:
            raise ValueError(
                f"UniformTime needs 0 < t_min <= t_max <= {process.t_max:g} for {process!r}, "
                f"got t_min = {low:g} and t_max = {high:g}."
            )
        return low + (high - low) * _rand(num, generator)


@dataclass(frozen=True)
class LogUniformRatio:
    r"""Noise-to-signal ratios :math:`\sigma/m` log-uniform on ``[low, high]``: every scale counts.

    Attributes:
        low: Smallest ratio, positive; None for the ``ratio_min`` of the process.
        high: Largest ratio; None for the one at ``t_max``.
    """

    low: float | None = None
    high: float | None = None

    def __call__(self, process: ForwardProcess, num: int, generator: torch.Generator) -> Tensor:
        """Draw ``num`` times, float64 with shape ``(num,)``."""
        largest = float(process.ratio(process.t_max))
        low = process.ratio_min if self.low is None else self.low
        high = largest if self.high is None else self.high
        if not 0.0 < low <= high <= largest * (1 + 1e-9):
            raise ValueError(
                f"LogUniformRatio needs 0 < low <= high <= {largest:g}, the largest sigma/m of "
                f"{process!r}, got low = {low:g} and high = {high:g}."
            )
        exponent = math.log(low) + math.log(high / low) * _rand(num, generator)
        return process.time_at_ratio(exponent.exp()).clamp_max(process.t_max)


class TimeLaw(Protocol):
    """A law of the times: a function of a process, a number and a generator to ``(num,)``."""

    def __call__(self, process: ForwardProcess, num: int, generator: torch.Generator) -> Tensor:
        """Draw ``num`` times."""
        ...


class DataLaw(Protocol):
    """A law that clean points can be drawn from, as the scores of known laws are."""

    def sample_data(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw ``num`` points, ``(num, *S)``."""
        ...


@dataclass(frozen=True)
class Draws:
    r"""Noised points :math:`x = m x_0 + \sigma z`, drawn once and shared by all that is compared.

    Attributes:
        process: The forward process.
        x0: Clean points with shape ``(B, *S)``.
        t: Times with shape ``(B,)``, float64, with :math:`\sigma(t) > 0`.
        z: Noise with shape ``(B, *S)``, float64. It is what the stored ``x`` holds,
            :math:`(x - m x_0)/\sigma`, and so differs from a normal draw by the rounding of ``x``:
            losses stay consistent where that rounding is not small against :math:`\sigma`.
        x: Noised points with shape ``(B, *S)``, dtype of ``x0``.
        index: Index of ``x0`` in the training set with shape ``(B,)``; None for a known law.
        y: Conditions of the points with shape ``(B,)`` or ``(B, k)``, or None.
    """

    process: ForwardProcess
    x0: Tensor
    t: Tensor
    z: Tensor
    x: Tensor
    index: Tensor | None = None
    y: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, size: int | None) -> Iterator[Draws]:
        """The same draws in parts of at most ``size`` points; None for one part."""
        size = len(self) if size is None else size
        if size < 1:
            raise ValueError(f"batch_size must be at least 1, got {size}.")
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield Draws(
                self.process,
                self.x0[part],
                self.t[part],
                self.z[part],
                self.x[part],
                None if self.index is None else self.index[part],
                None if self.y is None else self.y[part],
            )


def draw(
    process: ForwardProcess,
    data: Tensor | Rows | DataLaw,
    num: int,
    generator: torch.Generator,
    *,
    times: TimeLaw | Tensor | float | None = None,
    index: Tensor | None = None,
    y: Tensor | None = None,
) -> Draws:
    r"""Draw noised points.

    Args:
        process: The forward process.
        data: Training set with shape ``(N, *S)``, of which points are drawn uniformly, a tensor
            or rows on disk; or a law with ``sample_data``, such as a Gaussian mixture score.
        num: Number of points ``B``.
        generator: Source of all randomness.
        times: Law of the times, or the times themselves: one number or ``(num,)``. None for
            :class:`UniformTime`.
        index: Which training points to use, int64 with shape ``(num,)``, instead of a uniform
            draw: ``torch.arange(N).repeat(k)`` uses every point equally often.
        y: Conditions of the training points with shape ``(N,)`` or ``(N, k)``.

    Returns:
        The draws, on the device of the data.

    Raises:
        ValueError: If a shape does not fit, or a time is not in ``(0, t_max]``.
    """
    if num < 1:
        raise ValueError(f"num must be at least 1, got {num}.")
    if isinstance(data, (Tensor, Rows)):
        index = _training_index(data, num, generator, index)
        x0 = data[index].detach()
        if y is not None and len(y) != len(data):
            raise ValueError(
                f"y must have {len(data)} rows, one per training point, got {len(y)}."
            )
    elif index is not None or y is not None:
        raise ValueError("index and y need a training set as data, got a law to draw from.")
    else:
        x0 = data.sample_data(num, generator)
    t = _times(process, num, generator, times).to(x0.device)
    noise = torch.randn(
        x0.shape, generator=generator, device=generator.device, dtype=torch.float64
    ).to(x0.device)
    column = (num, *([1] * (x0.ndim - 1)))
    m, sigma = process.scale(t).reshape(column), process.std(t).reshape(column)
    signal = m * x0.to(torch.float64)
    x = (signal + sigma * noise).to(x0.dtype)
    z = (x.to(torch.float64) - signal) / sigma
    return Draws(process, x0, t, z, x, index, None if y is None else y.to(x0.device)[index])


def rademacher(num: int, draws: Draws, generator: torch.Generator) -> Tensor:
    """Draw probe vectors of independent signs for the divergence of a score at the draws.

    Args:
        num: Number of probes a point, at least 1.
        draws: The points to probe.
        generator: Source of randomness.

    Returns:
        Tensor of +1 and -1 with shape ``(num, B, *S)``, dtype and device of the points.

    Raises:
        ValueError: If ``num`` is below 1.
    """
    if num < 1:
        raise ValueError(f"num must be at least 1 probe a point, got {num}.")
    size = (num, *draws.x.shape)
    bits = torch.randint(0, 2, size, generator=generator, device=generator.device)
    return (2 * bits - 1).to(device=draws.x.device, dtype=draws.x.dtype)


def _rand(num: int, generator: torch.Generator) -> Tensor:
    return torch.rand(num, generator=generator, device=generator.device, dtype=torch.float64)


def _training_index(
    data: Tensor | Rows, num: int, generator: torch.Generator, index: Tensor | None
) -> Tensor:
    if data.ndim < 2 or len(data) == 0 or not data.dtype.is_floating_point:
        raise ValueError(
            f"data must be floating-point with shape (N, *S) and N at least 1, "
            f"got {data.dtype} with shape {tuple(data.shape)}."
        )
    if index is None:
        index = torch.randint(0, len(data), (num,), generator=generator, device=generator.device)
    if index.shape != (num,) or index.dtype != torch.int64:
        raise ValueError(
            f"index must be int64 with shape ({num},), got {index.dtype} with shape "
            f"{tuple(index.shape)}."
        )
    if bool(((index < 0) | (index >= len(data))).any()):
        raise ValueError(
            f"index must hold training points from 0 to {len(data) - 1}, "
            f"got {int(index.min())} to {int(index.max())}."
        )
    return index.to(data.device)


def _times(
    process: ForwardProcess,
    num: int,
    generator: torch.Generator,
    times: TimeLaw | Tensor | float | None,
) -> Tensor:
    if isinstance(times, int | float | Tensor):
        t = torch.as_tensor(times, dtype=torch.float64)
        t = t.expand(num) if t.ndim == 0 else t
    else:
        t = (times or UniformTime())(process, num, generator)
    if t.shape != (num,):
        raise ValueError(f"times must be one number or have shape ({num},), got {tuple(t.shape)}.")
    if not bool(((t > 0) & (t <= process.t_max) & (process.std(t) > 0)).all()):
        raise ValueError(
            f"times must lie in (0, t_max] = (0, {process.t_max:g}] with sigma > 0, "
            f"got {float(t.min()):g} to {float(t.max()):g}."
        )
    return t
