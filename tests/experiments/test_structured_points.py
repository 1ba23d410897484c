"""Two and four points: limits by symmetry, and symmetry that is broken on purpose."""

import math

import pytest
import torch

from memdiff.experiments.experiment import Context
from memdiff.experiments.runner import load
from memdiff.experiments.square_flow import (
    BoundaryStarts,
    Flow,
    boundary_starts,
    flow,
    square_starts,
    started_at,
)
from memdiff.experiments.structured_points import FOUR_POINTS, TWO_POINTS
from memdiff.scores import EmpiricalScore


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    context = Context("quick", 0, tmp_path_factory.mktemp("structured-points"))
    return load("structured-points").run(context)


def test_limits_are_those_of_symmetry(outcome):
    measured = outcome.measured
    assert outcome.within is True
    for name in ("two_points_sign_kept", "two_points_to_nearest", "four_points_to_nearest"):
        assert measured[name] == 1.0
    assert measured["two_points_axis_error"] < 1e-9
    assert measured["four_points_diagonal_error"] < 1e-9
    assert measured["four_points_map_to_nearest"] == 1.0


def test_basins_without_symmetry_are_not_the_voronoi_cells(outcome):
    assert 0.5 < outcome.measured["points20_map_to_nearest"] < 0.95


def test_starts_are_exactly_symmetric():
    starts = square_starts()
    assert starts.shape == (80, 2)
    assert bool((starts.abs().amax(dim=1) == 2.1).all())
    rows = {tuple(row) for row in starts.tolist()}
    assert len(rows) == 80
    assert all((-a, b) in rows and (a, -b) in rows and (b, a) in rows for a, b in rows)
    assert (0.0, 2.1) in rows and (2.1, 2.1) in rows


def test_the_process_starts_at_the_given_noise():
    process = started_at(1.0)
    assert float(process.std(process.t_max)) == pytest.approx(1.0, rel=1e-14)


def test_unequal_weights_move_the_limit_off_the_origin():
    """Planted defect: a prior that breaks the symmetry of the two points."""
    starts = torch.tensor([[0.0, 2.1], [0.0, -2.1]], dtype=torch.float64)
    everyone = torch.ones(2, dtype=torch.bool)
    errors = []
    for weights in (torch.tensor([0.5, 0.5]), torch.tensor([0.501, 0.499])):
        score = EmpiricalScore(TWO_POINTS, started_at(1.0), weights=weights.double())
        result = flow(score, TWO_POINTS, starts)
        found = boundary_starts(result, everyone, torch.zeros(2), result.x[..., 0].abs(), 2.0)
        errors.append(found.error)
        assert found.as_predicted is (found.error <= 1e-6)
    assert errors[0] <= 1e-9 and errors[1] > 1e-3


def test_an_offset_grows_as_the_linearised_flow_says():
    """Start 1e-9 off the diagonal of four points: the offset grows by exp(L^2/8 (1/s^2 - 1)) s."""
    starts = torch.tensor([[2.1 + 1e-9, 2.1]], dtype=torch.float64)
    result = flow(EmpiricalScore(FOUR_POINTS, started_at(1.0)), FOUR_POINTS, starts)
    offset = (result.x[:, 0, 0] - result.x[:, 0, 1]).abs()
    row = int((result.sigma / 0.2).log().abs().argmin())
    sigma = float(result.sigma[row])
    growth = sigma * math.exp(0.25 * (1.0 / sigma**2 - 1.0))
    # The far points still weigh at sigma = 1, where the growth is slower: an upper bound.
    measured = float(offset[row] / offset[0])
    assert 0.05 * growth < measured < growth
    assert bool(result.limits.is_data.all())


def test_a_departure_before_rounding_explains_it_is_not_as_predicted():
    sigma = torch.tensor([1.0, 0.5, 0.2, 0.05, 0.01])
    offsets = torch.tensor(
        [[0.0, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.2, 0.0], [0.0, 0.3, 0.1], [0.0, 0.4, 0.4]]
    )
    result = Flow(torch.zeros(3, 2), sigma, torch.zeros(5, 3, 2), torch.zeros(3, 2), None)

    def examine(columns: list[int]) -> BoundaryStarts:
        chosen = torch.zeros(3, dtype=torch.bool)
        chosen[columns] = True
        return boundary_starts(result, chosen, torch.zeros(2), offsets, math.sqrt(2))

    assert examine([0, 2]).departures == pytest.approx([0.05])
    assert examine([0, 2]).kept == 1
    assert examine([0, 2]).as_predicted
    assert not examine([0, 1]).as_predicted
