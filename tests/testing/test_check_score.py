"""The suite accepts sound scores and names planted defects."""

from __future__ import annotations

import pytest
import torch

from memdiff.processes import EDM, VE, VP, LinearInterpolant
from memdiff.scores.base import Score, expand_time, per_sample
from memdiff.testing import check_score


class Shifted(Score):
    """N(y, I) data, or N(0, I) without a condition; computed in float64."""

    def mean(self, x, y):
        return 0.0 if y is None else per_sample(y.to(x.dtype), x)

    def forward(self, x, t, y=None):
        time = expand_time(t, x)
        m = per_sample(self.process.scale(time), x)
        sigma = per_sample(self.process.std(time), x)
        return ((m * self.mean(x, y) - x) / (m**2 + sigma**2)).to(x.dtype)


@pytest.fixture
def x():
    return torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("process", [VE(), VP(), EDM(), LinearInterpolant()], ids=repr)
def test_accepts(process, x):
    check_score(Shifted(process), x=x, t=[1e-4, 0.3, 0.9])
    check_score(Shifted(process), x=x, t=0.5, y=torch.arange(5.0))


class WrongShape(Shifted):
    def forward(self, x, t, y=None):
        return super().forward(x, t, y).flatten(1)


class WrongDtype(Shifted):
    def forward(self, x, t, y=None):
        return super().forward(x, t, y).double()


class CentresTheBatch(Shifted):
    def forward(self, x, t, y=None):
        return super().forward(x - x.mean(0), t, y)


class FirstTimeOnly(Shifted):
    def forward(self, x, t, y=None):
        return super().forward(x, expand_time(t, x)[0], y)


class FirstConditionOnly(Shifted):
    def mean(self, x, y):
        return y[0]


class WrongResidual(Shifted):
    def residual(self, x, t, y=None):
        return per_sample(self.process.std(expand_time(t, x)), x).to(x.dtype) * self(x, t, y)


class ResidualOfFirstTime(Shifted):
    def residual(self, x, t, y=None):
        return (self.process.std(expand_time(t, x)[0]) ** 2).to(x.dtype) * self(x, t, y)


class WrongDenoiser(Shifted):
    def denoise(self, x, t, y=None):
        return x + self.residual(x, t, y)


class NoiseWithoutSign(Shifted):
    def noise(self, x, t, y=None):
        return -super().noise(x, t, y)


class ChangesItsInput(Shifted):
    def forward(self, x, t, y=None):
        x -= 1.0
        return super().forward(x, t, y)


class ChangesItsState(Shifted):
    def __init__(self, process):
        super().__init__(process)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, t, y=None):
        self.calls += 1
        return super().forward(x, t, y)


class Random(Shifted):
    def forward(self, x, t, y=None):
        return super().forward(x, t, y) + 0.1 * torch.randn(x.shape, dtype=x.dtype)


class HalfPrecisionForFloat32(Shifted):
    def forward(self, x, t, y=None):
        y = super().forward(x, t, y)
        return y.to(torch.bfloat16).to(y.dtype) if y.dtype == torch.float32 else y


class NotFinite(Shifted):
    def forward(self, x, t, y=None):
        return super().forward(x, t, y) / 0.0


class OnlyWithoutGradients(Shifted):
    def forward(self, x, t, y=None):
        value = super().forward(x, t, y)
        return value * 2.0 if torch.is_grad_enabled() else value


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (WrongShape, "return the shape of x"),
        (WrongDtype, "return the dtype of x"),
        (CentresTheBatch, "row by row"),
        (FirstTimeOnly, "row by row"),
        (FirstConditionOnly, "row by row"),
        (WrongResidual, "residual must be sigma"),
        (ResidualOfFirstTime, "row by row|a time for each point"),
        (WrongDenoiser, "denoise must be"),
        (NoiseWithoutSign, "noise must be"),
        (ChangesItsInput, "change its arguments"),
        (ChangesItsState, "calls changed"),
        (Random, "two calls differ"),
        (HalfPrecisionForFloat32, "float32 input must agree"),
        (NotFinite, "finite at t = 0.5"),
        (OnlyWithoutGradients, "with gradients"),
    ],
)
def test_names_the_defect(score, message, x):
    with pytest.raises(AssertionError, match=message):
        check_score(score(VP()), x=x, t=0.5, y=torch.arange(5.0))


def test_refuses_what_cannot_be_checked(x):
    with pytest.raises(ValueError, match="B at least 2"):
        check_score(Shifted(VP()), x=x[:1], t=0.5)
    with pytest.raises(ValueError, match="t must be positive"):
        check_score(Shifted(VP()), x=x, t=0.0)
    with pytest.raises(ValueError, match="score must be"):
        check_score(lambda x, t: x, x=x, t=0.5)
