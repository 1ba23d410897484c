r"""Empirical Bayes regularisation: the score of a kernel density with a floor under it.

.. math::
    s = \frac{\nabla p^N_t}{\max(p^N_t, \varepsilon)}
      = s_N \min\Big(1, \frac{p^N_t}{\varepsilon}\Big) .

References:
    Wibisono, Wu, Yang, *Optimal score estimation via empirical Bayes smoothing*,
    arXiv:2402.07747, section 3. Baptista et al., arXiv:2501.15785 (asymptotically
    consistent regularisation).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from memdiff.scores.base import expand_time, per_sample
from memdiff.scores.empirical import EmpiricalScore
from memdiff.scores.regularised import RegularisedScore

__all__ = ["EmpiricalBayes"]


class EmpiricalBayes(RegularisedScore):
    r"""The floored score, in log space throughout.

    Args:
        score: The empirical score.
        floor: :math:`\varepsilon \ge 0`, in the units of the convention. 0 leaves the score as it
            is.
        convention: What the floor is compared with. ``"density"``: the normalised
            :math:`p^N_t`, which for a floor of order ``1/N`` is the consistent choice.
            ``"kernel_sum"``: :math:`\sum_n \exp(-|x - m x_n|^2 / (2 \sigma^2))`, without ``1/N``
            and :math:`(2 \pi \sigma^2)^{-d/2}`; the one behind the published curve.
        log_floor: :math:`\log \varepsilon`, in place of ``floor``: in high dimension both
            conventions leave the range of floating point.

    Raises:
        ValueError: If ``floor`` or ``convention`` is out of range.
    """

    score: EmpiricalScore

    def __init__(
        self,
        score: EmpiricalScore,
        floor: float | None = None,
        convention: Literal["density", "kernel_sum"] = "density",
        *,
        log_floor: float | None = None,
    ) -> None:
        if not isinstance(score, EmpiricalScore):
            raise ValueError(
                f"score must be an EmpiricalScore, whose density is known, got "
                f"{type(score).__name__}: regularise the other way round."
            )
        if (floor is None) == (log_floor is None):
            raise ValueError("pass either floor or log_floor to EmpiricalBayes.")
        if floor is not None and not 0 <= floor < math.inf:
            raise ValueError(f"floor must be finite and non-negative, got {floor}.")
        if log_floor is None:
            log_floor = math.log(floor) if floor else -math.inf
        if math.isnan(log_floor) or log_floor == math.inf:
            raise ValueError(f"log_floor must be below infinity, got {log_floor}.")
        if convention not in ("density", "kernel_sum"):
            raise ValueError(f"convention must be 'density' or 'kernel_sum', got {convention!r}.")
        super().__init__(score)
        self.log_floor = float(log_floor)
        self.convention = convention

    @override
    def residual(
        self,
        x: Tensor,
        t: float | Tensor,
        y: Tensor | None = None,
        *,
        exclude: Tensor | None = None,
    ) -> Tensor:
        posterior = self.score.posterior(x, t, y, exclude=exclude)
        if self.log_floor == -math.inf:
            return posterior.residual
        log_value = posterior.log_density
        if self.convention == "kernel_sum":
            variance = self.process.std(expand_time(t, x)).clamp_min(1e-150) ** 2
            dimension = x[0].numel()
            log_value = log_value + 0.5 * dimension * (2 * math.pi * variance).log()
            log_value = log_value + math.log(self.score.num_points)
        factor = (log_value - self.log_floor).clamp_max(0.0).exp()
        residual = posterior.residual.to(torch.float64) * per_sample(factor, x)
        return residual.to(x.dtype)

    @override
    def extra_repr(self) -> str:
        return f"log_floor={self.log_floor:g}, convention={self.convention!r}"
