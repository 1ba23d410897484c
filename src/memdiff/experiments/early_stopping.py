"""How training longer turns a network that samples into one that copies ([B25])."""

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
JUDGED_STEPS = tuple(range(10_000, 100_001, 10_000))
PAPER_STEPS = (1000, 2000, 5000, *JUDGED_STEPS)


def run(context: Context) -> Outcome:
    """Train, and count copies along the way."""
    data, process = load("points20").x, VP()
    members = [Member(seed=seed) for seed in range(SEEDS)]
    steps = context.pick(quick=(500, 1000, 2000), paper=PAPER_STEPS)
    latents = context.pick(quick=250, paper=1000)
    nets = train_with_snapshots(
        data, process, members, steps, context.directory, "networks", context.progress
    )
    found = [
        member_fractions(context, f"{step}", nets[step], members, data, process, latents)
        for step in steps
    ]
    spreads = [
        [spread([row[index] for row in column], latents) for column in found]
        for index in range(len(TOLERANCES))
    ]
    first, last = [row[0].mean for row in spreads], [row[-1].mean for row in spreads]
    # Copying sets in after some thousands of steps; what comes before is the bulk of the samples
    # arriving at the data, and a short run sees no more than that.
    judged = [row[-len(JUDGED_STEPS) :] for row in spreads]
    half = next((s for s, one in zip(steps, spreads[2], strict=True) if one.mean >= 0.5), None)
    return Outcome(
        measured={
            "steps": steps,
            "tolerances": TOLERANCES,
            "seeds": SEEDS,
            "mean": [[one.mean for one in row] for row in spreads],
            "deviation": [[one.deviation for one in row] for row in spreads],
            "first_step_with_half_within_0.1": half,
        },
        published={"statement": "The memorised fraction rises with the number of training steps."},
        within=rises(judged) if context.preset == "paper" else None,
        tolerance=(
            f"From {JUDGED_STEPS[0]} steps on, at every tolerance: from one step to the next the "
            f"mean over {SEEDS} seeds falls by at most three standard errors of the difference, "
            "and from first to last it rises by more. Shorter runs are not judged."
        ),
        finding=(
            f"From {steps[0]} to {steps[-1]} steps the fraction within 0.05 of a training point "
            f"goes from {first[1]:.3f} to {last[1]:.3f}, within 0.1 from {first[2]:.3f} to "
            f"{last[2]:.3f}; "
            + (
                f"half of the samples are within 0.1 from {half} steps on."
                if half
                else "half of the samples within 0.1 is not reached."
            )
        ),
        figures=(
            Figure(
                "fraction",
                fraction_panels(
                    steps,
                    [(f"mean of {SEEDS} seeds", spreads)],
                    [],
                    xlabel="training steps",
                    xscale="log",
                ),
                "Fraction of samples near a training point against the number of training steps. "
                "Bars: standard deviation of one run.",
                "Four panels, one a tolerance, with rising curves.",
            ),
        ),
        tables=(
            comparison_table(
                "Fraction of samples within each tolerance.",
                [f"{step}" for step in steps],
                spreads,
                None,
                None,
                parameter="Steps",
                note=f"Mean ± standard deviation of one run over {SEEDS} training seeds, "
                f"{latents} samples each.",
            ),
        ),
        measured_text=f"within 0.1: {first[2]:.3f} to {last[2]:.3f}, {steps[0]} to {steps[-1]}",
        published_text="rises with training steps",
    )


EXPERIMENTS = (
    Experiment(
        name="early-stopping",
        title="Networks: memorised fraction against training steps",
        question="How long may a network train on 20 points before its samples are copies?",
        reference="[B25], neural-network experiments: regularisation by early stopping.",
        run=run,
    ),
)
