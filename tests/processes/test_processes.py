"""Forward processes against integrals of their own coefficients, and against published grids."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from memdiff.processes import EDM, VE, VP, ForwardProcess, LinearInterpolant, time_function
from memdiff.testing import check_process


class BrownianMotion(ForwardProcess):
    """A process without a closed-form inverse: sigma^2 = t."""

    def __init__(self, t_max: float = 100.0) -> None:
        self.t_max = t_max

    @time_function
    def scale(self, t):
        return torch.ones_like(t)

    @time_function
    def std(self, t):
        return t.sqrt()

    @time_function
    def drift(self, t):
        return torch.zeros_like(t)

    @time_function
    def diffusion(self, t):
        return torch.ones_like(t)


PROCESSES = [
    VE(),
    VE(base=1.5, t_max=3.0),
    VP(),
    VP(beta_min=0.1, beta_max=20.0),
    VP(beta_min=0.0, beta_max=2.0),
    VP(beta_min=2.0, beta_max=2.0, t_max=4.0),
    EDM(),
    EDM(sigma_min=1e-4, sigma_max=3.0, rho=3.0),
    LinearInterpolant(),
    LinearInterpolant(t_max=0.5),
    BrownianMotion(),
]


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_conforms(process):
    check_process(process)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("fraction", [0.1, 0.6, 0.99])
def test_moments_are_the_integrals_of_the_coefficients(process, fraction):
    """Solve m' = f m and (sigma^2)' = 2 f sigma^2 + g^2 by quadrature, not by differences."""
    t = fraction * process.t_max

    def log_scale(end):
        return quad(lambda s: float(process.drift(s)), 0.0, end, epsrel=1e-10)[0]

    variance = quad(
        lambda s: float(process.diffusion(s)) ** 2 * math.exp(2.0 * (log_scale(t) - log_scale(s))),
        0.0,
        t,
        epsrel=1e-10,
    )[0]
    assert float(process.scale(t)) == pytest.approx(math.exp(log_scale(t)), rel=1e-9)
    assert float(process.std(t)) ** 2 == pytest.approx(variance, rel=1e-8)


def test_paper_values():
    """arXiv:2501.15785, section 2, at the final time."""
    assert float(VE().std(1.0)) ** 2 == pytest.approx(99.0 / (2.0 * math.log(10.0)), rel=1e-14)
    assert float(VE().diffusion(1.0)) == pytest.approx(10.0, rel=1e-14)
    integrated = 0.001 + 0.5 * (3.0 - 0.001)
    assert float(VP().scale(1.0)) == pytest.approx(math.exp(-0.5 * integrated), rel=1e-14)
    assert float(VP().std(1.0)) ** 2 == pytest.approx(1.0 - math.exp(-integrated), rel=1e-14)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@settings(max_examples=30, deadline=None)
@given(position=st.floats(0.0, 1.0))
def test_time_at_ratio_inverts_ratio_at_any_scale(process, position):
    high = math.log(float(process.ratio(process.t_max)))
    ratio = math.exp(math.log(1e-10) + position * (high - math.log(1e-10)))
    assert float(process.ratio(process.time_at_ratio(ratio))) == pytest.approx(ratio, rel=1e-9)


@pytest.mark.parametrize("process", [VE(), VP(), LinearInterpolant()], ids=repr)
def test_bisection_agrees_with_the_closed_form(process):
    high = math.log10(float(process.ratio(process.t_max)))
    ratios = torch.logspace(-8, high - 1e-9, 40, dtype=torch.float64)
    expected = process.time_at_ratio(ratios)
    torch.testing.assert_close(
        ForwardProcess.time_at_ratio(process, ratios), expected, rtol=1e-9, atol=0
    )


def test_bisection_refuses_an_unreachable_ratio():
    with pytest.raises(ValueError, match=r"ratio 11 is above sigma/m = 10"):
        BrownianMotion().time_at_ratio(11.0)


@pytest.mark.parametrize("steps", [2, 18, 40])
def test_edm_grid_is_the_published_one(steps):
    """Equation 5 of Karras et al. as their reference code computes it, with the appended zero."""
    low, high, rho = 0.002, 80.0, 7.0
    index = np.arange(steps)
    sigma = (
        high ** (1 / rho) + index / (steps - 1) * (low ** (1 / rho) - high ** (1 / rho))
    ) ** rho
    expected = torch.from_numpy(np.append(sigma, 0.0))
    torch.testing.assert_close(EDM().time_grid(steps), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_grid_with_a_positive_end_is_even_in_the_root_of_the_ratio(process):
    t_end = 0.05 * process.t_max
    grid = process.time_grid(12, t_end)
    root = process.ratio(grid) ** (1.0 / process.rho)
    torch.testing.assert_close(
        root, torch.linspace(float(root[0]), float(root[-1]), 13, dtype=torch.float64)
    )
    assert grid[-1] == t_end
    assert grid[0] == process.t_max


def test_one_step_grid():
    assert VE().time_grid(1).tolist() == [1.0, 0.0]
    assert VE().time_grid(1, 0.25).tolist() == [1.0, 0.25]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VE(base=1.0), "base must be above 1"),
        (lambda: VE(t_max=0.0), "t_max must be positive"),
        (lambda: VE(t_max=math.inf), "t_max must be positive and finite"),
        (lambda: VP(beta_min=-1.0), "beta_min and beta_max"),
        (lambda: VP(beta_min=2.0, beta_max=1.0), "beta_min and beta_max"),
        (lambda: VP(beta_min=0.0, beta_max=0.0), "beta_min and beta_max"),
        (lambda: EDM(sigma_min=0.0), "sigma_min and sigma_max"),
        (lambda: EDM(sigma_min=2.0, sigma_max=1.0), "sigma_min and sigma_max"),
        (lambda: EDM(rho=0.0), "rho must be positive"),
        (lambda: LinearInterpolant(t_max=1.0), "t_max must lie in"),
        (lambda: VE().time_grid(0), "steps must be at least 1"),
        (lambda: VE().time_grid(5, 1.0), "t_end must lie in"),
        (lambda: VE().time_grid(5, -0.1), "t_end must lie in"),
        (lambda: EDM().time_at_ratio(-1.0), "finite and non-negative"),
        (lambda: BrownianMotion().time_at_ratio(math.nan), "finite and non-negative"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_integer_times_and_dtypes():
    assert VE().std(1).dtype == torch.float64
    assert VE().std(torch.tensor(1)).dtype == torch.float64
    assert VE().std(torch.tensor(1.0, dtype=torch.float16)).dtype == torch.float16


def test_repr_names_the_parameters():
    assert repr(VE()) == "VE(base=10, t_max=1)"
    assert repr(EDM()) == "EDM(sigma_min=0.002, sigma_max=80, rho=7)"
