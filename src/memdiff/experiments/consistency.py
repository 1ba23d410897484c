r"""Convergence rates of closed-form score estimates in the training-set size ([W24], [B25]).

The data law :math:`p` is a known Gaussian mixture in dimension :math:`d`. From :math:`N` points
its score :math:`\nabla \log p` is estimated by the score of their kernel density
:math:`p^N_h = N^{-1} \sum_n N(x_n, h^2 I)`, the empirical score at the time where
:math:`\sigma/m = h`. The error of an estimate :math:`\hat s` is that of [W24],

.. math::
    E_{x \sim p} |\hat s(x) - \nabla \log p(x)|^2 ,

against the law of the data itself and not of the noised data. Four estimates:

* *fixed noise*: the empirical score at :math:`h = 0.05` for every :math:`N`, on the way to the
  score that memorises; its error grows without bound as :math:`h \to 0`.
* *kernel score*: the empirical score at :math:`h_N = s N^{-1/(d+4)}` (:math:`s` the standard
  deviation of the data), the bandwidth variance :math:`h_N^2 \sim N^{-2/(d+4)}` of [W24].
* *empirical Bayes*: the same with the floor :math:`\epsilon = 1/N` under the density. Its error
  is at most of order :math:`N^{-2/(d+4)}`, log factors aside: the minimax rate for laws with a
  Lipschitz score. Nothing is tuned.
* *oracle bandwidth*: empirical Bayes at the bandwidth of least true error, on a grid. A mixture is
  smoother than Lipschitz; squared bias :math:`h^4` against variance :math:`1/(N h^{d+2})` gives
  the rate :math:`N^{-4/(d+6)}`.

And samples. The exact reverse flow stopped at :math:`\sigma/m = h` draws from :math:`p^N_h`; its
error in law is the Kullback-Leibler divergence of :math:`p^N_h` from :math:`p`, of order
:math:`N^{-4/(d+4)}` at :math:`h_N`. (A distance such as Wasserstein's would not do: the empirical
measure, nothing but copies, converges in it.) That samples of a real sampler have the law
:math:`p^N_h` is tested in each coordinate (Kolmogorov-Smirnov).

Each repeat draws training sets of its own. A rate is the slope of a line through the errors of one
repeat in log-log; mean and standard error are over repeats.

Reconstructed: the constant :math:`s` (Scott's rule); the rates for smooth laws and of the
divergence, by the usual expansion of bias and variance.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from memdiff.experiments.experiment import Context, Experiment, Figure, Outcome
from memdiff.processes import EDM
from memdiff.report.document import CellValue, Table
from memdiff.report.figures import (
    BLACK,
    PALETTE,
    Curve,
    curve_plot,
    legend,
    new_figure,
    new_panels,
)
from memdiff.samplers import LogTime, sample
from memdiff.scores import EmpiricalBayes, EmpiricalScore, GaussianMixtureScore, scott_bandwidth

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

__all__ = ["EXPERIMENTS", "Rate", "data_law", "errors", "fitted_rate", "sampler_p_value"]

DIMENSIONS = (1, 2)
FIXED = 0.05
FACTORS = (0.15, 0.3, 0.6, 0.8, 1.0, 1.2, 1.6)
"""Bandwidths of the oracle's grid, as multiples of h_N."""
PROCESS = EDM()  # sigma(t) = t and m = 1: the time is the bandwidth

LABELS = {
    "fixed": f"fixed noise, $h$ = {FIXED}",
    "kernel": "kernel score at $h_N$",
    "empirical_bayes": "empirical Bayes at $h_N$",
    "oracle": "oracle bandwidth",
    "divergence": "law of samples stopped at $h_N$",
}


@dataclass(frozen=True)
class Rate:
    """Slope of log error against log N.

    Attributes:
        slope: Mean over repeats.
        standard_error: Its standard error over repeats.
    """

    slope: float
    standard_error: float


