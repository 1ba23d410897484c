"""Figures and table of a sweep over closed-form regularisers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from memdiff.experiments.published import LATENTS, Sweep, SweepAgreement
from memdiff.neighbors import nearest
from memdiff.report.document import Cell, CellValue, Table
from memdiff.report.figures import BLACK, BLUE, GREY, VERMILION, WIDTH, new_panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

__all__ = [
    "MemorisedFraction",
    "final_samples_plot",
    "memorised_fraction",
    "sweep_plot",
    "sweep_table",
]

TOLERANCE = 0.01
"""Distance within which a sample is a copy, as published."""


@dataclass(frozen=True)
class MemorisedFraction:
    """Fraction of samples within a tolerance of a training point.

    Attributes:
        value: The fraction.
        low: Lower end of the Clopper-Pearson interval at 95 %.
        high: Upper end.
        mask: Which samples, bool with shape ``(B,)``.
    """

    value: float
    low: float
    high: float
    mask: Tensor


def memorised_fraction(
    samples: Tensor, data: Tensor, tolerance: float = TOLERANCE
) -> MemorisedFraction:
    """Return the share of samples ``(B, *S)`` within ``tolerance`` of a point of ``(N, *S)``."""
    from scipy.stats import binomtest

    mask = nearest(samples, data).distances[:, 0] < tolerance
    count, num = int(mask.sum()), len(mask)
    interval = binomtest(count, num).proportion_ci(0.95, method="exact")
    return MemorisedFraction(count / num, float(interval.low), float(interval.high), mask)


def sweep_plot(
    sweep: Sweep,
    measured: Sequence[MemorisedFraction],
    *,
    prediction: tuple[Sequence[float], Sequence[float], str],
    others: Sequence[tuple[str, str, Sequence[float]]],
    xlabel: str,
) -> Plot:
    """Draw the memorised fraction against the strength: measured, published, predicted.

    Args:
        sweep: The published sweep.
        measured: Measured fraction at each strength.
        prediction: Strengths, fractions and label of a predicted curve.
        others: Label, colour and fractions of further measured curves.
        xlabel: Label of the strength.

    Returns:
        The figure.
    """
    figure, panels = new_panels(1, 2, height=3.9)
    values = [one.value for one in measured]
    spans = [[one.value - one.low for one in measured], [one.high - one.value for one in measured]]
    for axes in panels[0]:
        for marker, (name, color, fraction) in zip("^Dv", others, strict=False):
            positive = [value if value > 0 else math.nan for value in fraction]
            axes.plot(
                sweep.values,
                fraction if axes is panels[0, 0] else positive,
                color=color,
                marker=marker,
                markersize=4.5,
                linewidth=1.0,
                label=name,
            )
        axes.errorbar(
            sweep.values,
            values,
            yerr=spans,
            color=BLUE,
            marker="o",
            markersize=4.5,
            linewidth=1.6,
            capsize=2.5,
            label="measured, 95 % interval",
        )
        strengths, fractions, label = prediction
        axes.plot(
            strengths,
            fractions,
            color=BLACK,
            linewidth=1.2,
            linestyle=(0, (4, 3)),
            label=label,
            zorder=3,
        )
        axes.plot(
            sweep.values,
            sweep.fraction,
            color=VERMILION,
            linestyle="none",
            marker="s",
            markersize=9,
            markerfacecolor="none",
            markeredgewidth=1.4,
            label="published (read off the plot)",
            zorder=4,
        )
        axes.set(xscale="log", xlabel=xlabel)
    panels[0, 0].set(ylabel=f"Fraction within {TOLERANCE} of a training point", ylim=(-0.03, 1.05))
    panels[0, 1].set(
        ylabel="The same, on a logarithmic axis", yscale="log", ylim=(0.5 / LATENTS, 1.4)
    )
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def final_samples_plot(
    data: Tensor, samples: Sequence[Tensor], titles: Sequence[str], *, shown: int = 250
) -> Plot:
    """Draw final samples over the Voronoi diagram of the training points, one panel per strength.

    Args:
        data: Training points with shape ``(N, 2)``.
        samples: Samples with shape ``(B, 2)`` for each panel.
        titles: Title of each panel.
        shown: Number of samples drawn, the first ones.

    Returns:
        The figure.
    """
    from scipy.spatial import Voronoi, voronoi_plot_2d

    figure, panels = new_panels(1, len(samples), height=3.4, width=WIDTH, sharex=True, sharey=True)
    cells = Voronoi(data.numpy())
    for axes, x, title in zip(panels[0], samples, titles, strict=True):
        voronoi_plot_2d(
            cells, axes, show_points=False, show_vertices=False, line_colors=GREY, line_width=0.6
        )
        axes.plot(*data.T.numpy(), "x", color=BLACK, markersize=6, label="training points")
        copied = memorised_fraction(x[:shown], data).mask.numpy()
        points = x[:shown].numpy()
        for mask, color, label in (
            (~copied, BLUE, "other samples"),
            (copied, VERMILION, f"samples within {TOLERANCE}"),
        ):
            axes.plot(
                *points[mask].T,
                "o",
                color=color,
                markersize=3.5,
                markerfacecolor="none",
                markeredgewidth=0.8,
                label=label,
            )
        axes.set(xlim=(-2.6, 2.6), ylim=(-2.8, 2.4), xlabel="$x_1$", aspect="equal")
        axes.set_title(title, fontsize=10)
        axes.grid(False)
    panels[0, 0].set_ylabel("$x_2$")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def sweep_table(
    sweep: Sweep,
    measured: Sequence[MemorisedFraction],
    agreement: SweepAgreement,
    columns: Sequence[tuple[str, Sequence[float]]],
    note: str,
) -> Table:
    """Return measured next to published at every strength, and further columns."""
    rows: list[list[CellValue]] = []
    for index, strength in enumerate(sweep.values):
        one = measured[index]
        difference, allowed = agreement.difference[index], agreement.allowed[index]
        good = abs(difference) <= allowed
        rows.append(
            [
                f"{strength:.3g}",
                f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})",
                f"{sweep.fraction[index]:.3f}",
                Cell(f"{difference:+.3f} {'✓' if good else '✗'}", tone="good" if good else "bad"),
                f"{allowed:.3f}",
                *(f"{values[index]:.3f}" for _, values in columns),
            ]
        )
    header = [
        sweep.parameter,
        "Measured (95 % interval)",
        "Published",
        "Difference",
        "Allowed",
        *(name for name, _ in columns),
    ]
    return Table("Memorised fraction at every strength.", header, rows, note=note, stacked=True)
