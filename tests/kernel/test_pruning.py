"""What a tolerance leaves out, against sums over all points in float64."""

import math
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memdiff.kernel import Batch, PosteriorEngine, Queries, Trajectory
from memdiff.processes import EDM, VE
from memdiff.scores import EmpiricalScore

DIM = 64


def clusters(num, generator):
    centres = 3.0 * torch.randn(12, DIM, generator=generator, dtype=torch.float64)
    label = torch.randint(12, (num,), generator=generator)
    return centres[label] + 0.2 * torch.randn(num, DIM, generator=generator, dtype=torch.float64)


def manifold(num, generator):
    """A smooth surface of three dimensions in a subspace of nine."""
    latent = torch.rand(num, 3, generator=generator, dtype=torch.float64)
    waves = torch.cat([(k * 3.0 * latent).sin() for k in (1, 2, 3)], 1)
    return waves @ torch.randn(9, DIM, generator=generator, dtype=torch.float64)


def duplicated(num, generator):
    few = torch.randn(num // 7 + 1, DIM, generator=generator, dtype=torch.float64)
    return few[torch.randint(len(few), (num,), generator=generator)]


def isotropic(num, generator):
    return torch.randn(num, DIM, generator=generator, dtype=torch.float64)


DATA = {data.__name__: data for data in (clusters, manifold, duplicated, isotropic)}


def noised(points, ratio, num, generator):
    index = torch.randint(len(points), (num,), generator=generator)
    noise = torch.randn(num, DIM, generator=generator, dtype=torch.float64)
    return points[index].double() + ratio * noise


def reference(points, x, ratio, log_prior):
    """Weights and mean, float64, from all pairs of differences."""
    points = points.double()
    square = torch.stack([((point - x) ** 2).sum(1) for point in points], 1)
    logits = log_prior - square / (2 * ratio**2)
    weights = logits.softmax(1)
    return weights, weights @ points


def uniform(num):
    return torch.full((num,), -math.log(num), dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.sampled_from(sorted(DATA)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    ratio=st.floats(-4.0, 1.7).map(lambda power: 10.0**power),
    tolerance=st.sampled_from([1e-12, 1e-6, 1e-3, 0.2]),
    seed=st.integers(0, 100),
    moving=st.booleans(),
)
def test_what_is_left_out_stays_within_the_error_bound(
    shape, dtype, ratio, tolerance, seed, moving
):
    """Catches a bound that ignores rounding, a wrong threshold, an uncounted remainder."""
    generator = torch.Generator().manual_seed(seed)
    points = DATA[shape](2100, generator).to(dtype)
    score = EmpiricalScore(points, VE(), tolerance=tolerance)
    exact = EmpiricalScore(points, VE())
    batch = Batch()
    for level in (3.0 * ratio, ratio):  # the second evaluation has winners to start from
        x = noised(points, level, 9, generator)
        t = exact.process.time_at_ratio(level)
        weights, mean = reference(points, x, level, uniform(2100))
        with batch.follow(None) if moving else nullcontext():
            ours = score.posterior(x, t)
        error = (ours.mean - mean).norm(dim=1)
        assert (error <= ours.error_bound).all(), (error, ours.error_bound)
        theirs = exact.posterior(x, t)
        # All statistics see what is left out no more than the tolerance allows.
        slack = 2 * tolerance + 1e-5
        assert ((ours.log_density - theirs.log_density).abs() <= slack).all()
        torch.testing.assert_close(
            ours.top_weight, theirs.top_weight, rtol=slack, atol=0, equal_nan=False
        )
        reach = math.log(2100) - math.log(tolerance)
        assert ((ours.entropy - theirs.entropy).abs() <= slack * reach + 1e-4).all()
        found = weights.gather(1, ours.top_index[:, None])[:, 0]
        torch.testing.assert_close(found, weights.max(1).values, rtol=1e-4, atol=0)


def test_no_tolerance_changes_no_bit():
    generator = torch.Generator().manual_seed(0)
    points = clusters(2500, generator).float()
    engine = PosteriorEngine(points)
    for ratio in (1e-3, 0.3, 5.0):
        x = noised(points, ratio, 20, generator)
        one, sigma = torch.ones(20), torch.full((20,), ratio)
        plain = engine(Queries.of(x, one, sigma))
        zero = engine(Queries.of(x, one, sigma), tolerance=0.0, trajectory=Trajectory())
        for name in ("top_logit", "top_index", "total", "residual_sum", "sum_error"):
            assert torch.equal(getattr(plain, name), getattr(zero, name)), name


@pytest.mark.parametrize("shape", ["clusters", "duplicated", "manifold"])
def test_certificate_bounds_the_mass_left_out(shape):
    """The screen alone: its certificate against the true mass of all it dropped."""
    generator = torch.Generator().manual_seed(3)
    points = DATA[shape](2300, generator).float()
    engine = PosteriorEngine(points)
    pruner = engine._truncated.pruner
    merged = pruner.merged
    dropped_something = False
    for ratio in (0.05, 0.2, 0.5, 1.0):
        x = noised(points, ratio, 30, generator)
        queries = Queries.of(x, torch.ones(30), torch.full((30,), ratio)).under(engine.log_prior)
        limit, unknown = torch.full((30,), 10**6), torch.full((30,), -1)
        for tolerance in (1e-2, 1e-6):
            kept = pruner.screen(queries, tolerance, limit, unknown)
            weights, _ = reference(points, x, ratio, engine.log_prior)
            mass = torch.zeros(30, len(merged), dtype=torch.float64)
            mass.index_add_(1, merged.group, weights)
            selected = torch.zeros_like(mass, dtype=torch.bool)
            selected[kept.queries, kept.groups] = True
            inside = (mass * selected).sum(1)
            outside = (mass * ~selected).sum(1)
            assert (outside <= kept.dropped * inside).all()
            assert (kept.dropped <= 1.1 * tolerance).all()
            dropped_something |= bool((outside > 0.1 * kept.dropped).any())
    # On a surface of few dimensions the bounds are nearly the distances.
    assert dropped_something or shape != "manifold"


def test_duplicates_are_a_weight():
    """Merged copies give the sums of a smaller set with weights; statistics count all copies."""
    generator = torch.Generator().manual_seed(5)
    few = clusters(2400, generator).float()
    copies = torch.randint(1, 4, (2400,), generator=generator)
    index = torch.arange(2400).repeat_interleave(copies)
    shuffled = index[torch.randperm(len(index), generator=generator)]
    repeated = EmpiricalScore(few[shuffled], VE(), tolerance=1e-9)
    weighted = EmpiricalScore(few, VE(), weights=copies.double(), tolerance=1e-9)
    plain = EmpiricalScore(few[shuffled], VE())
    for ratio in (0.02, 0.3, 1.0):
        x = noised(few, ratio, 12, generator)
        t = plain.process.time_at_ratio(ratio)
        ours, theirs, exact = (s.posterior(x, t) for s in (repeated, weighted, plain))
        torch.testing.assert_close(ours.mean, theirs.mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.log_density, theirs.log_density, rtol=1e-8, atol=1e-6)
        for name in ("entropy", "top_weight", "log_density"):
            torch.testing.assert_close(
                getattr(ours, name), getattr(exact, name), rtol=1e-5, atol=1e-5
            )
        assert torch.equal(ours.top_index, exact.top_index)  # the first of several copies


@pytest.mark.parametrize("ratio", [1e-3, 0.3, 1.0])
def test_excluding_one_copy_takes_its_share_alone(ratio):
    generator = torch.Generator().manual_seed(6)
    points = duplicated(2400, generator).float()
    weights = torch.rand(2400, generator=generator, dtype=torch.float64)
    weights[::50] = 0.0
    exact = EmpiricalScore(points, VE(), weights=weights)
    ours = EmpiricalScore(points, VE(), weights=weights, tolerance=1e-9)
    exclude = torch.arange(0, 2400, 100)
    exclude[0] = -1
    x = points[exclude.clamp_min(0)].double()
    x = x + ratio * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    t = exact.process.time_at_ratio(ratio)
    mine, theirs = (score.posterior(x, t, exclude=exclude) for score in (ours, exact))
    torch.testing.assert_close(mine.mean, theirs.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mine.entropy, theirs.entropy, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.log_density, theirs.log_density, rtol=1e-7, atol=1e-5)
    assert torch.equal(mine.top_index, theirs.top_index)
    assert (mine.top_index != exclude).all()


def test_excluding_the_only_near_point_finds_the_next():
    """A single point near the query is left out: the threshold must come from another."""
    generator = torch.Generator().manual_seed(7)
    points = isotropic(2200, generator).float()
    exact = EmpiricalScore(points, VE())
    ours, batch = EmpiricalScore(points, VE(), tolerance=1e-9), Batch()
    exclude = torch.arange(16)
    x = points[exclude].double()
    t = exact.process.time_at_ratio(0.1)
    with batch.follow(None):
        ours.posterior(x, t)  # remembers the points themselves as winners
        mine = ours.posterior(x, t, exclude=exclude)
    theirs = exact.posterior(x, t, exclude=exclude)
    torch.testing.assert_close(mine.mean, theirs.mean, rtol=1e-5, atol=1e-6)
    assert torch.equal(mine.top_index, theirs.top_index)


@pytest.mark.parametrize("kind", ["labels", "vectors"])
@pytest.mark.parametrize("shape", ["clusters", "duplicated"])
def test_conditions_are_respected(kind, shape):
    generator = torch.Generator().manual_seed(8)
    points = DATA[shape](2200, generator).float()
    if kind == "labels":
        conditions, width = torch.arange(2200) % 5, 0.0
    else:
        conditions, width = torch.rand(2200, 2, generator=generator), 0.15
    exact, ours = (
        EmpiricalScore(
            points, VE(), conditions=conditions, condition_bandwidth=width, tolerance=tolerance
        )
        for tolerance in (0.0, 1e-9)
    )
    for ratio in (1e-3, 0.2, 1.0):
        x = noised(points, ratio, 20, generator)
        t = exact.process.time_at_ratio(ratio)
        mine, theirs = (score.posterior(x, t, conditions[:20]) for score in (ours, exact))
        torch.testing.assert_close(mine.mean, theirs.mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mine.entropy, theirs.entropy, rtol=1e-5, atol=1e-5)
        assert torch.equal(mine.top_index, theirs.top_index)
        if kind == "labels":
            assert (conditions[mine.top_index] == conditions[:20]).all()


def test_no_point_left_is_refused():
    points = isotropic(2100, torch.Generator().manual_seed(9)).float()
    labels = torch.ones(2100, dtype=torch.int64)
    labels[3] = 0
    score = EmpiricalScore(points, VE(), conditions=labels, tolerance=1e-6)
    with pytest.raises(ValueError, match="no training point is left"):
        score.posterior(points[3:4], 0.1, torch.tensor([0]), exclude=torch.tensor([3]))


def work_of(points, ratio, tolerance, num=64, moving=2):
    generator = torch.Generator().manual_seed(1)
    engine, trajectory = PosteriorEngine(points), Trajectory()
    x = noised(points, ratio, num, generator)
    for _ in range(moving):
        engine(
            Queries.of(x, torch.ones(num), torch.full((num,), ratio)),
            tolerance=tolerance,
            trajectory=trajectory,
        )
    (work,) = trajectory.counts.levels()
    assert work.queries == num * moving
    assert work.collapsed + work.pruned + work.reduced + work.dense == work.queries
    return work


def test_where_all_points_matter_none_are_screened_for_long():
    """Counted work, not time: a screen in vain costs little once, and is not repeated."""
    points = isotropic(8000, torch.Generator().manual_seed(2)).float()
    work = work_of(points, 20.0, 1e-6, moving=6)
    assert work.dense == work.queries
    assert work.share < 1.1


def test_work_falls_where_few_points_matter():
    generator = torch.Generator().manual_seed(2)
    few = work_of(clusters(8000, generator).float(), 0.05, 1e-6)
    assert few.share < 0.35 and few.dense == 0
    low = work_of(manifold(8000, generator).float(), 3.0, 1e-4)
    assert low.reduced == low.queries


@pytest.mark.parametrize("limit", [2**16, 2**26])
def test_chunks_of_queries_do_not_matter(limit):
    """A small memory limit makes many chunks; members of the trajectory must follow."""
    generator = torch.Generator().manual_seed(4)
    points = clusters(2200, generator).float()
    exact = EmpiricalScore(points, EDM(), tolerance=0.0)
    ours = EmpiricalScore(points, EDM(), tolerance=1e-9, memory_limit=limit)
    batch, x = Batch(), noised(points, 1.0, 40, generator)
    for t in (1.0, 0.5, 0.1, 0.02):
        with batch.follow(None):
            mine = ours.posterior(x, t)
        theirs = exact.posterior(x, t)
        # Float32 products of other lengths and orders round differently, on both sides.
        error = (mine.mean - theirs.mean).norm(dim=1)
        assert (error <= mine.error_bound + theirs.error_bound).all()
        assert (error <= 1e-5 * (theirs.residual.norm(dim=1) + theirs.error_bound)).all()
        x = theirs.mean + 0.5 * (x - theirs.mean)


@pytest.mark.parametrize("bad", [-1e-3, 1.0, math.nan])
def test_tolerance_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match="tolerance must be a mass"):
        EmpiricalScore(torch.zeros(3, 2), VE(), tolerance=bad)
