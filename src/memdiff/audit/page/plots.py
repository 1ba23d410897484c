"""The figures of the page: all of them of the competition that decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from memdiff.audit.evidence import Evidence
from memdiff.audit.page.numbers import percent
from memdiff.metrics import Competition, CopiedFraction, CopyingTests, copied_fraction
from memdiff.metrics.copied_fraction import COPY
from memdiff.metrics.extraction import Extraction
from memdiff.report.figures import BLUE, GREEN, GREY, VERMILION, legend, new_figure, new_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Plot

__all__ = ["RATIOS", "closeness_plot", "extraction_plot", "fractions", "sensitivity_plot"]

RATIOS: tuple[float, ...] = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, COPY, 0.5, 2.0 / 3.0)
"""Closeness at which the copied fraction is shown."""

_WIDTH = 6.6
_BINS = 25
_CURVE = 60


def closeness_plot(entry: Evidence) -> Plot:
    """How close samples come to training points and to decoys: histogram and cumulative.

    Args:
        entry: The evidence of one descriptor, with tests.

    Returns:
        The figure.
    """
    assert entry.tests is not None
    result = entry.tests.competition
    figure, panels = new_panels(2, 1, width=_WIDTH, height=5.6, sharex=True)
    upper, lower = panels[:, 0]
    target, decoy = _parts(result)
    _histogram(upper, result, target, decoy)
    _cumulative(lower, result, target, decoy)
    for axes in (upper, lower):
        axes.axvspan(-0.02, COPY, color=VERMILION, alpha=0.07, linewidth=0)
        axes.axvline(COPY, color=VERMILION, linestyle=(0, (4, 2)), linewidth=1.3)
        axes.set_xlim(-0.02, 1.0)
    on_train, on_decoys = target[result.ratios <= COPY].sum(), decoy[result.ratios <= COPY].sum()
    m = result.samples
    upper.set_title(
        f"Left of the line: {percent(on_train / m)} of the samples are nearest to a training\n"
        f"point, {percent(result.odds * on_decoys / m)} by chance",
        loc="left",
    )
    lower.set_xlabel(f"distance to the nearest point over that to the next, r ({entry.name})")
    return figure


def _parts(result: Competition) -> tuple[np.ndarray, np.ndarray]:
    """The parts of each sample on training points and on decoys."""
    target = result.target_share
    whole = np.bincount(result.sample, result.share, minlength=result.samples)
    return target, whole - target


def _histogram(axes: Axes, result: Competition, target: np.ndarray, decoy: np.ndarray) -> None:
    edges = np.linspace(0.0, 1.0, _BINS + 1)
    widths = np.diff(edges)
    scale = 100.0 / result.samples
    for weights, color, hatch, label in (
        (result.odds * decoy, "#BDBDBD", "", _chance_words(result)),
        (target, BLUE, "////", "samples on training points"),
    ):
        heights = scale * np.histogram(result.ratios, bins=edges, weights=weights)[0]
        axes.bar(
            edges[:-1],
            heights,
            widths,
            align="edge",
            color=color,
            edgecolor=color,
            alpha=0.55 if hatch else 1.0,
            hatch=hatch,
            linewidth=1.0,
            label=label,
        )
    axes.set_ylabel("share of samples per bin (%)")
    axes.set_ylim(0.0, 1.3 * max(axes.get_ylim()[1] / 1.05, 1e-9))
    legend(axes, columns=2)


def _chance_words(result: Competition) -> str:
    times = "" if abs(result.odds - 1.0) < 0.005 else f" × {result.odds:.3g}"
    return f"samples on held-out points{times}"


def _cumulative(axes: Axes, result: Competition, target: np.ndarray, decoy: np.ndarray) -> None:
    order = result.ratios.argsort(kind="stable")
    x = np.concatenate([[0.0], result.ratios[order], [1.0]])
    m = result.samples
    floor = 50.0 / m
    for weights, color, label, width in (
        (result.odds * decoy, GREY, _chance_words(result), 1.6),
        (target, BLUE, "samples on training points", 2.2),
    ):
        y = 100.0 * np.concatenate([[0.0], weights[order].cumsum(), [weights.sum()]]) / m
        axes.step(x, np.maximum(y, floor), where="post", color=color, linewidth=width, label=label)
    axes.set_yscale("log")
    axes.set_ylim(floor, 130.0)
    ticks = [t for t in (0.001, 0.01, 0.1, 1.0, 10.0, 100.0) if t >= floor]
    axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_ylabel("share of samples at most this far (%)")
    legend(axes)


def fractions(tests: CopyingTests, ratios: Sequence[float] = RATIOS) -> list[CopiedFraction]:
    """The copied fraction at several degrees of closeness."""
    return [copied_fraction(competition=tests.competition, ratio=ratio) for ratio in ratios]


def sensitivity_plot(evidence: Sequence[Evidence]) -> Plot:
    """Copied fraction against the closeness that counts as a copy, one panel per descriptor."""
    columns = min(2, len(evidence))
    rows = -(-len(evidence) // columns)
    figure, panels = new_panels(
        rows, columns, width=_WIDTH, height=3.4 * rows if columns == 1 else 3.0 * rows
    )
    for axes in panels.flat[len(evidence) :]:
        axes.set_visible(False)
    for axes, entry in zip(panels.flat, evidence, strict=False):
        assert entry.tests is not None
        x = np.linspace(0.0, 1.0, _CURVE)
        found = fractions(entry.tests, x.tolist())
        low = [100 * one.interval.low if one.interval else np.nan for one in found]
        high = [100 * one.interval.high if one.interval else np.nan for one in found]
        axes.fill_between(
            x, low, high, color=BLUE, alpha=0.2, linewidth=0, step="mid", label="95% interval"
        )
        axes.plot(x, [100 * one.value for one in found], color=BLUE, linewidth=2, label="estimate")
        axes.axvline(COPY, color=VERMILION, linestyle=(0, (4, 2)), linewidth=1.3, label="a third")
        axes.axhline(0.0, color=GREY, linewidth=0.8)
        axes.set_xlabel("closeness that counts as a copy, r")
        axes.set_ylabel("copied fraction (%)")
        axes.set_title(entry.name, loc="left")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    return figure


def extraction_plot(extraction: Extraction) -> Plot:
    """Distinct training points extracted against the number of samples."""
    figure, axes = new_figure(width=_WIDTH, height=3.4)
    samples = len(extraction.scores)
    axes.plot(
        [samples], [extraction.extracted], "o", color=BLUE, markersize=7, label="in this audit"
    )
    later = extraction.extrapolation
    for known, marker, label in ((True, "s", "extrapolated"), (False, "D", "beyond the theory")):
        some = [one for one in later if one.reliable is known]
        if not some:
            continue
        y = np.array([one.extracted for one in some])
        axes.errorbar(
            [one.samples for one in some],
            y,
            [
                y - np.array([one.interval.low for one in some]),
                np.array([one.interval.high for one in some]) - y,
            ],
            fmt=marker,
            color=VERMILION,
            markerfacecolor=VERMILION if known else "white",
            capsize=3,
            markersize=6,
            label=label,
        )
    axes.axhline(
        extraction.distinct,
        color=GREY,
        linestyle=(0, (5, 3)),
        label="all distinct training points",
    )
    if extraction.extractable < extraction.distinct:
        axes.axhline(
            extraction.extractable,
            color=GREEN,
            linestyle=":",
            linewidth=1.8,
            label="can be extracted, at least",
        )
    axes.set_xscale("log")
    axes.minorticks_off()
    ticks = [samples, *(one.samples for one in later)]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_ylim(0, 1.08 * extraction.distinct)
    axes.set_xlabel("number of samples")
    axes.set_ylabel("distinct training points extracted")
    legend(axes, outside=True)
    return figure