def theoretical_rate(name: str, dimension: int) -> float | None:
    """Return the exponent of N that theory gives for an error of :func:`errors`, or None."""
    if name == "empirical_bayes":
        return -2.0 / (dimension + 4.0)
    if name == "oracle":
        return -4.0 / (dimension + 6.0)
    return -4.0 / (dimension + 4.0) if name == "divergence" else None


def data_law(dimension: int) -> GaussianMixtureScore:
    """Return the known law: two overlapping Gaussians of different weight and width, float64."""
    means = torch.tensor([[-1.0, -0.5], [1.0, 0.5]], dtype=torch.float64)[:, :dimension]
    widths = torch.tensor([0.8, 0.6], dtype=torch.float64)
    return GaussianMixtureScore(torch.tensor([0.4, 0.6]), means, widths**2, PROCESS)


def errors(
    law: GaussianMixtureScore, num: int, num_test: int, generator: torch.Generator
) -> dict[str, float]:
    """Return errors of all estimates from one training set of ``num`` points.

    Args:
        law: The known law.
        num: Number of training points N.
        num_test: Number of fresh points that the error is averaged over.
        generator: Source of randomness.

    Returns:
        Squared score errors ``"fixed"``, ``"kernel"``, ``"empirical_bayes"``, ``"oracle"`` and,
        for each of the grid, ``"grid 0"``, ...; and the Kullback-Leibler divergence of the
        early-stopped law, ``"divergence"``, in nats.
    """
    data = law.sample_data(num, generator)
    x = law.sample_data(num_test, generator)
    truth = law(x, 0.0)
    empirical = EmpiricalScore(data, PROCESS)
    floored = EmpiricalBayes(empirical, 1.0 / num, "density")
    h = scott_bandwidth(data)

    def error(score: EmpiricalScore | EmpiricalBayes, bandwidth: float) -> float:
        return float((score(x, bandwidth) - truth).square().sum(1).mean())

    grid = [error(floored, factor * h) for factor in FACTORS]
    # E_p[q/p - 1 - log(q/p)] is the divergence, with positive terms: far less noise than
    # E_p[log p - log q].
    log_ratio = empirical.log_density(x, h) - law.log_density(x, 0.0)
    return {
        "fixed": error(empirical, FIXED),
        "kernel": error(empirical, h),
        "empirical_bayes": grid[FACTORS.index(1.0)],
        "oracle": min(grid),
        "divergence": float((log_ratio.expm1() - log_ratio).mean()),
        "bandwidth": h,
        **{f"grid {index}": value for index, value in enumerate(grid)},
    }


def fitted_rate(sizes: Sequence[int], values: np.ndarray) -> Rate:
    """Fit the rate of errors with shape ``(repeats, len(sizes))``, at least two repeats."""
    slopes = np.polyfit(np.log(sizes), np.log(values).T, 1)[0]
    return Rate(float(slopes.mean()), float(slopes.std(ddof=1) / len(slopes) ** 0.5))


def sampler_p_value(num: int, num_samples: int, generator: torch.Generator) -> float:
    """Return the p-value that samples of the flow stopped at ``h_N`` are from the kernel density.

    The smaller of one Kolmogorov-Smirnov test a coordinate, times their number (Bonferroni).
    """
    from scipy.stats import kstest, norm

    data = data_law(DIMENSIONS[-1]).sample_data(num, generator)
    h = scott_bandwidth(data)
    latents = torch.randn(num_samples, data.shape[1], generator=generator, dtype=torch.float64)
    x = sample(EmpiricalScore(data, PROCESS), latents, sampler=LogTime(1e-4, 1e-4), t_end=h).x

    def cdf(q: np.ndarray, axis: int) -> np.ndarray:
        return norm.cdf((q[:, None] - data[:, axis].numpy()) / h).mean(1)

    values = [kstest(x[:, axis].numpy(), cdf, args=(axis,)).pvalue for axis in range(x.shape[1])]
    return float(min(1.0, len(values) * min(values)))


