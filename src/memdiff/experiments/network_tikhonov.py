r"""A Tikhonov penalty in the training of a network ([B25]).

The loss is :math:`|\sigma s + z|^2 + c\, |s|^2`. Its minimiser on the training points is the
closed form :math:`(m D - x)/(\sigma^2 + c)`, finite at :math:`\sigma = 0`. A network is trained
for a finite time from a smooth start, so it memorises less than that minimiser; what the penalty
adds is seen next to it, in the memorised fraction and in the norm of the score as
:math:`t \to 0`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from memdiff.data import load
from memdiff.experiments.experiment import Context, Experiment, Figure, Outcome
from memdiff.experiments.network_tables import compare, comparison_table, fraction_panels
from memdiff.experiments.network_training import (
    TOLERANCES,
    Spread,
    fractions,
    member_fractions,
    seed_latents,
    spread,
    train_with_snapshots,
)
from memdiff.experiments.published import READING_ERROR, published
from memdiff.processes import VP
from memdiff.report.document import CellValue, Table
from memdiff.report.figures import GREY, PALETTE, new_panels
from memdiff.scores import EmpiricalScore, NetworkScore, Score, Tikhonov
from memdiff.training.ensemble import Member
from memdiff.training.networks import MLP

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

__all__ = ["EXPERIMENTS", "STRENGTHS", "TikhonovStudy", "run_study", "score_norms"]

STRENGTHS = (0.0, *published().network.tikhonov_c)
OFFSET = 0.2
"""Distance scale of the point at which norms are compared, from the first training point."""


@dataclass(frozen=True)
class TikhonovStudy:
    """Sizes of the study.

    Attributes:
        steps: Training steps.
        seeds: Number of training seeds.
        latents: Samples for each network.
    """

    steps: int
    seeds: int
    latents: int


def score_norms(score: Score, point: Tensor, times: Tensor) -> list[float]:
    """Norm of a score at one point ``(2,)``, at each time of ``(K,)``."""
    x = point.to(torch.float64).expand(len(times), -1)
    with torch.no_grad():
        return score(x, times).norm(dim=1).tolist()


def run(context: Context) -> Outcome:
    """The study at the size of the preset."""
    return run_study(
        context,
        context.pick(quick=TikhonovStudy(1000, 4, 250), paper=TikhonovStudy(500_000, 4, 1000)),
    )


def run_study(context: Context, study: TikhonovStudy) -> Outcome:
    """Train networks with each penalty, count copies, compare norms of the score."""
    reference, data, process = published().network, load("points20").x, VP()
    found: list[list[list[float]]] = []
    first: list[MLP] = []
    for seed in range(study.seeds):
        members = [Member(seed=seed, strength=c) for c in STRENGTHS]
        nets = train_with_snapshots(
            data,
            process,
            members,
            (study.steps,),
            context.directory,
            f"seed-{seed}",
            context.progress,
        )[study.steps]
        first = first or nets
        name = f"seed-{seed}"
        found.append(member_fractions(context, name, nets, members, data, process, study.latents))
    spreads = [
        [
            spread([one[column][index] for one in found], study.latents)
            for column in range(len(STRENGTHS))
        ]
        for index in range(len(TOLERANCES))
    ]
    exact = _exact_fractions(context, data, study)
    compared = study.steps == reference.tikhonov_steps
    penalised = [row[1:] for row in spreads]
    comparison = compare(penalised, reference.tikhonov_fraction, READING_ERROR)
    curves = _norms(context, data, first)
    table = comparison_table(
        "Fraction of samples within each tolerance.",
        [f"{c:g}" for c in STRENGTHS[1:]],
        penalised,
        reference.tikhonov_fraction if compared else None,
        comparison if compared else None,
        parameter="c",
        note=(
            f"{study.steps} steps, {study.seeds} training seeds, {study.latents} samples each; "
            "mean ± standard deviation of one run (binomial where there is one seed)."
        ),
    )
    finding = (
        f"After {study.steps} steps {spreads[2][0].mean:.3f} of the samples lie within 0.1 of a "
        f"training point with no penalty and {spreads[2][-1].mean:.3f} with c = "
        f"{STRENGTHS[-1]:g}; the exact minimisers give {exact[0][2]:.3f} and {exact[-1][2]:.3f}. "
        f"At t = {curves['times'][0]:.0e} the norm of the learned score is "
        f"{curves['learned'][0][0]:.3g} with no penalty and {curves['learned'][-1][0]:.3g} with c "
        f"= {STRENGTHS[-1]:g}; the exact score's is {curves['exact'][0][0]:.3g}."
    )
    if compared:
        finding += (
            f" {comparison.count - comparison.outside} of {comparison.count} published values are "
            f"within the allowed difference; the largest difference is {comparison.largest:.3f}."
        )
    return Outcome(
        measured={
            "steps": study.steps,
            "seeds": study.seeds,
            "latents": study.latents,
            "c": STRENGTHS,
            "tolerances": TOLERANCES,
            "mean": [[one.mean for one in row] for row in spreads],
            "deviation": [[one.deviation for one in row] for row in spreads],
            "exact_minimiser": [list(column) for column in zip(*exact, strict=True)],
            "norms": curves,
        },
        published={
            "steps": reference.tikhonov_steps,
            "c": reference.tikhonov_c,
            "tolerances": TOLERANCES,
            "fraction": reference.tikhonov_fraction,
        },
        within=comparison.within if compared else None,
        tolerance=(
            f"A published value is one run, read off a plot to {READING_ERROR}: beyond that it "
            "may differ from our mean by three standard deviations of a run (over seeds, at least "
            "binomial) times √(1 + 1/seeds); of all values one in twenty may differ by more."
        ),
        finding=finding,
        figures=(
            Figure(
                "fraction",
                _fraction_plot(spreads, exact, study, compared),
                "Fraction of samples near a training point against the Tikhonov strength in "
                "training, next to the exact minimiser of the same loss (infinite width and "
                "training). Open marks: read off the published plot.",
                "Four panels, one a tolerance; fractions fall as the strength grows.",
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
        tables=(table, _exact_table(spreads, exact)),
        measured_text=f"within 0.1: {spreads[2][1].mean:.3f} to {spreads[2][-1].mean:.3f}",
        published_text=(
            f"{reference.tikhonov_fraction[2][0]:.2f} to {reference.tikhonov_fraction[2][-1]:.2f} "
            f"(figure, {reference.tikhonov_steps} steps)"
        ),
    )


def _exact_fractions(context: Context, data: Tensor, study: TikhonovStudy) -> list[list[float]]:
    """Fractions ``[strength][tolerance]`` of the exact minimisers."""
    empirical = EmpiricalScore(data, VP())
    z = seed_latents(context, 0, study.latents)

    def compute() -> dict[str, list[list[float]]]:
        context.progress("exact minimisers")
        unpenalised = fractions(empirical, z, data, t_end=1e-5)
        rest = [fractions(Tikhonov(empirical, c), z, data) for c in STRENGTHS[1:]]
        return {"fractions": [unpenalised, *rest]}

    return context.cached("exact", compute)["fractions"]


def _norms(context: Context, data: Tensor, nets: Sequence[MLP]) -> dict[str, Any]:
    process = VP()
    empirical = EmpiricalScore(data.to(torch.float64), process)
    times = torch.logspace(-5, 0, 41, dtype=torch.float64)
    shift = torch.randn(2, generator=context.generator(7), dtype=torch.float64)
    point = data[0].to(torch.float64) + OFFSET * shift
    learned = [NetworkScore(net, process, "score") for net in nets]
    exact = [Tikhonov(empirical, c) if c else empirical for c in STRENGTHS]
    return {
        "times": times.tolist(),
        "learned": [score_norms(score, point, times) for score in learned],
        "exact": [score_norms(score, point, times) for score in exact],
    }


def _fraction_plot(
    spreads: Sequence[Sequence[Spread]],
    exact: Sequence[Sequence[float]],
    study: TikhonovStudy,
    compared: bool,
) -> Plot:
    reference = published().network
    points = [("published (read off the plot)", reference.tikhonov_fraction)] if compared else []
    exact_rows = [[row[index] for row in exact] for index in range(len(TOLERANCES))]
    return fraction_panels(
        STRENGTHS,
        [(f"network, {study.steps} steps", spreads)],
        points,
        points_x=reference.tikhonov_c,
        lines=[("exact minimiser of the same loss", exact_rows)],
        xlabel="Tikhonov strength $c$",
        xscale="symlog",
        threshold=STRENGTHS[1],
    )


def _norm_plot(curves: dict[str, Any]) -> Plot:
    figure, panels = new_panels(1, 1, height=4.2)
    axes = panels[0, 0]
    for number, c in enumerate(STRENGTHS):
        label = f"c = {c:g}"
        axes.plot(curves["times"], curves["learned"][number], color=PALETTE[number], label=label)
        axes.plot(
            curves["times"],
            curves["exact"][number],
            color=PALETTE[number],
            linestyle="--",
            linewidth=1.1,
        )
    axes.plot([], [], color=GREY, label="learned")
    axes.plot([], [], color=GREY, linestyle="--", linewidth=1.1, label="exact minimiser")
    axes.set(xscale="log", yscale="log", xlabel="time $t$", ylabel="norm of the score")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure


def _exact_table(spreads: Sequence[Sequence[Spread]], exact: Sequence[Sequence[float]]) -> Table:
    rows: list[list[CellValue]] = []
    for column, c in enumerate(STRENGTHS):
        row: list[CellValue] = [f"{c:g}"]
        for index in range(len(TOLERANCES)):
            row += [f"{spreads[index][column].mean:.3f}", f"{exact[column][index]:.3f}"]
        rows.append(row)
    header = ["c"]
    for tolerance in TOLERANCES:
        header += [f"Network, {tolerance:g}", f"Exact, {tolerance:g}"]
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
