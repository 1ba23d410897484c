"""How the width of a network limits what it can memorise ([B25])."""

from __future__ import annotations

from memdiff.data import load
from memdiff.experiments.experiment import Context, Experiment, Figure, Outcome
from memdiff.experiments.network_tables import comparison_table, fraction_panels, rises
from memdiff.experiments.network_training import (
    TOLERANCES,
    member_fractions,
    spread,
    train_with_snapshots,
)
from memdiff.processes import VP
from memdiff.training.ensemble import Member

__all__ = ["EXPERIMENTS"]

SEEDS = 4
WIDTHS = (8, 16, 32, 64, 128, 256, 512)


def run(context: Context) -> Outcome:
    """Train networks of each width equally long, and count copies."""
    data, process = load("points20").x, VP()
    widths = context.pick(quick=(8, 32, 128), paper=WIDTHS)
    steps = context.pick(quick=2000, paper=100_000)
    latents = context.pick(quick=250, paper=1000)
    found, parameters = [], []
    for width in widths:
        members = [Member(seed=seed, width=width) for seed in range(SEEDS)]
        name = f"width-{width:04d}"
        context.progress(name)
        nets = train_with_snapshots(
            data, process, members, (steps,), context.directory, name, context.progress
        )[steps]
        found.append(member_fractions(context, name, nets, members, data, process, latents))
        parameters.append(sum(one.numel() for one in nets[0].parameters()))
    spreads = [
        [spread([row[index] for row in column], latents) for column in found]
        for index in range(len(TOLERANCES))
    ]
    judged = spreads if context.preset == "paper" else spreads[-1:]
    which = "every tolerance" if context.preset == "paper" else f"tolerance {TOLERANCES[-1]:g}"
    narrow, wide = [row[0].mean for row in spreads], [row[-1].mean for row in spreads]
    return Outcome(
        measured={
            "widths": widths,
            "parameters": parameters,
            "steps": steps,
            "tolerances": TOLERANCES,
            "seeds": SEEDS,
            "mean": [[one.mean for one in row] for row in spreads],
            "deviation": [[one.deviation for one in row] for row in spreads],
        },
        published={"statement": "The memorised fraction rises with the width."},
        within=rises(judged),
        tolerance=(
            f"At {which}: from one width to the next the mean over {SEEDS} seeds falls by at most "
            "three standard errors of the difference, and from first to last it rises by more."
        ),
        finding=(
            f"After {steps} steps the fraction within 0.1 of a training point is {narrow[2]:.3f} "
            f"at width {widths[0]} ({parameters[0]} weights) and {wide[2]:.3f} at width "
            f"{widths[-1]} ({parameters[-1]} weights); within 0.5 it is {narrow[3]:.3f} and "
            f"{wide[3]:.3f}."
        ),
        figures=(
            Figure(
                "fraction",
                fraction_panels(
                    widths,
                    [(f"mean of {SEEDS} seeds", spreads)],
                    [],
                    xlabel="width of the hidden layers",
                    xscale="log",
                ),
                f"Fraction of samples near a training point against the width, after {steps} "
                "steps. Bars: standard deviation of one run.",
                "Four panels, one a tolerance, with rising curves.",
            ),
        ),
        tables=(
            comparison_table(
                f"Fraction of samples within each tolerance after {steps} steps.",
                [f"{width}" for width in widths],
                spreads,
                None,
                None,
                parameter="Width",
                note=f"Mean ± standard deviation of one run over {SEEDS} training seeds, "
                f"{latents} samples each.",
            ),
        ),
        measured_text=f"within 0.1: {narrow[2]:.3f} to {wide[2]:.3f}, {widths[0]} to {widths[-1]}",
        published_text="rises with width",
    )


EXPERIMENTS = (
    Experiment(
        name="width",
        title="Networks: memorised fraction against width",
        question=(
            "Does a network with too few units to represent the memorising score stop short of "
            "copying?"
        ),
        reference="[B25], neural-network experiments: regularisation by under-parameterisation.",
        run=run,
    ),
)
