"""The screen of 8-bit integers: what it may leave out, and that answers are those without it."""

import math

import pytest
import torch

from memdiff.kernel import PosteriorEngine, Trajectory
from memdiff.kernel import points as points_module
from memdiff.kernel import routing as routing_module
from memdiff.kernel import screening as screening_module
from memdiff.kernel.logits import IntegerLogits
from memdiff.kernel.prior import Prior
from memdiff.kernel.screening import screen

QUERIES, NUM, DIM = 12, 6000, 60


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Integers at any size, on any machine."""
    monkeypatch.setattr(points_module, "integers_pay", lambda dim, device: True)
    monkeypatch.setattr(routing_module, "_INTEGER_POINTS", 1)
    monkeypatch.setattr(routing_module, "_DIRECT_COORDINATES", 0)


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

    return None, {"log_prior": terms, "log_prior_bound": 2.0}


@pytest.mark.parametrize("kind", ["normal", "uneven", "far", "copies"])
@pytest.mark.parametrize("prior", ["plain", "weights", "exclude", "condition"])
@pytest.mark.parametrize("sigma", [1e-4, 0.1, 0.5])
@pytest.mark.parametrize("mixed", [False, True], ids=["one level", "levels"])
def test_answers_are_those_of_direct_differences(monkeypatch, kind, prior, sigma, mixed):
    """Catches a candidate that is lost by a bias, a step, a scale or a term of the wrong row."""
    points, x = planted(kind, sigma)
    log_prior, options = priors(prior)
    scale = torch.linspace(0.5, 1.0, QUERIES).double() if mixed else torch.ones(QUERIES).double()
    level = sigma * (torch.linspace(0.5, 1.5, QUERIES).double() if mixed else 1.0) * scale
    x = scale[:, None] * x
    engine = PosteriorEngine(points, log_prior)
    terms = Prior(
        engine.log_prior,
        options.get("log_prior"),
        options.get("exclude"),
        torch.arange(QUERIES),
        options.get("log_prior_bound", 0.0),
    )
    found, rest = engine.routes.by_integers(x, scale, level, terms)
    mine = torch.isin(torch.arange(QUERIES), rest, invert=True)
    if kind in ("normal", "far") and sigma <= 0.1:
        assert mine.sum() >= QUERIES // 2
    monkeypatch.setattr(routing_module, "_DIRECT_COORDINATES", math.inf)
    truth = engine(x, scale, level, **options)
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

    def recorded(*arguments, integers=False, **limits):
        part, crowded = screened(*arguments, integers=integers, **limits)
        taken.append((integers, int((~crowded).sum())))
        return part, crowded

    screened = screening_module.screened
    monkeypatch.setattr(routing_module, "screened", recorded)
    sigma = torch.full((QUERIES,), 0.1).double()
    sigma[:5] = 30.0
    engine = PosteriorEngine(points)
    engine(x, torch.ones(QUERIES).double(), sigma, tolerance=tolerance)
    assert (True, QUERIES - 5) in taken
    assert all(count <= QUERIES - 5 for _, count in taken)


def test_a_screen_of_integers_keeps_what_may_carry_the_mass():
    """Against float64: all points within the margin of the nearest one, and few others."""
    sigma, dropped = 0.3, 1e-3
    points, x = planted("normal", sigma)
    engine, ones = PosteriorEngine(points), torch.ones(QUERIES).double()
    prior = Prior(engine.log_prior, None, None, torch.arange(QUERIES))
    arguments = (engine.points, x, ones, sigma * ones, prior)
    rows, columns = screen(*arguments, [slice(0, NUM)], dropped, 2**26, integers=True)
    squares = torch.stack([((row - points.double()) ** 2).sum(1) for row in x])
    reach = squares.amin(1) + 2 * sigma**2 * math.log(NUM / dropped)
    needed = set(map(tuple, (squares <= reach[:, None]).nonzero().tolist()))
    kept = set(map(tuple, torch.stack([rows, columns], 1).tolist()))
    assert needed <= kept
    assert len(kept) <= len(needed) + 0.02 * QUERIES * NUM


@pytest.mark.parametrize("kind", ["normal", "uneven", "far", "copies"])
@pytest.mark.parametrize("prior", ["plain", "condition"])
@pytest.mark.parametrize("m", [1.0, 0.3])
def test_a_value_is_as_near_to_its_logit_as_is_said(kind, prior, m):
    """Every pair, both ways; catches an error of the wrong side or without the scale."""
    sigma = 0.4
    points, x = planted(kind, sigma)
    _, options = priors(prior)
    engine, scale = PosteriorEngine(points), torch.full((QUERIES,), m).double()
    extra = options.get("log_prior")
    rows = torch.arange(QUERIES)
    terms = Prior(engine.log_prior, extra, None, rows, options.get("log_prior_bound", 0.0))
    centred = m * x - scale[:, None] * engine.points.centre
    unit = engine.points.radius**2
    variance = torch.full((QUERIES,), sigma**2 / unit).double()
    curvature = scale**2 / unit
    logits = IntegerLogits(engine.points, centred, scale / unit, curvature, terms, variance)
    values = logits(slice(0, NUM)).double() - logits.base[:, None]
    squares = torch.stack([((row - m * points.double()) ** 2).sum(1) for row in m * x])
    exact = -0.5 * squares / unit + variance[:, None] * terms.block(slice(0, NUM))
    for column in range(0, NUM, 7):
        assert (
            values[:, column] >= logits.lowered(exact[:, column] + logits.base) - logits.base
        ).all()
        assert (
            exact[:, column] >= logits.lowered(values[:, column] + logits.base) - logits.base
        ).all()


def on_a_line(*heights):
    """Points whose first coordinate makes the step 1, so that heights round to integers.

    Their mirror images keep the centre at 0. What rounding takes off lies along the differences:
    the triangle inequality holds with equality.
    """
    half = torch.tensor([[127.0, height] for height in heights], dtype=torch.float64)
    return torch.cat([half, -half])


@pytest.mark.parametrize("m", [1.0, 0.5])
def test_the_bounds_are_reached(m):
    """Distances that rounding makes longer and shorter by all that is allowed, with terms at
    their bound; catches half of the error, a scale, the norms of the wrong points, a lost bound.
    """
    sigma = 8.0
    points = on_a_line(20.49, 19.51, -10.0)
    engine, one = PosteriorEngine(points), torch.ones(2).double()
    x = torch.tensor([[127.0, -10.49], [127.0, -9.51]], dtype=torch.float64)
    unit = engine.points.radius**2
    prior = Prior(engine.log_prior, lambda rows, points: torch.full((2, 6), 2.0).double(), None,
                  torch.arange(2), 2.0)  # fmt: skip
    centred, scale = m * x, m * one
    variance = sigma**2 * one / unit
    logits = IntegerLogits(engine.points, centred, scale / unit, scale**2 / unit, prior, variance)
    values = logits(slice(0, 6)).double() - logits.base[:, None]
    squares = m**2 * torch.stack([((row - points) ** 2).sum(1) for row in x])
    exact = -0.5 * squares / unit + variance[:, None] * (2.0 - math.log(6))
    for query, point, up in ((0, 0, True), (1, 1, False)):
        shift, pick = logits.base[query], (lambda column: column.repeat(2))
        high, low = (exact, values) if not up else (values, exact)
        least = logits.lowered(pick(high[query, point]) + logits.base)[query] - shift
        assert least <= low[query, point]
        assert low[query, point] - least <= 0.03 * (high - low)[query, point].abs()


def test_a_point_at_the_edge_is_kept_though_rounding_moves_both():
    """The nearest point looks nearer and the outermost that counts looks farther than it is."""
    points, dropped = on_a_line(10.49, 29.51), 1e-3
    engine, one = PosteriorEngine(points), torch.ones(1).double()
    x = torch.tensor([[127.0, 0.0]], dtype=torch.float64)
    for part, expected in ((0.9999, [0, 1]), (0.5, [0])):
        variance = (29.51**2 - 10.49**2) / (2 * math.log(4 / dropped))
        sigma = math.sqrt(variance / part if part > 0.9 else part * variance)
        prior = Prior(engine.log_prior, None, None, torch.arange(1))
        arguments = (engine.points, x, one, sigma * one, prior, [slice(0, 4)], dropped, 2**26)
        assert screen(*arguments, integers=True)[1].tolist() == expected


@pytest.mark.parametrize("size", [1e30, 1e45])
def test_a_query_beyond_float32_is_answered(size):
    points, x = planted("normal", 0.1)
    x[0] = size
    sigma = torch.full((QUERIES,), 0.1).double()
    sigma[0] = 1e3 * size
    found = PosteriorEngine(points)(x, torch.ones(QUERIES).double(), sigma)
    assert found.total.isfinite().all() and found.residual_sum.isfinite().all()
    assert found.total[0] == pytest.approx(NUM, rel=1e-6)


def test_along_a_trajectory_the_answers_stay_certified():
    points, x = planted("copies", 0.1)
    engine, ones, memory = PosteriorEngine(points), torch.ones(QUERIES).double(), Trajectory()
    for sigma in (3.0, 1.0, 0.3, 0.1, 0.03):
        found = engine(x, ones, sigma * ones, tolerance=1e-6, trajectory=memory)
        truth = engine(x, ones, sigma * ones)
        mean = found.residual_sum / found.total[:, None]
        expected = truth.residual_sum / truth.total[:, None]
        bound = found.sum_error + found.logit_error * engine.radius * 2
        assert ((mean - expected).norm(dim=1) <= bound + 1e-5).all()
