"""The screen of 8-bit integers: what it may leave out, and that answers are those without it."""

import math

import pytest
import torch

from memdiff.kernel import PartialPosterior, PosteriorEngine, Queries, Trajectory
from memdiff.kernel import engine as engine_module
from memdiff.kernel import points as points_module
from memdiff.kernel.candidates import weight_candidates
from memdiff.kernel.choice import Route
from memdiff.kernel.screen import IntegerProduct, PointBlock, Screen

QUERIES, NUM, DIM = 12, 6000, 60


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Integers at any size, on any machine."""
    monkeypatch.setattr(points_module, "integers_pay", lambda dim, device: True)
    monkeypatch.setattr(engine_module, "_INTEGER_POINTS", 1)
    monkeypatch.setattr(engine_module, "_FEW_COORDINATES", 0)


def planted(kind, sigma, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(NUM, DIM, generator=generator, dtype=torch.float64)
    if kind == "uneven":  # steps and norms differ from point to point
        points *= 10.0 ** (2.0 * torch.rand(NUM, 1, generator=generator) - 1.0)
    if kind == "far":
        points += 1e3
    if kind == "copies":
        points[3000:] = points[:3000] + 1e-4 * points[3000:]
        points[100:110] = points[100]
    points = points.to(dtype)
    noise = torch.randn(QUERIES, DIM, generator=generator, dtype=torch.float64)
    x = points[100 : 100 + QUERIES].double() + sigma * noise
    return points, x


def priors(kind, num=NUM):
    """Arguments of an engine and of its call: weights, conditions and exclusions."""
    weights = torch.linspace(-3, 0, num, dtype=torch.float64)
    if kind == "plain":
        return None, {}
    if kind == "weights":
        weights[7::10] = -math.inf
        return weights, {}
    if kind == "exclude":
        return None, {"exclude": torch.arange(100, 100 + QUERIES)}

    def terms(rows, points):
        index = torch.arange(num)[points] if isinstance(points, slice) else points
        return -2.0 * ((index + rows[:, None]) % 2).double()

    return None, {"terms": terms, "bound": 2.0}


@pytest.mark.parametrize("kind", ["normal", "uneven", "far", "copies"])
@pytest.mark.parametrize("prior", ["plain", "weights", "exclude", "condition"])
@pytest.mark.parametrize("sigma", [1e-4, 0.1, 0.5])
@pytest.mark.parametrize("mixed", [False, True], ids=["one level", "levels"])
def test_answers_are_those_of_direct_differences(kind, prior, sigma, mixed):
    """Catches a candidate that is lost by a bias, a step, a scale or a term of the wrong row."""
    points, x = planted(kind, sigma)
    log_prior, options = priors(prior)
    scale = torch.linspace(0.5, 1.0, QUERIES).double() if mixed else torch.ones(QUERIES).double()
    level = sigma * (torch.linspace(0.5, 1.5, QUERIES).double() if mixed else 1.0) * scale
    x = scale[:, None] * x
    engine = PosteriorEngine(points, log_prior)
    queries = Queries.of(x, scale, level, **options).under(engine.log_prior)
    found = PartialPosterior.empty(QUERIES, DIM, x.device)
    rest = engine._screened(Route.INTEGER_SCREEN, queries, torch.arange(QUERIES), found)
    mine = torch.isin(torch.arange(QUERIES), rest, invert=True)
    if kind in ("normal", "far") and sigma <= 0.1:
        assert mine.sum() >= QUERIES // 2
    truth = engine.by(Route.DIFFERENCES, queries)
    assert torch.equal(found.top_index[mine], truth.top_index[mine])
    for name, rtol in (("top_logit", 1e-12), ("total", 1e-7), ("entropy_sum", 1e-5)):
        ours, theirs = getattr(found, name)[mine], getattr(truth, name)[mine]
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-7)
    moved = (found.residual_sum - truth.residual_sum).norm(dim=1)[mine]
    assert (moved <= 1e-7 * truth.residual_sum.norm(dim=1)[mine]).all()


@pytest.mark.parametrize("tolerance", [0.0, 1e-5])
def test_the_route_is_taken_where_few_points_matter_and_left_where_many_do(monkeypatch, tolerance):
    points, x = planted("normal", 0.1)
    taken = []

    def recorded(self, route, *arguments):
        part, crowded = by_screen(self, route, *arguments)
        taken.append((route, int((~crowded).sum())))
        return part, crowded

    by_screen = PosteriorEngine._by_screen
    monkeypatch.setattr(PosteriorEngine, "_by_screen", recorded)
    sigma = torch.full((QUERIES,), 0.1).double()
    sigma[:5] = 30.0
    engine = PosteriorEngine(points)
    engine(Queries.of(x, torch.ones(QUERIES).double(), sigma), tolerance=tolerance)
    assert (Route.INTEGER_SCREEN, QUERIES - 5) in taken
    assert all(count <= QUERIES - 5 for _, count in taken)


def test_a_screen_of_integers_keeps_what_may_carry_the_mass():
    """Against float64: all points within the margin of the nearest one, and few others."""
    sigma, dropped = 0.3, 1e-3
    points, x = planted("normal", sigma)
    engine, ones = PosteriorEngine(points), torch.ones(QUERIES).double()
    queries = Queries.of(x, ones, sigma * ones).under(engine.log_prior)
    rows, columns, _ = weight_candidates(engine.points, queries, IntegerProduct(), dropped, 2048)
    squares = torch.stack([((row - points.double()) ** 2).sum(1) for row in x])
    reach = squares.amin(1) + 2 * sigma**2 * math.log(NUM / dropped)
    needed = set(map(tuple, (squares <= reach[:, None]).nonzero().tolist()))
    kept = set(map(tuple, torch.stack([rows, columns], 1).tolist()))
    assert needed <= kept
    assert len(kept) <= len(needed) + 0.02 * QUERIES * NUM


@pytest.mark.parametrize("kind", ["normal", "uneven", "far", "copies"])
@pytest.mark.parametrize("m", [1.0, 0.3])
def test_an_interval_holds_the_square_and_what_was_added(kind, m):
    """Every pair, both ways; catches an error of the wrong side or without the scale."""
    points, x = planted(kind, 0.4)
    engine, block, product = PosteriorEngine(points), slice(0, NUM), IntegerProduct()
    near, unit = engine.points, engine.points.unit
    queries = Queries.of(m * x, torch.full((QUERIES,), m), torch.ones(QUERIES))
    operand = product.operand(queries.centred(near) * unit / m)
    screen = Screen.of(operand, PointBlock.of_points(near, product, block), product)
    squares = torch.stack([((row - points.double()) ** 2).sum(1) for row in x]) * unit**2
    for added in (0.0, 0.3 * unit**2 * near.radius**2):
        scores = screen.values + added
        info = (operand.info[:, None], screen.block.operand.info[None])
        lower, upper = (end.double() for end in product.interval(scores, *info))
        assert (lower <= squares + added).all() and (squares + added <= upper).all()


def on_a_line(*heights):
    """Points whose first coordinate makes the step 1, so that heights round to integers.

    Their mirror images keep the centre at 0. What rounding takes off lies along the differences:
    the triangle inequality holds with equality.
    """
    half = torch.tensor([[127.0, height] for height in heights], dtype=torch.float64)
    return torch.cat([half, -half])


def test_a_point_at_the_edge_is_kept_though_rounding_moves_both():
    """The nearest point looks nearer and the outermost that counts looks farther than it is."""
    points, dropped = on_a_line(10.49, 29.51), 1e-3
    engine, one = PosteriorEngine(points), torch.ones(1).double()
    x = torch.tensor([[127.0, 0.0]], dtype=torch.float64)
    for part, expected in ((0.9999, [0, 1]), (0.5, [0])):
        variance = (29.51**2 - 10.49**2) / (2 * math.log(4 / dropped))
        sigma = math.sqrt(variance / part if part > 0.9 else part * variance)
        queries = Queries.of(x, one, sigma * one).under(engine.log_prior)
        found = weight_candidates(engine.points, queries, IntegerProduct(), dropped, 4)
        assert sorted(found[1].tolist()) == expected


@pytest.mark.parametrize("size", [1e30, 1e45])
def test_a_query_beyond_float32_is_answered(size):
    points, x = planted("normal", 0.1)
    x[0] = size
    sigma = torch.full((QUERIES,), 0.1).double()
    sigma[0] = 1e3 * size
    found = PosteriorEngine(points)(Queries.of(x, torch.ones(QUERIES).double(), sigma))
    assert found.total.isfinite().all() and found.residual_sum.isfinite().all()
    assert found.total[0] == pytest.approx(NUM, rel=1e-6)


def test_along_a_trajectory_the_answers_stay_certified():
    points, x = planted("copies", 0.1)
    engine, ones, memory = PosteriorEngine(points), torch.ones(QUERIES).double(), Trajectory()
    for sigma in (3.0, 1.0, 0.3, 0.1, 0.03):
        found = engine(Queries.of(x, ones, sigma * ones), tolerance=1e-6, trajectory=memory)
        truth = engine(Queries.of(x, ones, sigma * ones))
        mean = found.residual_sum / found.total[:, None]
        expected = truth.residual_sum / truth.total[:, None]
        bound = found.sum_error + found.logit_error * engine.radius * 2
        assert ((mean - expected).norm(dim=1) <= bound + 1e-5).all()
