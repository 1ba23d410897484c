r"""Choice of a strength with no held-out data, next to the best one.

The data law is a known mixture of three Gaussians in the plane, whose noised score
:math:`\nabla \log p_t` is computable. For each training set, regulariser and candidate strength
:math:`\theta` two curves are measured with the same law of times, :math:`\sigma/m` log-uniform
from a tenth of Silverman's bandwidth up:

* the *true error* (explicit score matching), on fresh draws,

  .. math:: I(s_\theta) = E_t\, \sigma^2\, E_{p_t} |s_\theta - \nabla \log p_t|^2 ;

* the *leave-one-out loss* :math:`CV(\theta)` (:mod:`memdiff.generate.selection`), on the
  training points alone. The *oracle* minimises the first, the *choice* the second.

A score that has not seen :math:`x_n` is independent of it, so that the loss of the population
score on the same draws is what separates the two:
:math:`E[CV(\theta)] - E[CV(\nabla \log p_t)] = E[I(s_\theta^{(-n)})]`. The figure subtracts it and
shows both curves in the units of :math:`I`, with no fitted offset. In use it is unknown and not
needed: it does not depend on :math:`\theta`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial

import numpy as np

from memdiff.experiments.experiment import Context, Experiment, Figure, Outcome, Table
from memdiff.experiments.strength_choice import (
    Choice,
    Curves,
    choices_on,
    compare,
    curves,
    data_law,
    strength_ratio,
)
from memdiff.generate.families import EARLY_STOP, EMPIRICAL_BAYES, TEMPERATURE, TIKHONOV, Family
from memdiff.report.document import CellValue
from memdiff.report.figures import BLACK, BLUE, VERMILION, Curve, curve_plot, new_panels

__all__ = ["EXPERIMENTS"]

COST = 1.15
"""Largest true error at the choice over that at the oracle, in the median data set."""
STEPS = 2
"""Candidates of the default grids that count as close: factors of 2.5 in c and 1.6 in sigma/m."""
NEAR = 0.6
"""Least share of data sets in which choice and oracle are that close."""


def run(context: Context) -> Outcome:
    """Choose on several data sets of several sizes; compare the errors and the strengths."""
    law = data_law()
    families = context.pick(
        quick=(TIKHONOV, EMPIRICAL_BAYES, EARLY_STOP),
        paper=(TIKHONOV, EMPIRICAL_BAYES, EARLY_STOP, TEMPERATURE),
    )
    sizes = context.pick(quick=(60, 180), paper=(60, 240, 960))
    repeats = context.pick(quick=8, paper=16)
    num_test = context.pick(quick=1000, paper=3000)

    found: dict[tuple[str, int], list[Choice]] = {}
    for num in sizes:
        for repeat in range(repeats):
            context.progress(f"N = {num}, data set {repeat + 1} of {repeats}")
            seed = context.seed + 1000 * num + repeat
            chosen = context.cached(
                f"{num}-{repeat}", partial(choices_on, law, families, num, num_test, seed)
            )
            for name, choice in chosen.items():
                found.setdefault((name, num), []).append(Choice(**choice))

    cost = {
        key: statistics.median(c.error_chosen / c.error_oracle for c in choices)
        for key, choices in found.items()
    }
    gain = {
        key: statistics.median(c.error_chosen / c.error_plain for c in choices)
        for key, choices in found.items()
    }
    near = {
        key: sum(c.steps <= STEPS for c in choices) / repeats for key, choices in found.items()
    }
    shown = compare(law, sizes[0], num_test, context.seed + 1000 * sizes[0])
    figure = curves_figure(families, [curves(law, family, shown) for family in families], sizes[0])
    return Outcome(
        measured={
            family.name: {
                "sizes": sizes,
                "cost_median": [cost[family.name, num] for num in sizes],
                "error_over_plain_median": [gain[family.name, num] for num in sizes],
                "share_close": [near[family.name, num] for num in sizes],
                "strength_ratio": [
                    [strength_ratio(family, c) for c in found[family.name, num]] for num in sizes
                ],
                "at_edge": [sum(c.at_edge for c in found[family.name, num]) for num in sizes],
            }
            for family in families
        },
        published={"cost_median": 1.0},
        within=max(cost.values()) <= COST and min(near.values()) >= NEAR,
        tolerance=(
            f"For every regulariser and N: the true error at the choice at most {COST} times that "
            f"at the oracle in the median of {repeats} data sets, and choice and oracle at most "
            f"{STEPS} candidates of the grid apart in {NEAR:.0%} of them. The oracle is 1 by "
            "definition; the margin is for the variance of a choice from few points."
        ),
        finding=(
            f"In the median data set the true error at the choice is {min(cost.values()):.2f} to "
            f"{max(cost.values()):.2f} times the smallest one, and {min(gain.values()):.1%} to "
            f"{max(gain.values()):.1%} of that of the empirical score. Choice and oracle are at "
            f"most {STEPS} candidates of the grid apart in {min(near.values()):.0%} of the data "
            "sets or more."
        ),
        figures=[figure],
        tables=[choice_table(families, sizes, found)],
        measured_text=f"error at the choice {min(cost.values()):.2f} to "
        f"{max(cost.values()):.2f} × that at the oracle (medians)",
        published_text="1 × (the oracle)",
    )


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def choice_table(
    families: Sequence[Family],
    sizes: Sequence[int],
    found: dict[tuple[str, int], list[Choice]],
) -> Table:
    """Return one row for each regulariser and size."""
    rows: list[list[CellValue]] = []
    for family in families:
        for num in sizes:
            choices = found[family.name, num]
            chosen, oracle, plain = (
                statistics.median(getattr(c, name) for c in choices)
                for name in ("error_chosen", "error_oracle", "error_plain")
            )
            rows.append(
                [
                    family.name,
                    num,
                    _spread([strength_ratio(family, c) for c in choices]),
                    f"{sum(c.steps <= STEPS for c in choices)} of {len(choices)}",
                    f"{chosen:.3f}",
                    f"{oracle:.3f}",
                    f"{plain:.3g}",
                    _spread([c.error_chosen / c.error_oracle for c in choices]),
                ]
            )
    return Table(
        "Leave-one-out choice against the oracle, over data sets.",
        (
            "Regulariser",
            "N",
            "Chosen / oracle strength, median (range)",
            f"At most {STEPS} candidates apart",
            "Error at the choice",
            "Error at the oracle",
            "Error, not regularised",
            "Choice / oracle error, median (range)",
        ),
        rows,
        note="Errors are true errors I, medians over data sets; they have no unit (σ² times a "
        "squared score). The strength of empirical Bayes is compared as the floor ε, of which the "
        "grid holds the logarithm.",
    )


LABELS = {
    "tikhonov": "c",
    "empirical-bayes": "log ε (floor of the kernel sum)",
    "early-stop": "bandwidth σ/m at the stop",
    "temperature": "bandwidth σ/m where it starts",
}


def curves_figure(families: Sequence[Family], found: Sequence[Curves], num: int) -> Figure:
    """Draw both curves, the choice and the oracle, one panel per regulariser."""
    columns = 2 if len(families) == 4 else len(families)
    rows = -(-len(families) // columns)
    figure, axes = new_panels(rows, columns, height=0.5 + 2.9 * rows, sharey=True)
    for panel, family, both in zip(axes.flat, families, found, strict=False):
        x = both.candidates.numpy()
        true, fitted = both.true.numpy(), both.leave_one_out.numpy()
        error = both.standard_error.numpy()
        floor = 0.2 * true.min()
        curve_plot(
            [
                Curve(x, true, "true error", style="plain", color=BLACK),
                Curve(
                    x,
                    fitted,
                    "leave-one-out",
                    low=np.maximum(fitted - error, floor),
                    high=fitted + error,
                    style="plain",
                    color=BLUE,
                ),
            ],
            xlabel=LABELS[family.name],
            ylabel="error I of the score" if panel.get_subplotspec().is_first_col() else "",
            xscale="linear" if family is EMPIRICAL_BAYES else "log",
            title=family.name,
            axes=panel,
        )
        panel.get_legend().remove()
        for values, color, marker, label in (
            (true, BLACK, "*", "oracle"),
            (fitted, VERMILION, "X", "choice"),
        ):
            best = int(values.argmin())
            panel.plot(
                x[best],
                true[best],
                marker=marker,
                markersize=15 if marker == "*" else 7,
                color=color,
                markeredgecolor="white",
                linestyle="none",
                label=label,
                zorder=5,
            )
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return Figure(
        "curves",
        figure,
        f"True error and leave-one-out loss against the strength, on one training set of {num} "
        "points. From the leave-one-out loss that of the population score on the same draws is "
        "subtracted, after which both estimate the same quantity, which has no unit; c is in "
        "squared units of the data, σ/m in units of the data. The band is one standard error "
        "over training points. The star is the smallest true error, the cross the true error at "
        "the strength that leave-one-out chooses.",
        "One panel for each regulariser: the leave-one-out curve follows the true error, and "
        "their smallest values are close together.",
    )


EXPERIMENTS = (
    Experiment(
        name="selection",
        title="Choosing the strength with no held-out data",
        question=(
            "A regulariser needs a strength, and all data are in training. Does the leave-one-out "
            "denoising loss choose a strength whose true error is close to the best possible, "
            "where the true error can be computed?"
        ),
        reference="Cross-validation of the denoising objective of [B25]",
        needs=("B25", "W24"),
        run=run,
    ),
)
