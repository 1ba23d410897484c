"""Dynamics of memorisation: structured points, planted events, the rate of convergence."""

import math

import pytest
import torch

from memdiff.data import load
from memdiff.dynamics import (
    basin_map,
    commitment,
    convergence_rate,
    level_times,
    limit_points,
    voronoi_cells,
    weights_along,
)
from memdiff.processes import EDM, VE, VP
from memdiff.samplers import EulerMaruyama, LogTime, sample
from memdiff.scores import EmpiricalScore, Score

TWO = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
FOUR = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
PROCESSES = [VE(), VP()]


def ends(data, process, starts):
    """Limits of the flow from the given x(T)."""
    latents = starts / process.std(process.t_max)
    return sample(EmpiricalScore(data, process), latents, sampler=LogTime(rtol=1e-8, atol=1e-10)).x


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_two_points_preserve_the_sign_and_the_axis_ends_in_the_middle(process):
    starts = normal(40, 2)
    starts[30:, 0] = 0.0
    reached = ends(TWO, process, starts)
    limits = limit_points(reached, TWO, 1e-6)
    assert limits.is_data[:30].all()
    assert torch.equal(limits.index[:30], (starts[:30, 0] > 0).long())
    assert limits.is_boundary[30:].all() and not limits.is_data[30:].any()
    assert set(limits.ties[30:]) == {(0, 1)} and set(limits.ties[:30]) == {()}
    assert reached[30:].abs().max() < 1e-7


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_four_points_send_the_rest_to_the_data(process):
    others = normal(60, 2, seed=1)
    limits = limit_points(ends(FOUR, process, others), FOUR, 1e-6)
    assert limits.is_data.all() and not limits.is_boundary.any()
    # By symmetry the basin is the sector of the start.
    assert torch.equal(limits.index, voronoi_cells(others[None], FOUR)[0])


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_four_points_send_diagonals_to_the_midpoints(process):
    """In the frame turned by 45 degrees, and scaled by sqrt(2), diagonals are axes.

    That, with mirror images next to each other, makes the symmetry exact in floats. Without it the
    boundary cannot be followed to the end: an offset grows by exp(1 / (4 ratio^2)), and from one
    rounding it is of order 1 at a ratio of 0.08. So along a diagonal itself only the way to there
    is followed.
    """
    turned = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]).double()
    axis = torch.tensor([[0.0, 1.0], [0.0, -1.0]]).double()
    reached = ends(turned, process, torch.cat([0.3 * axis, 0.9 * axis, 1.7 * axis]))
    torch.testing.assert_close(reached, axis.repeat(3, 1), rtol=0, atol=1e-6)
    limits = limit_points(reached, turned, 1e-6)
    assert limits.is_boundary.all()
    assert limits.ties == ((0, 1), (2, 3)) * 3
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).double()
    t_end = float(process.time_at_ratio(0.15))
    score = EmpiricalScore(FOUR, process)
    latents = torch.cat([0.3 * signs, 1.7 * signs]) / process.std(process.t_max)
    x = sample(score, latents, sampler=LogTime(), t_end=t_end).x
    midpoints = 0.5 * torch.cat([signs, signs])
    torch.testing.assert_close(score.denoise(x, t_end), midpoints, rtol=0, atol=1e-5)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_convergence_to_the_data_has_rate_one(process):
    data = load("points20").x.double()
    score = EmpiricalScore(data, process)
    path = sample(
        score,
        normal(30, 2, seed=2),
        sampler=LogTime(rtol=1e-9, atol=1e-12),
        t_end=float(process.time_at_ratio(1e-7)),
        trajectory=True,
    )
    limits = limit_points(path.x, data, 1e-5)
    assert limits.is_data.all()
    rate = convergence_rate(path.times, path.trajectory, data[limits.index], process)
    assert (rate.slope - 1.0).abs().max() < 0.02
    assert rate.window[1] / rate.window[0] == pytest.approx(100.0)
    last = torch.linalg.vector_norm(path.trajectory[-1] - data[limits.index], dim=1)
    predicted = rate.constant * process.std(path.times[-1]) ** rate.slope
    torch.testing.assert_close(predicted, last, rtol=1e-2, atol=0)
    # Cells of the scaled points are the argmax of the weights, and end at the limit.
    cells = voronoi_cells(path.trajectory, data, process.scale(path.times))
    weights = weights_along(score, path.times, path.trajectory)
    assert torch.equal(cells, weights.argmax(dim=2))
    assert torch.equal(cells[-1], limits.index)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(weights.shape[:2]).double())
    # Both tell of the same event: past the last change one weight comes to dominate.
    committed = commitment(path.times, cells, process)
    half, most = (level_times(path.times, weights, level, process) for level in (0.5, 0.99))
    assert (most.ratio < half.ratio).all()
    grid = float(process.ratio(path.times[0]) / process.ratio(path.times[1]))
    assert (half.ratio <= committed.ratio * grid).all()


