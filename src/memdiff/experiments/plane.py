"""Drawings in the plane: training points, Voronoi cells, trajectories, basins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from memdiff.dynamics import BasinMap
from memdiff.report.figures import BLACK, BLUE, GREY, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "draw_basins",
    "draw_ends",
    "draw_numbers",
    "draw_paths",
    "draw_points",
    "draw_voronoi",
    "frame",
]

BASIN_COLORS = ("#A6CFE8", "#F6D58F", "#9ED9C3", "#EBB894", "#DDBBD0", "#F7F0A8", "#CCCCCC")
"""Light tints of the Okabe-Ito colours, as grounds for dark marks."""


def frame(axes: Axes, xlim: tuple[float, float], ylim: tuple[float, float]) -> None:
    """Set limits, equal scales and the names of the coordinates."""
    axes.set(xlim=xlim, ylim=ylim, xlabel="$x_1$", ylabel="$x_2$")
    axes.set_aspect("equal")


def draw_points(
    axes: Axes, points: Tensor, label: str = "training point", size: float = 5
) -> None:
    """Draw training points with shape ``(N, 2)`` as black discs."""
    x, y = points.double().cpu().numpy().T
    axes.plot(x, y, "o", color=BLACK, markersize=size, label=label, zorder=5)


def draw_numbers(axes: Axes, points: Tensor, numbers: Sequence[int]) -> None:
    """Number some of the points, each on the side away from the point nearest to it."""
    places = points.double().cpu().numpy()
    for number in numbers:
        away = places[number] - places
        distance = np.linalg.norm(away, axis=1)
        distance[number] = np.inf
        side = away[distance.argmin()] / distance.min()
        axes.annotate(
            str(number),
            places[number],
            xytext=10 * side,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "linewidth": 0, "alpha": 0.8},
            zorder=8,
        )


def draw_ends(axes: Axes, ends: Tensor, label: str = "end") -> None:
    """Draw ends of trajectories with shape ``(B, 2)`` as rings, so that points show through."""
    x, y = ends.double().cpu().numpy().T
    axes.plot(
        x,
        y,
        "o",
        markerfacecolor="none",
        color=VERMILION,
        markersize=8,
        markeredgewidth=1.2,
        label=label,
        zorder=6,
    )


def draw_paths(
    axes: Axes,
    trajectory: Tensor,
    *,
    colors: Sequence[str] = (BLUE,),
    start_label: str = "start",
    width: float = 0.9,
    alpha: float = 0.75,
) -> None:
    """Draw trajectories with shape ``(K + 1, B, 2)`` as lines, their starts as small open squares.

    Args:
        axes: Axes.
        trajectory: The trajectories.
        colors: Colours, used in turn.
        start_label: Entry of the starts in the legend; empty for none.
        width: Width of the lines.
        alpha: Opacity of the lines.
    """
    paths = trajectory.double().cpu().numpy()
    for index in range(paths.shape[1]):
        color = colors[index % len(colors)]
        axes.plot(*paths[:, index].T, color=color, linewidth=width, alpha=alpha, zorder=3)
        axes.plot(
            *paths[0, index],
            "s",
            color=color,
            markerfacecolor="white",
            markersize=3.5,
            markeredgewidth=0.8,
            label=start_label if index == 0 and start_label else None,
            zorder=4,
        )


def draw_voronoi(axes: Axes, points: Tensor, label: str = "Voronoi boundary") -> None:
    """Draw boundaries between the Voronoi cells of at least two points with shape ``(N, 2)``."""
    from matplotlib.collections import LineCollection
    from scipy.spatial import Voronoi

    cores = points.double().cpu().numpy()
    # Four far points close every cell of a true point, so its rays become long segments.
    centre, reach = cores.mean(axis=0), 1e3 * np.ptp(cores, axis=0).max()
    corners = centre + reach * np.array([[1.0, 0.3], [-0.3, 1.0], [-1.0, -0.3], [0.3, -1.0]])
    diagram = Voronoi(np.concatenate([cores, corners]))
    segments = [
        diagram.vertices[vertices]
        for pair, vertices in zip(diagram.ridge_points, diagram.ridge_vertices, strict=True)
        if max(pair) < len(cores) and min(vertices) >= 0
    ]
    axes.add_collection(
        LineCollection(
            segments, colors=GREY, linewidths=0.9, linestyles=(0, (4, 2)), label=label, zorder=2
        )
    )


def draw_basins(axes: Axes, basins: BasinMap) -> None:
    """Draw a map of basins; neighbours differ in colour, starts that reach no point are black."""
    from matplotlib.colors import ListedColormap

    index = basins.index.cpu().numpy()
    color = _neighbour_colors(index)
    image = np.where(index >= 0, color[index], len(BASIN_COLORS))
    x, y = basins.x.numpy(), basins.y.numpy()
    dx, dy = (x[-1] - x[0]) / (len(x) - 1) / 2, (y[-1] - y[0]) / (len(y) - 1) / 2
    axes.imshow(
        image,
        origin="lower",
        extent=(x[0] - dx, x[-1] + dx, y[0] - dy, y[-1] + dy),
        cmap=ListedColormap([*BASIN_COLORS, BLACK]),
        vmin=-0.5,
        vmax=len(BASIN_COLORS) + 0.5,
        interpolation="nearest",
        zorder=1,
    )
    axes.grid(False)


def _neighbour_colors(index: np.ndarray) -> np.ndarray:
    """A colour number for each basin, another one than those of the basins that it touches."""
    touching: dict[int, set[int]] = {int(basin): set() for basin in np.unique(index[index >= 0])}
    for one, other in ((index[1:], index[:-1]), (index[:, 1:], index[:, :-1])):
        border = (one != other) & (one >= 0) & (other >= 0)
        for a, b in {*zip(one[border].tolist(), other[border].tolist(), strict=True)}:
            touching[a].add(b)
            touching[b].add(a)
    color = np.zeros(max(touching, default=0) + 1, dtype=int)
    done: set[int] = set()
    for basin in sorted(touching, key=lambda key: (-len(touching[key]), key)):
        taken = {int(color[other]) for other in touching[basin] & done}
        free = [number for number in range(len(BASIN_COLORS)) if number not in taken]
        color[basin] = free[0] if free else basin % len(BASIN_COLORS)
        done.add(basin)
    return color
