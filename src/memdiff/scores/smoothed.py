r"""Smoothing a score by averaging it over noise.

.. math::
    \bar s(x, t) = E_\xi\, s(x + h \xi, t), \qquad \xi \sim N(0, I),

estimated with ``M`` draws that are the same for every query, so that the estimate is one smooth
function. The zero-mean term :math:`-h \xi` of the residual :math:`m D(x + h\xi) - x - h\xi` is
left out: same expectation, less variance.

References:
    Scarvelis, Borde, Solomon, *Closed-Form Diffusion Models*, arXiv:2310.12395, section 4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from memdiff.kernel.trajectories import unfollowed
from memdiff.scores.base import Score
from memdiff.scores.regularised import RegularisedScore

__all__ = ["Smoothed"]


class Smoothed(RegularisedScore):
    """Monte Carlo smoothed score.

    For an empirical score and small noise, its samples are barycentres of ``draws``-tuples of
    training points.

    Args:
        score: The score to smooth.
        bandwidth: Noise ``h >= 0``, in the units of ``x``.
        draws: Number ``M`` of draws, at least 1. An evaluation costs ``M`` of the inner score.
        seed: Seed of the draws.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, score: Score, bandwidth: float, draws: int = 16, seed: int = 0) -> None:
        if not 0 <= bandwidth < math.inf:
            raise ValueError(f"bandwidth must be finite and non-negative, got {bandwidth}.")
        if draws < 1:
            raise ValueError(f"draws must be at least 1, got {draws}.")
        super().__init__(score)
        self.bandwidth = float(bandwidth)
        self.draws = int(draws)
        self.seed = int(seed)

    @override
    def residual(
        self,
        x: Tensor,
        t: float | Tensor,
        y: Tensor | None = None,
        *,
        exclude: Tensor | None = None,
    ) -> Tensor:
        # Drawn on the CPU, one at a time: the same on every device, and no memory of M points.
        generator = torch.Generator().manual_seed(self.seed)
        mean = torch.zeros_like(x, dtype=torch.float64)
        for _ in range(self.draws):
            noise = torch.randn(x.shape[1:], generator=generator, dtype=torch.float64)
            shift = (self.bandwidth * noise).to(device=x.device, dtype=x.dtype)
            # The draws of one point would take turns in what is remembered of it.
            with unfollowed():
                mean = mean + (self.score.residual(x + shift, t, y, exclude=exclude) + shift)
        return (mean / self.draws).to(x.dtype)

    @override
    def extra_repr(self) -> str:
        return f"bandwidth={self.bandwidth:g}, draws={self.draws}, seed={self.seed}"