def run(context: Context) -> Outcome:
    """Measure all errors over N and repeats, in each dimension, and fit their rates."""
    sizes = context.pick(
        quick=(100, 316, 1000, 3162), paper=(100, 316, 1000, 3162, 10_000, 31_623)
    )
    repeats = context.pick(quick=4, paper=5)
    num_test = context.pick(quick=800, paper=3000)

    found: dict[int, dict[str, np.ndarray]] = {}
    for dimension in DIMENSIONS:
        law = data_law(dimension)
        table: dict[str, list[list[float]]] = {}
        for repeat in range(repeats):
            for column, num in enumerate(sizes):
                offset = 10_000 * dimension + 100 * repeat + column
                context.progress(f"d = {dimension}, N = {num}, repeat {repeat + 1}")
                compute = functools.partial(errors, law, num, num_test, context.generator(offset))
                row = context.cached(f"errors-{offset}", compute)
                for name, value in row.items():
                    table.setdefault(name, [[] for _ in range(repeats)])[repeat].append(value)
        found[dimension] = {name: np.array(values) for name, values in table.items()}
    rates = {
        d: {name: fitted_rate(sizes, values[name]) for name in LABELS}
        for d, values in found.items()
    }
    p_value = context.cached(
        "sampler",
        lambda: {
            "p": sampler_p_value(300, context.pick(quick=500, paper=2000), context.generator())
        },
    )["p"]

    bayes = {d: rates[d]["empirical_bayes"] for d in DIMENSIONS}
    bound = {d: -2.0 / (d + 4.0) for d in DIMENSIONS}
    fast = all(bayes[d].slope <= bound[d] + 3 * bayes[d].standard_error for d in DIMENSIONS)
    better = all(
        (values["empirical_bayes"].mean(0) < 0.1 * values["fixed"].mean(0)).all()
        for values in found.values()
    )
    ratio = found[2]["fixed"].mean(0)[-1] / found[2]["empirical_bayes"].mean(0)[-1]
    excess = max(
        float((values["empirical_bayes"].mean(0) / values["oracle"].mean(0)).max())
        for values in found.values()
    )
    slopes = ", ".join(
        f"{bayes[d].slope:.2f} ± {bayes[d].standard_error:.2f} for d = {d}" for d in DIMENSIONS
    )
    bounds = ", ".join(f"{bound[d]:.2f} for d = {d}" for d in DIMENSIONS)
    return Outcome(
        measured={
            "sizes": sizes,
            **{f"{name}_d{d}": found[d][name].mean(0) for d in DIMENSIONS for name in LABELS},
            **{
                f"rate_{name}_d{d}": [rates[d][name].slope, rates[d][name].standard_error]
                for d in DIMENSIONS
                for name in LABELS
            },
            "sampler_p_value": p_value,
        },
        published={f"rate_empirical_bayes_d{d}": bound[d] for d in DIMENSIONS},
        within=bool(fast and better and p_value > 0.001),
        tolerance=(
            "The fitted rate of empirical Bayes is no slower than N^(-2/(d+4)), an upper bound, "
            "within three standard errors over repeats; its error is below a tenth of that of the "
            "empirical score at fixed small noise at every N; samples of the stopped flow pass "
            "the test against their kernel density at level 0.001."
        ),
        finding=(
            f"The squared error of empirical Bayes falls with exponents {slopes} (bound "
            f"{bounds}). The empirical score at fixed noise {FIXED} has an error {ratio:.0f} "
            f"times larger at N = {sizes[-1]}, d = 2. With h_N, which tunes nothing, the error is "
            f"at most {excess:.2f} times that of the best bandwidth of a grid."
        ),
        figures=(
            Figure(
                "rates",
                _rate_plot(sizes, found),
                "Squared score error and divergence of the law of early-stopped samples against "
                f"the number of training points; mean of {repeats} repeats, bands of one standard "
                "error. Dashed: the slope -2/(d+4) of the bound, through the first value of "
                "empirical Bayes.",
                "Log-log error against N for d = 1 and d = 2: all fall; empirical Bayes at least "
                "as steeply as the dashed line, the score at fixed noise far above it.",
            ),
            Figure(
                "bandwidth",
                _bandwidth_plot(sizes, found),
                "Squared score error of empirical Bayes against the bandwidth, d = 2. Stars: the "
                "bandwidth h_N, which uses N and the spread of the data only. To the left the "
                "score tends to the one that memorises.",
                "U-shaped curves of error against bandwidth, lower and further left for larger "
                "N, with the chosen bandwidth near each minimum.",
            ),
        ),
        tables=(_rate_table(rates),),
        measured_text=f"error exponent {slopes}",
        published_text=f"at most {bounds} (theory)",
    )


