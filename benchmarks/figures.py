"""The scaling figure, drawn from the rows of the table ``scaling``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memdiff.report.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    Curve,
    curve_plot,
    figure_png,
    new_panels,
)
from memdiff.run.writing import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["scaling_figure"]

Rows = Sequence[dict[str, Any]]
COLORS = {
    "memdiff": BLUE,
    "one-shot softmax": ORANGE,
    "memdiff, tolerance 1e-5": VERMILION,
    "SDPA with bias": GREEN,
    "floor": GREY,
    "paper's loop": PURPLE,
}
LABELS = {"floor": "floor: the bare matrix products", "memdiff": "memdiff, nothing left out"}
KEYS = {"N": "points", "d": "dimension", "sigma": "sigma", "memory": "points"}


def scaling_figure(rows: Rows, path: Path) -> None:
    """Draw time against N, d and sigma and memory against N.

    Args:
        rows: Rows of ``benchmarks.scaling``.
        path: PNG file to write.
    """
    figure, axes = new_panels(2, 2, width=9.0, height=6.6)
    centre = next(row for row in rows if row["against"] == "sigma")
    width = f"d = {centre['dimension']:,}"
    level = next(row for row in rows if row["against"] == "N")["sigma"]
    noise = f"σ = {level:g}"
    count = f"N = {centre['points']:,}"
    memory = next(row for row in rows if row["against"] == "memory")
    for panel, against, xlabel, title in (
        (axes[0, 0], "N", "training points N", f"{width}, {noise}"),
        (axes[0, 1], "d", "dimension d", f"{count}, {noise}"),
        (axes[1, 0], "sigma", "noise level σ", f"{count}, {width}"),
        (axes[1, 1], "memory", "training points N", f"d = {memory['dimension']}, {noise}"),
    ):
        _panel(panel, [row for row in rows if row["against"] == against], against, xlabel, title)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    for panel in axes.flat:
        panel.get_legend().remove()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    with replace_file(path) as temporary:
        temporary.write_bytes(figure_png(figure, dpi=110))


def _panel(axes: Axes, rows: Rows, against: str, xlabel: str, title: str) -> None:
    value = "memory_mb" if against == "memory" else "seconds"
    curves = []
    for method, color in COLORS.items():
        found = sorted((row[KEYS[against]], row[value]) for row in rows if row["method"] == method)
        if found:
            x, y = zip(*found, strict=True)
            curves.append(
                Curve(
                    x,
                    y,
                    LABELS.get(method, method),
                    style="dashed" if method == "floor" else "line",
                    color=color,
                )
            )
    curve_plot(
        curves,
        xlabel=xlabel,
        ylabel="memory beside the data (MB)" if against == "memory" else "seconds, 256 queries",
        title=title,
        axes=axes,
    )
