"""Curves of a training run: losses, memorised fraction and closeness against the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memdiff.report.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
    Curve,
    curve_plot,
    legend,
    new_panels,
)
from memdiff.training.monitor import Monitor
from memdiff.training.training_run import TrainingRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Plot

__all__ = ["copy_plot", "loss_plot"]


def loss_plot(run: TrainingRun, monitor: Monitor) -> Plot:
    """Draw losses on training and held-out data against the step, one panel per noise level."""
    seen = monitor.observations
    steps = [observation.step for observation in seen]
    count = len(monitor.ratios)
    figure, axes = new_panels(1, count, height=3.0, sharey=True)
    for place, target in enumerate(axes[0]):
        levels = [observation.levels[place] for observation in seen]
        fresh = [level.heldout_loss for level in levels]
        margin = [2 * level.gap_error for level in levels]
        first = place == 0
        curve_plot(
            [
                Curve(steps, [level.train_loss for level in levels], color=BLUE, style="plain"),
                Curve(
                    steps,
                    fresh,
                    low=[value - error for value, error in zip(fresh, margin, strict=True)],
                    high=[value + error for value, error in zip(fresh, margin, strict=True)],
                    color=ORANGE,
                    style="plain",
                ),
            ],
            xlabel="training step",
            ylabel="loss per value" if first else "",
            xscale="linear",
            yscale="linear",
            title=f"noise σ/m = {monitor.ratios[place]:.3g}",
            axes=target,
        )
        target.plot(steps, [level.excess_risk for level in levels], ":", color=GREEN, lw=1.6)
        target.set_ylim(bottom=0)
        _mark(target, run)
    _line_legend(axes[0, 0], (("training", BLUE, "-"), ("held-out", ORANGE, "-")), run)
    return figure


def copy_plot(run: TrainingRun, monitor: Monitor) -> Plot:
    """Draw memorised fraction and share nearer to train against the step, with their nulls."""
    seen = monitor.observations
    steps = [observation.step for observation in seen]
    figure, axes = new_panels(1, 2, height=3.2)
    left, right = axes[0]
    curve_plot(
        [
            Curve(
                steps,
                [observation.fraction for observation in seen],
                low=[observation.interval[0] for observation in seen],
                high=[observation.interval[1] for observation in seen],
                color=VERMILION,
            ),
            Curve(
                steps,
                [observation.null_fraction for observation in seen],
                style="dashed",
                color=GREY,
            ),
        ],
        xlabel="training step",
        ylabel="memorised fraction",
        xscale="linear",
        yscale="linear",
        axes=left,
    )
    curve_plot(
        [
            Curve(steps, [observation.closer_to_train for observation in seen], color=BLUE),
            Curve(
                steps,
                [observation.null_closer for observation in seen],
                style="dashed",
                color=GREY,
            ),
        ],
        xlabel="training step",
        ylabel="share nearer to train",
        xscale="linear",
        yscale="linear",
        axes=right,
    )
    for target in (left, right):
        target.set_ylim(-0.03, 1.03)
        _mark(target, run)
    _line_legend(left, (), run)
    return figure


def _marks(run: TrainingRun) -> list[tuple[str, int, str, str]]:
    onset = run.monitor.onset.onset if run.monitor is not None else None
    found = [("kept", run.kept_step, "#333333", "--")]
    if onset is not None:
        found.append(("onset", onset, VERMILION, "-."))
    return found


def _mark(target: Axes, run: TrainingRun) -> None:
    for _, step, color, style in _marks(run):
        target.axvline(step, color=color, linestyle=style, linewidth=1.0)


def _line_legend(target: Axes, lines: Sequence[tuple[str, str, str]], run: TrainingRun) -> None:
    extra = [("excess risk", GREEN, ":")] if lines else []
    marks = [(name, color, style) for name, _, color, style in _marks(run)]
    for name, color, style in (*lines, *extra, *marks):
        target.plot([], [], style, color=color, label=name)
    legend(target)