def _rate_plot(sizes: Sequence[int], found: Mapping[int, Mapping[str, np.ndarray]]) -> Plot:
    figure, panels = new_panels(1, len(found), height=4.3, sharey=True)
    for axes, (dimension, values) in zip(panels[0], found.items(), strict=True):
        curves = []
        shown = {name: label for name, label in LABELS.items() if name != "oracle"}
        for color, (name, label) in zip(PALETTE, shown.items(), strict=False):
            mean = values[name].mean(0)
            spread = values[name].std(0, ddof=1) / len(values[name]) ** 0.5
            low = np.maximum(mean - spread, 0.3 * mean)
            curves.append(Curve(sizes, mean, label, low, mean + spread, color=color))
        n = np.array(sizes, dtype=float)
        start = values["empirical_bayes"].mean(0)[0]
        curves.append(
            Curve(
                n,
                start * (n / n[0]) ** (-2.0 / (dimension + 4.0)),
                "slope $-2/(d+4)$",
                style="dashed",
                color=BLACK,
            )
        )
        curve_plot(curves, xlabel="Training points $N$", ylabel="", axes=axes)
        axes.set_title(f"$d$ = {dimension}", fontsize=10)
        axes.get_legend().remove()
    panels[0, 0].set_ylabel("Squared score error; divergence (nats)")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def _bandwidth_plot(sizes: Sequence[int], found: Mapping[int, Mapping[str, np.ndarray]]) -> Plot:
    values = found[2]
    figure, axes = new_figure(height=3.8)
    for color, (column, num) in zip(PALETTE, enumerate(sizes), strict=False):
        h = values["bandwidth"].mean(0)[column]
        error = [values[f"grid {index}"].mean(0)[column] for index in range(len(FACTORS))]
        axes.plot(
            np.multiply(FACTORS, h), error, "o-", color=color, markersize=4, label=f"{num:,}"
        )
        axes.plot(h, error[FACTORS.index(1.0)], "*", color=color, markersize=13, zorder=3)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="Bandwidth $h$ (units of the data)",
        ylabel="Squared score error",
        xticks=(0.02, 0.05, 0.1, 0.2, 0.5),
    )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    legend(axes, title="Training points $N$")
    return figure


def _rate_table(rates: Mapping[int, Mapping[str, Rate]]) -> Table:
    rows: list[list[CellValue]] = []
    for dimension, fitted in rates.items():
        for name, rate in fitted.items():
            theory = theoretical_rate(name, dimension)
            rows.append(
                [
                    LABELS[name].replace("$", ""),
                    dimension,
                    f"{rate.slope:.3f} ± {rate.standard_error:.3f}",
                    None if theory is None else f"{theory:.3f}",
                ]
            )
    return Table(
        "Fitted exponents of N.",
        ("Error", "d", "Exponent ± standard error", "Theory"),
        rows,
        note="Theory: an upper bound for empirical Bayes [W24]; leading order in N for the oracle "
        "and the divergence, which N of this size need not have reached.",
    )


EXPERIMENTS = (
    Experiment(
        name="consistency",
        title="Consistency: score error against the number of training points",
        question=(
            "Do the regularised closed-form estimates converge to the score of the law behind "
            "the data as the training set grows, how fast, and does the memorising score?"
        ),
        reference="[W24], theorem 1; [B25] (asymptotically consistent regularisation).",
        run=run,
        needs=("W24",),
    ),
)
