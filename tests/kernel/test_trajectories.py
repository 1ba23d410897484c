"""Trajectories: what is remembered never decides an answer that it does not certify."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memdiff.kernel import Batch, PosteriorEngine, Queries, Trajectory
from memdiff.kernel.trajectories import followed, unfollowed
from memdiff.processes import EDM, VE, VP
from memdiff.samplers import DDIM, RK45, EulerMaruyama, Heun, LogTime, sample
from memdiff.scores import EmpiricalScore, Tikhonov

DIM = 64


def clusters(num, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = 3.0 * torch.randn(12, DIM, generator=generator, dtype=torch.float64)
    label = torch.randint(12, (num,), generator=generator)
    noise = torch.randn(num, DIM, generator=generator, dtype=torch.float64)
    return (centres[label] + 0.2 * noise).float()


POINTS = clusters(2500)


@pytest.mark.parametrize(
    ("process", "sampler"),
    [
        (EDM(), Heun(18)),
        (VE(), DDIM(30)),
        (VP(), RK45(1e-3, 1e-3)),
        (VE(), LogTime(1e-3, 1e-3)),
        (EDM(), EulerMaruyama(25)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_samples_are_those_of_the_exact_score(process, sampler):
    """Catches locks on the wrong point, members mixed up when a sampler drops finished ones."""
    exact = sample(EmpiricalScore(POINTS, process, tolerance=0.0), num=16, sampler=sampler)
    ours = sample(EmpiricalScore(POINTS, process), num=16, sampler=sampler)
    assert not exact.stats.levels
    # Sensitivity of the flow multiplies what is left out on the way.
    torch.testing.assert_close(ours.x, exact.x, rtol=0, atol=2e-3)
    levels = ours.stats.levels
    assert sum(level.queries for level in levels) == ours.stats.score_evaluations
    if not sampler.stochastic and not isinstance(sampler, RK45):  # whose steps are at large noise
        assert sum(level.collapsed for level in levels) > 0.2 * ours.stats.score_evaluations
    if isinstance(sampler, RK45):  # it tries steps to the least noise, and comes back from there
        few = [level for level in levels if 0.02 < level.ratio < 0.3]
        assert sum(level.collapsed + level.pruned for level in few) > 0.5 * sum(
            level.queries for level in few
        )
    ratios = [level.ratio for level in levels]
    assert ratios == sorted(ratios, reverse=True)


def test_batches_and_wrappers_share_nothing():
    score = Tikhonov(EmpiricalScore(POINTS, EDM()), 1e-4)
    whole = sample(score, num=12, sampler=Heun(12))
    parts = sample(score, num=12, sampler=Heun(12), batch_size=5)
    torch.testing.assert_close(parts.x, whole.x, rtol=0, atol=1e-4)
    assert whole.stats.levels and followed(score) is None
    assert score.score.tolerance is None and score.score.truncation() == (0.0, None)
    batch, other = Batch(), Batch()
    with batch.follow(None):
        kept = followed(score)
        with other.follow(None):
            assert followed(score) is not kept
        with unfollowed():
            assert followed(score) is None
        assert followed(score) is kept and followed(whole) is not kept


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    jumps=st.lists(
        st.tuples(st.sampled_from(["toward", "away", "elsewhere", "scaled"]), st.floats(-3, 0.7)),
        min_size=2,
        max_size=6,
    ),
)
def test_any_caller_gets_bounded_answers(seed, jumps):
    """Queries that do not move like a sampler's, scales and noise that go up and down."""
    generator = torch.Generator().manual_seed(seed)
    engine, trajectory = PosteriorEngine(POINTS), Trajectory()
    index = torch.randint(len(POINTS), (8,), generator=generator)
    x = POINTS[index].double() + torch.randn(8, DIM, generator=generator, dtype=torch.float64)
    scale = torch.ones(8, dtype=torch.float64)
    points = POINTS.double()
    for kind, power in jumps:
        sigma = torch.full((8,), 10.0**power, dtype=torch.float64)
        ours = engine(Queries.of(x, scale, sigma), tolerance=1e-6, trajectory=trajectory)
        square = torch.cdist(x, scale[:, None, None] * points).double()
        square = ((x[:, None] - scale[:, None, None] * points) ** 2).sum(2)
        weights = (-square / (2 * sigma[:, None] ** 2)).softmax(1)
        residual = scale[:, None] * (weights @ points) - x
        mine = ours.residual_sum / ours.total[:, None]
        top = (1.0 / ours.total).clamp_max(1.0)
        spread = 2 * engine.radius * scale * (1 - top) * (2 * ours.logit_error).expm1()
        error = (mine - residual).norm(dim=1)
        assert (error <= spread + ours.sum_error + 1e-12 * x.norm(dim=1)).all(), kind
        if kind == "toward":
            x = x + 0.7 * mine
        elif kind == "away":
            x = x - 0.5 * mine
        elif kind == "elsewhere":
            x = scale[:, None] * points[torch.randint(len(points), (8,), generator=generator)]
        else:
            factor = torch.rand(8, generator=generator, dtype=torch.float64) + 0.5
            x, scale = factor[:, None] * x, factor * scale


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "reversed"])
def test_members_at_different_noise_keep_their_products(order):
    """Some are given up at once and others after a screen: what is kept must stay with its own."""
    generator = torch.Generator().manual_seed(4)
    engine, trajectory = PosteriorEngine(POINTS), Trajectory()
    x = 20.0 * torch.randn(8, DIM, generator=generator, dtype=torch.float64)
    one, level = torch.ones(8).double(), torch.full((8,), 20.0).double()
    less = torch.where(torch.arange(8) % 2 == 0, 20.0, 12.0).double()
    rows = torch.arange(8) if order > 0 else torch.arange(7, -1, -1)
    engine(Queries.of(x, one, level), tolerance=1e-6, trajectory=trajectory)
    trajectory.rows = rows
    for sigma in (less, less, 0.9 * less, 0.5 * less):
        x = x + 0.1 * (POINTS[:8].double() - x)
        found = engine(
            Queries.of(x[rows], one, sigma[rows]), tolerance=1e-6, trajectory=trajectory
        )
        exact = engine(Queries.of(x[rows], one, sigma[rows]))
        mean = found.residual_sum / found.total[:, None]
        truth = exact.residual_sum / exact.total[:, None]
        torch.testing.assert_close(mean, truth, rtol=0, atol=1e-3)
    levels = trajectory.counts.levels()
    assert sum(level.recycled for level in levels) > 0


