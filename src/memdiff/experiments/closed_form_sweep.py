"""Specification of a sweep over a closed-form regulariser: what varies, next to what is published.

Setting ([B25]; the authors' public notebooks): 20 points in the plane, 1000 latents, the
probability-flow ODE of the variance exploding process by RK45 with tolerances 1e-5, and the
fraction of samples within 0.01 of a training point.

A :class:`ClosedFormSweep` names the regulariser, the published curve and a prediction, and the
variants (another sampler, process or convention) that are sampled from the same latents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memdiff.data import load
from memdiff.experiments.closed_form_views import (
    MemorisedFraction,
    final_samples_plot,
    memorised_fraction,
    sweep_plot,
    sweep_table,
)
from memdiff.experiments.experiment import Context, Figure, Outcome
from memdiff.experiments.published import (
    LATENTS,
    Sweep,
    SweepAgreement,
    compare_sweep,
)
from memdiff.processes import VE, VP
from memdiff.report.figures import GREEN
from memdiff.samplers import RK45, LogTime, Sampler, sample
from memdiff.scores import EmpiricalScore, Score

__all__ = [
    "ClosedFormSweep",
    "ClosedFormSweepResult",
    "Variant",
    "latents",
]

Regulariser = Callable[[EmpiricalScore, float], Score]


@dataclass(frozen=True)
class Variant:
    """One way to sample a sweep.

    Attributes:
        key: Name of its fractions in the results, after ``fraction_``.
        label: Its column in the table.
        process: Forward process.
        sampler: Sampler.
        t_end: Time at which sampling ends; None for the end of the sampler.
        regularise: The regulariser where it is another one than that of the sweep.
        drawn: Label and colour of its curve in the figure, or None.
    """

    key: str
    label: str
    process: VE | VP = field(default_factory=VE)
    sampler: Sampler = field(default_factory=lambda: RK45(rtol=1e-5, atol=1e-5))
    t_end: float | None = 0.0
    regularise: Regulariser | None = None
    drawn: tuple[str, str] | None = None


@dataclass(frozen=True)
class ClosedFormSweep:
    """Specification of a sweep.

    Attributes:
        published: The published curve, with its strengths.
        regularise: Makes the regularised score from the exact one and a strength.
        predict: Memorised fraction predicted for a process, a strength and a dimension.
        prediction: Label of the prediction.
        xlabel: Name of the strength in the figure.
        panel: Title of a panel of samples, from the strength.
        shown: Places of the strengths whose samples are drawn.
        log_time_end: Time at which the log-time sampler ends; None for its own end.
        others: What is sampled besides the published setting, log time and the VP process.
        discarded: Numbers of normal points that the published script draws before the latents.
    """

    published: Sweep
    regularise: Regulariser
    predict: Callable[[VE | VP, float, int], float]
    prediction: str
    xlabel: str
    panel: Callable[[float], str]
    shown: Sequence[int]
    log_time_end: float | None = None
    others: tuple[Variant, ...] = ()
    discarded: tuple[int, ...] = ()

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All variants besides the published setting, from the same latents."""
        drawn = ("measured, VP process", GREEN)
        return (
            Variant("log_time", "LogTime", sampler=LogTime(), t_end=self.log_time_end),
            Variant("vp", "VP", VP(), t_end=self.published.t_end, drawn=drawn),
            *self.others,
        )

    def samples(self, variant: Variant, strengths: Sequence[float], z: Tensor) -> list[Tensor]:
        """Sample every strength from the same latents; each result has shape ``(B, 2)``."""
        empirical = EmpiricalScore(load("points20").x, variant.process)
        regularise = variant.regularise or self.regularise
        return [
            sample(regularise(empirical, c), z, sampler=variant.sampler, t_end=variant.t_end).x
            for c in strengths
        ]

    def measure(self, context: Context) -> ClosedFormSweepResult:
        """Sample the published setting and the variants; samples are kept on disk."""
        z = latents(context.generator(), discarded=self.discarded)
        first = Variant("", "", t_end=self.published.t_end)
        found: dict[str, list[MemorisedFraction]] = {}
        drawn: list[Tensor] = []
        for variant in (first, *self.variants):
            name = variant.key or "published-setting"
            context.progress(name)

            def compute(variant: Variant = variant) -> dict[str, np.ndarray]:
                x = self.samples(variant, self.published.values, z)
                return {"x": torch.stack(x).numpy()}

            x = list(torch.from_numpy(context.cached_arrays(name, compute)["x"]))
            drawn = drawn or x
            found[variant.key] = [memorised_fraction(one, load("points20").x) for one in x]
        measured = found.pop("")
        fractions = {
            key: [one.value for one in values] for key, values in {"": measured, **found}.items()
        }
        agreement = compare_sweep(fractions[""], self.published, num=LATENTS)
        return ClosedFormSweepResult(self, measured, fractions, agreement, drawn)


