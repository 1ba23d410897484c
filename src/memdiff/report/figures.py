"""Figures in one style: colours that colour-blind readers can tell apart, no global state.

Figures are made through matplotlib's object interface and drawn with Agg; nothing here touches
``pyplot`` or ``rcParams``. Start from :func:`new_figure` or :func:`new_panels`, draw with the
axes, place the legend with :func:`legend`.

References:
    Okabe, Ito, *Color Universal Design*, 2008 (the palette).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Plot

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PALETTE",
    "PURPLE",
    "SKY",
    "VERMILION",
    "WIDTH",
    "YELLOW",
    "Curve",
    "curve_plot",
    "figure_png",
    "legend",
    "new_figure",
    "new_panels",
]

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#6B6B6B"

PALETTE: tuple[str, ...] = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
"""Order in which lines take their colours; yellow is left out, being faint on white."""

WIDTH = 7.6
"""Width in inches of a figure that fills the text column of a report."""

DPI = 192
TITLE_SIZE = 10.5
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def new_panels(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = WIDTH,
    height: float | None = None,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[Plot, np.ndarray]:
    """A figure with a grid of styled axes.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        width: Width in inches.
        height: Height in inches; by default panels are a little wider than high.
        sharex: Whether panels share the horizontal axis.
        sharey: Whether panels share the vertical axis.

    Returns:
        The figure and an object array of axes with shape ``(rows, columns)``.
    """
    from matplotlib.figure import Figure

    height = (
        height
        if height is not None
        else rows * (0.62 if columns == 1 else 0.9) * (width / columns)
    )
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
    for one in axes.flat:
        _style(one)
    return figure, axes


def new_figure(*, width: float = WIDTH, height: float = 4.0) -> tuple[Plot, Axes]:
    """A figure with one styled axes; sizes in inches."""
    figure, axes = new_panels(width=width, height=height)
    return figure, axes[0, 0]


def _style(axes: Axes) -> None:
    axes.set_prop_cycle(color=list(PALETTE))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors="#333333", labelsize=9, width=0.8)
    axes.tick_params(which="minor", width=0.5)
    axes.grid(True, color="#E4E4E4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.xaxis.label.set_fontsize(10)
    axes.yaxis.label.set_fontsize(10)


def legend(axes: Axes, *, title: str = "", outside: bool = False, columns: int = 1) -> None:
    """Place the legend where it covers no data.

    Args:
        axes: Axes with labelled artists.
        title: Title of the legend.
        outside: Whether it stands to the right of the axes instead of within.
        columns: Number of columns.
    """
    place: dict[str, Any] = (
        {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
        if outside
        else {"loc": "best"}
    )
    box = axes.legend(
        title=title or None,
        ncols=columns,
        fontsize=9,
        title_fontsize=9,
        frameon=not outside,
        framealpha=0.92,
        edgecolor="#DDDDDD",
        **place,
    )
    box.set_zorder(10)


MEAN_ERROR, LARGEST_ERROR = 0.5, 16
"""Of 255: how far a picture by a palette may be from the picture, over all pixels and at most."""


def figure_png(figure: Plot, dpi: int = DPI) -> bytes:
    """Draw a figure as a PNG file.

    Args:
        figure: The figure.
        dpi: Pixels per inch; the default is twice the CSS inch, for sharp screens and print.

    Returns:
        Bytes of the file; equal figures give equal bytes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    # set_title() returns to matplotlib's size, whatever the axes were styled with.
    for axes in figure.axes:
        if float(axes.title.get_fontsize()) > TITLE_SIZE:
            axes.title.set_fontsize(TITLE_SIZE)
    buffer = io.BytesIO()
    figure.set_dpi(dpi)
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return _lightened(buffer.getvalue())


def _lightened(png: bytes) -> bytes:
    """The same picture by a palette of 256 colours, where the eye cannot tell it from the first.

    Lines, text and grey pictures need few colours, and take half the bytes; pictures in colour
    may need more, and stay as they are.
    """
    import numpy as np
    from PIL import Image

    full = Image.open(io.BytesIO(png)).convert("RGB")
    palette = full.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    error = np.abs(
        np.asarray(full, dtype=np.int16) - np.asarray(palette.convert("RGB"), dtype=np.int16)
    ).max(axis=2)
    if error.mean() > MEAN_ERROR or np.quantile(error, 0.999) > LARGEST_ERROR:
        return png
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", optimize=True, dpi=Image.open(io.BytesIO(png)).info.get("dpi"))
    return min(png, buffer.getvalue(), key=len)


@dataclass(frozen=True)
class Curve:
    """One curve of :func:`curve_plot`.

    Attributes:
        x: Abscissae.
        y: Ordinates.
        label: Entry of the legend; empty for none.
        low: Lower end of an interval at each abscissa.
        high: Upper end.
        style: ``"line"`` (with markers), ``"points"`` (markers alone), ``"dashed"`` (a reference
            line) or ``"plain"`` (a line with no markers).
        color: Colour; the palette in order by default.
    """

    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    label: str = ""
    low: Sequence[float] | np.ndarray | None = None
    high: Sequence[float] | np.ndarray | None = None
    style: Literal["line", "points", "dashed", "plain"] = "line"
    color: str | None = None


def curve_plot(
    curves: Sequence[Curve],
    *,
    xlabel: str,
    ylabel: str,
    xscale: Literal["linear", "log", "symlog"] = "log",
    yscale: Literal["linear", "log", "symlog"] = "log",
    title: str = "",
    height: float = 4.0,
    axes: Axes | None = None,
) -> Plot:
    """Curves with intervals, log-log by default.

    Args:
        curves: The curves.
        xlabel: Label of the horizontal axis, with the unit.
        ylabel: Label of the vertical axis, with the unit.
        xscale: Scale of the horizontal axis.
        yscale: Scale of the vertical axis.
        title: Title of the panel.
        height: Height of a new figure in inches.
        axes: Axes to draw into instead of a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: If a logarithmic axis is asked for and a curve has no positive value to show.
    """
    figure, target = (axes.figure, axes) if axes is not None else new_figure(height=height)
    for index, curve in enumerate(curves):
        x, y = np.asarray(curve.x, dtype=float), np.asarray(curve.y, dtype=float)
        for name, scale, values in (("x", xscale, x), ("y", yscale, y)):
            if scale == "log" and not (values > 0).any():
                raise ValueError(
                    f"curve {curve.label!r} has no positive {name} to show on a logarithmic axis; "
                    f"pass {name}scale='linear' or 'symlog'."
                )
        color = curve.color or PALETTE[index % len(PALETTE)]
        if curve.low is not None and curve.high is not None:
            low, high = np.asarray(curve.low, float), np.asarray(curve.high, float)
            target.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
        marker = MARKERS[index % len(MARKERS)] if curve.style in ("line", "points") else None
        target.plot(
            x,
            y,
            color=color,
            label=curve.label or None,
            marker=marker,
            markersize=4.5,
            linewidth=1.6,
            linestyle={"points": "none", "dashed": (0, (5, 3))}.get(curve.style, "-"),
            markerfacecolor="white" if curve.style == "points" else color,
            zorder=3 if curve.style == "points" else 2,
        )
    target.set(xscale=xscale, yscale=yscale, xlabel=xlabel, ylabel=ylabel, title=title)
    if any(curve.label for curve in curves):
        legend(target)
    return figure  # type: ignore[return-value]
