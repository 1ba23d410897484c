"""Figures and table of exact scores of many images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from torch import Tensor

from memdiff.experiments.experiment import Figure, Table
from memdiff.neighbors import nearest
from memdiff.report.document import Cell, CellValue
from memdiff.report.figures import BLACK, BLUE, GREEN, VERMILION, Curve, curve_plot, new_panels
from memdiff.report.pictures import ImageRow, image_grid

__all__ = ["copies_figure", "distances_figure", "images_figure", "scale_table"]

Style: TypeAlias = Literal["line", "points", "dashed", "plain"]

Rows = Sequence[Mapping[str, Any]]
SHOWN = 10


def copies_figure(rows: Rows) -> Figure:
    """Draw shares of copies and of noisy copies against the size, with intervals.

    Args:
        rows: One mapping a size, as the experiment builds them.

    Returns:
        The figure.
    """
    figure, axes = new_panels(1, 2, height=3.7, sharey=True)
    size = [row["num"] for row in rows]

    def curve(method: str, key: str, label: str, color: str, style: Style = "line") -> Curve:
        value, low, high = zip(*(row[method][key] for row in rows), strict=True)
        return Curve(size, value, label, low=low, high=high, style=style, color=color)

    one = [
        curve("none", "ratio", "no regulariser", BLUE),
        curve("tikhonov", "ratio", "Tikhonov", VERMILION),
        curve("none", "ratio_heldout", "held-out pictures", BLACK, "dashed"),
    ]
    other = [
        curve("tikhonov", "noisy", "Tikhonov", VERMILION),
        curve("tikhonov", "noisy_heldout", "held-out, same noise", BLACK, "dashed"),
    ]
    for panel, curves, title in (
        (axes[0, 0], one, "copies (ratio test)"),
        (axes[0, 1], other, "noisy copies"),
    ):
        curve_plot(
            curves,
            xlabel="number of training pictures N",
            ylabel="share of the samples" if curves is one else "",
            yscale="linear",
            title=title,
            axes=panel,
        )
        panel.set_ylim(-0.03, 1.05)
        panel.get_legend().set_loc("center right")
    return Figure(
        "copies",
        figure,
        "Left: share of samples with d₁/d₂ < 1/3, with 95 % intervals, for the exact score, for "
        "Tikhonov at the strength that leave-one-out chooses, and for held-out pictures. Right: "
        "share of samples no farther from a training picture than 99 % of training pictures under "
        "white noise of variance c are, and that of held-out pictures under the same noise.",
        "Two plots of shares against N on a logarithmic axis: without a regulariser all samples "
        "are copies at every N; under Tikhonov none is by the ratio test, and the right panel "
        "shows how many are training pictures under noise.",
    )


def distances_figure(rows: Rows) -> Figure:
    """Draw noise, strengths and distances per pixel, and seconds, against the size."""
    figure, axes = new_panels(1, 2, height=3.7)
    size = [row["num"] for row in rows]

    def root(key: str) -> list[float]:
        return [float(row["choice"][key]) ** 0.5 for row in rows]

    curve_plot(
        [
            Curve(
                size,
                [row["none"]["noise_heldout"] for row in rows],
                "d₁ of held-out pictures",
                color=BLACK,
            ),
            Curve(
                size,
                [row["tikhonov"]["noise"] for row in rows],
                "d₁ of Tikhonov's samples",
                color=VERMILION,
            ),
            Curve(size, root("strength"), "√c by leave-one-out", color=BLUE),
            Curve(size, root("heldout_strength"), "√c by held-out", style="points", color=GREEN),
        ],
        xlabel="number of training pictures N",
        ylabel="root mean square per pixel (pixels in [−1, 1])",
        yscale="linear",
        axes=axes[0, 0],
    )
    axes[0, 0].set_ylim(0, None)
    axes[0, 0].get_legend().set_loc("lower left")
    curve_plot(
        [
            Curve(size, [row["none"]["seconds"] for row in rows], "no regulariser", color=BLUE),
            Curve(size, [row["tikhonov"]["seconds"] for row in rows], "Tikhonov", color=VERMILION),
        ],
        xlabel="number of training pictures N",
        ylabel="processor seconds a sampling run",
        axes=axes[0, 1],
    )
    return Figure(
        "distances",
        figure,
        "Left: median distance to the nearest training picture of held-out pictures and of "
        "Tikhonov's samples, over the root of the number of pixels, with the noise √c that "
        "Tikhonov is predicted to leave: c from leave-one-out, and the c that held-out pictures "
        "would choose. Right: processor time of the sampling runs, on the machine of the report.",
        "Left: the distance of held-out pictures falls slowly with N; the distance of samples "
        "follows √c. Right: seconds rise with N on logarithmic axes.",
    )


def images_figure(drawn: Mapping[str, Tensor], train: Tensor, sizes: Sequence[int]) -> Figure:
    """Draw samples under Tikhonov above their nearest training pictures.

    Args:
        drawn: Samples by label.
        train: Training pictures, of which each label has a prefix.
        sizes: Length of the prefix of each label.

    Returns:
        The figure.
    """
    rows = []
    for (label, x), size in zip(drawn.items(), sizes, strict=True):
        shown = x[:SHOWN]
        index = nearest(shown, train[:size], 1).indices[:, 0]
        rows += [ImageRow(shown, f"Tikhonov\n{label}"), ImageRow(train[index], "nearest train")]
    return Figure(
        "images",
        image_grid(rows, value_range=(-1.0, 1.0)),
        "The first samples under Tikhonov at the smallest and the largest N, and under each its "
        "nearest training picture. Pixels outside the range of the data are clipped.",
        "Two pairs of rows of digits: the samples are training pictures with noise on them.",
    )


def scale_table(rows: Rows) -> Table:
    """Return one row for each size and method."""
    cells: list[list[CellValue]] = []
    for row in rows:
        for name, label in (("none", "no regulariser"), ("tikhonov", "Tikhonov")):
            one, strength = row[name], float(row["choice"]["strength"])
            note = f"√c = {strength**0.5:.3f}" + (" *" if row["choice"]["at_edge"] else "")
            cells.append(
                [
                    f"{row['num']:,}",
                    Cell(label, note="" if name == "none" else note),
                    _share(one["ratio"]),
                    _share(one["near"]),
                    None if one["noisy"] is None else _share(one["noisy"]),
                    Cell(f"{one['noise']:.3f}", sort=one["noise"]),
                    Cell(f"{one['effective_points']:.2f}", sort=one["effective_points"]),
                    Cell(f"{one['seconds']:.2g}", sort=one["seconds"]),
                ]
            )
        one = row["none"]
        cells.append(
            [
                f"{row['num']:,}",
                "held-out pictures",
                _share(one["ratio_heldout"]),
                _share(one["near_heldout"]),
                _share(row["tikhonov"]["noisy_heldout"]),
                Cell(f"{one['noise_heldout']:.3f}", sort=one["noise_heldout"]),
                None,
                None,
            ]
        )
    return Table(
        "Samples of exact scores against the size of the training set.",
        (
            "N",
            "Samples",
            "d₁/d₂ < 1/3",
            "d₁ < u/3",
            "Noisy copies",
            "d₁/√d",
            "Effective points",
            "Seconds",
        ),
        cells,
        note=(
            "Shares with 95 % Clopper-Pearson intervals. d₁: distance to the nearest training "
            "picture; d₂: to the nearest that is a map of another image; u: median d₁ of held-out "
            "pictures; d: number of pixels. Noisy copies: d₁² below c times the 99 % quantile of "
            "χ² in d dimensions; held-out pictures under noise of variance c. Effective points: "
            "median of the exponential entropy of the posterior at the samples, at the last noise "
            "level above 0, or at σ = √c under Tikhonov. Seconds: processor time of the sampling "
            "run. *: at the end of the grid of the selection."
        ),
        stacked=True,
    )


def _share(value: Sequence[float]) -> Cell:
    share, low, high = value
    return Cell(f"{share:.1%}", note=f"{100 * low:.1f} to {high:.1%}", sort=share)
