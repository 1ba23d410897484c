r"""Networks that know of the singularity at :math:`\sigma = 0`, and networks that do not ([B25]).

The score of a finite training set is infinite at :math:`\sigma = 0`. A network that predicts the
score itself cannot follow; one that predicts the noise, :math:`\sigma s`, need not. Both are
trained with the same loss :math:`|\sigma s + z|^2`.
"""

from __future__ import annotations

from memdiff.data import load
from memdiff.experiments.experiment import Context, Experiment, Figure, Outcome
from memdiff.experiments.network_tables import compare, comparison_table, fraction_panels
from memdiff.experiments.network_training import (
    TOLERANCES,
    Spread,
    member_fractions,
    spread,
    train_with_snapshots,
)
from memdiff.experiments.published import published
from memdiff.processes import VP
from memdiff.training.ensemble import Member

__all__ = ["EXPERIMENTS", "members"]

SEEDS = 4


def members() -> list[Member]:
    """Networks without, then with, the singularity built in; the same seeds."""
    return [
        Member(seed=seed, parametrization=kind)
        for kind in ("score", "noise")
        for seed in range(SEEDS)
    ]


def run(context: Context) -> Outcome:
    """Train both kinds of network and count copies at the published steps."""
    reference, data, process = published().network, load("points20").x, VP()
    steps = context.pick(quick=(1000, 2000), paper=reference.steps)
    latents = context.pick(quick=250, paper=1000)
    nets = train_with_snapshots(
        data, process, members(), steps, context.directory, "networks", context.progress
    )
    found = {
        step: member_fractions(context, f"{step}", nets[step], members(), data, process, latents)
        for step in steps
    }

    def spreads(first: int) -> list[list[Spread]]:
        rows = range(first, first + SEEDS)
        return [
            [spread([found[step][row][index] for row in rows], latents) for step in steps]
            for index in range(len(TOLERANCES))
        ]

    without, built_in = spreads(0), spreads(SEEDS)
    compared = tuple(steps) == reference.steps
    arms = (
        ("without", "Score predicted", without, reference.without_singularity),
        ("with", "Singularity built in", built_in, reference.with_singularity),
    )
    comparisons = {key: compare(s, known) for key, _, s, known in arms} if compared else {}
    note = (
        f"Mean ± standard deviation of one run, over {SEEDS} training seeds with "
        f"{latents} samples each."
    )
    tables = [
        comparison_table(
            f"{label}: fraction of samples within each tolerance.",
            [f"{step}" for step in steps],
            s,
            known if compared else None,
            comparisons.get(key),
            parameter="Steps",
            note=note,
        )
        for key, label, s, known in arms
    ]
    figure = fraction_panels(
        steps,
        [("score predicted", without), ("singularity built in", built_in)],
        [
            ("published, score predicted", reference.without_singularity),
            ("published, singularity built in", reference.with_singularity),
        ]
        if compared
        else [],
        xlabel="training steps",
        xscale="linear",
    )
    last = [(row[-1].mean, other[-1].mean) for row, other in zip(without, built_in, strict=True)]
    finding = (
        f"After {steps[-1]} steps {last[1][0]:.3f} of the samples lie within 0.05 of a training "
        f"point without the singularity and {last[1][1]:.3f} with it ({last[2][0]:.3f} and "
        f"{last[2][1]:.3f} within 0.1)."
    )
    if compared:
        outside = sum(one.outside for one in comparisons.values())
        count = sum(one.count for one in comparisons.values())
        largest = max(one.largest for one in comparisons.values())
        finding += (
            f" Of {count} published values {count - outside} are within the allowed difference; "
            f"the largest difference is {largest:.3f}."
        )
    else:
        finding += " The published table starts at 10000 steps: run the paper preset to compare."
    values = {
        key: {
            "mean": [[one.mean for one in row] for row in s],
            "deviation": [[one.deviation for one in row] for row in s],
        }
        for key, _, s, _ in arms
    }
    return Outcome(
        measured={"steps": steps, "tolerances": TOLERANCES, "seeds": SEEDS, **values},
        published={
            "steps": reference.steps,
            "tolerances": TOLERANCES,
            "without": reference.without_singularity,
            "with": reference.with_singularity,
        },
        within=all(one.within for one in comparisons.values()) if compared else None,
        tolerance=(
            "A published value is one run: it may differ from our mean by three standard "
            "deviations of a run (over seeds, at least binomial) times √(1 + 1/4); of all values "
            "one in twenty may differ by more."
        ),
        finding=finding,
        figures=(
            Figure(
                "fraction",
                figure,
                "Fraction of samples near a training point against the number of training steps, "
                "for a network that predicts the score and one with the singularity built in. "
                "Bars: standard deviation of one run. Open marks: the published table.",
                "Four panels, one a tolerance; all fractions rise with training, faster with the "
                "singularity built in.",
            ),
        ),
        tables=tables,
        measured_text=f"within 0.05: {last[1][0]:.3f} without, {last[1][1]:.3f} with",
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
