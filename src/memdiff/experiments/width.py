"""Width: memorised fraction of a network against the units of its layers ([B25])."""

from __future__ import annotations

from memdiff.experiments.experiment import Context, Experiment, Outcome
from memdiff.experiments.network_spread import rises
from memdiff.experiments.network_sweep import TOLERANCES, Network, NetworkSweep

__all__ = ["EXPERIMENTS", "sweep"]


def sweep(context: Context) -> NetworkSweep:
    """Return the sweep at the size of the preset."""
    return NetworkSweep(
        "width",
        context.pick(quick=(8, 32, 128), paper=(8, 16, 32, 64, 128, 256, 512)),
        context.pick(quick=250, paper=1000),
        steps=context.pick(quick=2000, paper=100_000),
        together="width",
        name="Width",
        xlabel="width of the hidden layers",
    )


def run(context: Context) -> Outcome:
    """Train networks of each width equally long, and count copies."""
    found = sweep(context).measure(context)
    widths, steps = [int(width) for width in found.sweep.values], found.sweep.steps
    spreads, seeds = found.spreads["networks"], found.sweep.seeds
    parameters = [
        sum(one.numel() for one in Network(width=width).untrained().parameters())
        for width in widths
    ]
    paper = context.preset == "paper"
    which = "every tolerance" if paper else f"tolerance {TOLERANCES[-1]:g}"
    return Outcome(
        measured={
            "widths": widths,
            "parameters": parameters,
            "steps": steps,
            **found.measured(),
        },
        published={"statement": "The memorised fraction rises with the width."},
        within=rises(spreads if paper else spreads[-1:]),
        tolerance=(
            f"At {which}: from one width to the next the mean over {seeds} seeds falls by at most "
            "three standard errors of the difference, and from first to last it rises by more."
        ),
        finding=(
            f"After {steps} steps the fraction within 0.1 of a training point is "
            f"{found.mean(2, 0):.3f} at width {widths[0]} ({parameters[0]} weights) and "
            f"{found.mean(2, -1):.3f} at width {widths[-1]} ({parameters[-1]} weights); within "
            f"0.5 it is {found.mean(3, 0):.3f} and {found.mean(3, -1):.3f}."
        ),
        figures=[
            found.figure(
                f"Fraction of samples near a training point against the width, after {steps} "
                "steps.",
                "Four panels, one for each tolerance, with rising curves.",
            )
        ],
        tables=found.tables(),
        measured_text=f"within 0.1: {found.mean(2, 0):.3f} to {found.mean(2, -1):.3f}, "
        f"{widths[0]} to {widths[-1]}",
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
