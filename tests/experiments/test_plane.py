"""Drawings in the plane: what is drawn is where it should be."""

import numpy as np
import torch
from scipy.spatial.distance import cdist

from memdiff.experiments.plane import BASIN_COLORS, _neighbour_colors, draw_voronoi, frame
from memdiff.report.figures import new_figure


def test_voronoi_boundaries_are_equidistant_and_reach_the_edge():
    points = np.random.default_rng(0).normal(size=(12, 2))
    _, axes = new_figure()
    frame(axes, (-5, 5), (-5, 5))
    draw_voronoi(axes, torch.from_numpy(points))
    segments = axes.collections[0].get_segments()
    assert len(segments) > 12
    for segment in segments:
        # Stay near the points: on the far end of a ray cancellation hides the difference.
        inside = segment[0] + np.linspace(0, 1, 20001)[:, None] * (segment[1] - segment[0])
        inside = inside[np.abs(inside).max(axis=1) < 6]
        distance = np.sort(cdist(inside, points), axis=1)
        assert np.allclose(distance[:, 0], distance[:, 1], atol=1e-9)
    assert max(np.abs(segment).max() for segment in segments) > 100


def test_two_points_have_one_boundary():
    _, axes = new_figure()
    draw_voronoi(axes, torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    (segment,) = axes.collections[0].get_segments()
    assert np.allclose(segment[:, 0], 0.0, atol=1e-9)


def test_basins_that_touch_differ_in_colour():
    random = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(np.arange(60), np.arange(60)), axis=-1).reshape(-1, 2)
    index = cdist(grid, random.uniform(0, 60, size=(25, 2))).argmin(axis=1).reshape(60, 60)
    index[10:12, 10:12] = -1
    color = _neighbour_colors(index)
    assert color.max() < len(BASIN_COLORS)
    for one, other in ((index[1:], index[:-1]), (index[:, 1:], index[:, :-1])):
        border = (one != other) & (one >= 0) & (other >= 0)
        assert (color[one[border]] != color[other[border]]).all()
