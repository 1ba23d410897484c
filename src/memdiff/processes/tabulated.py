r"""The discrete chains of DDPM as a continuous process.

A chain of :math:`K` steps is a table of cumulative products :math:`\bar\alpha_0 > \dots >
\bar\alpha_{K-1}`, ``scheduler.alphas_cumprod``, counted from 0: step ``k`` has
:math:`m = \sqrt{\bar\alpha_k}` and :math:`\sigma = \sqrt{1 - \bar\alpha_k}`. :class:`TabulatedVP`
puts step ``k`` at time :math:`t = k + 1` and the data at :math:`t = 0`, and fills in between.

References:
    Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, arXiv:2006.11239, equation 4.
    Lin, Liu, Li, Yang, *Common Diffusion Noise Schedules and Sample Steps are Flawed*,
    arXiv:2305.08891, section 3.1 (zero terminal signal-to-noise ratio).
    Fritsch, Carlson, *Monotone Piecewise Cubic Interpolation*, SIAM J. Numer. Anal. 17 (1980).
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from memdiff.processes import ForwardProcess, time_function

__all__ = ["TabulatedVP"]


class TabulatedVP(ForwardProcess):
    r"""Variance preserving, through a table of :math:`\bar\alpha` at the times 1, 2, ..., K.

    With :math:`u = \sigma^2/m^2 = (1 - \bar\alpha)/\bar\alpha`, the inverse of the signal-to-noise
    ratio, :math:`\log u` is a cubic in :math:`\log t` between steps: the natural spline, which has
    two continuous derivatives, its slopes limited after Fritsch and Carlson so that :math:`u`
    increases whatever the table. Before the first step, :math:`u = u_0 t^p` with the slope
    :math:`p` that the spline has there (at least 1, and about 1 for a first step of the usual
    size). At the integer times the table is met to rounding.

    A table that ends at :math:`\bar\alpha = 0` (zero terminal signal-to-noise ratio) has
    :math:`u = \infty` there, where drift and scores are not defined: the last entry becomes a
    quarter of the one before it, half its signal scale, and ``zero_terminal_snr`` is set.

    ``ratio_min`` is the ratio of the first step, so that the default grids of samplers end with
    the step from :math:`t = 1` to the data, as the chain does.

    Args:
        alphas_cumprod: :math:`\bar\alpha` with shape ``(K,)``, decreasing from below 1; the
            last may be 0. Converted to float64; the table of a scheduler is float32, and its
            rounding is kept, because it is the noise that the scheduler adds.

    Attributes:
        alphas_cumprod: The table, float64 on the CPU, its last entry positive.
        zero_terminal_snr: Whether the table that was given ended at 0.

    Raises:
        ValueError: If the table is no such table.

    Example:
        >>> process = TabulatedVP(torch.cumprod(1.0 - torch.linspace(1e-4, 0.02, 1000), 0))
        >>> process.t_max, process.scale(1.0) ** 2
        (1000.0, tensor(0.9999, dtype=torch.float64))
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        table = torch.as_tensor(alphas_cumprod).detach().to("cpu", torch.float64).clone()
        _check_table(table)
        self.zero_terminal_snr = bool(table[-1] == 0)
        if self.zero_terminal_snr:
            table[-1] = 0.25 * table[-2]
        self.alphas_cumprod = table
        self.t_max = float(len(table))
        self._log_times = torch.arange(1, len(table) + 1, dtype=torch.float64).log()
        self._log_u = torch.log1p(-table) - table.log()
        self._slopes = _slopes(self._log_times, self._log_u)
        self.ratio_min = float(torch.exp(0.5 * self._log_u[0]))
        if len(table) == 1:
            self.ratio_min *= 0.5  # the grid of samplers needs two ratios

    def _evaluate(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\log u` and :math:`d \log u / d \log t`."""
        knots, values, slopes = (
            tensor.to(t.device) for tensor in (self._log_times, self._log_u, self._slopes)
        )
        log_t = t.log()
        before = values[0] + slopes[0] * log_t
        if len(knots) == 1:
            return before, slopes[0].expand_as(t)
        left = (torch.searchsorted(knots, log_t.contiguous(), right=True) - 1).clamp(
            0, len(knots) - 2
        )
        width = knots[left + 1] - knots[left]
        s = torch.where(t < 1.0, 0.0, (log_t - knots[left]) / width)
        inside, slope = self._piece(left, s)
        return torch.where(t < 1.0, before, inside), torch.where(t < 1.0, slopes[0], slope)

    def _piece(self, left: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\log u` and its slope at the fraction ``s`` of the piece from knot ``left``.

        A Hermite cubic, as a deviation from its chord: exact at both ends.
        """
        knots, values, slopes = (
            tensor.to(s.device) for tensor in (self._log_times, self._log_u, self._slopes)
        )
        width = knots[left + 1] - knots[left]
        rise = (values[left + 1] - values[left]) / width
        first, last = slopes[left] - rise, slopes[left + 1] - rise
        bend = s * (1.0 - s) * (first * (1.0 - s) - last * s)
        value = torch.lerp(values[left], values[left + 1], s) + width * bend
        slope = rise + first * (1.0 - s) * (1.0 - 3.0 * s) + last * s * (3.0 * s - 2.0)
        return value, slope

    @time_function
    def time_at_ratio(self, ratio: Tensor) -> Tensor:
        r"""Time at which :math:`\sigma/m` equals ``ratio``, to rounding.

        Args:
            ratio: Noise-to-signal ratio, non-negative, any shape.

        Returns:
            Times of the same shape; float64 for a Python number, else the dtype of ``ratio``.

        Raises:
            ValueError: If a ratio is negative, not finite, or above the one at ``t_max``.
        """
        if not bool((torch.isfinite(ratio) & (ratio >= 0)).all()):
            raise ValueError(
                f"ratio sigma/m must be finite and non-negative, got {ratio.tolist()}."
            )
        knots, values, slopes = (
            tensor.to(ratio.device) for tensor in (self._log_times, self._log_u, self._slopes)
        )
        wanted = 2.0 * ratio.log()
        excess = wanted - values[-1]
        if bool((excess > 1e-12 * (1.0 + values[-1].abs())).any()):
            raise ValueError(
                f"ratio {float(ratio.max()):g} is above sigma/m = "
                f"{float((0.5 * values[-1]).exp()):g}, the largest that {self!r} reaches at "
                f"t_max = {self.t_max:g}."
            )
        before = (wanted - values[0]) / slopes[0]
        if len(knots) == 1:
            return before.clamp_max(0.0).exp()
        left = (torch.searchsorted(values, wanted.contiguous(), right=True) - 1).clamp(
            0, len(knots) - 2
        )
        inside = knots[left] + self._solve(left, wanted) * (knots[left + 1] - knots[left])
        inside = inside.clamp_max(knots[-1])
        return torch.where(wanted < values[0], before, inside).exp().clamp_max(self.t_max)

    def _solve(self, left: Tensor, wanted: Tensor) -> Tensor:
        """Fraction of the piece at which it has the value ``wanted``: Newton within a bracket."""
        low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
        width = (self._log_times[1:] - self._log_times[:-1]).to(wanted.device)[left]
        s = 0.5 * (low + high)
        for _ in range(60):
            value, slope = self._piece(left, s)
            below = value < wanted
            low, high = torch.where(below, s, low), torch.where(below, high, s)
            newton = s + (wanted - value) / (slope * width)
            within = (newton >= low) & (newton <= high)
            following = torch.where(within, newton, 0.5 * (low + high))
            done = bool(((following - s).abs() <= 4e-16).all())
            s = following
            if done:
                break
        return s

    @override
    @time_function
    def scale(self, t: Tensor) -> Tensor:
        log_u, _ = self._evaluate(t)
        return torch.sigmoid(-log_u).sqrt()

    @override
    @time_function
    def std(self, t: Tensor) -> Tensor:
        log_u, _ = self._evaluate(t)
        return torch.sigmoid(log_u).sqrt()

    @override
    @time_function
    def ratio(self, t: Tensor) -> Tensor:
        log_u, _ = self._evaluate(t)
        return (0.5 * log_u).exp()

    def _rate(self, t: Tensor) -> Tensor:
        r""":math:`\beta = \sigma^2\, d\log u/dt`, of which :math:`f = -\beta/2`."""
        log_u, slope = self._evaluate(t)
        u_0, power = self._log_u[0].exp(), self._slopes[0]
        # sigma^2 / t is 0/0 at the data, and loses its digits near it.
        early = power * u_0 * t ** (power - 1.0) * torch.sigmoid(-log_u)
        late = torch.sigmoid(log_u) * slope / t.clamp_min(1.0)
        return torch.where(t < 1.0, early, late)

    @override
    @time_function
    def drift(self, t: Tensor) -> Tensor:
        return -0.5 * self._rate(t)

    @override
    @time_function
    def diffusion(self, t: Tensor) -> Tensor:
        return self._rate(t).sqrt()

    def __repr__(self) -> str:
        end = "0" if self.zero_terminal_snr else f"{float(self.alphas_cumprod[-1]):g}"
        return (
            f"TabulatedVP({len(self.alphas_cumprod)} steps, alphas_cumprod from "
            f"{float(self.alphas_cumprod[0]):g} to {end})"
        )


def _check_table(table: Tensor) -> None:
    if table.ndim != 1 or table.numel() < 1:
        raise ValueError(
            f"alphas_cumprod must have shape (K,) with K at least 1, got {tuple(table.shape)}."
        )
    falls = bool((table.diff() < 0).all())
    if not (falls and 0.0 < float(table[0]) < 1.0 and float(table[-1]) >= 0.0):
        raise ValueError(
            f"alphas_cumprod must decrease strictly within (0, 1), except for a last entry of 0, "
            f"got {_where(table)}; pass scheduler.alphas_cumprod as the scheduler made it."
        )


def _where(table: Tensor) -> str:
    """The first entry that is wrong."""
    previous = torch.cat([table.new_ones(1), table[:-1]])
    wrong = ~((table < previous) & (table > 0))
    k = int(wrong.nonzero()[0]) if bool(wrong.any()) else len(table) - 1
    return f"{float(table[k]):g} at step {k} after {float(previous[k]):g}"


def _slopes(x: Tensor, y: Tensor) -> Tensor:
    """Slopes of the natural cubic spline at its knots, limited to keep the cubics monotone."""
    if len(x) == 1:
        return torch.ones_like(x)
    from scipy.interpolate import CubicSpline

    spline = CubicSpline(x.numpy(), y.numpy(), bc_type="natural")
    slopes = torch.as_tensor(spline(x.numpy(), 1), dtype=torch.float64).clamp_min(0.0)
    slopes[0].clamp_(min=1.0)  # the rate at time 0 is infinite below 1
    chords = y.diff() / x.diff()
    limit = 3.0 * torch.minimum(torch.cat([chords[:1], chords]), torch.cat([chords, chords[-1:]]))
    return torch.minimum(slopes, limit)
