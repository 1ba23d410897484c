"""The figures of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from memdiff.audit.evidence import Evidence
from memdiff.audit.page.numbers import number, percent
from memdiff.metrics import ExcessCopies, closeness, excess_copies
from memdiff.metrics.closeness import Reference, Statistic
from memdiff.metrics.extraction import Extraction
from memdiff.report.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
    legend,
    new_figure,
    new_panels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Plot

__all__ = [
    "QUANTILES",
    "closeness_plot",
    "excess_at",
    "extraction_plot",
    "reference_of",
    "reference_words",
    "sensitivity_plot",
]

QUANTILES: tuple[float, ...] = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
"""Quantiles of the reference at which the sensitivity to the threshold is shown."""

_WIDTH = 6.6
_BINS = 44
_BAND_RANKS = 60


def reference_of(entry: Evidence) -> Reference:
    """What the samples of an audit are compared with."""
    return "train" if entry.shares is None else "heldout"


def reference_words(entry: Evidence) -> str:
    """The same in words."""
    return "held-out points" if reference_of(entry) == "heldout" else "other training points"


@dataclass(frozen=True)
class _Axis:
    """A logarithmic axis of distances with one place left of it for what is (nearly) zero."""

    floor: float
    ceiling: float
    exact: bool

    @classmethod
    def of(cls, samples: np.ndarray, fresh: np.ndarray) -> _Axis | None:
        """The axis of two sets, or None where every distance is 0."""
        both = np.concatenate([samples, fresh])
        if not (both > 0).any():
            return None
        lowest = float(both[both > 0].min())
        if (fresh > 0).any():
            # Distances of copies are rounding errors, and many decades of them say nothing.
            lowest = max(lowest, float(fresh[fresh > 0].min()) / 30.0)
        ceiling = max(float(both.max()), 1.3 * lowest)
        below = both[both < lowest]
        return cls(lowest, ceiling, bool((below == 0).all()))

    @property
    def step(self) -> float:
        return (self.ceiling / self.floor) ** (1.0 / _BINS)

    @property
    def under(self) -> float:
        """Place of the values below the floor."""
        return self.floor / self.step**3

    @property
    def edges(self) -> np.ndarray:
        """Edges of the bins, the first of which holds the values below the floor."""
        regular = np.geomspace(self.floor, self.ceiling, _BINS + 1)
        return np.concatenate([self.under * self.step ** np.array([-0.5, 0.5]), regular])

    def place(self, values: np.ndarray) -> np.ndarray:
        return np.where(values < self.floor, self.under, values)

    def ticks(self) -> tuple[list[float], list[str]]:
        decades = range(
            int(np.floor(np.log10(self.floor))), int(np.ceil(np.log10(self.ceiling))) + 1
        )
        span = np.log10(self.ceiling / self.floor)
        parts: tuple[float, ...] = (1,) if span > 3 else (1, 2, 5)
        if span < 1.2:
            parts = (1, 1.5, 2, 3, 5, 7)
        found = [part * 10.0**k for k in decades for part in parts]
        inside = [v for v in found if self.floor * self.step < v <= self.ceiling * 1.001]
        return inside, [number(v) for v in inside]


def closeness_plot(entry: Evidence) -> Plot | None:
    """Distances to train of samples and reference: histogram, and cumulative with null band.

    Args:
        entry: The evidence of one descriptor.

    Returns:
        The figure, or None where every distance is 0.
    """
    samples = _statistic(entry, "generated")
    fresh = _statistic(entry, reference_of(entry))
    axis = _Axis.of(samples, fresh)
    if axis is None:
        return None
    figure, panels = new_panels(2, 1, width=_WIDTH, height=5.6, sharex=True)
    upper, lower = panels[:, 0]
    threshold = max(entry.copies.threshold, 0.0)
    _histogram(upper, axis, samples, fresh, threshold, reference_words(entry))
    _cumulative(lower, axis, samples, fresh, reference_words(entry))
    edge = float(axis.place(np.array([threshold]))[0])
    left = axis.under / axis.step**2
    for axes in (upper, lower):
        axes.axvspan(left, edge, color=VERMILION, alpha=0.07, linewidth=0)
        axes.axvline(edge, color=VERMILION, linestyle=(0, (4, 2)), linewidth=1.3)
        axes.set_xscale("log")
        axes.set_xlim(left, axis.ceiling * axis.step)
        axes.minorticks_off()
    places, labels = axis.ticks()
    if (axis.place(np.concatenate([samples, fresh])) < axis.floor).any():
        places, labels = (
            [axis.under, *places],
            ["0" if axis.exact else f"< {number(float(f'{axis.floor:.1g}'))}", *labels],
        )
    lower.set_xticks(places, labels)
    share = entry.copies.count / len(samples)
    expected = entry.copies.rank / (len(fresh) + 1)
    upper.set_title(
        f"Below the threshold: {percent(share)} of the samples, {percent(expected)} by chance",
        loc="left",
    )
    unit = "Cosine" if entry.metric == "cosine" else "Euclidean"
    lower.set_xlabel(f"{unit} distance to the nearest training point ({entry.name})")
    return figure


def _statistic(entry: Evidence, name: str, statistic: Statistic = "distance") -> np.ndarray:
    return np.asarray(closeness(entry.distances, name, statistic).cpu().numpy(), dtype=float)


def _histogram(
    axes: Axes,
    axis: _Axis,
    samples: np.ndarray,
    fresh: np.ndarray,
    threshold: float,
    words: str,
) -> None:
    edges = axis.edges
    widths = np.diff(edges)

    def shares(values: np.ndarray, of: int) -> np.ndarray:
        inside = np.minimum(axis.place(values), edges[-1])
        counts = np.histogram(inside, bins=edges)[0]
        counts[1] = 0  # the gap beside the values below the floor
        return 100.0 * counts / of

    reference = shares(fresh, len(fresh))
    close, far = (
        shares(samples[mask], len(samples)) for mask in (samples <= threshold, samples > threshold)
    )
    left = edges[:-1]
    axes.bar(left, reference, widths, align="edge", color="#BDBDBD", label=words, linewidth=0)
    for heights, color, hatch, label in (
        (far, BLUE, "", "samples"),
        (close, VERMILION, "////", "samples below the threshold"),
    ):
        axes.bar(
            left,
            heights,
            widths,
            align="edge",
            bottom=None if color == BLUE else far,
            color=color,
            edgecolor=color,
            alpha=0.62,
            hatch=hatch,
            linewidth=1.1,
            label=label,
        )
    axes.set_ylabel("share of points a bin (%)")
    axes.set_ylim(0.0, 1.3 * float(max(reference.max(), (close + far).max())))
    legend(axes, columns=3)


def _cumulative(
    axes: Axes, axis: _Axis, samples: np.ndarray, fresh: np.ndarray, words: str
) -> None:
    m, size = len(samples), len(fresh)
    right = axis.ceiling * axis.step
    ordered = np.sort(fresh)
    ranks = np.unique(np.geomspace(1, size, _BAND_RANKS).round().astype(int))
    low, high = np.array([_band(m, int(rank), size) for rank in ranks]).T
    floor = 50.0 / max(m, size)
    axes.fill_between(
        axis.place(ordered[ranks - 1]),
        np.maximum(100 * low, floor),
        np.maximum(100 * high, floor),
        step="post",
        color=GREY,
        alpha=0.22,
        linewidth=0,
        label="samples without copying, 95%",
    )
    for values, color, label, width in (
        (fresh, GREY, words, 1.5),
        (samples, BLUE, "samples", 2.2),
    ):
        x = axis.place(np.sort(values))
        y = 100.0 * np.arange(1, len(x) + 1) / len(x)
        x = np.concatenate([x[:1], x, [right]])
        y = np.concatenate([[floor], y, [100.0]])
        axes.step(x, y, where="post", color=color, linewidth=width, label=label)
    axes.set_yscale("log")
    axes.set_ylim(floor, 130.0)
    ticks = [t for t in (0.001, 0.01, 0.1, 1.0, 10.0, 100.0) if t >= floor]
    axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_ylabel("share at most this close (%)")
    legend(axes)


def _band(m: int, rank: int, size: int) -> tuple[float, float]:
    """The 95 % band of the share of samples below the ``rank``-th of ``size`` fresh points."""
    from scipy.stats import betabinom

    total = np.cumsum(betabinom.pmf(np.arange(m + 1), m, rank, size + 1 - rank))
    low, high = np.searchsorted(total, [0.025, 0.975])
    return float(low) / m, float(min(high, m)) / m


def excess_at(
    entry: Evidence, seed: int, statistic: Statistic = "distance"
) -> list[tuple[float, ExcessCopies]]:
    """Excess copies at every quantile of :data:`QUANTILES` that the reference resolves."""
    reference = reference_of(entry)
    size = entry.distances.size(reference)
    found: dict[int, tuple[float, ExcessCopies]] = {}
    for quantile in (1.0 / (size + 1), *QUANTILES):
        if quantile * (size + 1) < 0.999 or quantile >= 1.0:
            continue
        result = excess_copies(
            distances=entry.distances,
            quantile=quantile,
            statistic=statistic,
            reference=reference,
            seed=seed,
        )
        found.setdefault(result.rank, (result.rank / (size + 1), result))
    return [found[rank] for rank in sorted(found)]


def sensitivity_plot(evidence: Sequence[Evidence], seed: int) -> Plot:
    """Excess copies against the quantile that is the threshold, one panel a descriptor."""
    columns = min(2, len(evidence))
    rows = -(-len(evidence) // columns)
    figure, panels = new_panels(
        rows, columns, width=_WIDTH, height=3.4 * rows if columns == 1 else 3.0 * rows
    )
    for axes in panels.flat[len(evidence) :]:
        axes.set_visible(False)
    for axes, entry in zip(panels.flat, evidence, strict=False):
        local: Statistic = "local" if reference_of(entry) == "heldout" else "ratio"
        series: tuple[tuple[Statistic, str, str, str, float], ...] = (
            ("distance", "by distance", BLUE, "o", 0.97),
            (local, "on the local scale", ORANGE, "s", 1.03),
        )
        for statistic, label, color, marker, shift in series:
            points = excess_at(entry, seed, statistic)
            x = np.array([100 * quantile for quantile, _ in points])
            y = np.array([100 * result.value for _, result in points])
            ends = [result.interval for _, result in points]
            low = np.array([100 * e.low if e else np.nan for e in ends])
            high = np.array([100 * e.high if e else np.nan for e in ends])
            if statistic == "distance":
                bands = [result.null.interval if result.null else None for _, result in points]
                axes.fill_between(
                    x,
                    [100 * b.low if b else np.nan for b in bands],
                    [100 * b.high if b else np.nan for b in bands],
                    color=GREY,
                    alpha=0.22,
                    linewidth=0,
                    label="without copying, 95%",
                )
            axes.errorbar(
                x * shift,
                y,
                [np.maximum(y - low, 0), np.maximum(high - y, 0)],
                color=color,
                marker=marker,
                markersize=5,
                capsize=2.5,
                linewidth=1.3,
                label=label,
            )
        axes.axhline(0.0, color=GREY, linewidth=0.8)
        axes.set_xscale("log")
        axes.minorticks_off()
        ticks = [t for t in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0) if x.min() / 1.2 < t]
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.set_xlabel(f"quantile of the {reference_words(entry)} (%)")
        axes.set_ylabel("excess copies (% of the samples)")
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
