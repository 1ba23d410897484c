r"""Limits of trajectories for two and four points, known from their symmetry.

The flow :math:`dx/d\tau = -(x - D)` of the variance exploding process is started on the boundary
of a square at :math:`\sigma = 1`. For the points :math:`(\pm 1, 0)` the sign of :math:`x_1` is
preserved, so a start on :math:`x_1 = 0` ends at the origin; with :math:`(0, \pm 1)` besides, a
start on a diagonal ends at :math:`(\pm 1/2, \pm 1/2)`. Every other start ends at the training
point nearest to it.

In floating point the limits on boundaries are unstable; see
:mod:`memdiff.experiments.square_flow` for how they are measured all the same.

References:
    Baptista et al., arXiv:2501.15785 (limits on Voronoi boundaries).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from memdiff.data.builtin import points20
from memdiff.dynamics import BasinMap, basin_map
from memdiff.experiments.experiment import Context, Experiment, Figure, Outcome, Table
from memdiff.experiments.plane import (
    draw_basins,
    draw_ends,
    draw_paths,
    draw_points,
    draw_voronoi,
    frame,
)
from memdiff.experiments.square_flow import (
    OFFSET,
    ON_BOUNDARY,
    TOLERANCE,
    BoundaryStarts,
    Flow,
    boundary_starts,
    flow,
    square_starts,
    started_at,
)
from memdiff.neighbors import nearest
from memdiff.report.figures import BLUE, VERMILION, legend, new_figure, new_panels
from memdiff.scores import EmpiricalScore, Score

__all__ = ["EXPERIMENTS", "FOUR_POINTS", "TWO_POINTS", "run"]

TWO_POINTS = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
FOUR_POINTS = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]], dtype=torch.float64)


def run(context: Context, two: Score, four: Score) -> Outcome:
    """Follow both flows from the square, and map the basins of four and of 20 points.

    Args:
        context: Preset and progress; presets differ in the resolution of the maps.
        two: A score of :data:`TWO_POINTS`, up to sigma = 1.
        four: A score of :data:`FOUR_POINTS`, up to sigma = 1.

    Returns:
        The outcome.
    """
    starts = square_starts()
    context.progress("two points", 0.0)
    pair = flow(two, TWO_POINTS, starts)
    context.progress("four points", 0.2)
    cross = flow(four, FOUR_POINTS, starts)

    on_axis = starts[:, 0] == 0
    signs = pair.x[:, ~on_axis, 0].sign() == starts[~on_axis, 0].sign()
    axis = boundary_starts(pair, on_axis, torch.zeros(2), pair.x[:, :, 0].abs(), 2.0)
    on_diagonal = starts[:, 0].abs() == starts[:, 1].abs()
    middles = 0.5 * starts[on_diagonal].sign()
    apart = (cross.x[:, :, 0].abs() - cross.x[:, :, 1].abs()).abs() / math.sqrt(2.0)
    diagonal = boundary_starts(cross, on_diagonal, middles, apart, math.sqrt(2.0))

    context.progress("maps of basins", 0.4)
    resolution = context.pick(quick=100, paper=250)
    four_map = _basins(FOUR_POINTS, resolution, 2.1)
    many_map = _basins(points20().x, resolution, 3.0)

    shares = {
        "two_points_sign_kept": float(signs.all(dim=0).double().mean()),
        "two_points_to_nearest": _share_to_nearest(pair, TWO_POINTS, ~on_axis),
        "four_points_to_nearest": _share_to_nearest(cross, FOUR_POINTS, ~on_diagonal),
        "four_points_map_to_nearest": _map_to_nearest(four_map, FOUR_POINTS),
    }
    errors = {
        "two_points_axis_error": axis.error,
        "four_points_diagonal_error": diagonal.error,
    }
    measured = {
        **shares,
        **errors,
        "two_points_axis_kept": axis.kept,
        "four_points_diagonals_kept": diagonal.kept,
        "departure_sigma": [*axis.departures, *diagonal.departures],
        "departure_sigma_bounds": [axis.bound, diagonal.bound],
        "points20_map_to_nearest": _map_to_nearest(many_map, points20().x),
    }
    within = all(share == 1.0 for share in shares.values()) and (
        axis.as_predicted and diagonal.as_predicted
    )
    return Outcome(
        measured=measured,
        published={**dict.fromkeys(shares, 1.0), **dict.fromkeys(errors, 0.0)},
        within=within,
        tolerance=(
            f"Every start off a boundary ends within {TOLERANCE:g} of the training point nearest "
            "to it, with the sign of x₁ kept; on a boundary the posterior mean at σ = "
            f"{ON_BOUNDARY:g} is within {TOLERANCE:g} of the limit, and none leaves before one "
            f"rounding can have grown to {OFFSET:g} (σ = {axis.bound:.3f} and "
            f"{diagonal.bound:.3f})."
        ),
        finding=(
            f"Two points: {shares['two_points_sign_kept']:.0%} of the starts with x₁ ≠ 0 keep its "
            f"sign and {shares['two_points_to_nearest']:.0%} end at the nearest point; those with "
            f"x₁ = 0 head for the origin to {axis.error:.1g}. Four points: off the diagonals "
            f"{shares['four_points_to_nearest']:.0%} end at the nearest point; on them all head "
            f"for (±½, ±½) to {diagonal.error:.1g}. {_departed(axis, diagonal)}"
        ),
        figures=[
            _paths_figure(pair, cross, on_axis, on_diagonal),
            _departure_figure(cross, diagonal),
            _basins_figure(four_map, many_map),
        ],
        tables=[_table(measured)],
        measured_text="all limits as predicted" if within else "limits differ from prediction",
        published_text="(0, 0), (±½, ±½), else the nearest point (theory)",
    )


def _departed(axis: BoundaryStarts, diagonal: BoundaryStarts) -> str:
    levels = [*axis.departures, *diagonal.departures]
    if not levels:
        return "In floating point all of these stay on their boundary."
    total = axis.offsets.shape[1] + diagonal.offsets.shape[1]
    return (
        f"Rounding carries {len(levels)} of these {total} off their boundary in the end, at σ = "
        f"{max(levels):.3f} or below."
    )


def _share_to_nearest(result: Flow, data: Tensor, chosen: Tensor) -> float:
    """Share of some starts that ends at the training point nearest to the start."""
    near = nearest(result.starts, data).indices[:, 0]
    ends_there = result.limits.is_data & (result.limits.index == near)
    return float(ends_there[chosen].double().mean())


def _basins(data: Tensor, resolution: int, reach: float) -> BasinMap:
    process = started_at(1.0)
    return basin_map(
        EmpiricalScore(data, process),
        (-reach, reach),
        (-reach, reach),
        (resolution, resolution + 1),  # unequal, so that no start lies on a diagonal
        tolerance=1e-3,
        t_end=float(process.time_at_ratio(1e-5)),
    )


def _map_to_nearest(basins: BasinMap, data: Tensor) -> float:
    """Share of the starts of a map that ends at the training point nearest to the start."""
    starts = torch.stack(torch.meshgrid(basins.x, basins.y, indexing="xy"), dim=-1)
    near = nearest(starts.reshape(-1, 2), data).indices[:, 0].reshape(basins.index.shape)
    return float((basins.index == near).double().mean())


def _table(measured: dict[str, object]) -> Table:
    def share(name: str) -> str:
        value = measured[name]
        assert isinstance(value, float)
        return f"{value:.1%}"

    def error(name: str) -> str:
        return f"{measured[name]:.1g}"

    rows: list[tuple[str, str, str | None]] = [
        ("Two points: sign of x₁ kept", share("two_points_sign_kept"), "100%"),
        ("Two points: x₁ ≠ 0, ends at nearest", share("two_points_to_nearest"), "100%"),
        ("Two points: x₁ = 0, error of the limit", error("two_points_axis_error"), "0"),
        ("The same, kept by floating point, of 2", f"{measured['two_points_axis_kept']}", None),
        ("Four points: off diagonals, ends at nearest", share("four_points_to_nearest"), "100%"),
        ("Four points: diagonals, error of limit", error("four_points_diagonal_error"), "0"),
        (
            "The same, kept by floating point, of 4",
            f"{measured['four_points_diagonals_kept']}",
            None,
        ),
        ("Map, four points: ends at nearest", share("four_points_map_to_nearest"), "100%"),
        ("Map, 20 points: ends at nearest", share("points20_map_to_nearest"), None),
    ]
    return Table(
        "Limits next to prediction.",
        ("Quantity", "Measured", "Theory"),
        rows,
        note="Nearest: the training point nearest to the start, at σ = 1. Without symmetry the "
        "basins of attraction are not the Voronoi cells.",
    )


def _paths_figure(pair: Flow, cross: Flow, on_axis: Tensor, on_diagonal: Tensor) -> Figure:
    figure, axes = new_panels(1, 2, height=4.3)
    for panel, result, on, data, title in (
        (axes[0, 0], pair, on_axis, TWO_POINTS, "Two points"),
        (axes[0, 1], cross, on_diagonal, FOUR_POINTS, "Four points"),
    ):
        draw_paths(panel, result.x[:, ~on], start_label="start")
        draw_paths(
            panel, result.x[:, on], colors=(VERMILION,), start_label="start on a boundary", width=2
        )
        draw_points(panel, data)
        draw_ends(panel, result.x[-1])
        frame(panel, (-2.35, 2.35), (-2.35, 2.35))
        panel.set_title(title)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return Figure(
        "trajectories",
        figure,
        "Trajectories from the boundary of a square at σ = 1 to σ = 1e-8. Starts on a boundary "
        "between Voronoi cells are followed in floating point: where rounding breaks the symmetry "
        "they turn to a training point in the end.",
        "Left: starts with positive or negative first coordinate end at the point of that sign, "
        "those on the axis at the origin. Right: starts end at the nearest of four points; those "
        "on a diagonal run to its middle first.",
    )


def _departure_figure(cross: Flow, diagonal: BoundaryStarts) -> Figure:
    figure, panel = new_figure(height=3.4)
    bound = diagonal.bound
    sigma = cross.sigma.numpy()
    shown = diagonal.offsets.clamp_min(1e-18).numpy()
    panel.plot(sigma, shown[:, 0], color=BLUE, linewidth=1.4, label="starts on a diagonal")
    panel.plot(sigma, shown[:, 1:], color=BLUE, linewidth=1.4)
    growth = 2.0**-53 * (0.25 / cross.sigma**2).clamp_max(40.0).exp()
    panel.plot(sigma, growth.numpy(), "--", color="black", label="2⁻⁵³ exp(L² / (8 σ²)), L = √2")
    panel.axvline(bound, color=VERMILION, linewidth=1.2, label=f"bound, σ = {bound:.3f}")
    panel.set(
        xscale="log",
        yscale="log",
        xlim=(0.03, 1.0),
        ylim=(5e-19, 3.0),
        xlabel="noise level σ; sampling runs from right to left",
        ylabel="distance from the diagonal",
    )
    legend(panel)
    return Figure(
        "departure",
        figure,
        "Why a limit on a boundary is not seen in floating point: distance from the diagonal of "
        "trajectories that start on it. An offset of one rounding, 2⁻⁵³, grows as the broken "
        "line; distances below 1e-18, such as 0, are drawn there.",
        "Log-log plot: offsets of about 1e-16 grow steeply once the noise is below 0.2 and reach "
        "the size of the data near 0.08, or stay 0.",
    )


def _basins_figure(four_map: BasinMap, many_map: BasinMap) -> Figure:
    figure, axes = new_panels(1, 2, height=4.2)
    for panel, basins, data, title, reach in (
        (axes[0, 0], four_map, FOUR_POINTS, "Four points", 2.1),
        (axes[0, 1], many_map, points20().x, "20 points", 3.0),
    ):
        draw_basins(panel, basins)
        draw_voronoi(panel, data)
        draw_points(panel, data, size=4)
        frame(panel, (-reach, reach), (-reach, reach))
        panel.set_title(title)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return Figure(
        "basins",
        figure,
        "Basins of attraction: the starts x(σ = 1) of one connected colour end at the same "
        "training point. Basins that touch differ in colour; no start is exactly on a diagonal.",
        "Two maps. For four symmetric points basins are the Voronoi cells; for 20 points their "
        "boundaries lie beside those of the cells.",
    )


EXPERIMENTS = (
    Experiment(
        name="structured-points",
        title="Where symmetric trajectories end",
        question=(
            "Trajectories from exceptional starts should end on the boundary between Voronoi "
            "cells and not at a training point. For two and four symmetric points, are the limits "
            "those that symmetry predicts, and which start leads where?"
        ),
        reference="[B25]: limits on Voronoi boundaries; the authors' `VE_StructuredPoints.ipynb`",
        run=lambda context: run(
            context,
            EmpiricalScore(TWO_POINTS, started_at(1.0)),
            EmpiricalScore(FOUR_POINTS, started_at(1.0)),
        ),
    ),
)
