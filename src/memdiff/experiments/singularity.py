r"""Networks with and without the singularity of the score at :math:`\sigma = 0` built in ([B25]).

The score of a finite training set is infinite at :math:`\sigma = 0`. A network that predicts the
score itself cannot follow; one that predicts the noise, :math:`\sigma s`, need not. Both are
trained with the same loss :math:`|\sigma s + z|^2`.
"""

from __future__ import annotations

from memdiff.experiments.experiment import Context, Experiment, Outcome
from memdiff.experiments.network_sweep import TOLERANCES, Arm, Network, NetworkSweep
from memdiff.experiments.published import published

__all__ = ["EXPERIMENTS", "sweep"]


def sweep(context: Context) -> NetworkSweep:
    """Return the sweep at the size of the preset; the paper's has published values."""
    reference, paper = published().network, context.preset == "paper"
    return NetworkSweep(
        "steps",
        context.pick(quick=(1000, 2000), paper=reference.steps),
        context.pick(quick=250, paper=1000),
        (
            Arm(
                "without",
                "score predicted",
                Network(parametrization="score"),
                reference.without_singularity if paper else None,
            ),
            Arm(
                "with",
                "singularity built in",
                Network(parametrization="noise"),
                reference.with_singularity if paper else None,
            ),
        ),
        xscale="linear",
    )


def run(context: Context) -> Outcome:
    """Train both kinds of network and count copies at the published steps."""
    reference = published().network
    found = sweep(context).measure(context)
    steps = found.sweep.values
    near, far = [(found.mean(t, -1, 0), found.mean(t, -1, 1)) for t in (1, 2)]
    return Outcome(
        measured={"steps": steps, **found.measured()},
        published={
            "steps": reference.steps,
            "tolerances": TOLERANCES,
            "without": reference.without_singularity,
            "with": reference.with_singularity,
        },
        within=found.within,
        tolerance=(
            "A published value is one run: it may differ from our mean by three standard "
            "deviations of a run (over seeds, at least binomial) times √(1 + 1/4); of all values "
            "one in twenty may differ by more."
        ),
        finding=(
            f"After {steps[-1]} steps {near[0]:.3f} of the samples lie within 0.05 of a training "
            f"point without the singularity and {near[1]:.3f} with it ({far[0]:.3f} and "
            f"{far[1]:.3f} within 0.1)."
            + (
                found.agreement()
                or " The published table starts at 10000 steps: run the paper preset to compare."
            )
        ),
        figures=[
            found.figure(
                "Fraction of samples near a training point against the number of training steps, "
                "for a network that predicts the score and one with the singularity built in.",
                "Four panels, one for each tolerance; all fractions rise with training, faster "
                "with the singularity built in.",
            )
        ],
        tables=found.tables(),
        measured_text=f"within 0.05: {near[0]:.3f} without, {near[1]:.3f} with",
        published_text=(
            f"{reference.without_singularity[1][-1]:.3f}, {reference.with_singularity[1][-1]:.3f} "
            f"(table, {reference.steps[-1]} steps)"
        ),
    )


EXPERIMENTS = (
    Experiment(
        name="singularity",
        title="Networks: with and without the singularity built in",
        question=(
            "The exact score is infinite at zero noise. Does a network memorise sooner when it "
            "predicts the noise, so that it need not learn the singularity?"
        ),
        reference="[B25], neural-network experiments: table of memorised fractions.",
        run=run,
    ),
)
