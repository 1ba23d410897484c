"""The tabulated process: a process, exact at its steps, monotone between them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memdiff.processes import VP
from memdiff.processes.tabulated import TabulatedVP
from memdiff.testing import check_process


def linear(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> torch.Tensor:
    return torch.cumprod(1.0 - torch.linspace(first, last, steps, dtype=torch.float64), 0)


TABLES = {
    "ddpm": linear(),
    "float32": linear().float(),
    "large steps": linear(50, 1e-3, 0.2),
    "zero terminal": torch.cat([linear(100), torch.zeros(1, dtype=torch.float64)]),
    "irregular": torch.tensor([0.99, 0.5, 0.4, 0.1, 0.001]),
    "two": torch.tensor([0.9, 0.3]),
    "one": torch.tensor([0.5]),
}


@pytest.mark.parametrize("name", TABLES)
def test_conforms(name):
    check_process(TabulatedVP(TABLES[name]))


@pytest.mark.parametrize("name", TABLES)
def test_exact_at_the_steps(name):
    table = TABLES[name].double()
    process = TabulatedVP(TABLES[name])
    kept = table > 0
    k = torch.arange(len(table), dtype=torch.float64)[kept]
    torch.testing.assert_close(process.scale(k + 1), table[kept].sqrt(), rtol=1e-14, atol=0)
    torch.testing.assert_close(process.std(k + 1), (1 - table[kept]).sqrt(), rtol=1e-14, atol=0)


def test_published_noise_levels_count_from_zero():
    process = TabulatedVP(linear())
    for k, u in ((0, 1.0001e-4), (2, 3.598e-4), (15, 3.999e-3)):
        assert float(process.ratio(k + 1.0)) ** 2 == pytest.approx(u, rel=2e-4)


def test_between_the_steps_it_is_the_continuous_process_of_the_table():
    # A table read off a VP process with A(t) = a t + b t^2, so u is known between the steps too.
    steps = 200
    vp = VP(beta_min=0.1, beta_max=20.0)
    times = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    process = TabulatedVP(vp.scale(times) ** 2)
    t = torch.linspace(5.0, steps - 5.0, 1001, dtype=torch.float64)
    torch.testing.assert_close(process.std(t), vp.std(t / steps), rtol=2e-6, atol=0)
    torch.testing.assert_close(process.scale(t), vp.scale(t / steps), rtol=2e-6, atol=0)
    rate = vp.diffusion(t / steps) / math.sqrt(steps)
    torch.testing.assert_close(process.diffusion(t), rate, rtol=2e-4, atol=0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1e-4, 6.0), min_size=2, max_size=12))
def test_any_table_gives_a_process_whose_ratio_increases(rises):
    log_u = -8.0 + torch.tensor(rises, dtype=torch.float64).cumsum(0).clamp(max=30.0)
    log_u = torch.unique(log_u)
    process = TabulatedVP(torch.sigmoid(-log_u))
    t = torch.linspace(0.0, process.t_max, 2001, dtype=torch.float64)
    assert bool((process.ratio(t).diff() >= 0).all())
    assert bool((process.drift(t[1:]) <= 0).all())
    inverse = process.time_at_ratio(process.ratio(t))
    torch.testing.assert_close(process.ratio(inverse), process.ratio(t), rtol=1e-9, atol=0)


def test_default_grid_ends_as_the_chain_does():
    grid = TabulatedVP(linear()).time_grid(20)
    assert float(grid[-2]) == pytest.approx(1.0, rel=1e-12)
    assert float(grid[-1]) == 0.0


def test_zero_terminal_snr_halves_the_last_signal_scale():
    process = TabulatedVP(torch.tensor([0.9, 0.5, 0.0]))
    assert process.zero_terminal_snr and not TabulatedVP(linear()).zero_terminal_snr
    assert float(process.scale(3.0)) == pytest.approx(0.5 * math.sqrt(0.5), rel=1e-12)
    assert repr(process) == "TabulatedVP(3 steps, alphas_cumprod from 0.9 to 0)"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (torch.ones(2, 2), r"shape \(K,\)"),
        (torch.tensor([]), r"K at least 1, got \(0,\)"),
        (torch.tensor([1.0, 0.5]), "got 1 at step 0"),
        (torch.tensor([0.9, 0.5, 0.5]), "got 0.5 at step 2 after 0.5"),
        (torch.tensor([0.9, 0.0, -0.1]), "got 0 at step 1"),
        (torch.tensor([0.9, math.nan]), "got nan at step 1"),
        (torch.tensor([0.0]), "got 0 at step 0"),
    ],
)
def test_bad_tables(table, message):
    with pytest.raises(ValueError, match=message):
        TabulatedVP(table)
