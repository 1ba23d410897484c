"""Fractions over seeds: their spread covers one more run, and verdicts find what is planted."""

from __future__ import annotations

import math

import pytest
import torch

from memdiff.experiments.network_spread import Spread, compare, rises, spread


def test_spread_covers_one_more_run() -> None:
    # 2000 studies of 4 seeds with a true spread of 0.02 over the seeds and 1000 samples each: the
    # allowed difference to a fifth run must cover it nearly always, and not be idle.
    generator = torch.Generator().manual_seed(0)
    p = (0.4 + 0.02 * torch.randn(2000, 5, generator=generator)).clamp(0, 1)
    counts = torch.binomial(torch.full_like(p, 1000.0), p, generator=generator) / 1000
    missed, widths = 0, []
    for row in counts.tolist():
        one = spread(row[:4], 1000)
        missed += abs(row[4] - one.mean) > one.allowed()
        widths.append(one.allowed())
    assert missed / 2000 < 0.05
    true = math.sqrt(0.02**2 + 0.24 / 1000)
    assert sum(widths) / 2000 < 4.0 * true


def test_spread_of_one_seed_is_binomial() -> None:
    assert spread([0.3], 1000).deviation == pytest.approx(math.sqrt(0.21 / 1000), rel=1e-3)
    assert spread([0.0], 1000).deviation > 0.0


def test_comparison_counts_what_lies_outside() -> None:
    rows = [[Spread(0.5, 0.01, 4)] * 10] * 4
    assert compare(rows, [[0.5] * 10] * 4).within
    planted = [[0.5] * 10, [0.5] * 10, [0.5] * 10, [0.5] * 7 + [0.6] * 3]
    found = compare(rows, planted)
    assert (found.outside, found.count, found.within) == (3, 40, False)
    assert found.largest == pytest.approx(0.1)
    assert compare(rows, planted, reading_error=0.09).within
    assert compare(rows, [[None] * 9 + [0.6]] * 4).count == 4


def test_rises_allows_noise_and_refuses_a_fall() -> None:
    def row(*means: float) -> list[Spread]:
        return [Spread(mean, 0.01, 4) for mean in means]

    assert rises([row(0.1, 0.09, 0.3)])
    assert not rises([row(0.1, 0.3, 0.2)])
    assert not rises([row(0.1, 0.1, 0.1)])
    assert not rises([row(0.1, 0.2, 0.3), row(0.3, 0.2, 0.1)])
