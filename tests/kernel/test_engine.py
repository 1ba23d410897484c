"""The posterior engine against a float64 reference that loops over training points."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memdiff.kernel import PartialPosterior, PosteriorEngine, Queries
from memdiff.kernel import points as points_module
from memdiff.kernel.choice import Route

SIGMAS = [1e-6, 1e-4, 1e-2, 0.1, 0.5, 1.0, 3.0, 10.0, 1e3]


def reference(x, points, scale, sigma, log_prior=None):
    """Weights, residual and log normaliser by a plain float64 loop over training points."""
    x, points = x.double(), points.double()
    logits = torch.empty(len(x), len(points), dtype=torch.float64)
    differences = torch.empty(len(x), len(points), x.shape[1], dtype=torch.float64)
    for n in range(len(points)):
        differences[:, n] = scale[:, None] * points[n] - x
        logits[:, n] = -(differences[:, n] ** 2).sum(1) / (2 * sigma**2)
    logits += math.log(1 / len(points)) if log_prior is None else log_prior
    weights = logits.softmax(1)
    return weights, (weights[:, :, None] * differences).sum(1), logits.logsumexp(1)


def near_data(points, sigma, num, generator, scale=1.0):
    """Queries where the posterior is evaluated in practice: noised training points."""
    index = torch.randint(len(points), (num,), generator=generator)
    noise = torch.randn(num, points.shape[1], generator=generator, dtype=torch.float64)
    return (scale * points[index].double() + sigma * noise).to(points.dtype)


CASES = {
    "low-dimensional": lambda g: torch.randn(3000, 2, generator=g, dtype=torch.float64),
    "images": lambda g: torch.rand(2500, 784, generator=g, dtype=torch.float64) * 2 - 1,
    "far from the origin": lambda g: torch.randn(700, 40, generator=g, dtype=torch.float64) + 100,
    "uint8 values": lambda g: torch.randint(256, (600, 192), generator=g).double(),
    "duplicates": lambda g: torch.randn(900, 16, generator=g, dtype=torch.float64).repeat(3, 1),
    "near duplicates": lambda g: (
        torch.randn(400, 16, generator=g, dtype=torch.float64).repeat(3, 1)
        + 1e-3 * torch.randn(1200, 16, generator=g, dtype=torch.float64)
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_weights_and_residual_match_the_double_loop(case, dtype, scale):
    """Catches Gram-matrix cancellation, lost candidates, wrong rescaling of running sums."""
    generator = torch.Generator().manual_seed(0)
    points = CASES[case](generator).to(dtype)
    engine = PosteriorEngine(points)
    limit = 1e-5 if dtype == torch.float32 else 1e-12
    for sigma in SIGMAS:
        x = near_data(points, sigma, 7, generator, scale)
        m, s = torch.full((7,), scale).double(), torch.full((7,), sigma).double()
        weights, residual, log_total = reference(x, points, m, s)
        part = engine(Queries.of(x, m, s))
        ours = part.residual_sum / part.total[:, None]
        error = (ours - residual).norm(dim=1)
        # A float32 query may coincide with a training point: the residual is exactly 0 then.
        assert (error <= limit * residual.norm(dim=1)).all(), (sigma, error)
        top = weights.max(1)
        top_error = (1 / part.total / top.values - 1).abs().max()
        assert top_error < limit, (sigma, top_error)
        log_error = (part.top_logit + part.total.log() - log_total).abs()
        assert (log_error <= limit * (1 + log_total.abs())).all(), (sigma, log_error)


def test_per_query_noise_takes_mixed_routes():
    """One batch whose queries need different routes; catches rows written to the wrong place."""
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(3000, 64, generator=generator)
    sigma = torch.tensor(SIGMAS).double()
    scale = torch.linspace(0.3, 1.0, len(sigma)).double()
    x = torch.stack(
        [
            near_data(points, float(s), 1, generator, float(m))[0]
            for m, s in zip(scale, sigma, strict=True)
        ]
    )
    _, residual, _ = reference(x, points, scale, sigma)
    part = PosteriorEngine(points)(Queries.of(x, scale, sigma))
    ours = part.residual_sum / part.total[:, None]
    assert ((ours - residual).norm(dim=1) / residual.norm(dim=1)).max() < 1e-5


def test_extreme_queries_stay_finite():
    """A query far from all data, at the smallest and largest noise."""
    points = torch.randn(3000, 8, generator=torch.Generator().manual_seed(2))
    x = torch.full((3, 8), 1e4)
    sigma = torch.tensor([1e-6, 1.0, 1e3]).double()
    scale = torch.ones(3, dtype=torch.float64)
    part = PosteriorEngine(points)(Queries.of(x, scale, sigma))
    nearest = (points.double() - x[0].double()).norm(dim=1).argmin()
    assert part.top_index[0] == nearest
    for value in (part.total, part.residual_sum, part.entropy_sum, part.top_logit):
        assert torch.isfinite(value).all()


def test_at_zero_noise_the_nearest_points_share_the_weight():
    points = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 5.0]], dtype=torch.float64)
    x = torch.tensor([[0.0, 0.3], [0.2, 0.3]], dtype=torch.float64)
    one, zero = torch.ones(2), torch.zeros(2)
    part = PosteriorEngine(points)(Queries.of(x, one, zero))
    mean = x + part.residual_sum / part.total[:, None]
    torch.testing.assert_close(mean, torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma", [1e-3, 0.3, 2.0, 30.0])
def test_blocks_chunks_and_order_do_not_matter(dtype, sigma):
    """Catches block boundaries, index offsets and running maxima that depend on order."""
    generator = torch.Generator().manual_seed(3)
    points = torch.randn(1500, 24, generator=generator).to(dtype)
    x = near_data(points, sigma, 11, generator)
    scale, s = torch.ones(11).double(), torch.full((11,), sigma).double()
    whole = PosteriorEngine(points)(Queries.of(x, scale, s))
    order = torch.randperm(1500, generator=generator)
    small = PosteriorEngine(points[order], memory_limit=2**16, block=97)(Queries.of(x, scale, s))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(order[small.top_index], whole.top_index)
    for name in ("total", "residual_sum", "top_logit", "entropy_sum"):
        theirs, ours = getattr(whole, name), getattr(small, name)
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * 10)


# Where each route is accurate; the screens everywhere.
LEVELS = {
    Route.FLOAT32: [5.0, 30.0],
    Route.CHUNKS_256: [5.0, 30.0],
    Route.CHUNKS_128: [5.0, 30.0],
    Route.CHUNKS_64: [3.0, 30.0],
    Route.CHUNKS_32: [3.0, 30.0],
    Route.MIXED: [2.0, 30.0],
    Route.FLOAT64: [0.3, 30.0],
    Route.DIFFERENCES: [1e-3, 1.0, 30.0],
    Route.SCREEN: [1e-3, 1.0, 30.0],
    Route.INTEGER_SCREEN: [1e-3, 1.0, 30.0],
}


@pytest.mark.parametrize("block", [97, 640, 2048])
@pytest.mark.parametrize("route", list(Route), ids=lambda route: route.name)
def test_every_route_meets_the_accuracy_contract_at_any_block(monkeypatch, route, block):
    """Rule 2 of the design: 1e-5 of score and weights for float32 points, against the loop."""
    monkeypatch.setattr(points_module, "integers_pay", lambda dim, device: True)
    generator = torch.Generator().manual_seed(8)
    points = torch.rand(1500, 300, generator=generator) * 2 - 1
    points[700:710] = points[:10]
    engine = PosteriorEngine(points, memory_limit=2**20, block=block)
    exclude = torch.arange(9) - 1
    for sigma in LEVELS[route]:
        x = near_data(points, sigma, 9, generator)
        scale, s = torch.ones(9).double(), torch.full((9,), sigma).double()
        queries = Queries.of(x, scale, s, exclude=exclude).under(engine.log_prior)
        log_prior = torch.full((9, 1500), -math.log(1500)).double()
        log_prior[torch.arange(1, 9), exclude[1:]] = -math.inf
        weights, residual, log_total = reference(x, points, scale, s, log_prior)
        part = engine.by(route, queries)
        error = (part.residual_sum / part.total[:, None] - residual).norm(dim=1)
        assert (error <= 1e-5 * residual.norm(dim=1)).all(), (sigma, error)
        assert (1 / part.total / weights.amax(1) - 1).abs().max() < 1e-5
        assert (part.top_logit + part.total.log() - log_total).abs().max() < 1e-5
        entropy = part.total.log() - part.entropy_sum / part.total
        expected = -torch.special.xlogy(weights, weights).sum(1)
        torch.testing.assert_close(entropy, expected, rtol=1e-5, atol=1e-4)


def test_shards_merge_to_the_whole():
    """Partial posteriors of shards merge, in any order and grouping, to the single pass."""
    generator = torch.Generator().manual_seed(4)
    points = torch.randn(900, 12, generator=generator, dtype=torch.float64)
    prior = torch.rand(900, generator=generator, dtype=torch.float64).log()
    x = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    scale, sigma = torch.ones(5), torch.full((5,), 0.7)
    whole = PosteriorEngine(points, prior)(Queries.of(x, scale, sigma))
    parts = []
    for start, stop in [(0, 1), (1, 400), (400, 777), (777, 900)]:
        part = PosteriorEngine(points[start:stop], prior[start:stop])(Queries.of(x, scale, sigma))
        part.top_index += start
        parts.append(part)
    empty = PartialPosterior.empty(5, 12, points.device)
    forward = empty.merge(parts[0]).merge(parts[1]).merge(parts[2]).merge(parts[3])
    paired = parts[3].merge(parts[1]).merge(parts[2].merge(empty).merge(parts[0]))
    for merged in (forward, paired):
        for name in ("total", "residual_sum", "top_logit", "entropy_sum", "top_index"):
            torch.testing.assert_close(getattr(merged, name), getattr(whole, name))


@pytest.mark.parametrize("num", [50, 2600])
@pytest.mark.parametrize("sigma", [1e-4, 0.4, 5.0])
def test_excluding_a_point_equals_deleting_it(num, sigma):
    """Leave-one-out by mask, on every route; catches an exclusion that hits another block."""
    generator = torch.Generator().manual_seed(5)
    points = torch.randn(num, 20, generator=generator)
    index = torch.tensor([0, num // 2, num - 1, -1])
    x = points[index] + sigma * torch.randn(4, 20, generator=generator)
    scale, s = torch.ones(4), torch.full((4,), sigma)
    part = PosteriorEngine(points)(Queries.of(x, scale, s, exclude=index))
    for i, left_out in enumerate(index.tolist()):
        kept = [n for n in range(num) if n != left_out]
        alone = PosteriorEngine(points[kept])(Queries.of(x[i : i + 1], scale[:1], s[:1]))
        ours = part.residual_sum[i] / part.total[i]
        theirs = alone.residual_sum[0] / alone.total[0]
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6 * sigma)
        assert part.top_index[i] != left_out or left_out < 0


def test_removing_every_point_is_an_error():
    engine = PosteriorEngine(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="no training point is left"):
        one = torch.ones(1)
        engine(Queries.of(torch.zeros(1, 3), one, one, exclude=torch.tensor([0])))


@pytest.mark.parametrize("sigma", [0.05, 0.8, 4.0])
def test_covariance_product_is_the_weighted_covariance(sigma):
    generator = torch.Generator().manual_seed(6)
    points = torch.randn(700, 9, generator=generator, dtype=torch.float64)
    x = near_data(points, sigma, 6, generator)
    vectors = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    scale, s = torch.full((6,), 0.8).double(), torch.full((6,), sigma).double()
    weights, _, _ = reference(x, points, scale, s)
    product = PosteriorEngine(points).covariance_product(Queries.of(x, scale, s), vectors)
    for i in range(6):
        covariance = torch.cov(points.T, aweights=weights[i], correction=0)
        torch.testing.assert_close(product[i], covariance @ vectors[i], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sigma", [1e-3, 0.1, 1.0, 50.0])
def test_no_weight_is_denormal(sigma, monkeypatch):
    """Denormal weights slow the weighted sum by an order of magnitude (engine notes, item 2)."""
    points = torch.randn(2600, 32, generator=torch.Generator().manual_seed(7)) * 10
    seen = []

    def recording(plain):
        def record(tensor):
            result = plain(tensor)
            seen.append(result)
            return result

        return record

    for name in ("exp", "exp2"):
        monkeypatch.setattr(torch.Tensor, name, recording(getattr(torch.Tensor, name)))
    ones, s = torch.ones(4), torch.full((4,), sigma)
    engine = PosteriorEngine(points)
    engine(Queries.of(points[:4], ones, s))
    monkeypatch.undo()
    assert seen
    for values in seen:
        smallest = torch.finfo(values.dtype).tiny
        assert not bool(((values != 0) & (values.abs() < smallest)).any())
    weights = engine.weights(Queries.of(points[:4], ones, s))
    assert not bool(((weights != 0) & (weights < torch.finfo(torch.float64).tiny)).any())


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    num=st.sampled_from([1, 2, 37, 2100]),
    dim=st.sampled_from([1, 3, 50]),
    log_sigma=st.floats(-6, 3),
    offset=st.sampled_from([0.0, 30.0]),
    double=st.booleans(),
)
def test_error_bound_holds(seed, num, dim, log_sigma, offset, double):
    """The bounds of the partial sums are bounds: mean error against the float64 reference."""
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if double else torch.float32
    points = (torch.randn(num, dim, generator=generator, dtype=torch.float64) + offset).to(dtype)
    sigma = 10**log_sigma
    x = near_data(points, sigma, 3, generator)
    scale, s = torch.ones(3).double(), torch.full((3,), sigma).double()
    engine = PosteriorEngine(points)
    part = engine(Queries.of(x, scale, s))
    _, residual, _ = reference(x, points, scale, s)
    error = (part.residual_sum / part.total[:, None] - residual).norm(dim=1)
    spread = 2 * engine.radius * (1 - 1 / part.total).clamp_min(0) * (2 * part.logit_error).expm1()
    assert (error <= spread + part.sum_error).all()
