"""Table and figures of the onset law."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from memdiff.experiments.power_law import PowerLaw
from memdiff.report.document import Table
from memdiff.report.figures import BLACK, GREY, MARKERS, PALETTE, VERMILION, legend, new_panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

__all__ = ["curves_plot", "law_plot", "onset_table"]


def onset_table(
    study_sizes: Sequence[int],
    sizes: Sequence[int],
    times: Sequence[float | None],
    generalised: Sequence[float | None],
    note: str,
) -> Table:
    """Return the range of both times over the seeds, one row per size.

    Args:
        study_sizes: The sizes.
        sizes: Size of each run.
        times: Its ``tau_mem``; None where censored.
        generalised: Its ``tau_gen``; None where it has none.
        note: What the runs were.

    Returns:
        The table.
    """

    def cell(values: Sequence[float | None], size: int, missing: str) -> str:
        own = [value for s, value in zip(sizes, values, strict=True) if s == size]
        reached = [value for value in own if value is not None]
        if not reached:
            return missing
        text = f"{min(reached):.0f} to {max(reached):.0f}"
        return text if len(reached) == len(own) else f"{text}; {len(own) - len(reached)} {missing}"

    return Table(
        "Onset of memorisation and plateau of the held-out loss, range over the seeds.",
        ("Training images N", "τ_mem, steps", "τ_gen, steps"),
        [[f"{s}", cell(times, s, "later"), cell(generalised, s, "none")] for s in study_sizes],
        note=f"{note} Later: not within the run. None: the held-out loss never fell.",
    )


def curves_plot(study_sizes: Sequence[int], found: Sequence[dict[str, Any]], level: float) -> Plot:
    """Draw the memorised fraction against steps, and against steps over the size.

    Args:
        study_sizes: The sizes.
        found: ``steps`` (the first is 0) and ``fraction`` ``[seed][step]`` of each size.
        level: Level of ``tau_mem``.

    Returns:
        The figure.
    """
    figure, panels = new_panels(1, 2, height=3.6, sharey=True)
    for number, (size, one) in enumerate(zip(study_sizes, found, strict=True)):
        values = torch.tensor(one["fraction"], dtype=torch.float64)
        for axes, unit in zip(panels[0], (1, size), strict=True):
            x = [step / unit for step in one["steps"][1:]]
            low, high = values.amin(0).numpy(), values.amax(0).numpy()
            color = PALETTE[number]
            axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
            axes.plot(
                x,
                values.mean(0).numpy(),
                color=color,
                marker=MARKERS[number],
                markersize=3.5,
                label=f"N = {size}",
            )
    for axes, label in zip(panels[0], ("training steps", "training steps / N"), strict=True):
        axes.axhline(level, color=BLACK, linestyle="--", linewidth=1.0)
        axes.set(xscale="log", xlabel=label, ylim=(-0.03, 1.03))
    panels[0, 0].set_ylabel("memorised fraction")
    legend(panels[0, 0])
    return figure


def law_plot(
    study_sizes: Sequence[int],
    sizes: Sequence[int],
    times: Sequence[float | None],
    generalised: Sequence[float | None],
    ends: Sequence[int],
    mem: PowerLaw | None,
    gen: PowerLaw | None,
) -> Plot:
    """Draw both times against the size, with their laws.

    Args:
        study_sizes: The sizes.
        sizes: Size of each run.
        times: Its ``tau_mem``; None where censored.
        generalised: Its ``tau_gen``; None where it has none.
        ends: Its last step.
        mem: Law of ``tau_mem``.
        gen: Law of ``tau_gen``.

    Returns:
        The figure.
    """
    figure, panels = new_panels(1, 1, height=4.2)
    axes = panels[0, 0]
    line = [study_sizes[0], study_sizes[-1]]
    for name, values, law, color, marker in (
        ("τ_mem", times, mem, VERMILION, "o"),
        ("τ_gen", generalised, gen, PALETTE[0], "s"),
    ):
        seen = [(s, v) for s, v in zip(sizes, values, strict=True) if v is not None]
        cut = [(s, e) for s, v, e in zip(sizes, values, ends, strict=True) if v is None]
        axes.plot(
            *zip(*seen, strict=True),
            marker,
            color=color,
            markersize=5,
            alpha=0.8,
            label=f"{name}, one seed",
        ) if seen else None
        if cut and values is times:
            axes.plot(
                *zip(*cut, strict=True),
                "^",
                color=color,
                markerfacecolor="none",
                label="τ_mem later than this",
            )
        if law is not None:
            axes.plot(
                line,
                [law.at(s) for s in line],
                color=color,
                label=f"fit: N^{law.exponent:.2f} [{law.low:.2f}, {law.high:.2f}]",
            )
    if mem is not None:
        middle = (line[0] * line[1]) ** 0.5
        axes.plot(
            line,
            [mem.at(middle) * s / middle for s in line],
            "--",
            color=GREY,
            label="published slope, τ_mem ∼ N",
        )
    axes.set(
        xscale="log", yscale="log", xlabel="number of training images N", ylabel="training steps"
    )
    axes.set_xticks(study_sizes, [f"{s}" for s in study_sizes])
    axes.xaxis.set_minor_formatter("")
    legend(axes, outside=True)
    return figure
