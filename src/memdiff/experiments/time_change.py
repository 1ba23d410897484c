r"""Flow in log time :math:`\tau = -\log \sigma`, in which it has no singularity.

Under the exact score of a finite training set the probability-flow ODE is singular at
:math:`t = 0`. In :math:`\tau` it is :math:`dx/d\tau = -(x - D)` for a variance exploding process,
whose solutions approach the training points as :math:`e^{-\tau}`. The same latents are carried
down both ways, by RK45 in :math:`t` and by :class:`~memdiff.samplers.LogTime`; a run of LogTime at
tolerances 1e-8 is the truth for both.

References:
    Baptista et al., arXiv:2501.15785 (change of time), and the authors' code: to
    :math:`\tau_0 + 10` for the variance exploding and :math:`\tau_0 + 20` for the variance
    preserving process.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.data.builtin import points20
from memdiff.dynamics import LimitPoints, convergence_rate, limit_points
from memdiff.experiments.experiment import Context, Experiment, Figure, Outcome, Table
from memdiff.experiments.plane import draw_ends, draw_paths, draw_points, frame
from memdiff.processes import VE, VP
from memdiff.report.figures import BLACK, BLUE, VERMILION, legend, new_panels
from memdiff.samplers import RK45, LogTime, Sampler, draw_latents, sample
from memdiff.scores import EmpiricalScore, Score

__all__ = ["EXPERIMENTS", "Comparison", "Descent", "compare", "descend", "run"]

LATENTS = 30
LENGTHS = (10.0, 20.0)
"""Length of the run in log time, variance exploding and variance preserving, as published."""

RATE_TOLERANCE = 0.02
END_TOLERANCE = 1e-3
POINT_TOLERANCE = 0.1
"""Largest distance to a training point at the coarsest noise level that is compared."""


@dataclass(frozen=True)
class Descent:
    r"""The flow in log time, to :math:`\tau_0` plus a length.

    Attributes:
        tau: Recorded :math:`-\log\sigma` with shape ``(K + 1,)``.
        x: Points with shape ``(K + 1, B, 2)``.
        distance: Distances to the training point reached, with shape ``(K + 1, B)``.
        rate: Fitted :math:`d \log |x - x_*| / d\tau` with shape ``(B,)``.
        limits: What the ends are.
    """

    tau: Tensor
    x: Tensor
    distance: Tensor
    rate: Tensor
    limits: LimitPoints


@dataclass(frozen=True)
class Comparison:
    """Two samplers at one final noise level, from the same latents.

    Attributes:
        ratio: The level as noise-to-signal ratio.
        evaluations: Score evaluations a sample, by RK45 and by LogTime.
        error: Largest distance of an end from that of the truth, likewise.
        same_point: Share of ends nearest to the same training point under both.
    """

    ratio: float
    evaluations: tuple[float, float]
    error: tuple[float, float]
    same_point: float


def descend(score: Score, data: Tensor, latents: Tensor, length: float) -> Descent:
    r"""Follow the flow from :math:`\tau_0` to :math:`\tau_0 + length` and fit its rate."""
    process = score.process
    sigma_end = float(process.std(process.t_max)) * math.exp(-length)
    samples = sample(
        score,
        latents,
        sampler=LogTime(save=250),
        t_end=float(process.time_at_ratio(sigma_end)),  # m is 1 there to 16 digits
        trajectory=True,
    )
    assert samples.trajectory is not None
    limits = limit_points(samples.x, data, max(1e-6, 10 * sigma_end))
    goal = data[limits.index]
    fit = convergence_rate(samples.times, samples.trajectory, goal, process)
    return Descent(
        tau=-process.std(samples.times).log(),
        x=samples.trajectory,
        distance=torch.linalg.vector_norm(samples.trajectory - goal, dim=2),
        rate=-fit.slope,
        limits=limits,
    )


def compare(score: Score, data: Tensor, latents: Tensor, ratio: float) -> Comparison:
    """Integrate to one noise level in t and in log time, both with tolerances 1e-5."""
    t_end = float(score.process.time_at_ratio(ratio))

    def run_to(sampler: Sampler) -> tuple[Tensor, float]:
        samples = sample(score, latents, sampler=sampler, t_end=t_end)
        return samples.x, samples.stats.evaluations_per_sample

    (in_t, cost_t), (in_log, cost_log) = run_to(RK45()), run_to(LogTime())
    truth, _ = run_to(LogTime(rtol=1e-8, atol=1e-8))
    points = [limit_points(x, data, POINT_TOLERANCE).index for x in (in_t, in_log)]
    return Comparison(
        ratio=ratio,
        evaluations=(cost_t, cost_log),
        error=tuple(float((x - truth).norm(dim=1).max()) for x in (in_t, in_log)),  # type: ignore[arg-type]
        same_point=float((points[0] == points[1]).double().mean()),
    )


def run(context: Context, scores: Sequence[EmpiricalScore]) -> Outcome:
    """Follow both processes in log time, and compare with integration in t.

    Args:
        context: Preset, seed and progress; presets differ in the number of noise levels compared.
        scores: The scores of the training points, variance exploding and variance preserving.

    Returns:
        The outcome.
    """
    data = scores[0].data
    names = [type(score.process).__name__ for score in scores]
    levels = context.pick(
        quick=(1e-2, 1e-4, 1e-8), paper=(1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
    )
    latents = draw_latents(LATENTS, (2,), seed=context.seed, dtype=torch.float64)
    descents = [
        descend(score, data, latents, length)
        for score, length in zip(scores, LENGTHS, strict=True)
    ]
    comparisons: list[list[Comparison]] = []
    for name, score in zip(names, scores, strict=True):
        rows = []
        for ratio in levels:
            context.progress(f"{name} to sigma/m = {ratio:g}")
            rows.append(compare(score, data, latents, ratio))
        comparisons.append(rows)

    measured = {
        name: {
            "at_training_point": float(descent.limits.is_data.double().mean()),
            "rate": float(descent.rate.mean()),
            "rate_min": float(descent.rate.min()),
            "rate_max": float(descent.rate.max()),
            "ratio": [row.ratio for row in rows],
            "evaluations_rk45": [row.evaluations[0] for row in rows],
            "evaluations_log_time": [row.evaluations[1] for row in rows],
            "error_rk45": [row.error[0] for row in rows],
            "error_log_time": [row.error[1] for row in rows],
            "same_point": [row.same_point for row in rows],
        }
        for name, descent, rows in zip(names, descents, comparisons, strict=True)
    }
    every = [row for rows in comparisons for row in rows]
    rates = torch.cat([descent.rate for descent in descents])
    within = (
        all(bool(descent.limits.is_data.all()) for descent in descents)
        and bool(((rates + 1.0).abs() <= RATE_TOLERANCE).all())
        and all(row.same_point == 1.0 for row in every)
        and all(max(row.error) <= END_TOLERANCE for row in every)
    )
    last = {name: rows[-1] for name, rows in zip(names, comparisons, strict=True)}
    costs = "; ".join(
        f"{name} {row.evaluations[0]:.0f} evaluations of the score in t, "
        f"{row.evaluations[1]:.0f} in log time"
        for name, row in last.items()
    )
    error = max(max(row.error) for row in every)
    mean, least, most = (_signed(rate) for rate in (rates.mean(), rates.min(), rates.max()))
    return Outcome(
        measured=measured,
        published={name: {"at_training_point": 1.0, "rate": -1.0} for name in names},
        within=within,
        tolerance=(
            f"All {LATENTS} trajectories of each process end at a training point, the same one "
            f"both ways; every fitted rate within {RATE_TOLERANCE} of −1; ends within "
            f"{END_TOLERANCE:g} of those at tolerances 1e-8 (the integrators' own tolerance is "
            "1e-5 a step)."
        ),
        finding=(
            f"In log time log-distances to the training points fall at rate {mean} ({least} to "
            f"{most}). From the same latents both integrators end "
            f"{error:.1e} from the truth at most. To σ/m = {levels[-1]:g} a sample costs: "
            f"{costs}."
        ),
        figures=_figures(data, names, descents, comparisons),
        tables=[_table(names, comparisons)],
        measured_text=f"rate {mean}, same ends, {_saving(every):.1f} times fewer evaluations",
        published_text="rate −1, same ends (theory)",
    )


def _signed(value: Tensor) -> str:
    return f"{value:.4f}".replace("-", "−")


def _saving(rows: Sequence[Comparison]) -> float:
    """Return the ratio of evaluations, in t over log time, to the smallest level."""
    least = min(row.ratio for row in rows)
    costs = [row.evaluations for row in rows if row.ratio == least]
    return sum(cost[0] for cost in costs) / sum(cost[1] for cost in costs)


def _table(names: Sequence[str], comparisons: Sequence[Sequence[Comparison]]) -> Table:
    return Table(
        "Integration in t (RK45) and in log time (LogTime), both with tolerances 1e-5.",
        (
            "Process",
            "Final σ/m",
            "Evaluations, t",
            "Evaluations, log time",
            "Largest error, t",
            "Largest error, log time",
            "Same point",
        ),
        [
            [
                name,
                f"{row.ratio:.0e}",
                round(row.evaluations[0]),
                round(row.evaluations[1]),
                *(f"{error:.1e}" for error in row.error),
                f"{row.same_point:.0%}",
            ]
            for name, rows in zip(names, comparisons, strict=True)
            for row in rows
        ],
        note="Evaluations of the score a sample. Errors are distances from the ends of a run in "
        "log time at tolerances 1e-8, in the units of the data.",
    )


def _figures(
    data: Tensor,
    names: Sequence[str],
    descents: Sequence[Descent],
    comparisons: Sequence[Sequence[Comparison]],
) -> list[Figure]:
    return [
        _paths_figure(data, names, descents),
        _rate_figure(names, descents),
        _cost_figure(names, comparisons),
    ]


def _paths_figure(data: Tensor, names: Sequence[str], descents: Sequence[Descent]) -> Figure:
    figure, axes = new_panels(1, 2, height=4.3)
    for panel, name, descent in zip(axes[0], names, descents, strict=True):
        draw_paths(panel, descent.x)
        draw_points(panel, data, size=4)
        draw_ends(panel, descent.x[-1])
        frame(panel, (-2.6, 2.6), (-2.6, 2.6))
        panel.set_title(f"{name}, to τ₀ + {float(descent.tau[-1] - descent.tau[0]):.0f}")
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return Figure(
        "trajectories",
        figure,
        "Trajectories of the flow in the time τ = −log σ, from the same latents under both "
        "processes, in the units of the data. Most starts of VE, whose noise is larger, lie "
        "outside the panel.",
        "Two maps of the plane in which all trajectories end at training points.",
    )


def _rate_figure(names: Sequence[str], descents: Sequence[Descent]) -> Figure:
    figure, axes = new_panels(1, 2, height=3.6)
    for panel, name, descent in zip(axes[0], names, descents, strict=True):
        tau, distance = descent.tau.numpy(), descent.distance.numpy()
        panel.plot(tau, distance[:, 0], color=BLUE, linewidth=0.8, label="trajectories")
        panel.plot(tau, distance[:, 1:], color=BLUE, linewidth=0.8, alpha=0.8)
        reference = (-descent.tau).exp().numpy()
        panel.plot(tau, reference, color=BLACK, linestyle=(0, (5, 3)), label="exp(−τ)")
        panel.set(yscale="log", xlabel="log time τ = −log σ", title=name)
        legend(panel)
    axes[0, 0].set_ylabel("distance to the training point")
    return Figure(
        "rate",
        figure,
        "Distance to the training point at which a trajectory ends, in the units of the data, "
        "against log time. The broken line is exp(−τ), which is σ.",
        "Two semilogarithmic plots: after the trajectories have settled all fall in parallel to "
        "exp(−τ).",
    )


def _cost_figure(names: Sequence[str], comparisons: Sequence[Sequence[Comparison]]) -> Figure:
    figure, axes = new_panels(1, 2, height=3.6)
    for rows, name, marker, line in zip(comparisons, names, "os", ("-", "--"), strict=True):
        ratio = [row.ratio for row in rows]
        for column, (label, color) in enumerate((("in t", VERMILION), ("in log time", BLUE))):
            style = {
                "color": color,
                "marker": marker,
                "linestyle": line,
                "markersize": 5,
                "label": f"{name}, {label}",
            }
            axes[0, 0].plot(ratio, [row.evaluations[column] for row in rows], **style)
            axes[0, 1].plot(ratio, [row.error[column] for row in rows], **style)
    axes[0, 0].set(xscale="log", ylabel="score evaluations a sample")
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 1].set(xscale="log", yscale="log", ylabel="largest error of an end")
    for panel in axes[0]:
        panel.set_xlabel("final noise-to-signal ratio σ/m")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return Figure(
        "cost",
        figure,
        "What it takes to reach a noise level, and how exact the ends are, at tolerances 1e-5: "
        "integration in t and in log time. Errors in the units of the data.",
        "Left: evaluations grow linearly in log σ both ways, several times as fast in t. "
        "Right: the error in log time falls with σ, that in t stays.",
    )


EXPERIMENTS = (
    Experiment(
        name="time-change",
        title="The change of time that removes the singularity",
        question=(
            "The flow is singular at t = 0. Does it become regular in the time τ = −log σ, with "
            "the same ends and distances that fall as exp(−τ), and what does that save?"
        ),
        reference="[B25]: change of time; the authors' `VP_TransformedTime.ipynb`",
        run=lambda context: run(
            context, [EmpiricalScore(points20().x, process) for process in (VE(), VP())]
        ),
    ),
)
