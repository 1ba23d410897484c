"""An empirical score whose training points are dealt out among ranks."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memdiff.generate.families import TIKHONOV
from memdiff.generate.selection import select
from memdiff.objectives import draw
from memdiff.processes import EDM, VP
from memdiff.samplers import RK45, Heun, sample
from memdiff.scores import EmpiricalScore, Tempered, Tikhonov

TOLERANCE = {"rtol": 1e-9, "atol": 1e-11}


def points(num=41, dim=3, seed=0):
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed)).double()


def ranks_agree(results, expected, **tolerance):
    for found in results:
        torch.testing.assert_close(found, expected, **tolerance)
        assert torch.equal(found, results[0])  # to the last bit, whatever the rank


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(1, 7),
    labelled=st.booleans(),
    bandwidth=st.sampled_from([0.0, 0.7]),
    t=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)
def test_every_quantity_of_the_posterior(in_ranks, count, labelled, bandwidth, t, seed):
    data = points(23, 2, seed)
    weights = torch.rand(23, generator=torch.Generator().manual_seed(seed)).double() + 0.1
    conditions = torch.arange(23) % 3
    y = torch.arange(5) % 3
    if bandwidth:
        conditions, y = conditions.double()[:, None], y.double()[:, None] + 0.3
    x, exclude = points(5, 2, seed + 100), torch.tensor([0, 22, -1, 11, 5])

    def run(ranks):
        score = EmpiricalScore(
            data,
            VP(),
            weights=weights,
            conditions=conditions,
            condition_bandwidth=bandwidth,
            ranks=ranks,
        )
        found = score.posterior(x, t, y if labelled else None, exclude=exclude)
        query = x.clone().requires_grad_()
        score(query, t).square().sum().backward()
        return found, score.weights(x, t), query.grad

    posterior, all_weights, gradient = run(None)
    for found, rows, slope in in_ranks(count, run):
        for name, expected in vars(posterior).items():
            if name != "error_bound":
                torch.testing.assert_close(getattr(found, name), expected, **TOLERANCE)
        assert (found.error_bound >= (found.mean - posterior.mean).norm(dim=1)).all()
        torch.testing.assert_close(rows, all_weights, **TOLERANCE)
        torch.testing.assert_close(slope, gradient, **TOLERANCE)


@pytest.mark.parametrize(
    "sampler", [Heun(steps=12), RK45(rtol=1e-3, atol=1e-3)], ids=["heun", "rk45"]
)
@pytest.mark.parametrize("wrapper", [lambda s: s, lambda s: Tikhonov(s, 0.05)], ids=["plain", "c"])
def test_samples_are_those_of_one_process(in_ranks, sampler, wrapper):
    """Also with a step size that follows the error: all ranks must take the same steps."""
    data = points().float()

    def run(ranks):
        score = wrapper(EmpiricalScore(data, EDM(), ranks=ranks))
        return sample(score, num=9, sampler=sampler, seed=3).x

    ranks_agree(in_ranks(3, run), run(None), rtol=1e-4, atol=1e-4)


def test_the_selected_strength_is_that_of_one_process(in_ranks):
    data = points().float()

    def run(ranks):
        return select(TIKHONOV, EmpiricalScore(data, EDM(), ranks=ranks)).loss

    ranks_agree(in_ranks(2, run), run(None), rtol=1e-5, atol=1e-7)


def test_a_temperature_reaches_the_ranks(in_ranks):
    x = points(4, 3, 9)

    def run(ranks):
        return Tempered(EmpiricalScore(points(), VP(), ranks=ranks), 2.5)(x, 0.1)

    ranks_agree(in_ranks(2, run), run(None), **TOLERANCE)


def test_a_rank_reads_its_part_of_a_file_and_no_more(in_ranks, tmp_path):
    data, x = points(40), points(6, 3, 5)
    np.save(tmp_path / "x.npy", data.numpy())
    seen = [set(), set()]

    def run(ranks):
        score = EmpiricalScore(np.load(tmp_path / "x.npy", mmap_mode="r"), VP(), ranks=ranks)
        storage = score.source.storage
        read, read_into = storage.read, storage.read_into

        def watched(start, stop):
            seen[ranks.rank].update(range(start, stop))
            return read(start, stop)

        def watched_into(start, out):
            seen[ranks.rank].update(range(start, start + len(out)))
            read_into(start, out)

        storage.read, storage.read_into = watched, watched_into
        return score.residual(x, 0.2)

    ranks_agree(in_ranks(2, run), EmpiricalScore(data, VP()).residual(x, 0.2), **TOLERANCE)
    assert seen == [set(range(20)), set(range(20, 40))]


def test_a_copy_goes_on_with_the_same_ranks(in_ranks):
    x = points(4, 3, 9)

    def run(ranks):
        score = EmpiricalScore(points(), VP(), ranks=ranks)
        assert draw(VP(), score.source, 3, torch.Generator()).x.shape == (3, 3)
        return copy.deepcopy(score)(x, 0.3)

    ranks_agree(in_ranks(2, run), run(None), **TOLERANCE)
