"""The linear interpolant of flow matching."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from memdiff.processes.base import ForwardProcess, check_ratio, time_function

__all__ = ["LinearInterpolant"]


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

    @override
    @time_function
    def scale(self, t: Tensor) -> Tensor:
        return 1.0 - t

    @override
    @time_function
    def std(self, t: Tensor) -> Tensor:
        return t.clone()

    @override
    @time_function
    def drift(self, t: Tensor) -> Tensor:
        return -1.0 / (1.0 - t)

    @override
    @time_function
    def diffusion(self, t: Tensor) -> Tensor:
        return (2.0 * t / (1.0 - t)).sqrt()

    @override
    @time_function
    def time_at_ratio(self, ratio: Tensor) -> Tensor:
        check_ratio(ratio)
        return ratio / (1.0 + ratio)
