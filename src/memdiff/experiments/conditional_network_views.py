"""Figures of the study of conditional networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from memdiff.experiments.conditional import branches
from memdiff.report.figures import BLACK, BLUE, GREEN, VERMILION, legend, new_panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

__all__ = ["samples_plot", "steps_plot"]


def steps_plot(
    steps: Sequence[int],
    seeds: int,
    mean: Mapping[str, np.ndarray],
    deviation: Mapping[str, np.ndarray],
    best: float,
    null: float,
) -> Plot:
    """Draw the paired share and the distance to the law against the training steps.

    Args:
        steps: Training steps.
        seeds: Number of training seeds.
        mean: ``paired`` and ``law`` at each step, mean over the seeds.
        deviation: Their standard deviation.
        best: Distance to the law of the exact score at its best width.
        null: Distance to the law of samples of the law.

    Returns:
        The figure.
    """
    figure, panels = new_panels(1, 2, height=3.2)
    left, right = panels[0]
    for axes, name, color in ((left, "paired", BLUE), (right, "law", VERMILION)):
        axes.errorbar(
            steps,
            mean[name],
            yerr=deviation[name],
            color=color,
            marker="o",
            markersize=4.5,
            capsize=2,
            label=f"network, {seeds} seeds",
        )
        axes.set(xscale="log", xlabel="training steps")
    left.axhline(1.0, color=BLACK, linestyle="--", linewidth=1.1, label="exact minimiser")
    left.set(ylabel="share of samples at the paired point", ylim=(-0.03, 1.06))
    right.axhline(best, color=GREEN, linestyle="-.", linewidth=1.3, label="best kernel score")
    right.axhline(null, color=BLACK, linestyle=":", linewidth=1.3, label="exact law")
    right.set(ylabel="Wasserstein-1 distance to the law", ylim=(0, None))
    legend(left)
    legend(right)
    return figure


def samples_plot(
    points: tuple[Tensor, Tensor, Tensor], shown: Sequence[tuple[str, Tensor]]
) -> Plot:
    """Draw samples between training conditions, in four panels.

    Args:
        points: Training points, their conditions and the mid-points, each ``(N, 1)``.
        shown: Title and samples ``(N - 1, n)`` of each panel.

    Returns:
        The figure.
    """
    x, y, middle = points
    figure, panels = new_panels(2, 2, height=5.6, sharex=True, sharey=True)
    line = torch.linspace(-1.0, 1.0, 100)
    for axes, (title, samples) in zip(panels.flat, shown, strict=True):
        for column, side in enumerate(branches(line).T):
            axes.plot(line, side, color=BLACK, linewidth=1.0,
                      label="" if column else "branches of the law")  # fmt: skip
        axes.plot(middle.expand_as(samples).flatten(), samples.flatten(), "o", color=VERMILION,
                  markersize=3, markerfacecolor="none", markeredgewidth=0.6,
                  label="samples between conditions")  # fmt: skip
        axes.plot(y, x, "D", color=BLUE, markersize=4.5, label="training pairs")
        axes.set_title(title, fontsize=10)
        axes.set(ylim=(-2.5, 2.5), xticks=(-1.0, -0.5, 0.0, 0.5, 1.0))
    for axes in panels[1]:
        axes.set_xlabel("condition $y$")
    for axes in panels[:, 0]:
        axes.set_ylabel("$x$")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure
