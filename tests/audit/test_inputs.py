"""What counts as a duplicate, and what is taken out of the held-out data."""

import math

import pytest
import torch

from memdiff.audit.inputs import duplicate_distance, prepare


def curve(num, seed):
    """A closed curve in the plane: 0.7 % of fresh points lie within 1 % of the median distance."""
    angle = 2 * math.pi * torch.rand(num, generator=torch.Generator().manual_seed(seed))
    return torch.stack([angle.cos(), angle.sin()], 1)


def gaussian(num, dimension, seed):
    return torch.randn(num, dimension, generator=torch.Generator().manual_seed(seed))


def test_chance_pairs_on_a_curve_are_no_duplicates():
    removed, grouped = 0, 0
    for seed in range(10):
        train, heldout = curve(1000, seed), curve(1000, 100 + seed)
        inputs = prepare(train, train, heldout, 0.01)
        removed += len(inputs.overlap)
        grouped += inputs.duplicates.num_redundant
    assert removed <= 4  # 0.05 expected a time; without the correction about 7 a time
    assert grouped <= 4


def test_duplicates_on_a_curve_are_found_all_the_same():
    train = curve(500, 0)
    assert (
        prepare(train, torch.cat([train, train[:30]]), None, 0.01).duplicates.num_redundant == 30
    )
    inputs = prepare(train, train, torch.cat([curve(400, 1), train[:7]]), 0.01)
    assert inputs.overlap == tuple(range(400, 407))


@pytest.mark.parametrize("dimension", [4, 32])
def test_the_tolerance_is_a_share_of_the_median_where_chance_does_not_reach(dimension):
    points = gaussian(400, dimension, 0)
    near = torch.cdist(points.double(), points.double()).fill_diagonal_(math.inf).amin(1)
    expected = 0.01 * float(near.median())
    assert duplicate_distance(points, 0.01, 400) == pytest.approx(expected, rel=1e-6)
    assert duplicate_distance(points, 0.0, 400) == 0.0


def test_the_tolerance_of_uniform_points_on_a_line():
    # d_1 is exponential with rate 2 N, so P(d_1 <= t) is 2 N t and the median ln 2 / (2 N).
    points = torch.rand(4000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = 0.05 / 4000 / (2 * 4000)
    assert duplicate_distance(points, 0.01, 4000) == pytest.approx(wanted, rel=0.4)


def test_near_duplicates_do_not_narrow_the_tolerance():
    points = gaussian(400, 8, 0)
    both = torch.cat([points, points[:80] + 1e-4 * gaussian(80, 8, 1)])
    assert duplicate_distance(both, 0.01, 480) >= 0.5 * duplicate_distance(points, 0.01, 480)
    inputs = prepare(points, both, None, 0.01)
    assert inputs.duplicates.num_redundant == 80


def test_lattices_and_two_points():
    grid = torch.cartesian_prod(torch.arange(10.0), torch.arange(10.0))
    assert duplicate_distance(grid, 0.01, 100) == pytest.approx(0.01)
    assert duplicate_distance(grid[:2], 0.01, 2) == pytest.approx(0.01)
    # One neighbour a hair nearer than the next: an enormous estimated dimension.
    warped = grid + 1e-9 * gaussian(100, 2, 0).double()
    assert duplicate_distance(warped, 0.01, 100) == pytest.approx(0.01, rel=1e-4)


def test_near_overlap_of_images_is_removed():
    images = gaussian(200, 64, 0).view(200, 1, 8, 8).clamp(-1, 1)
    heldout = gaussian(100, 64, 1).view(100, 1, 8, 8).clamp(-1, 1)
    heldout[:5] = (images[:5] + 1e-3 * gaussian(5, 64, 2).view(5, 1, 8, 8)).clamp(-1, 1)
    inputs = prepare(images, images, heldout, 0.01)
    assert inputs.overlap == (0, 1, 2, 3, 4)
    assert len(inputs.heldout) == 95
    assert any("5 points" in note for note in inputs.heldout.notes)
