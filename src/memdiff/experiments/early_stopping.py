"""Early stopping: memorised fraction of a network against its training steps ([B25])."""

from __future__ import annotations

from memdiff.experiments.experiment import Context, Experiment, Outcome
from memdiff.experiments.network_spread import rises
from memdiff.experiments.network_sweep import NetworkSweep

__all__ = ["EXPERIMENTS", "sweep"]

JUDGED_STEPS = tuple(range(10_000, 100_001, 10_000))
PAPER_STEPS = (1000, 2000, 5000, *JUDGED_STEPS)


def sweep(context: Context) -> NetworkSweep:
    """Return the sweep at the size of the preset."""
    return NetworkSweep(
        "steps",
        context.pick(quick=(500, 1000, 2000), paper=PAPER_STEPS),
        context.pick(quick=250, paper=1000),
    )


def run(context: Context) -> Outcome:
    """Train, and count copies along the way."""
    found = sweep(context).measure(context)
    steps, seeds, spreads = found.sweep.values, found.sweep.seeds, found.spreads["networks"]
    # Copying sets in after some thousands of steps; what comes before is the bulk of the samples
    # arriving at the data, and a short run sees no more than that.
    judged = [row[-len(JUDGED_STEPS) :] for row in spreads]
    half = next((s for s, one in zip(steps, spreads[2], strict=True) if one.mean >= 0.5), None)
    return Outcome(
        measured={
            "steps": steps,
            **found.measured(),
            "first_step_with_half_within_0.1": half,
        },
        published={"statement": "The memorised fraction rises with the number of training steps."},
        within=rises(judged) if context.preset == "paper" else None,
        tolerance=(
            f"From {JUDGED_STEPS[0]} steps on, at every tolerance: from one step to the next the "
            f"mean over {seeds} seeds falls by at most three standard errors of the difference, "
            "and from first to last it rises by more. Shorter runs are not judged."
        ),
        finding=(
            f"From {steps[0]} to {steps[-1]} steps the fraction within 0.05 of a training point "
            f"goes from {found.mean(1, 0):.3f} to {found.mean(1, -1):.3f}, within 0.1 from "
            f"{found.mean(2, 0):.3f} to {found.mean(2, -1):.3f}; "
            + (
                f"half of the samples are within 0.1 from {half} steps on."
                if half
                else "half of the samples within 0.1 is not reached."
            )
        ),
        figures=[
            found.figure(
                "Fraction of samples near a training point against the number of training steps.",
                "Four panels, one for each tolerance, with rising curves.",
            )
        ],
        tables=found.tables(),
        measured_text=f"within 0.1: {found.mean(2, 0):.3f} to {found.mean(2, -1):.3f}, "
        f"{steps[0]} to {steps[-1]}",
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
