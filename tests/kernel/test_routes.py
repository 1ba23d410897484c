"""Which route a query takes, and that float32 answers are checked after they are given."""

import pytest
import torch

from memdiff.kernel import PosteriorEngine, Queries
from memdiff.kernel import choice as choice_module
from memdiff.kernel import dense as dense_module
from memdiff.kernel import engine as engine_module
from memdiff.kernel.choice import Route
from memdiff.kernel.dense import Precision, dense
from memdiff.kernel.softmax import RunningSoftmax


def cube(num, dim, sigma, queries=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(num, dim, generator=generator) * 2 - 1
    x = points[:queries] + sigma * torch.randn(queries, dim, generator=generator)
    return points, x, torch.ones(queries), torch.full((queries,), sigma)


def exact(points, x, scale, sigma):
    part = PosteriorEngine(points.double())(Queries.of(x, scale, sigma))
    return part.residual_sum / part.total[:, None], part


@pytest.mark.parametrize("sigma", [10.0, 100.0])
def test_images_at_large_noise_take_one_float32_pass(monkeypatch, sigma):
    """Catches a worst-case estimate that sends them to products in float64, at twice the price."""
    points, x, scale, level = cube(4000, 784, sigma)
    seen = []

    def recording(*arguments, **keywords):
        seen.append(arguments[2])
        return dense(*arguments, **keywords)

    monkeypatch.setattr(engine_module, "dense", recording)
    part = PosteriorEngine(points)(Queries.of(x, scale, level))
    assert seen == [Precision(*3 * (torch.float32,))]
    residual, truth = exact(points, x, scale, level)
    error = (part.residual_sum / part.total[:, None] - residual).norm(dim=1)
    assert (error <= 1e-5 * residual.norm(dim=1)).all()
    assert ((part.total / truth.total).log().abs() <= 1e-5).all()


@pytest.mark.parametrize("sigma", [2.5, 5.0])
def test_images_at_middle_noise_take_chunks_of_float32(monkeypatch, sigma):
    """Where one float32 product is too rough: logits to 8e-6 without a product in float64."""
    points, x, scale, level = cube(4000, 784, sigma)
    engine, queries = PosteriorEngine(points), Queries.of(x, scale, level)
    taken = choice_module.choose(engine.points, queries.under(engine.log_prior), 0.0)
    assert (taken > Route.FLOAT32).all() and (taken < Route.MIXED).all()
    residual, truth = exact(points, x, scale, level)
    part = engine(queries)
    assert ((part.total / truth.total).log().abs() <= 1e-5).all()
    error = (part.residual_sum / part.total[:, None] - residual).norm(dim=1)
    assert (error <= 1e-5 * residual.norm(dim=1)).all()


def test_chunks_agree():
    """Long inner products in parts; catches parts that are lost and a bias added twice."""
    points, x, scale, level = cube(4000, 3072, 10.0)
    engine = PosteriorEngine(points)
    residual, truth = exact(points, x, scale, level)
    queries = Queries.of(x, scale, level).under(engine.log_prior)
    part = engine.by(Route.CHUNKS_256, queries)
    assert ((part.total / truth.total).log().abs() <= 1e-5).all()
    assert ((part.top_logit - truth.top_logit).abs() <= 1e-5).all()
    error = (part.residual_sum / part.total[:, None] - residual).norm(dim=1)
    assert (error <= 1e-5 * residual.norm(dim=1)).all()


@pytest.mark.parametrize(("num", "dim", "sigma"), [(4000, 200, 1.0), (3000, 2, 0.1)])
def test_an_optimistic_measurement_is_found_out(monkeypatch, num, dim, sigma):
    """Float32 is taken where it must not be: the check at the top points gives it back."""
    points, x, scale, level = cube(num, dim, sigma)
    monkeypatch.setattr(
        choice_module, "measured_error", lambda points, x, *_: (torch.zeros(len(x)).double(), None)
    )
    monkeypatch.setattr(choice_module, "_LEAST_ERROR", 0.0)
    monkeypatch.setattr(choice_module, "_CHECKED_ERROR", 1e-9)
    part = PosteriorEngine(points)(Queries.of(x, scale, level))
    residual, _ = exact(points, x, scale, level)
    error = (part.residual_sum / part.total[:, None] - residual).norm(dim=1)
    assert (error <= 1e-6 * residual.norm(dim=1)).all()


def test_float64_sums_keep_their_digits_far_from_the_centre():
    """A total in float32 beside a float64 sum moves the mean by digits of its distance."""
    generator = torch.Generator().manual_seed(2)
    points = torch.randn(3000, 6, generator=generator) * 0.01
    points[:1500] += 100.0
    x = points[:1400:100].clone()
    arguments = (x.double(), torch.ones(14).double(), torch.full((14,), 0.02).double())
    engine = PosteriorEngine(points)
    queries = Queries.of(*arguments).under(engine.log_prior)
    part = dense(engine.points, queries, Precision(torch.float64, torch.float32, torch.float64))
    residual, _ = exact(points, *arguments)
    error = (part.residual_sum / part.total[:, None] - residual).norm(dim=1)
    assert error.max() < 1e-7
    assert (error <= part.sum_error + 0.1 * (2 * part.logit_error).expm1()).all()


@pytest.mark.parametrize("num", [2500, 4096])
def test_the_shift_is_renewed_before_weights_overflow(num):
    """Logits that rise from block to block by hundreds; catches a shift that stays behind."""
    points = torch.linspace(-40.0, 1.0, num, dtype=torch.float64)[:, None].expand(-1, 9)
    points = points.contiguous()
    x, scale = torch.ones(2, 9).double(), torch.ones(2).double()
    level = torch.tensor([1.0, 3.0]).double()
    engine = PosteriorEngine(points)
    queries = Queries.of(x, scale, level).under(engine.log_prior)
    part = dense(engine.points, queries, Precision(*3 * (torch.float64,)))
    weights = engine.weights(Queries.of(x, scale, level))
    torch.testing.assert_close(1 / part.total, weights.amax(1), rtol=1e-11, atol=0)
    torch.testing.assert_close(part.top_index, weights.argmax(1))
    entropy = part.total.log() - part.entropy_sum / part.total
    expected = -torch.special.xlogy(weights, weights).sum(1)
    torch.testing.assert_close(entropy, expected, rtol=1e-10, atol=1e-12)


def test_duplicates_name_the_first_point():
    """Equal logits in several groups of columns and blocks: the smallest index counts."""
    block = torch.randn(700, 8, generator=torch.Generator().manual_seed(3))
    points = block.repeat(6, 1)
    for sigma in (0.01, 30.0):
        part = PosteriorEngine(points)(
            Queries.of(block[:9], torch.ones(9), torch.full((9,), sigma))
        )
        assert (part.top_index < 700).all()


def test_without_entropy_all_else_is_the_same():
    points, x, scale, level = cube(3000, 40, 5.0)
    engine = PosteriorEngine(points)
    whole, less = (
        engine(Queries.of(x, scale, level)),
        engine(Queries.of(x, scale, level), entropy=False),
    )
    for name in ("top_logit", "top_index", "total", "residual_sum"):
        assert torch.equal(getattr(whole, name), getattr(less, name))
    assert torch.isnan(less.entropy_sum).all()


@pytest.mark.parametrize("logits", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma", [0.02, 0.3])
def test_dense_weights_are_never_denormal(monkeypatch, sigma, logits):
    """Where nearly all weights vanish; the other routes have no weights to underflow."""
    points, x, scale, level = cube(2500, 32, sigma)
    seen = []
    plain = torch.exp2

    def recording(tensor, *, out):
        seen.append(plain(tensor, out=out).clone())
        return out

    monkeypatch.setattr(torch, "exp2", recording)
    engine = PosteriorEngine(points)
    queries, single = Queries.of(x, scale, level).under(engine.log_prior), torch.float32
    dense(engine.points, queries, Precision(logits, single, single))
    assert seen
    for values in seen:
        assert (values >= torch.finfo(single).tiny).all()


def test_many_points_are_summed_only_where_many_matter(monkeypatch):
    """Where float32 would do, too: a screen needs one product, and all points need two."""
    points = torch.randn(32_768, 16, generator=torch.Generator().manual_seed(5))
    engine, one = PosteriorEngine(points), torch.ones(4).double()
    taken = []
    monkeypatch.setattr(
        engine_module,
        "choose",
        lambda points, queries, _: torch.full((len(queries),), int(Route.FLOAT32)),
    )
    for name in ("dense", "sum_pairs"):
        route = getattr(engine_module, name)

        def recorded(*arguments, name=name, route=route, **options):
            taken.append(name)
            return route(*arguments, **options)

        monkeypatch.setattr(engine_module, name, recorded)
    for sigma, expected in ((0.01, "sum_pairs"), (30.0, "dense")):
        taken.clear()
        engine(Queries.of(points[:4].double() + 0.005, one, one * sigma))
        assert taken == [expected]


@pytest.mark.parametrize("levels", [(3.0,), (3.0, 0.4)], ids=["one level", "two levels"])
@pytest.mark.parametrize("excluding", [False, True])
def test_tiles_of_queries_give_the_answer_of_one(monkeypatch, levels, excluding):
    """Catches a tile with the bias, the prior or the rows of another one."""
    points, x, scale, _ = cube(5000, 12, 1.0, queries=50)
    sigma = torch.tensor(levels).repeat(50)[:50]
    exclude = torch.arange(50) if excluding else None
    log_prior = torch.rand(5000, generator=torch.Generator().manual_seed(1)).double()
    engine = PosteriorEngine(points.double(), log_prior)
    whole = engine(Queries.of(x, scale, sigma, exclude=exclude))
    monkeypatch.setattr(dense_module, "_TILE_BYTES", 8 * 2048 * 7)  # seven queries
    tiled = engine(Queries.of(x, scale, sigma, exclude=exclude))
    assert torch.equal(tiled.top_index, whole.top_index)
    for name in ("top_logit", "total", "residual_sum", "entropy_sum"):
        ours, theirs = getattr(tiled, name), getattr(whole, name)
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("unit", [1e-15, 1.0, 1e15])
@pytest.mark.parametrize("sigma", [2.0, 8.0, 60.0])
def test_moderate_logits_take_no_shift_in_any_unit(unit, sigma):
    """Weights times points must stay normal numbers of float32 also without a shift."""
    points, x, scale, level = cube(5000, 100, sigma)
    arguments = (x * unit, scale, level * unit)
    part = PosteriorEngine(points * unit)(Queries.of(*arguments))
    residual, truth = exact(points * unit, *arguments)
    assert ((part.total / truth.total).log().abs() <= 1e-5).all()
    error = (part.residual_sum / part.total[:, None] - residual).norm(dim=1)
    assert (error <= 1e-5 * residual.norm(dim=1)).all()
    assert ((part.entropy_sum - truth.entropy_sum).abs() <= 1e-4 * truth.total).all()


def test_largest_moderate_logits_in_a_large_unit():
    """A query far out on a line through two clusters: its logits reach their bound."""
    generator = torch.Generator().manual_seed(3)
    points = 1e-3 * torch.randn(5000, 4, generator=generator)
    points[:, 0] += torch.where(torch.arange(5000) % 2 == 0, 1.0, -1.0)
    unit = 2.0**45
    x, one = torch.tensor([[58.0, 0.0, 0.0, 0.0]]) * unit, torch.ones(1)
    arguments = (x, one, one * unit)
    queries = Queries.of(*arguments).under(torch.zeros(5000).double())
    part = dense(PosteriorEngine(points * unit).points, queries, Precision(*3 * (torch.float32,)))
    residual, _ = exact(points * unit, *arguments)
    error = (part.residual_sum / part.total[:, None] - residual).norm(dim=1)
    assert (error <= 1e-4 * residual.norm(dim=1)).all()


def test_moderate_logits_are_not_shifted(monkeypatch):
    """The renewal of a shift is not reached where it would change nothing."""
    points, x, scale, level = cube(5000, 100, 60.0)
    monkeypatch.setattr(RunningSoftmax, "_renew_shift", lambda self: pytest.fail("shifted"))
    PosteriorEngine(points)(Queries.of(x, scale, level))
    with pytest.raises(pytest.fail.Exception, match="shifted"):
        PosteriorEngine(points)(Queries.of(x, scale, level, exclude=torch.arange(len(x))))
