"""The suite accepts the processes of the library and names planted defects."""

from __future__ import annotations

import pytest
import torch

from memdiff.processes import EDM, VE, VP, LinearInterpolant, time_function
from memdiff.testing import check_process


@pytest.mark.parametrize("process", [VE(), VP(), EDM(), LinearInterpolant()], ids=repr)
def test_accepts(process):
    check_process(process)


class WrongDrift(VP):
    @time_function
    def drift(self, t):
        return -(self.beta_min + t * (self.beta_max - self.beta_min))


class SquaredDiffusion(VE):
    @time_function
    def diffusion(self, t):
        return super().diffusion(t) ** 2


class NoiseAtZero(EDM):
    @time_function
    def std(self, t):
        return t + 1e-3


class SignalLostAtZero(VP):
    @time_function
    def scale(self, t):
        return 0.999 * super().scale(t)


class CancellingStd(VP):
    """1 - m^2 by subtraction: the digits of small noise are lost."""

    @time_function
    def std(self, t):
        return (1.0 - self.scale(t) ** 2).clamp_min(0.0).sqrt()


class RoughInverse(VE):
    @time_function
    def time_at_ratio(self, ratio):
        return super().time_at_ratio(ratio) * (1.0 + 1e-6)


class AcceptsNegativeRatio(EDM):
    @time_function
    def time_at_ratio(self, ratio):
        return ratio.abs()


class KeepsFloat64(VP):
    def std(self, t):
        return super().std(torch.as_tensor(t, dtype=torch.float64))


class ReturnsItsArgument(EDM):
    @time_function
    def std(self, t):
        return t


class NotMonotone(VE):
    @time_function
    def std(self, t):
        return super().std(t * (1.2 - t))


class HugeRatioMin(VE):
    ratio_min = 10.0


@pytest.mark.parametrize(
    ("process", "message"),
    [
        (WrongDrift(), "m' = f m"),
        (SquaredDiffusion(), "2 f sigma"),
        (NoiseAtZero(), r"std\(0\)"),
        (SignalLostAtZero(), r"scale\(0\)"),
        (CancellingStd(), "increase|time_at_ratio must invert|2 f sigma"),
        (RoughInverse(), "time_at_ratio must invert"),
        (AcceptsNegativeRatio(), r"time_at_ratio\(-1.0\) must raise"),
        (KeepsFloat64(), "keep shape .* and dtype"),
        (ReturnsItsArgument(), "return its argument"),
        (NotMonotone(), "2 f sigma|increase"),
        (HugeRatioMin(), "ratio_min"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_names_the_defect(process, message):
    with pytest.raises(AssertionError, match=message):
        check_process(process)