def test_fitted_rate_recovers_a_planted_law():
    process = EDM()
    times = torch.logspace(1, -6, 200, dtype=torch.float64)
    slopes = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    limit = torch.tensor([[1.0, 2.0], [0.0, 0.0], [-3.0, 0.5]], dtype=torch.float64)
    direction = torch.tensor([0.6, 0.8], dtype=torch.float64)
    distance = 3.0 * times[:, None] ** slopes
    trajectory = limit + distance[:, :, None] * direction
    rate = convergence_rate(times, trajectory, limit, process, window=(1e-3, 1e-1))
    torch.testing.assert_close(rate.slope, slopes, rtol=1e-7, atol=0)
    torch.testing.assert_close(rate.constant, torch.full((3,), 3.0).double(), rtol=1e-6, atol=0)
    inside = ((times >= 1e-3) & (times <= 1e-1)).sum()
    assert (rate.points == inside).all() and rate.standard_error.max() < 1e-7
    # Distances near the rounding of the limit are left out, and too few of them give NaN.
    late = convergence_rate(times, trajectory, limit, process, window=(1e-6, 1e-4))
    floor = 1e4 * torch.finfo(torch.float64).eps * limit[2].norm()
    kept = ((times >= 1e-6 * (1 - 1e-9)) & (times <= 1e-4)) & (distance[:, 2] > floor)
    assert late.points[2] == kept.sum() < late.points[1]
    rounded = convergence_rate(times, trajectory.round(decimals=4), limit, process, (1e-6, 1e-4))
    assert rounded.points[2] == 0 and math.isnan(rounded.slope[2])


def test_standard_error_of_the_rate_is_that_of_least_squares():
    from scipy.stats import linregress

    times = torch.logspace(0, -2, 50, dtype=torch.float64)
    noise = 0.1 * normal(50, seed=3)
    distance = (times.log() + noise).exp()
    rate = convergence_rate(
        times, distance[:, None, None], torch.zeros(1, 1).double(), EDM(), (1e-2, 1.0)
    )
    expected = linregress(times.log().numpy(), distance.log().numpy())
    assert float(rate.slope) == pytest.approx(expected.slope, rel=1e-10)
    assert float(rate.standard_error) == pytest.approx(expected.stderr, rel=1e-10)
    assert float(rate.constant) == pytest.approx(math.exp(expected.intercept), rel=1e-10)


def test_commitment_is_the_last_change():
    times = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    cells = torch.tensor([[0, 7, 1, 2], [0, 7, 1, 2], [1, 7, 1, 2], [0, 7, 1, 2], [0, 7, 1, 3]])
    result = commitment(times, cells, EDM())
    assert result.time.tolist() == [2.0, 5.0, 5.0, 1.0]
    assert result.changes.tolist() == [2, 0, 0, 1]
    assert result.index.tolist() == [0, 7, 1, 3]
    times = times.double() / 5.0
    assert torch.equal(commitment(times, cells, VP()).ratio, VP().ratio(times[[3, 0, 0, 4]]))


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_level_times_match_the_closed_form(process):
    """x = m c among two points: w = 1 / (1 + exp(-2 c / u)), so u = 2 c / log(w / (1 - w))."""
    ratios = torch.logspace(math.log10(1.8), -3, 2000, dtype=torch.float64)
    times = process.time_at_ratio(ratios)
    c = torch.tensor([0.1, 0.01, 0.0, -0.05], dtype=torch.float64)
    points = torch.stack([c, torch.zeros(4).double()], dim=1)
    trajectory = process.scale(times)[:, None, None] * points
    weights = weights_along(EmpiricalScore(TWO, process), times, trajectory)
    for level in (0.6, 0.99):
        result = level_times(times, weights, level, process)
        expected = (2 * c.abs() / math.log(level / (1 - level))).sqrt()
        assert math.isnan(result.ratio[2]) and math.isnan(result.time[2])
        for i in (0, 1, 3):
            assert float(result.ratio[i]) == pytest.approx(float(expected[i]), rel=1e-5)
            at = float(process.time_at_ratio(expected[i]))
            assert float(result.time[i]) == pytest.approx(at, rel=2e-5)
        from_largest = level_times(times, weights.amax(2), level, process)
        assert torch.equal(from_largest.ratio[:2], result.ratio[:2])


def test_level_is_passed_for_good_only():
    times = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.0])
    top = torch.tensor(
        [[0.6, 0.9, 0.1], [0.9, 0.9, 0.1], [0.4, 0.9, 0.1], [0.6, 0.9, 0.1], [1.0, 1.0, 1.0]]
    )
    result = level_times(times, top, 0.5, EDM())
    # First again above between 1 and 0.5, halfway in the logarithm; then from the start; then in
    # the interval that ends at sigma = 0: 4/9 of the way from 0.5 to 0.
    assert result.ratio.tolist() == pytest.approx([math.sqrt(0.5), 4.0, 0.5 * 5 / 9], rel=1e-6)
    torch.testing.assert_close(result.time, result.ratio)


