r"""A Tikhonov penalty in the training of a network, next to its exact minimiser ([B25]).

The loss is :math:`|\sigma s + z|^2 + c\, |s|^2`. Its minimiser on the training points is the
closed form :math:`(m D - x)/(\sigma^2 + c)`, finite at :math:`\sigma = 0`. A network is trained
for a finite time from a smooth start, so it memorises less than that minimiser; what the penalty
adds is seen next to it, in the memorised fraction and in the norm of the score as
:math:`t \to 0`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from memdiff.experiments.experiment import Context, Experiment, Figure, Outcome
from memdiff.experiments.network_sweep import (
    PROCESS,
    TOLERANCES,
    Arm,
    Network,
    NetworkSweep,
    NetworkSweepResult,
    memorised_fractions,
    seed_latents,
    training_points,
)
from memdiff.experiments.published import READING_ERROR, published
from memdiff.report.document import CellValue, Table
from memdiff.report.figures import GREY, PALETTE, new_panels
from memdiff.scores import EmpiricalScore, Score, Tikhonov

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

__all__ = ["EXPERIMENTS", "STRENGTHS", "score_norms", "sweep"]

STRENGTHS = (0.0, *published().network.tikhonov_c)
OFFSET = 0.2
"""Distance scale of the point at which norms are compared, from the first training point."""


def sweep(context: Context) -> NetworkSweep:
    """Return the sweep at the size of the preset; the paper's has published values."""
    known, paper = published().network, context.preset == "paper"
    rows = [[None, *row] for row in known.tikhonov_fraction]  # none without a penalty
    steps = context.pick(quick=1000, paper=known.tikhonov_steps)
    return NetworkSweep(
        "strength",
        STRENGTHS,
        context.pick(quick=250, paper=1000),
        (Arm("networks", f"network, {steps} steps", published=rows if paper else None),),
        steps=steps,
        together="seed",
        name="c",
        xlabel="Tikhonov strength $c$",
        xscale="symlog",
        reading_error=READING_ERROR,
    )


def score_norms(score: Score, point: Tensor, times: Tensor) -> list[float]:
    """Return the norm of a score at one point ``(2,)``, at each time of ``(K,)``."""
    x = point.to(torch.float64).expand(len(times), -1)
    with torch.no_grad():
        return score(x, times).norm(dim=1).tolist()


def run(context: Context) -> Outcome:
    """Train networks with each penalty, count copies, compare norms of the score."""
    times = torch.logspace(-5, 0, 41, dtype=torch.float64)
    shift = torch.randn(2, generator=context.generator(7), dtype=torch.float64)
    point = training_points()[0].to(torch.float64) + OFFSET * shift

    def learned(networks: Sequence[Network], scores: Sequence[Score]) -> dict[str, Any]:
        return {"norms": [score_norms(score, point, times) for score in scores]}

    found = sweep(context).measure(context, learned)
    empirical = EmpiricalScore(training_points(), PROCESS)
    minimisers = [Tikhonov(empirical, c) if c else empirical for c in STRENGTHS]
    exact = _exact_fractions(context, minimisers, found.sweep.latents)
    curves = {
        "times": times.tolist(),
        "learned": found.extra[f"seed-0-{found.sweep.steps}"]["norms"],
        "exact": [score_norms(score, point, times) for score in minimisers],
    }
    return _outcome(found, exact, curves)


def _exact_fractions(
    context: Context, minimisers: Sequence[Score], latents: int
) -> list[list[float]]:
    """Fractions ``[strength][tolerance]`` of the exact minimisers, from latents of seed 0."""
    z = seed_latents(context, 0, latents)

    def compute() -> dict[str, list[list[float]]]:
        context.progress("exact minimisers")
        ends = [0.0 if c else 1e-5 for c in STRENGTHS]
        found = [
            memorised_fractions(score, z, t_end=end)
            for score, end in zip(minimisers, ends, strict=True)
        ]
        return {"fractions": found}

    return context.cached("exact", compute)["fractions"]


