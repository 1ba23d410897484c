r"""Empirical Bayes regularisation: the density floor that stops memorisation ([B25]).

Empirical Bayes regularisation replaces the score of the noised training data by
:math:`\nabla p / \max(p, \epsilon)`: where the density is below the floor the score is turned down
and samples stop moving. The published curve compares the floor with the kernel sum
:math:`\sum_n \exp(-|x - m x_n|^2 / (2\sigma^2))`; with the normalised density, which a consistent
choice refers to, the same numbers mean another floor and give another curve.

**Prediction.** Near one point the kernel sum is :math:`e^{-r^2/2}`, :math:`r = |e|/\sigma`. The
exact flow keeps :math:`r`, whose square is :math:`\chi^2_d` distributed. With
:math:`e^{-r^2/2} \ge \epsilon` the floor is never active and the sample is a copy; below it
:math:`d \log r / d \log \sigma < 0`, so that :math:`r` grows, the kernel sum falls further and the
sample freezes. Hence

.. math::
    P(\text{copy}) = F_{\chi^2_d}(2 \log(1/\epsilon)) = 1 - \epsilon \quad \text{for } d = 2,

and 0 for a floor above 1, the largest value of the sum near one point. It leaves out samples that
freeze within the tolerance, and the other points, which matter for floors near 1.

Reconstructed: the prediction, which is not in the paper.
"""

from __future__ import annotations

import math
from functools import partial

from memdiff.experiments.closed_form_sweep import ClosedFormSweep, Variant
from memdiff.experiments.experiment import Context, Experiment, Outcome
from memdiff.experiments.published import LATENTS, compare_sweep, published
from memdiff.processes import ForwardProcess
from memdiff.report.figures import ORANGE
from memdiff.scores import EmpiricalBayes

__all__ = ["EXPERIMENTS", "SWEEP", "predicted_fraction"]


def predicted_fraction(process: ForwardProcess, floor: float, dimension: int) -> float:
    """Predict the memorised fraction from one point; it is the same for every process."""
    from scipy.stats import chi2

    return float(chi2.cdf(2.0 * math.log(1.0 / floor), dimension)) if floor < 1.0 else 0.0


T_END = published().empirical_bayes.t_end
SWEEP = ClosedFormSweep(
    published=published().empirical_bayes,
    regularise=partial(EmpiricalBayes, convention="kernel_sum"),
    predict=predicted_fraction,
    prediction=r"predicted, $1 - \varepsilon$",
    xlabel=r"Floor $\varepsilon$ (of the kernel sum)",
    panel=lambda floor: rf"$\varepsilon$ = {floor:.2g}",
    shown=(0, 3, 5),
    log_time_end=T_END,
    others=(
        Variant(
            "density",
            "Density",
            t_end=T_END,
            regularise=partial(EmpiricalBayes, convention="density"),
            drawn=("measured, floor on the density", ORANGE),
        ),
    ),
    discarded=(30,),
)


def run(context: Context) -> Outcome:
    """Sweep the floor as published; check with another sampler, convention and process."""
    found, floors = SWEEP.measure(context), SWEEP.published.values
    fraction, gap = found.fraction, found.prediction_gap(below=1.0)
    log_time_agreement = compare_sweep(found.fractions["log_time"], SWEEP.published, num=LATENTS)
    return found.outcome(
        measured={"largest_difference_to_prediction_below_1": gap},
        columns=(),
        finding=(
            f"The memorised fraction falls from {fraction[0]:.3f} at a floor of {floors[0]:g} to "
            f"{fraction[-1]:.3f} at {floors[-1]:g}; the largest difference to the published curve "
            f"is {found.published_gap:.3f}, and "
            f"{max(map(abs, log_time_agreement.difference)):.3f} where the flow is integrated to "
            f"more digits (LogTime). Below 1 the closed form 1 - ε is within {gap:.3f}. "
            f"The same floors on the normalised density give another curve "
            f"({found.fractions['density'][0]:.3f} at {floors[0]:g})."
        ),
        captions=(
            (
                "Fraction of 1000 samples within 0.01 of one of the 20 training points against "
                "the floor, on a linear and a logarithmic axis (which cannot show 0). Squares: "
                "read off the published plot. Dashed: predicted from a single point, for floors "
                "below 1. For the curve of the density the axis is the floor of the normalised "
                "density.",
                "Memorised fraction against the floor: near one at 0.01, 0.7 at 0.3, zero from "
                "3; published values coincide, the density convention lies far below.",
            ),
            (
                "The first 250 samples at three floors over the Voronoi diagram of the training "
                "points. Samples are either copies or frozen where the density fell below the "
                "floor.",
                "Three scatter plots: samples on the training points, then a part of them "
                "scattered between, then all scattered.",
            ),
        ),
        quoted=(0, 3, 4),
        quoted_text="floor 0.01, 0.32, 1",
    )


EXPERIMENTS = (
    Experiment(
        name="empirical-bayes-sweep",
        title="Empirical Bayes regularisation: memorised fraction against the floor",
        question=(
            "How high must the floor under the density be for samples of the closed-form score "
            "to stop being copies of the 20 training points?"
        ),
        reference="[B25] (empirical Bayes), memorised fraction against the floor; "
        "the regulariser is that of [W24].",
        run=run,
        needs=("W24",),
    ),
)
