"""Points dealt out among ranks: the answers of one engine over all of them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memdiff.kernel import PosteriorEngine, Queries, Trajectory
from memdiff.kernel.shards import ShardedEngine

FIELDS = ("top_logit", "top_index", "total", "residual_sum", "entropy_sum")


def sharded(points, log_prior, ranks):
    part = ranks.part(len(points))
    here = slice(part.start, part.stop)
    local = PosteriorEngine(points[here], log_prior[here]) if len(part) else None
    return ShardedEngine(local, part, len(points), points.shape[1], ranks)


def problem(seed, num, dim, queries, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    points = draw(num, dim).to(dtype)
    if num > 3:
        points[num // 2] = points[0]  # a tie across shards
    weights = torch.rand(num, generator=generator, dtype=torch.float64) + 0.1
    x = draw(queries, dim)
    x[0] = points[0]
    scale = torch.rand(queries, generator=generator, dtype=torch.float64) + 0.5
    sigma = 10.0 ** (3 * torch.rand(queries, generator=generator, dtype=torch.float64) - 2)
    return points, (weights / weights.sum()).log(), x, scale, sigma, draw(queries, dim)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    count=st.integers(1, 7),
    num=st.integers(2, 40),
    dim=st.integers(1, 5),
    excluding=st.booleans(),
    labelled=st.booleans(),
)
def test_the_number_of_shards_changes_nothing(
    in_ranks, seed, count, num, dim, excluding, labelled
):
    points, log_prior, x, scale, sigma, vectors = problem(seed, num, dim, 6)
    whole = PosteriorEngine(points, log_prior)
    arguments = {}
    labels = torch.arange(num) % 3
    if labelled:
        wanted = torch.arange(6) % min(3, num)

        def prior(queries, chosen):
            theirs = labels[chosen]
            theirs = theirs[None] if isinstance(chosen, slice) else theirs
            return torch.where(wanted[queries][:, None] == theirs, 0.0, -math.inf).double()

        arguments["terms"] = prior
    if excluding and not (labelled and num < 6):
        arguments["exclude"] = torch.tensor([0, num - 1, -1, num // 2, -1, 1])

    def run(ranks):
        engine = sharded(points, log_prior, ranks)
        return (
            engine(Queries.of(x, scale, sigma, **arguments)),
            engine.weights(Queries.of(x, scale, sigma, **arguments)),
            engine.covariance_product(Queries.of(x, scale, sigma, **arguments), vectors),
            engine.radius,
        )

    results = in_ranks(count, run)
    part = whole(Queries.of(x, scale, sigma, **arguments))
    mean = part.residual_sum / part.total[:, None]
    tolerance = {"rtol": 1e-9, "atol": 1e-9}
    for found, weights, product, radius in results:
        torch.testing.assert_close(found.top_logit, part.top_logit, rtol=1e-12, atol=1e-12)
        assert torch.equal(found.top_index, part.top_index)
        torch.testing.assert_close(found.total, part.total, **tolerance)
        torch.testing.assert_close(found.entropy_sum, part.entropy_sum, **tolerance)
        torch.testing.assert_close(found.residual_sum / found.total[:, None], mean, **tolerance)
        torch.testing.assert_close(
            weights, whole.weights(Queries.of(x, scale, sigma, **arguments))
        )
        torch.testing.assert_close(
            product,
            whole.covariance_product(Queries.of(x, scale, sigma, **arguments), vectors),
            rtol=1e-8,
            atol=1e-8,
        )
        assert radius >= whole.radius * (1 - 1e-12)
        assert torch.equal(found.residual_sum, results[0][0].residual_sum)  # to the last bit


@pytest.mark.parametrize("sigma", [1e-6, 1e-2, 0.3, 3.0, 1e3])
def test_float32_points_keep_their_accuracy_and_their_bounds(in_ranks, sigma):
    points, log_prior, x, scale, _, _ = problem(1, 3000, 16, 24, torch.float32)
    exact = PosteriorEngine(points.double(), log_prior)(
        Queries.of(x, scale, torch.full((24,), sigma).double())
    )
    truth = exact.residual_sum / exact.total[:, None]

    def run(ranks):
        engine = sharded(points, log_prior, ranks)
        return engine(Queries.of(x, scale, torch.full((24,), sigma).double())), engine.radius

    found, radius = in_ranks(3, run)[0]
    error = (found.residual_sum / found.total[:, None] - truth).norm(dim=1)
    reach = 2 * radius * (2 * found.logit_error).expm1() * scale
    assert (error <= reach + found.sum_error).all()
    assert (error <= 1e-5 * (1 + truth.norm(dim=1))).all()


def test_more_ranks_than_points(in_ranks):
    points, log_prior, x, scale, sigma, _ = problem(2, 2, 3, 4)
    part = PosteriorEngine(points, log_prior)(Queries.of(x, scale, sigma))
    found = in_ranks(
        5, lambda ranks: sharded(points, log_prior, ranks)(Queries.of(x, scale, sigma))
    )[4]
    assert torch.equal(found.top_index, part.top_index)
    torch.testing.assert_close(found.total, part.total)


def test_no_point_left_on_any_rank_is_refused(in_ranks):
    points, log_prior, x, scale, sigma, _ = problem(3, 6, 2, 3)

    def nobody(queries, chosen):
        size = chosen.stop - chosen.start if isinstance(chosen, slice) else chosen.shape[1]
        return torch.where(queries[:, None] == 1, -math.inf, 0.0).double().expand(-1, size)

    with pytest.raises(ValueError, match="left for query 1"):
        in_ranks(
            2,
            lambda ranks: sharded(points, log_prior, ranks)(
                Queries.of(x, scale, sigma, terms=nobody)
            ),
        )


def test_a_tolerance_and_what_is_remembered_reach_the_parts(in_ranks):
    """Large enough for pruning on both ranks; every mean within its bound of the exact one."""
    points = problem(4, 4400, 64, 1, torch.float32)[0]
    log_prior = torch.full((4400,), -math.log(4400)).double()
    generator = torch.Generator().manual_seed(5)
    queries = points[:6].double() + 0.3 * torch.randn(6, 64, generator=generator).double()
    scale = torch.ones(6).double()
    whole = PosteriorEngine(points.double(), log_prior)

    def run(ranks):
        engine, remembered = sharded(points, log_prior, ranks), Trajectory()
        kept = []
        for sigma in (1.0, 0.5, 0.2, 0.1):
            width = torch.full((6,), sigma).double()
            found = engine(
                Queries.of(queries, scale, width), tolerance=1e-3, trajectory=remembered
            )
            exact = whole(Queries.of(queries, scale, width))
            mean = exact.residual_sum / exact.total[:, None]
            error = (found.residual_sum / found.total[:, None] - mean).norm(dim=1)
            reach = 2 * engine.radius * (2 * found.logit_error).expm1()
            assert (error <= reach + found.sum_error + 1e-6).all()
            kept.append(found.residual_sum)
        assert any(level.pruned for level in remembered.counts.levels())
        return torch.stack(kept)

    one, other = in_ranks(2, run)
    assert torch.equal(one, other)
