"""Figure of a sweep over small trained networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memdiff.experiments.network_spread import PublishedRows, Spread
from memdiff.report.figures import BLACK, MARKERS, PALETTE, new_panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

__all__ = ["fraction_panels"]


def fraction_panels(
    tolerances: Sequence[float],
    x: Sequence[float],
    curves: Sequence[tuple[str, Sequence[Sequence[Spread]]]],
    points: Sequence[tuple[str, PublishedRows]],
    *,
    xlabel: str,
    xscale: str,
    lines: Sequence[tuple[str, Sequence[Sequence[float]]]] = (),
) -> Plot:
    """Draw memorised fractions against a parameter, one panel per tolerance.

    Args:
        tolerances: Tolerance of each panel, four.
        x: The parameter.
        curves: Label and measured values ``[tolerance][x]`` of each curve, drawn with the
            standard deviation of one run.
        points: Label and published values ``[tolerance][x]``, drawn as open marks.
        xlabel: Label of the parameter.
        xscale: Scale of its axis; ``"symlog"`` is linear up to the second value.
        lines: Label and values ``[tolerance][x]`` of predictions, drawn dashed.

    Returns:
        The figure.
    """
    figure, panels = new_panels(2, 2, height=5.6, sharex=True)
    for index, (axes, tolerance) in enumerate(zip(panels.flat, tolerances, strict=True)):
        for number, (label, spreads) in enumerate(curves):
            axes.errorbar(
                x,
                [one.mean for one in spreads[index]],
                yerr=[one.deviation for one in spreads[index]],
                label=label,
                color=PALETTE[number],
                marker=MARKERS[number],
                markersize=4,
                linewidth=1.4,
                capsize=2,
            )
        for number, (label, values) in enumerate(points):
            axes.plot(
                x,
                [float("nan") if value is None else value for value in values[index]],
                linestyle="none",
                marker=MARKERS[number],
                markersize=8.5,
                markerfacecolor="none",
                markeredgewidth=1.3,
                color=PALETTE[number],
                label=label,
                zorder=4,
            )
        for label, row in lines:
            axes.plot(x, row[index], "--", color=BLACK, linewidth=1.1, label=label)
        axes.set_title(f"within {tolerance:g} of a training point", fontsize=10)
        if xscale == "symlog":
            axes.set_xscale("symlog", linthresh=x[1], linscale=0.5)
        else:
            axes.set_xscale(xscale)
        axes.set_ylim(-0.03, 1.05)
        if index % 2 == 0:
            axes.set_ylabel("fraction of samples")
        if index >= 2:
            axes.set_xlabel(xlabel)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    columns = 2 if len(handles) > 3 else len(handles)
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, fontsize=9, frameon=False
    )
    return figure