def test_voronoi_cells_follow_the_scaled_points():
    process = VP()
    data = normal(6, 3, seed=4)
    times = torch.linspace(1.0, 0.1, 5, dtype=torch.float64)
    trajectory = normal(5, 7, 3, seed=5)
    scaled = process.scale(times)[:, None, None] * data
    expected = torch.stack([torch.cdist(trajectory[k], scaled[k]).argmin(1) for k in range(5)])
    assert torch.equal(voronoi_cells(trajectory, data, process.scale(times)), expected)
    unscaled = torch.stack([torch.cdist(x, data).argmin(1) for x in trajectory])
    assert not torch.equal(unscaled, expected)
    assert torch.equal(voronoi_cells(trajectory, data), unscaled)
    images = voronoi_cells(trajectory.reshape(5, 7, 1, 3), data.reshape(6, 1, 3))
    assert torch.equal(images, unscaled)


def test_limit_points_ignore_duplicates():
    data = torch.tensor([[0.0, 0.0], [0.0, 0.0], [4.0, 0.0]], dtype=torch.float64)
    ends = torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, 1e-9], [9.0, 9.0]]).double()
    limits = limit_points(ends, data, 1e-6)
    assert limits.is_data.tolist() == [False, False, True, False]
    assert limits.is_boundary.tolist() == [False, True, False, False]
    assert limits.ties == ((), (0, 1, 2), (), ())
    torch.testing.assert_close(limits.distance[0], torch.tensor(1.0).double())
    alone = limit_points(ends, data[:1], 1e-6)
    assert not alone.is_boundary.any()


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_basin_map_of_four_points_is_their_sectors(process):
    score = EmpiricalScore(FOUR, process)
    result = basin_map(score, (-2.0, 2.0), (-1.0, 1.0), (8, 6))
    assert result.index.shape == (6, 8) and result.ends.shape == (6, 8, 2)
    assert torch.equal(result.x, torch.linspace(-1.75, 1.75, 8).double())
    x, y = result.x.expand(6, 8), result.y[:, None].expand(6, 8)
    sector = torch.where(x.abs() > y.abs(), (x < 0).long(), 2 + (y < 0).long())
    off = x.abs() != y.abs()
    assert torch.equal(result.index[off], sector[off])
    same = basin_map(score, (-2.0, 2.0), (-1.0, 1.0), (8, 6), batch_size=7)
    assert torch.equal(same.index[off], result.index[off])


def test_basin_map_marks_the_boundary():
    result = basin_map(EmpiricalScore(TWO, VE()), (-1.5, 1.5), (-1.0, 1.0), (3, 4))
    assert result.index.tolist() == [[0, -1, 1]] * 4
    assert result.is_boundary.tolist() == [[False, True, False]] * 4


def test_basin_map_of_any_score_takes_the_data():
    empirical = EmpiricalScore(TWO, VE())

    class Halfway(Score):
        """Tikhonov-like: it stops short of the data."""

        def forward(self, x, t, y=None):
            return self.score_from_residual(x, t, y)

        def residual(self, x, t, y=None):
            return 0.5 * empirical.residual(x, t, y)

    score = Halfway(VE())
    result = basin_map(
        score, (-1.0, 1.0), (-1.0, 1.0), 2, data=TWO, t_end=float(VE().time_at_ratio(1e-2))
    )
    assert (result.index == -1).all() and not result.is_boundary.any()
    with pytest.raises(ValueError, match="data must be given"):
        basin_map(score, (-1.0, 1.0), (-1.0, 1.0), 2)


def test_bad_input_is_named():
    process, times = VE(), torch.tensor([1.0, 0.5, 0.1])
    trajectory = torch.zeros(3, 2, 2)
    score = EmpiricalScore(TWO, process)
    cells = torch.zeros(3, 2, dtype=torch.int64)
    limit = torch.zeros(2, 2)
    cases = [
        (lambda: voronoi_cells(trajectory, torch.zeros(4, 3)), "trajectory must have shape"),
        (lambda: voronoi_cells(trajectory, TWO, torch.ones(2)), "scale must be positive"),
        (lambda: voronoi_cells(trajectory, TWO, torch.zeros(3)), "scale must be positive"),
        (lambda: weights_along(score, times[:2], trajectory), "times must have shape"),
        (lambda: commitment(times.flip(0), cells, process), "times must decrease"),
        (lambda: level_times(times, torch.ones(3, 2), 1.0, process), "level must lie"),
        (lambda: convergence_rate(times, trajectory, limit[:1], process), "limit must have shape"),
        (
            lambda: convergence_rate(times, trajectory, limit, process, (1e-9, 1e-8)),
            "window must hold at least 3",
        ),
        (lambda: limit_points(limit, TWO, 0.0), "tolerance must be positive"),
        (lambda: basin_map(score, (1.0, 1.0), (0.0, 1.0), 2), "xlim must be"),
        (lambda: basin_map(score, (0.0, 1.0), (0.0, math.inf), 2), "ylim must be"),
        (lambda: basin_map(score, (0.0, 1.0), (0.0, 1.0), 0), "resolution must be"),
        (
            lambda: basin_map(score, (0.0, 1.0), (0.0, 1.0), 2, EulerMaruyama(steps=3)),
            "sampler must be deterministic",
        ),
        (
            lambda: basin_map(score, (0.0, 1.0), (0.0, 1.0), 2, data=torch.zeros(3, 3)),
            r"data must have shape \(N, 2\)",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
