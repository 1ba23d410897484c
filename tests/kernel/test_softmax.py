"""The running sums against a softmax in float64, and the count that decides on a screen."""

import math

import pytest
import torch

from memdiff.kernel import PosteriorEngine, Queries, Trajectory
from memdiff.kernel.candidates import weight_candidates
from memdiff.kernel.dense import BlockLogits, Precision
from memdiff.kernel.screen import FloatProduct
from memdiff.kernel.softmax import LOG2E, RunningSoftmax, is_moderate

QUERIES, NUM, DIM = 5, 300, 3


def planted(size, seed=0):
    """Logits in natural units whose magnitude is up to ``size``, and points; both float64."""
    generator = torch.Generator().manual_seed(seed)
    logits = size * (2 * torch.rand(QUERIES, NUM, generator=generator).double() - 1)
    return logits, torch.randn(NUM, DIM, generator=generator).double()


def online(logits, points, dtype, **settings):
    centred = torch.full((QUERIES, DIM), 0.25).double()
    scale = torch.full((QUERIES,), 0.5).double()
    sums = RunningSoftmax(scale, centred, torch.mm, dtype, **settings)
    for start in range(0, NUM, 64):
        values = (LOG2E * logits[:, start : start + 64]).to(dtype)
        sums.add(values.clone(), start, points[start : start + 64].to(dtype), dtype)
    return sums.part(torch.full((QUERIES,), 7.0).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize(("size", "moderate"), [(20.0, False), (20.0, True), (400.0, False)])
def test_sums_are_those_of_a_softmax(dtype, entropy, size, moderate):
    """Catches natural logits taken for base 2, a scale that is lost, a sign, a wrong index."""
    logits, points = planted(size)
    if not moderate:
        logits[1, :200] = -math.inf
    part = online(logits, points, dtype, moderate=moderate, entropy=entropy)
    top = logits.amax(1)
    weights = (logits - top[:, None]).exp()
    residual = weights @ (0.5 * points - 0.25)
    close = (
        {"rtol": 3e-4, "atol": 3e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    )
    assert torch.equal(part.top_index, logits.argmax(1))
    torch.testing.assert_close(part.top_logit, top + 7.0, **close)
    torch.testing.assert_close(part.total, weights.sum(1), **close)
    torch.testing.assert_close(part.residual_sum, residual, **close)
    if entropy:
        terms = torch.where(weights > 0, weights * (logits - top[:, None]), 0.0).sum(1)
        torch.testing.assert_close(part.entropy_sum, terms, **close)
    else:
        assert part.entropy_sum.isnan().all()


def test_a_query_without_points_has_empty_sums():
    logits, points = planted(20.0)
    logits[2] = -math.inf
    part = online(logits, points, torch.float32, moderate=False, entropy=True)
    assert (part.top_index[2], part.top_logit[2]) == (-1, -math.inf)
    assert part.total[2] == part.residual_sum[2].abs().sum() == part.entropy_sum[2] == 0


def test_moderate_counts_the_size_of_the_points():
    assert is_moderate(80.0, 1.0) and not is_moderate(100.0, 1.0)
    assert not is_moderate(80.0, 2.0**20) and not is_moderate(80.0, 2.0**-20)
    assert not is_moderate(0.0, 0.0)


@pytest.mark.parametrize("sigma", [0.5, 3.0])
def test_the_largest_logit_is_bounded_and_the_bound_is_reached(sigma):
    """Two points on a line with the query: Cauchy and Schwarz hold with equality."""
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(2000, 1)
    engine, x = PosteriorEngine(points), torch.tensor([[4.0, 0.0]]).double()
    terms = torch.linspace(-3, 0, 4000).double()
    queries = Queries.of(x, torch.ones(1), torch.full((1,), sigma))
    precision = Precision(*3 * (torch.float64,))
    logits = BlockLogits(engine.points, queries.under(terms), precision)
    bound, block = logits.largest(), slice(0, 2000)
    values = logits(block, [engine.points.centred(block, torch.float64)], logits.bias(block))
    assert values.abs().max() <= bound <= values.abs().max() + 0.5 / sigma**2 + 3.0 + 1e-9
    excluding = Queries.of(x, torch.ones(1), torch.ones(1), exclude=torch.zeros(1).long())
    assert BlockLogits(engine.points, excluding.under(terms), precision).largest() == math.inf


@pytest.mark.parametrize("unit", [1e-25, 1e25])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("dim", [16, 80])
def test_points_whose_squares_are_no_float32(unit, mixed, dim):
    """The same data in another unit: the same weights, by every route."""
    generator = torch.Generator().manual_seed(6)
    points = torch.randn(3000, dim, generator=generator)
    sigma = torch.tensor([0.05, 0.5, 3.0]).repeat(5)
    x, ones = (
        points[:15] + sigma[:, None] * torch.randn(15, dim, generator=generator),
        torch.ones(15),
    )
    for level in [slice(0, 15)] if mixed else [slice(0, 15, 3), slice(1, 15, 3), slice(2, 15, 3)]:
        arguments = (x[level].double(), ones[level], sigma[level])
        expected = PosteriorEngine(points)(Queries.of(*arguments))
        scaled = (arguments[0] * unit, ones[level], sigma[level].double() * unit)
        found = PosteriorEngine(points * unit)(
            Queries.of(*scaled), tolerance=1e-6, trajectory=Trajectory()
        )
        assert torch.equal(found.top_index, expected.top_index)
        torch.testing.assert_close(found.total, expected.total, rtol=1e-4, atol=0)
        residual = found.residual_sum / unit
        torch.testing.assert_close(residual, expected.residual_sum, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sigma", [0.05, 0.3, 2.0])
def test_queries_that_a_first_block_tells_crowded_are_given_up(sigma):
    """Others are answered as without them; catches rows of the wrong queries."""
    generator = torch.Generator().manual_seed(4)
    points = torch.randn(3000, 8, generator=generator)
    engine = PosteriorEngine(points)
    x = points[:20].double() + sigma * torch.randn(20, 8, generator=generator).double()
    queries = Queries.of(x, torch.ones(20), torch.full((20,), sigma), exclude=torch.arange(20))
    queries = queries.under(engine.log_prior)
    product = FloatProduct(8, torch.float32, points.device)
    arguments = (engine.points, queries, product, 1e-9, 2048)
    rows, columns, given_up = weight_candidates(*arguments)
    assert not given_up.any()
    counts = torch.bincount(rows[columns < 2048], minlength=20)
    most = float(counts.double().median())
    some, chosen, given_up = weight_candidates(*arguments, most)
    # What the first block keeps, the later ones may still rule out.
    assert given_up[counts > most].all() and not given_up.all()
    kept = ~given_up[rows]
    expected = set(zip(rows[kept].tolist(), columns[kept].tolist(), strict=True))
    assert set(zip(some.tolist(), chosen.tolist(), strict=True)) == expected


def test_a_screen_keeps_what_may_carry_the_mass():
    """Equal points just inside and just outside the margin, the outermost that must be kept."""
    sigma, dropped = 0.1, 1e-3
    reach = sigma * math.sqrt(2 * math.log(1000 / dropped))
    points = torch.zeros(1000, 2)
    points[1:500, 0], points[500:, 0] = 0.99 * reach, 1.05 * reach
    engine, one = PosteriorEngine(points), torch.ones(1).double()
    queries = Queries.of(torch.zeros(1, 2), one, sigma * one).under(engine.log_prior)
    product = FloatProduct(2, torch.float32, points.device)
    _, columns, _ = weight_candidates(engine.points, queries, product, dropped, 1000)
    assert sorted(columns.tolist()) == list(range(500))
