r"""Probability-flow ODE under the exact score of the paper's 20 points: ends and rates.

Every trajectory ends at a training point, at the rate :math:`|x(t) - x_*| = O(\sigma(t))`. Thirty
of them are integrated twice: in the paper's setting (RK45 in :math:`t` at tolerances 1e-5, to
:math:`t` = 1e-6), which the figures show; and in log time at tolerances 1e-9, to :math:`\sigma/m`
= 1e-6, which measures the rate, since a distance below the tolerance of an integrator is not that
of the flow. A thousand more give the fraction and the times at which trajectories settle.

References:
    Baptista et al., arXiv:2501.15785 (memorisation by the exact minimiser).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.data.builtin import points20
from memdiff.dynamics import (
    Commitment,
    ConvergenceRate,
    LevelTimes,
    LimitPoints,
    commitment,
    convergence_rate,
    level_times,
    limit_points,
    voronoi_cells,
    weights_along,
)
from memdiff.experiments.experiment import Context, Experiment, Figure, Outcome, Table
from memdiff.experiments.plane import (
    draw_ends,
    draw_numbers,
    draw_paths,
    draw_points,
    draw_voronoi,
    frame,
)
from memdiff.experiments.published import published
from memdiff.processes import VE, VP
from memdiff.report.figures import BLACK, BLUE, GREY, PALETTE, legend, new_figure, new_panels
from memdiff.samplers import RK45, LogTime, Sampler, draw_latents, sample
from memdiff.scores import EmpiricalScore

__all__ = ["EXPERIMENTS", "Paths", "follow", "run"]

TOLERANCE = 0.01
"""Distance within which a sample is a training point, as published."""

SHOWN, COUNTED = 30, 1000
SLOPE_TOLERANCE = 0.02
WINDOW = ((-2.2, 3.0), (-3.0, 2.2))
"""The part of the plane that the paper shows."""


@dataclass(frozen=True)
class Paths:
    """Trajectories and where they end.

    Attributes:
        times: Recorded times with shape ``(K + 1,)``.
        ratio: The same as noise-to-signal ratio.
        x: Points with shape ``(K + 1, B, 2)``.
        cells: Voronoi cell at each time with shape ``(K + 1, B)``.
        limits: What the ends are.
        commitment: When each trajectory entered its final cell.
    """

    times: Tensor
    ratio: Tensor
    x: Tensor
    cells: Tensor
    limits: LimitPoints
    commitment: Commitment

    @property
    def at_data(self) -> float:
        """Share that ends at a training point."""
        return float(self.limits.is_data.double().mean())

    @property
    def in_final_cell(self) -> Tensor:
        """Share that is in its final cell at each time."""
        return (self.cells == self.limits.index).double().mean(dim=1)


def follow(score: EmpiricalScore, latents: Tensor, sampler: Sampler, t_end: float) -> Paths:
    """Integrate, and find cells, commitment and limits."""
    process = score.process
    samples = sample(score, latents, sampler=sampler, t_end=t_end, trajectory=True)
    assert samples.trajectory is not None
    cells = voronoi_cells(samples.trajectory, score.data, process.scale(samples.times))
    return Paths(
        times=samples.times,
        ratio=process.ratio(samples.times),
        x=samples.trajectory,
        cells=cells,
        limits=limit_points(samples.x, score.data, TOLERANCE),
        commitment=commitment(samples.times, cells, process),
    )


def run(context: Context, score: EmpiricalScore) -> Outcome:
    """Follow trajectories of a score in the plane to their ends.

    Args:
        context: Seed and progress; the paper's sizes are small and serve both presets.
        score: The score of the training points.

    Returns:
        The outcome.
    """
    process = score.process
    latents = draw_latents(SHOWN, (2,), seed=context.seed, dtype=torch.float64)
    context.progress("the paper's integration", 0.0)
    shown = follow(score, latents, RK45(save=300), 1e-6)
    context.progress("resolved integration", 0.3)
    fine = LogTime(rtol=1e-9, atol=1e-9, save=200)
    resolved = follow(score, latents, fine, float(process.time_at_ratio(1e-6)))
    context.progress(f"{COUNTED} latents", 0.6)
    many = draw_latents(COUNTED, (2,), seed=context.seed + 1, dtype=torch.float64)
    counted = follow(score, many, LogTime(save=150), float(process.time_at_ratio(1e-8)))
    weights = weights_along(score, counted.times, counted.x)
    half, sure = (level_times(counted.times, weights, level, process) for level in (0.5, 0.99))
    context.progress("figures", 0.9)

    rate, paper_rate = _rate(score, resolved), _rate(score, shown)
    expected = published().unregularised[type(process).__name__]
    within = (
        abs(counted.at_data - expected) <= 1.0 / COUNTED
        and shown.at_data == 1.0
        and bool(((rate.slope - 1.0).abs() <= SLOPE_TOLERANCE).all())
    )
    slope = _spread(rate.slope)
    committed = _quantiles(counted.commitment.ratio)
    measured = {
        "fraction": counted.at_data,
        "fraction_of_shown": shown.at_data,
        "slope": slope["mean"],
        "slopes": slope,
        "slopes_paper_integration": _spread(paper_rate.slope),
        "distance_over_sigma": _spread(rate.constant),
        "commitment_ratio": committed,
        "weight_0.5_ratio": _quantiles(half.ratio),
        "weight_0.99_ratio": _quantiles(sure.ratio),
        "start_in_final_cell": float(counted.in_final_cell[0]),
        "changes_of_cell": float(counted.commitment.changes.double().mean()),
    }
    return Outcome(
        measured=measured,
        published={"fraction": expected, "slope": 1.0},
        within=within,
        tolerance=(
            f"At most one of {COUNTED} samples farther than {TOLERANCE} from every training point "
            f"(the published tolerance), and none of the {SHOWN} shown; every fitted exponent "
            f"within {SLOPE_TOLERANCE} of the theoretical 1."
        ),
        finding=(
            f"{counted.at_data:.1%} of {COUNTED} samples end within {TOLERANCE} of a training "
            f"point. The distance to it falls as σ to the power {slope['mean']:.4f} (mean of "
            f"{SHOWN} fits; {slope['min']:.4f} to {slope['max']:.4f}). Half of the trajectories "
            f"enter the Voronoi cell in which they end before σ/m falls to {committed['50%']:.2f},"
            f" 95% before {committed['5%']:.2f}; {counted.in_final_cell[0]:.0%} start in it."
        ),
        figures=_figures(score, shown, resolved, counted, half, sure),
        tables=[_table(measured, expected)],
        measured_text=f"fraction {counted.at_data:.3f}, exponent {slope['mean']:.4f}",
        published_text=f"fraction {expected:.1f}; exponent 1 (theory)",
    )


def _rate(score: EmpiricalScore, paths: Paths) -> ConvergenceRate:
    return convergence_rate(paths.times, paths.x, score.data[paths.limits.index], score.process)


def _spread(values: Tensor) -> dict[str, float]:
    kept = values[~values.isnan()]
    return {"mean": float(kept.mean()), "min": float(kept.min()), "max": float(kept.max())}


def _quantiles(values: Tensor) -> dict[str, float]:
    return {f"{q}%": float(torch.nanquantile(values, q / 100)) for q in (5, 50, 95)}


def _table(measured: dict[str, object], expected: float) -> Table:
    def text(name: str) -> str:
        found = measured[name]
        assert isinstance(found, dict)
        return ", ".join(f"{key} {value:.5g}" for key, value in found.items())

    half, sure = text("weight_0.5_ratio"), text("weight_0.99_ratio")
    fraction, shown, slope = (
        f"{measured[name]:.4f}" for name in ("fraction", "fraction_of_shown", "slope")
    )
    return Table(
        "Ends, rate and times of settling.",
        ("Quantity", "Measured", "Published or theory"),
        [
            [f"Fraction at a training point, {COUNTED} latents", fraction, f"{expected:.1f}"],
            [f"The same, the {SHOWN} shown", shown, f"{expected:.1f}"],
            ["Exponent of σ, mean", slope, "1"],
            ["Exponent of σ, resolved integration", text("slopes"), "1"],
            ["Exponent of σ, the paper's integration", text("slopes_paper_integration"), None],
            ["Constant C in C σ", text("distance_over_sigma"), None],
            ["σ/m at which the final cell is entered, quantiles", text("commitment_ratio"), None],
            ["σ/m at which the largest weight passes 0.5", half, None],
            ["σ/m at which the largest weight passes 0.99", sure, None],
            ["Changes of cell, mean", f"{measured['changes_of_cell']:.2f}", None],
        ],
        note="Exponents are fitted over the last two decades of σ. In the paper's integration "
        "these reach below its tolerance of 1e-5, or begin where a late trajectory has not yet "
        "settled; hence its wider range.",
    )


def _figures(
    score: EmpiricalScore,
    shown: Paths,
    resolved: Paths,
    counted: Paths,
    half: LevelTimes,
    sure: LevelTimes,
) -> list[Figure]:
    last = shown.commitment.ratio.argsort()[:4]
    return [
        _paths_figure(score, shown, last),
        _weights_figure(score, shown, last),
        _rate_figure(score, resolved),
        _settling_figure(counted, half, sure),
    ]


def _paths_figure(score: EmpiricalScore, shown: Paths, last: Tensor) -> Figure:
    figure, axes = new_panels(1, 2, height=4.3)
    ends = shown.x[-1]
    reach = 1.08 * max(float(shown.x.abs().max()), float(score.data.abs().max()))
    whole = ((-reach, reach), (-reach, reach))
    for panel, limits, paths in (
        (axes[0, 0], whole, shown.x),
        (axes[0, 1], WINDOW, shown.x[:, last]),
    ):
        colors = (BLUE,) if panel is axes[0, 0] else PALETTE[:4]
        draw_voronoi(panel, score.data)
        draw_paths(panel, paths, colors=colors, width=0.9 if panel is axes[0, 0] else 1.8)
        draw_points(panel, score.data, size=3 if panel is axes[0, 0] else 5)
        draw_ends(panel, ends if panel is axes[0, 0] else ends[last])
        frame(panel, *limits)
    axes[0, 0].set_title(f"{SHOWN} trajectories")
    axes[0, 1].set_title("The four that settle last")
    draw_numbers(axes[0, 1], score.data, _involved(score, shown, last))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return Figure(
        "trajectories",
        figure,
        "Trajectories of the probability-flow ODE in the units of the data, from their starts at "
        "t = 1 to t = 1e-6, over the Voronoi diagram of the training points (to which that of the "
        "scaled points m(t) x tends). Numbered points are those with a weight above a quarter in "
        "the next figure; trajectories that start outside the right panel enter at its edge.",
        f"Two maps of the plane: all {SHOWN} trajectories end at training points, most after "
        "crossing few cell boundaries; the four that settle last turn near a boundary.",
    )


def _involved(score: EmpiricalScore, paths: Paths, last: Tensor) -> list[int]:
    """Training points that ever weigh more than a quarter on one of some trajectories."""
    top = weights_along(score, paths.times, paths.x[:, last]).amax(dim=(0, 1))
    return (top > 0.25).nonzero()[:, 0].tolist()


def _weights_figure(score: EmpiricalScore, shown: Paths, last: Tensor) -> Figure:
    weights = weights_along(score, shown.times, shown.x[:, last])
    times = shown.times.numpy()
    figure, axes = new_panels(2, 2, height=5.0, sharex=True, sharey=True)
    styles = ("-", (0, (4, 2)), (0, (1, 1.3)), (0, (5, 1.5, 1, 1.5)))
    for column, panel in enumerate(axes.flat):
        final = int(shown.limits.index[last[column]])
        top = weights[:, column].amax(dim=0)
        for number in range(score.num_points):
            if number != final:
                panel.plot(times, weights[:, column, number], color="#C4C4C4", linewidth=0.8)
        rivals = [n for n in top.argsort(descending=True).tolist() if n != final][:3]
        panel.plot(
            times,
            weights[:, column, final],
            color=PALETTE[column],
            linewidth=2.2,
            label=f"{final} (final)",
        )
        for rank, number in enumerate(rivals):
            panel.plot(
                times,
                weights[:, column, number],
                color=BLACK,
                linestyle=styles[1 + rank],
                linewidth=1.2,
                label=str(number),
            )
        panel.set(xscale="log", xlim=(1e-3, 1.0), ylim=(-0.02, 1.02))
        legend(panel, title="training point")
    for panel in axes[1]:
        panel.set_xlabel("time $t$; sampling runs from right to left")
    for panel in axes[:, 0]:
        panel.set_ylabel("weight $w_n(x(t), t)$")
    return Figure(
        "weights",
        figure,
        "Posterior weights of the training points along the four trajectories of the right panel "
        "above, in the same colours: the final point, the three that weighed most beside it "
        "(broken lines), and all others (grey).",
        "Four panels of weights against time: near t = 1 all are small, then one rises to 1 while "
        "its rivals fall to 0.",
    )


def _rate_figure(score: EmpiricalScore, resolved: Paths) -> Figure:
    gap = (resolved.x - score.data[resolved.limits.index]).norm(dim=2).numpy()
    sigma = score.process.std(resolved.times).numpy()
    figure, axes = new_figure()
    axes.plot(sigma, gap[:, 0], color=BLUE, linewidth=0.8, label="trajectories")
    axes.plot(sigma, gap[:, 1:], color=BLUE, linewidth=0.8, alpha=0.8)
    axes.plot(sigma, 2 * sigma, color=BLACK, linestyle=(0, (5, 3)), linewidth=1.6, label="2 σ")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="noise level σ(t); sampling runs from right to left",
        ylabel="distance $|x(t) - x_*|$ to the training point",
    )
    legend(axes)
    return Figure(
        "rate",
        figure,
        "Distance to the training point at which a trajectory ends, in the units of the data, "
        "against the noise level. The broken line has slope 1.",
        f"Log-log plot: {gap.shape[1]} curves become parallel to the line 2 σ once the noise is "
        "below about 0.1.",
    )


def _settling_figure(counted: Paths, half: LevelTimes, sure: LevelTimes) -> Figure:
    ratio = counted.ratio.numpy()
    figure, axes = new_figure(height=3.6)
    axes.plot(ratio, counted.in_final_cell, color=BLUE, linewidth=2, label="in the final cell")
    for times, style, label in (
        (half, (0, (5, 2)), "largest weight above 0.5 for good"),
        (sure, (0, (1.5, 1.5)), "largest weight above 0.99 for good"),
    ):
        passed = (times.ratio[None, :] >= counted.ratio[:, None]).double().mean(dim=1)
        axes.plot(ratio, passed, color=GREY, linestyle=style, linewidth=1.8, label=label)
    axes.set(
        xscale="log",
        xlim=(0.01, float(ratio.max())),
        ylim=(0.0, 1.02),
        xlabel="noise-to-signal ratio σ/m; sampling runs from right to left",
        ylabel="share of trajectories",
    )
    legend(axes)
    return Figure(
        "settling",
        figure,
        f"When {COUNTED} trajectories settle: share that is in the Voronoi cell in which it ends, "
        "and share whose largest posterior weight has passed a level for the last time.",
        "Three curves that rise to 1 as the noise-to-signal ratio falls; the final cell is known "
        "before the weights show it.",
    )


EXPERIMENTS = (
    Experiment(
        name="ve-trajectories",
        title="Where trajectories end: variance exploding",
        question=(
            "Does sampling with the exact minimiser of the training loss return training points, "
            "and how fast does a trajectory approach the one at which it ends?"
        ),
        reference="[B25]: trajectories, weights and rate; the authors' `VE.ipynb`",
        run=lambda context: run(context, EmpiricalScore(points20().x, VE())),
    ),
    Experiment(
        name="vp-trajectories",
        title="Where trajectories end: variance preserving",
        question=(
            "The same for the variance-preserving process: do trajectories end at training "
            "points, and at what rate?"
        ),
        reference="[B25]: trajectories, weights and rate; the authors' `VP.ipynb`",
        run=lambda context: run(context, EmpiricalScore(points20().x, VP())),
    ),
)