def latents(generator: torch.Generator, *, discarded: Sequence[int]) -> Tensor:
    """Draw the latents of a published sweep: with seed 0, the very numbers that were published.

    The authors' notebooks draw 1000 points and one time to try the score out, in one notebook also
    the latents of 30 trajectories, and then the 1000 latents of the sweep, in float32 from torch's
    generator with seed 0.

    Args:
        generator: Source of randomness.
        discarded: Numbers of normal points drawn after the trial and before the sweep.

    Returns:
        float64 tensor with shape ``(1000, 2)``.
    """
    torch.randn(LATENTS, 2, generator=generator)
    torch.rand(1, generator=generator)
    for num in discarded:
        torch.randn(num, 2, generator=generator)
    return torch.randn(LATENTS, 2, generator=generator).to(torch.float64)


@dataclass(frozen=True)
class ClosedFormSweepResult:
    """Measured fractions of a sweep, and how they are shown.

    Attributes:
        sweep: The specification.
        published_setting: Fraction with interval at each strength, in the published setting.
        fractions: Fractions by the key of the variant; ``""`` for the published setting.
        agreement: Comparison with the published curve.
        samples: Samples in the published setting, at each strength.
    """

    sweep: ClosedFormSweep
    published_setting: Sequence[MemorisedFraction]
    fractions: Mapping[str, list[float]]
    agreement: SweepAgreement
    samples: Sequence[Tensor]

    @property
    def fraction(self) -> list[float]:
        """Fraction at each strength, in the published setting."""
        return self.fractions[""]

    @property
    def published_gap(self) -> float:
        """Largest difference to the published curve."""
        return max(map(abs, self.agreement.difference))

    @property
    def sampler_gap(self) -> float:
        """Largest difference between the two samplers."""
        pairs = zip(self.fraction, self.fractions["log_time"], strict=True)
        return max(abs(a - b) for a, b in pairs)

    def predicted(self, process: VE | VP | None = None) -> list[float]:
        """Return the predicted fraction at each strength."""
        return [self.sweep.predict(process or VE(), c, 2) for c in self.sweep.published.values]

    def prediction_gap(self, below: float = float("inf")) -> float:
        """Return the largest difference to the prediction, at strengths below one."""
        rows = zip(self.fraction, self.predicted(), self.sweep.published.values, strict=True)
        return max(abs(a - b) for a, b, strength in rows if strength < below)

    def outcome(
        self,
        *,
        measured: Mapping[str, Any],
        columns: Sequence[tuple[str, Sequence[float]]],
        finding: str,
        captions: tuple[tuple[str, str], tuple[str, str]],
        quoted: Sequence[int],
        quoted_text: str,
    ) -> Outcome:
        """Put measured next to published.

        Args:
            measured: What is measured besides the fractions.
            columns: Further columns of the table.
            finding: What was found.
            captions: Caption and description of the curve and of the samples.
            quoted: Places of the fractions that the summary quotes.
            quoted_text: Their strengths, as text.
        """
        sweep, known, fraction = self.sweep, self.sweep.published, self.fraction
        grid = np.geomspace(known.values[0] / 1.5, known.values[-1] * 1.5, 200).tolist()
        curve = sweep_plot(
            known,
            self.published_setting,
            prediction=(grid, [sweep.predict(VE(), c, 2) for c in grid], sweep.prediction),
            others=[(*v.drawn, self.fractions[v.key]) for v in sweep.variants if v.drawn],
            xlabel=sweep.xlabel,
        )
        scatter = final_samples_plot(
            load("points20").x,
            [self.samples[place] for place in sweep.shown],
            [sweep.panel(known.values[place]) for place in sweep.shown],
        )
        variants = [(v.label, self.fractions[v.key]) for v in sweep.variants]
        table = sweep_table(
            known,
            self.published_setting,
            self.agreement,
            [("Predicted", self.predicted()), *variants, *columns],
            "Measured: RK45 with the published tolerances, steps chosen for each sample. LogTime: "
            "the same flow in the logarithm of the noise. Latents are those of the authors' "
            "notebook (with seed 0 the same numbers), so that differences are smaller than the "
            "tolerance for independent draws.",
        )
        ours = ", ".join(f"{fraction[place]:.3f}" for place in quoted)
        theirs = ", ".join(f"{known.fraction[place]:.3f}" for place in quoted)
        return Outcome(
            measured={
                "fraction": fraction,
                **{f"fraction_{v.key}": self.fractions[v.key] for v in sweep.variants},
                "fraction_predicted": self.predicted(),
                "largest_difference_to_published": self.published_gap,
                "largest_difference_between_samplers": self.sampler_gap,
                **measured,
            },
            published={known.parameter: known.values, "fraction": known.fraction},
            within=self.agreement.within,
            tolerance=self.agreement.tolerance,
            finding=finding,
            figures=(
                Figure("fraction", curve, *captions[0]),
                Figure("samples", scatter, *captions[1]),
            ),
            tables=(table,),
            measured_text=f"fraction {ours} at {quoted_text}",
            published_text=f"{theirs} (figure)",
        )
