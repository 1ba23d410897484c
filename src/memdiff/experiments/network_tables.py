"""Tables, curves and verdicts that the studies of trained networks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from memdiff.experiments.network_training import TOLERANCES, Spread
from memdiff.report.document import Cell, CellValue, Table
from memdiff.report.figures import BLACK, MARKERS, PALETTE, new_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Plot

__all__ = ["Comparison", "compare", "comparison_table", "fraction_panels", "rises"]

SHARE_OUTSIDE = 0.05
"""Share of the compared values that chance may put outside."""


class Comparison:
    """Measured next to published, value by value.

    Args:
        spreads: Measured values ``[tolerance][column]``.
        values: Published values, likewise.
        reading_error: Error of reading the published ones off a plot.

    Attributes:
        differences: Measured mean minus published, likewise.
        allowed: Allowed absolute differences.
        outside: How many differences exceed what is allowed.
        count: How many there are.
        within: Whether at most one in twenty does.
    """

    def __init__(
        self,
        spreads: Sequence[Sequence[Spread]],
        values: Sequence[Sequence[float]],
        reading_error: float,
    ) -> None:
        self.differences = [
            [one.mean - value for one, value in zip(row, known, strict=True)]
            for row, known in zip(spreads, values, strict=True)
        ]
        self.allowed = [[one.allowed(reading_error) for one in row] for row in spreads]
        pairs = [
            (abs(difference), limit)
            for row, limits in zip(self.differences, self.allowed, strict=True)
            for difference, limit in zip(row, limits, strict=True)
        ]
        self.outside = sum(difference > limit for difference, limit in pairs)
        self.count = len(pairs)
        self.largest = max(difference for difference, _ in pairs)
        self.within = self.outside <= SHARE_OUTSIDE * self.count


def compare(
    spreads: Sequence[Sequence[Spread]],
    values: Sequence[Sequence[float]],
    reading_error: float = 0.0,
) -> Comparison:
    """Compare measured fractions ``[tolerance][column]`` with published ones."""
    return Comparison(spreads, values, reading_error)


def comparison_table(
    title: str,
    columns: Sequence[str],
    spreads: Sequence[Sequence[Spread]],
    values: Sequence[Sequence[float]] | None,
    comparison: Comparison | None,
    *,
    parameter: str,
    note: str,
) -> Table:
    """One row for each column of the study, a pair of cells for each tolerance."""
    header = [parameter]
    for tolerance in TOLERANCES:
        header.append(f"Within {tolerance:g}")
        if values is not None:
            header.append("Published")
    rows: list[list[CellValue]] = []
    for column, name in enumerate(columns):
        row: list[CellValue] = [name]
        for index in range(len(TOLERANCES)):
            one = spreads[index][column]
            text = f"{one.mean:.3f} ± {one.deviation:.3f}"
            if values is None or comparison is None:
                row.append(text)
                continue
            difference = comparison.differences[index][column]
            good = abs(difference) <= comparison.allowed[index][column]
            row.append(text)
            mark = "✓" if good else "✗"
            known = values[index][column]
            row.append(Cell(f"{known:.3f} {mark}", tone="good" if good else "bad"))
        rows.append(row)
    return Table(title, header, rows, note=note, stacked=True)


def fraction_panels(
    x: Sequence[float],
    curves: Sequence[tuple[str, Sequence[Sequence[Spread]]]],
    points: Sequence[tuple[str, Sequence[Sequence[float]]]],
    *,
    xlabel: str,
    xscale: Literal["linear", "log", "symlog"],
    points_x: Sequence[float] | None = None,
    lines: Sequence[tuple[str, Sequence[Sequence[float]]]] = (),
    threshold: float = 1e-4,
) -> Plot:
    """Memorised fraction against a parameter, one panel a tolerance.

    Args:
        x: Parameter.
        curves: Label and measured values ``[tolerance][x]`` of each curve, drawn with the
            standard deviation of one run.
        points: Label and published values ``[tolerance][x]``, drawn as open marks.
        xlabel: Label of the parameter.
        xscale: Scale of its axis.
        points_x: Parameter of the published values, ``x`` where None.
        lines: Label and values ``[tolerance][x]`` of predictions, drawn dashed.
        threshold: Where a ``symlog`` axis becomes linear.

    Returns:
        The figure.
    """
    figure, panels = new_panels(2, 2, height=5.6, sharex=True)
    for index, (axes, tolerance) in enumerate(zip(panels.flat, TOLERANCES, strict=True)):
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
                x if points_x is None else points_x,
                values[index],
                linestyle="none",
                marker=MARKERS[number],
                markersize=8.5,
                markerfacecolor="none",
                markeredgewidth=1.3,
                color=PALETTE[number],
                label=label,
                zorder=4,
            )
        for label, values in lines:
            axes.plot(x, values[index], "--", color=BLACK, linewidth=1.1, label=label)
        _label(axes, tolerance, index, xlabel, xscale, threshold)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    columns = 2 if len(handles) > 3 else len(handles)
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, fontsize=9, frameon=False
    )
    return figure


def _label(
    axes: Axes, tolerance: float, index: int, xlabel: str, xscale: str, threshold: float
) -> None:
    axes.set_title(f"within {tolerance:g} of a training point", fontsize=10)
    if xscale == "symlog":
        axes.set_xscale("symlog", linthresh=threshold, linscale=0.5)
    else:
        axes.set_xscale(xscale)
    axes.set_ylim(-0.03, 1.05)
    if index % 2 == 0:
        axes.set_ylabel("fraction of samples")
    if index >= 2:
        axes.set_xlabel(xlabel)


def rises(spreads: Sequence[Sequence[Spread]]) -> bool:
    """Whether every fraction rises along the columns, but for chance.

    From one column to the next the mean may fall by three standard errors of the difference, and
    from first to last it must rise by more.
    """
    for row in spreads:
        error = [one.deviation / one.seeds**0.5 for one in row]
        for a, b in zip(range(len(row) - 1), range(1, len(row)), strict=True):
            if row[b].mean < row[a].mean - 3.0 * (error[a] ** 2 + error[b] ** 2) ** 0.5:
                return False
        if row[-1].mean < row[0].mean + 3.0 * (error[0] ** 2 + error[-1] ** 2) ** 0.5:
            return False
    return True