def test_collapsed_answers_cost_a_point_each():
    engine, one = PosteriorEngine(POINTS), torch.ones(6)
    how = {"tolerance": 1e-6, "trajectory": Trajectory()}
    x = POINTS[:6].double() + 0.05
    engine(Queries.of(x, one, torch.full((6,), 0.05)), **how)
    closer = x + 0.01 * (POINTS[:6] - x)
    ours = engine(Queries.of(closer, one, torch.full((6,), 0.045)), **how)
    assert sum(level.collapsed for level in how["trajectory"].counts.levels()) == 6
    assert torch.equal(ours.top_index, torch.arange(6))


def test_another_batch_is_not_taken_for_the_first():
    engine, trajectory = PosteriorEngine(POINTS), Trajectory()
    for num in (6, 9):
        x = POINTS[100 : 100 + num].double()
        part = engine(
            Queries.of(x, torch.ones(num), torch.full((num,), 0.05)),
            tolerance=1e-6,
            trajectory=trajectory,
        )
        assert torch.equal(part.top_index, torch.arange(100, 100 + num))


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_reduced_precision_of_products_leaves_nothing_out_wrongly(precision):
    """Bounds grow with the roundoff, and are infinite in the end; no answer follows from them."""
    generator = torch.Generator().manual_seed(6)
    points = torch.randn(2500, 600, generator=generator)
    engine, trajectory, one = PosteriorEngine(points), Trajectory(), torch.ones(6)
    x = points[:6].double() + 0.3
    exact = PosteriorEngine(points.double())
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        for sigma in (3.0, 1.0, 0.3, 0.1):
            queries = Queries.of(x, one, torch.full((6,), sigma))
            ours = engine(queries, tolerance=1e-6, trajectory=trajectory)
            theirs = exact(queries)
            assert torch.equal(ours.top_index, theirs.top_index)
            assert ((ours.total / theirs.total).log().abs() <= 1e-3).all()
    finally:
        torch.set_float32_matmul_precision(before)