def _outcome(
    found: NetworkSweepResult, exact: list[list[float]], curves: dict[str, Any]
) -> Outcome:
    reference, size = published().network, found.sweep
    return Outcome(
        measured={
            "steps": size.steps,
            "latents": size.latents,
            "c": STRENGTHS,
            **found.measured(),
            "exact_minimiser": [list(column) for column in zip(*exact, strict=True)],
            "norms": curves,
        },
        published={
            "steps": reference.tikhonov_steps,
            "c": reference.tikhonov_c,
            "tolerances": TOLERANCES,
            "fraction": reference.tikhonov_fraction,
        },
        within=found.within,
        tolerance=(
            f"A published value is one run, read off a plot to {READING_ERROR}: beyond that it "
            "may differ from our mean by three standard deviations of a run (over seeds, at least "
            "binomial) times √(1 + 1/seeds); of all values one in twenty may differ by more."
        ),
        finding=(
            f"After {size.steps} steps {found.mean(2, 0):.3f} of the samples lie within 0.1 of a "
            f"training point with no penalty and {found.mean(2, -1):.3f} with c = "
            f"{STRENGTHS[-1]:g}; the exact minimisers give {exact[0][2]:.3f} and "
            f"{exact[-1][2]:.3f}. At t = {curves['times'][0]:.0e} the norm of the learned score "
            f"is {curves['learned'][0][0]:.3g} with no penalty and {curves['learned'][-1][0]:.3g} "
            f"with c = {STRENGTHS[-1]:g}; the exact score's is {curves['exact'][0][0]:.3g}."
            f"{found.agreement()}"
        ),
        figures=(
            found.figure(
                "Fraction of samples near a training point against the Tikhonov strength in "
                "training, next to the exact minimiser of the same loss (infinite width and "
                "training).",
                "Four panels, one for each tolerance; fractions fall as the strength grows.",
                [
                    (
                        "exact minimiser of the same loss",
                        [list(r) for r in zip(*exact, strict=True)],
                    )
                ],
            ),
            Figure(
                "norm",
                _norm_plot(curves),
                "Norm of the score near the first training point as t goes to 0: learned (solid) "
                "and the exact minimiser at the same strength (dashed). Without a penalty the "
                "exact norm grows without bound, the learned one does not.",
                "Curves of the score norm against time on logarithmic axes.",
            ),
        ),
        tables=(*found.tables(), _exact_table(found, exact)),
        measured_text=f"within 0.1: {found.mean(2, 1):.3f} to {found.mean(2, -1):.3f}",
        published_text=(
            f"{reference.tikhonov_fraction[2][0]:.2f} to {reference.tikhonov_fraction[2][-1]:.2f} "
            f"(figure, {reference.tikhonov_steps} steps)"
        ),
    )


def _norm_plot(curves: dict[str, Any]) -> Plot:
    figure, panels = new_panels(1, 1, height=4.2)
    axes, dashed = panels[0, 0], {"linestyle": "--", "linewidth": 1.1}
    for number, c in enumerate(STRENGTHS):
        color = PALETTE[number]
        axes.plot(curves["times"], curves["learned"][number], color=color, label=f"c = {c:g}")
        axes.plot(curves["times"], curves["exact"][number], color=color, **dashed)
    axes.plot([], [], color=GREY, label="learned")
    axes.plot([], [], color=GREY, label="exact minimiser", **dashed)
    axes.set(xscale="log", yscale="log", xlabel="time $t$", ylabel="norm of the score")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure


def _exact_table(found: NetworkSweepResult, exact: Sequence[Sequence[float]]) -> Table:
    header, rows = ["c"], []
    for tolerance in TOLERANCES:
        header += [f"Network, {tolerance:g}", f"Exact, {tolerance:g}"]
    for column, c in enumerate(STRENGTHS):
        row: list[CellValue] = [f"{c:g}"]
        for index in range(len(TOLERANCES)):
            row += [f"{found.mean(index, column):.3f}", f"{exact[column][index]:.3f}"]
        rows.append(row)
    return Table(
        "Network next to the exact minimiser of the same loss.",
        header,
        rows,
        note="Exact: (m D − x)/(σ² + c), sampled from the latents of the first seed.",
        stacked=True,
    )


EXPERIMENTS = (
    Experiment(
        name="network-tikhonov",
        title="Networks: a Tikhonov penalty in training",
        question=(
            "A network is trained with the penalty c |s|² added to its loss. How strong must it "
            "be to prevent copies, and does it bound the score as t goes to 0?"
        ),
        reference="[B25], neural-network experiments: Tikhonov regularisation in training.",
        run=run,
    ),
)
