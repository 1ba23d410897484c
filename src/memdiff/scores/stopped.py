r"""A score that never resolves less than a bandwidth: what early stopping leaves unsaid below it.

Stopping the reverse flow at ``t_end`` samples the kernel density of bandwidth
:math:`h = \sigma/m` at ``t_end``. The score that belongs to it at *every* time is that of the data
smoothed with :math:`u = \max(\sigma/m, h)`,

.. math::
    s(x, t) = \frac{m_*}{m}\, s_N\Big(\frac{m_*}{m} x, t_*\Big), \qquad t_* = \max(t, t_{end}),

where :math:`m = m(t)` and :math:`m_* = m(t_*)`. It lets a stopping time be compared with other
regularisers by the same losses; to *sample*, stop the sampler at ``t_end``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from memdiff.scores.base import Score, expand_time, per_sample
from memdiff.scores.regularised import RegularisedScore

__all__ = ["Stopped"]


class Stopped(RegularisedScore):
    """The score frozen below a stopping time, in the units of the data.

    Args:
        score: The score to freeze.
        t_end: Stopping time, positive and at most ``t_max``.

    Raises:
        ValueError: If ``t_end`` is out of range.
    """

    def __init__(self, score: Score, t_end: float) -> None:
        if not 0 < t_end <= score.process.t_max:
            raise ValueError(
                f"t_end must lie in (0, t_max] = (0, {score.process.t_max:g}], got {t_end}."
            )
        super().__init__(score)
        self.t_end = float(t_end)

    @override
    def residual(
        self,
        x: Tensor,
        t: float | Tensor,
        y: Tensor | None = None,
        *,
        exclude: Tensor | None = None,
    ) -> Tensor:
        time = expand_time(t, x)
        stopped = time.clamp_min(self.t_end)
        process = self.process
        scale = process.scale(stopped) / process.scale(time)
        moved = (x.to(torch.float64) * per_sample(scale, x)).to(x.dtype)
        residual = self.score.residual(moved, stopped, y, exclude=exclude).to(torch.float64)
        factor = scale * (process.std(time) / process.std(stopped)) ** 2
        return (residual * per_sample(factor, x)).to(x.dtype)

    @override
    def extra_repr(self) -> str:
        return f"t_end={self.t_end:g}"
