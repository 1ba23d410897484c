"""A score from a network: every parametrisation is the same score."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from memdiff.data import load
from memdiff.processes import EDM, VE, VP, ForwardProcess, LinearInterpolant
from memdiff.samplers import RK45, sample
from memdiff.scores import EmpiricalScore, NetworkScore
from memdiff.scores.base import per_sample
from memdiff.scores.network import Parametrization
from memdiff.testing import check_score
from memdiff.training.networks import MLP

PARAMETRIZATIONS: tuple[Parametrization, ...] = ("score", "noise", "denoiser", "velocity", "edm")
PROCESSES = (VE(), VP(), EDM(), LinearInterpolant())
SIGMA_DATA = 0.7


def perfect(exact: EmpiricalScore, kind: str):
    """The network that a parametrisation of the exact score asks for, written independently."""
    process = exact.process

    def net(x: Tensor, t: Tensor) -> Tensor:
        if kind == "edm":
            ratio = torch.exp(4.0 * t)
            total = per_sample(ratio**2 + SIGMA_DATA**2, x)
            time = process.time_at_ratio(ratio)
            clean = x * total.sqrt()
            denoised = exact.denoise(clean * per_sample(process.scale(time), x), time)
            skip = SIGMA_DATA**2 / total
            return (denoised - skip * clean) / (per_sample(ratio, x) * SIGMA_DATA / total.sqrt())
        m, sigma = per_sample(process.scale(t), x), per_sample(process.std(t), x)
        denoised = exact.denoise(x, t)
        noise = (x - m * denoised) / sigma
        if kind == "velocity":
            # dx/dt of m x0 + sigma z by differences of m and sigma, not by f and g.
            h = 1e-6 * t
            rates = [(f(t + h) - f(t - h)) / (2 * h) for f in (process.scale, process.std)]
            return per_sample(rates[0], x) * denoised + per_sample(rates[1], x) * noise
        return {"score": -noise / sigma, "noise": noise, "denoiser": denoised}[kind]

    return net


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("kind", PARAMETRIZATIONS)
def test_every_parametrization_recovers_the_exact_score(
    kind: Parametrization, process: ForwardProcess
) -> None:
    exact = EmpiricalScore(load("points20").x, process)
    score = NetworkScore(perfect(exact, kind), process, kind, sigma_data=SIGMA_DATA)
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in (0.01, 0.2, 0.7):
        time = torch.full((6,), t, dtype=torch.float64)
        for name in ("__call__", "residual", "denoise", "noise"):
            actual, expected = getattr(score, name)(x, time), getattr(exact, name)(x, time)
            torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("kind", PARAMETRIZATIONS)
def test_conformance(kind: Parametrization, process: ForwardProcess) -> None:
    net = MLP((2,), width=16, seed=1)
    score = NetworkScore(net, process, kind)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    check_score(score, x=x, t=[0.05, 0.9])
    assert score.dtype == torch.float32
    assert score.shape == (2,)
    assert score.device == torch.device("cpu")


@pytest.mark.parametrize("kind", ["noise", "edm", "velocity"])
def test_residual_keeps_its_digits_at_small_noise(kind: Parametrization) -> None:
    # r is of the size of sigma; a difference with x would lose it to the rounding of float32.
    process, sigma = EDM(), 1e-6
    z = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    x0 = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    x = x0 + sigma * z
    nets = {
        "noise": lambda x, t: z.to(x.dtype),
        "velocity": lambda x, t: z.to(x.dtype),
        # exact up to relative sigma: F = (x0 - c_skip x) / c_out
        "edm": lambda x, t: (sigma / SIGMA_DATA * x0 / SIGMA_DATA - z).to(x.dtype),
    }
    score = NetworkScore(nets[kind], process, kind, sigma_data=SIGMA_DATA)
    residual = score.residual(x.float(), sigma)
    torch.testing.assert_close(residual.double(), -sigma * z, rtol=1e-5, atol=0.0)


def test_zero_noise_is_finite_where_the_parametrization_allows() -> None:
    x, net = torch.randn(3, 2), MLP((2,), width=8)
    for process in PROCESSES:
        for kind in PARAMETRIZATIONS:
            assert bool(torch.isfinite(NetworkScore(net, process, kind).residual(x, 0.0)).all())
    assert bool(torch.isfinite(NetworkScore(net, VP(), "score")(x, 0.0)).all())
    assert bool(torch.isinf(NetworkScore(net, VP(), "noise")(x, 0.0)).any())


def test_network_sees_its_own_dtype_and_the_edm_label() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Recorder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.append((x, t))
            return self.weight * x

    score = NetworkScore(Recorder(), VP(), "edm", sigma_data=SIGMA_DATA)
    x = torch.ones(2, 3, dtype=torch.float64)
    assert score(x, 0.5).dtype == torch.float64
    point, label = seen[0]
    ratio = float(VP().ratio(0.5))
    assert point.dtype == label.dtype == torch.float32
    assert label.tolist() == pytest.approx([0.25 * math.log(ratio)] * 2)
    scaled = 1.0 / float(VP().scale(0.5)) / math.hypot(ratio, SIGMA_DATA)
    assert point[0].tolist() == pytest.approx([scaled] * 3)


def test_gradients_reach_the_weights() -> None:
    for kind in PARAMETRIZATIONS:
        net = MLP((2,), width=8)
        NetworkScore(net, VP(), kind).noise(torch.randn(4, 2), 0.3).square().mean().backward()
        assert all(float(p.grad.abs().sum()) > 0 for p in net.parameters()), kind


def test_samples_of_the_exact_score_memorise() -> None:
    data = load("points20").x
    exact = EmpiricalScore(data, VP())
    score = NetworkScore(perfect(exact, "noise"), VP(), "noise", shape=(2,))
    x = sample(score, num=16, sampler=RK45(), t_end=1e-4).x
    assert float(torch.cdist(x.double(), data.double()).min(dim=1).values.max()) < 1e-2


def test_conditions_reach_the_network() -> None:
    net = MLP((2,), width=8, classes=3)
    score = NetworkScore(net, VP(), "noise")
    x = torch.randn(2, 2)
    both = score(x, 0.5, torch.tensor([0, 2]))
    assert torch.allclose(both[1:], score(x[1:], 0.5, torch.tensor([2])), atol=1e-6)
    assert not torch.allclose(both[1:], score(x[1:], 0.5, torch.tensor([1])))
    with pytest.raises(ValueError, match="y is missing"):
        score(x, 0.5)


def test_bad_arguments() -> None:
    net = MLP((2,), width=8)
    with pytest.raises(ValueError, match="parametrization must be one of"):
        NetworkScore(net, VP(), "epsilon")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sigma_data"):
        NetworkScore(net, VP(), "edm", sigma_data=0.0)
    with pytest.raises(ValueError, match="net must return the shape of x"):
        NetworkScore(lambda x, t: x[:, :1], VP(), "noise")(torch.randn(2, 2), 0.5)
    with pytest.raises(ValueError, match="exclude"):
        NetworkScore(net, VP(), "noise").residual(
            torch.randn(2, 2), 0.5, exclude=torch.tensor([0, 0])
        )
