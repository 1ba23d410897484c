r"""Closed-form scores of real images, and the tests for copies that their samples pass.

Half of the images are the training set of an empirical score, the other half are held out. The
score is sampled as it is, and regularised with the strength that leave-one-out selection chooses
(:mod:`memdiff.generate.selection`), by Heun's method with 40 steps. Measured of the samples,
and of the held-out images as the null:

* *copies*: the share of samples nearer to a training image than a tolerance, and that with
  :math:`d_1/d_2 < 1/3`;
* *nearer to train*: the share of samples nearer to a training than to a held-out image, about 1/2
  for fresh samples, with or without noise on them (share test);
* *fidelity*: the median distance to the nearest held-out image, over that between held-out and
  training images.

**Predictions.** Without a regulariser all samples are copies. Near one training image Tikhonov
shrinks :math:`|x - x_n|` to :math:`\sqrt{c/(\sigma_T^2 + c)}` of its start, and stopping at
bandwidth ``h`` leaves :math:`h |z|`: training images under white noise of standard deviation
:math:`\sqrt{c}` and ``h``. The exact flow keeps :math:`|x - x_n|/\sigma`, which is :math:`\chi_d`
distributed at its start, so that a floor :math:`\epsilon` under the kernel sum
:math:`e^{-|x - x_n|^2/(2\sigma^2)}` leaves a share :math:`P(\chi^2_d < 2 \log(1/\epsilon))` of
copies and freezes the others as noise. In many dimensions it falls from 1 to 0 where
:math:`\epsilon` is near :math:`e^{-d/2}`.

Reconstructed: the predictions for images; [B25] has those of a single point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from memdiff.data import Dataset
from memdiff.experiments.experiment import Context, Experiment, Outcome, Table
from memdiff.experiments.image_copies import (
    ABSOLUTE,
    THIRD,
    Copies,
    digit_images,
    fraction_figure,
    images_figure,
    measure,
)
from memdiff.generate import GenerationSettings, generate
from memdiff.metrics import Interval, Null
from memdiff.report.document import Cell, CellValue

__all__ = ["EXPERIMENTS", "Method", "Prediction", "draw", "methods", "predict", "split_images"]

ALL, NONE = 0.99, 0.01
"""Shares that count as all and as none."""
SHARE_TOLERANCE, NOISE_TOLERANCE = 0.1, 0.05
"""Largest difference of a share to its prediction; largest relative one of a noise level."""


@dataclass(frozen=True)
class Method:
    """A way to draw samples.

    Attributes:
        key: Name in ``results.json``.
        label: Name in figures and tables.
        regularizer: Name of the regulariser (see :mod:`memdiff.generate.generation`).
        strength: Its strength, or ``"auto"``, or a stopping rule.
        symbol: How the strength is written, with ``{}`` for the number.
    """

    key: str
    label: str
    regularizer: str
    strength: float | str = "auto"
    symbol: str = ""


@dataclass(frozen=True)
class Prediction:
    """Prediction for a method at a given strength, each value None where there is none.

    Attributes:
        ratio: Share of copies.
        noise: Standard deviation of the noise on training images.
    """

    ratio: float | None = None
    noise: float | None = None


def methods(dimension: int, *, full: bool) -> list[Method]:
    """Return the methods for images of so many pixels; the last two in the full list only."""
    chosen = [
        Method("none", "No regulariser", "none"),
        Method("tikhonov", "Tikhonov", "tikhonov", symbol="c = {:.3g}"),
        Method("early_stop", "Early stop", "early-stop", symbol="h = {:.3g}"),
        Method("empirical_bayes", "Empirical Bayes", "empirical-bayes", symbol="log ε = {:.4g}"),
        Method(
            "empirical_bayes_half",
            "Empirical Bayes at e^(−d/2)",
            "empirical-bayes",
            -dimension / 2,
            "log ε = {:.4g}",
        ),
        Method("silverman", "Early stop at Silverman's", "early-stop", "silverman", "h = {:.3g}"),
        Method("temperature", "Temperature", "temperature", symbol="σ < {:.3g}"),
    ]
    return chosen if full else chosen[:-2]


def split_images(data: Dataset, num: int, seed: int) -> tuple[Dataset, Dataset]:
    """Return disjoint training and held-out images, ``num`` each (at most half of the data)."""
    num = min(num, len(data) // 2)
    train, rest = data.split(num, seed=seed)
    return train, rest if len(rest) == num else rest.split(num, seed=seed)[0]


def draw(method: Method, train: Dataset, num: int, seed: int) -> dict[str, np.ndarray]:
    """Draw samples.

    Returns:
        ``x``, samples with shape ``(num, C, H, W)``; ``strength``, the strength used, NaN without
        a regulariser; ``at_edge``, whether the selection chose an end of its grid.
    """
    settings = GenerationSettings(
        regularizer=method.regularizer, strength=method.strength, num=num, seed=seed
    )
    made = generate(train, settings)
    strength = made.resolved["strength"]
    return {
        "x": made.x.numpy(),
        "strength": np.array(math.nan if strength is None else strength),
        "at_edge": np.array(made.selection is not None and made.selection.at_edge),
    }


def predict(regularizer: str, strength: float, dimension: int) -> Prediction:
    """Return the prediction for a regulariser and strength in so many dimensions."""
    from scipy.stats import chi2

    if regularizer == "tikhonov":
        return Prediction(noise=math.sqrt(strength))
    if regularizer == "early-stop":
        return Prediction(noise=strength)
    if regularizer == "empirical-bayes":
        return Prediction(ratio=float(chi2.cdf(-2.0 * strength, dimension)))
    return Prediction(ratio=1.0)


def agrees(found: Copies, prediction: Prediction) -> bool:
    """Tell whether measurements are within the tolerances of a prediction."""
    share = (
        prediction.ratio is None or abs(found.ratio.value - prediction.ratio) <= SHARE_TOLERANCE
    )
    noise = prediction.noise is None or (
        abs(found.noise / prediction.noise - 1.0) <= NOISE_TOLERANCE
    )
    return share and noise


def run(context: Context) -> Outcome:
    """Draw from every method; measure; show next to the nearest training images."""
    context.progress("loading images")
    data = digit_images()
    train, heldout = split_images(data, context.pick(quick=400, paper=2500), context.seed)
    num = context.pick(quick=200, paper=1000)
    dimension = train.x[0].numel()
    compared = methods(dimension, full=context.preset == "paper")

    drawn: dict[str, dict[str, np.ndarray]] = {}
    for index, method in enumerate(compared):
        context.progress(method.label, index / len(compared))
        drawn[method.key] = context.cached_arrays(
            method.key, partial(draw, method, train, num, context.seed)
        )
    found = {
        key: measure(torch.from_numpy(made["x"]), train, heldout, context.seed)
        for key, made in drawn.items()
    }
    predicted = {
        method.key: predict(method.regularizer, float(drawn[method.key]["strength"]), dimension)
        for method in compared
    }
    plain, tikhonov, stop, bayes, half = list(found.values())[:5]
    by_label = {method.label: found[method.key] for method in compared}
    null_ratio, null_fraction = _null(plain.ratio.null), _null(plain.fraction.nulls[ABSOLUTE])
    within = (
        min(plain.ratio.value, plain.fraction.values[ABSOLUTE]) >= ALL
        and max(null_ratio.value, null_fraction.value) <= NONE
        and all(agrees(found[key], prediction) for key, prediction in predicted.items())
    )
    return Outcome(
        measured={
            "data": train.source,
            "train": len(train),
            "heldout": len(heldout),
            "samples": num,
            "tolerances": plain.fraction.tolerances,
            "heldout_fraction": [_null(null).value for null in plain.fraction.nulls],
            "heldout_ratio": null_ratio.value,
            "methods": {key: _values(drawn[key], one) for key, one in found.items()},
        },
        published={
            "heldout_ratio": 0.0,
            "methods": {
                key: {"ratio": one.ratio, "noise": one.noise} for key, one in predicted.items()
            },
        },
        within=within,
        tolerance=(
            f"Without a regulariser at least {ALL:.0%} of the samples are copies, of held-out "
            f"images at most {NONE:.0%}, by ratio and at tolerance 0.1. Noise levels within "
            f"{NOISE_TOLERANCE:.0%} and shares of copies within {SHARE_TOLERANCE} of their "
            "predictions from a single training image, which leave out the other images and the "
            "error of 40 steps."
        ),
        finding=(
            f"Without a regulariser {plain.ratio.value:.1%} of {num} samples are copies by ratio, "
            f"of held-out images {null_ratio.value:.1%}. Under Tikhonov and early stopping "
            f"{tikhonov.ratio.value:.1%} and {stop.ratio.value:.1%} are, but they are training "
            f"images under noise of deviation {tikhonov.noise:.2f} and {stop.noise:.2f} "
            f"(predicted {predicted['tikhonov'].noise:.2f}, "
            f"{predicted['early_stop'].noise:.2f}), and {tikhonov.share.value:.1%} and "
            f"{stop.share.value:.1%} of them are nearer to a training than to a held-out "
            "image, of fresh ones half would be. Empirical Bayes "
            f"leaves {bayes.ratio.value:.1%} copies at the chosen floor and "
            f"{half.ratio.value:.1%} at e^(−d/2), where the others freeze as noise."
        ),
        figures=[fraction_figure(by_label), images_figure(by_label, train, heldout)],
        tables=[_table(compared, drawn, found, predicted)],
        measured_text=(
            f"copies {plain.ratio.value:.1%}, Tikhonov {tikhonov.ratio.value:.1%} but all noisy "
            "training images"
            if tikhonov.share.value >= ALL
            else f"copies {plain.ratio.value:.1%}, Tikhonov {tikhonov.ratio.value:.1%}"
        ),
        published_text="copies 100 % (theory)",
    )


def _null(null: Null | None) -> Null:
    assert null is not None  # held-out images are always given here
    return null


def _values(drawn: Mapping[str, np.ndarray], found: Copies) -> dict[str, object]:
    strength = float(drawn["strength"])
    return {
        "strength": None if math.isnan(strength) else strength,
        "strength_at_edge_of_grid": bool(drawn["at_edge"]),
        "fraction": found.fraction.values,
        "fraction_interval": [(one.low, one.high) for one in found.fraction.intervals],
        "ratio": found.ratio.value,
        "ratio_interval": _ends(found.ratio.interval),
        "nearer_to_train": found.share.value,
        "nearer_to_train_p_value": found.share.p_value,
        "noise": found.noise,
        "fidelity": found.fidelity,
    }


def _ends(interval: Interval | None) -> tuple[float, float]:
    assert interval is not None
    return interval.low, interval.high


def _share(value: float, interval: Interval | None) -> Cell:
    low, high = _ends(interval)
    return Cell(f"{value:.1%}", note=f"{100 * low:.1f} to {high:.1%}", sort=value)


def _table(
    compared: Sequence[Method],
    drawn: Mapping[str, Mapping[str, np.ndarray]],
    found: Mapping[str, Copies],
    predicted: Mapping[str, Prediction],
) -> Table:
    rows: list[list[CellValue]] = []
    for method in compared:
        one, made, theory = found[method.key], drawn[method.key], predicted[method.key]
        strength = method.symbol.format(float(made["strength"])).replace("-", "−")
        rows.append(
            [
                Cell(method.label, note=strength + (" *" if made["at_edge"] else "")),
                *(
                    _share(one.fraction.values[i], one.fraction.intervals[i])
                    for i in (ABSOLUTE, THIRD)
                ),
                _share(one.ratio.value, one.ratio.interval),
                None if theory.ratio is None else Cell(f"{theory.ratio:.1%}", sort=theory.ratio),
                Cell(
                    f"{one.share.value:.1%}",
                    note=f"p = {one.share.p_value:.2g}",
                    sort=one.share.value,
                ),
                None
                if theory.noise is None
                else Cell(
                    f"{one.noise:.3f}", note=f"predicted {theory.noise:.3f}", sort=one.noise
                ),
                Cell(f"{one.fidelity:.2f}", sort=one.fidelity),
            ]
        )
    any_one = found[compared[0].key]
    nulls = [any_one.fraction.nulls[i] for i in (ABSOLUTE, THIRD)] + [any_one.ratio.null]
    rows.append(
        [
            "Held-out images",
            *(_share(_null(null).value, _null(null).interval) for null in nulls),
            Cell("0.0%", sort=0.0),
            Cell(f"{_null(any_one.share.null).value:.1%}", note="expected", sort=0.5),
            None,
            Cell("1.00", sort=1.0),
        ]
    )
    return Table(
        "Samples against training images, with held-out images as the null.",
        (
            "Method",
            f"d₁ < {any_one.fraction.tolerances[ABSOLUTE]:g}",
            "d₁ < u/3",
            "d₁/d₂ < 1/3",
            "Copies predicted",
            "Nearer to train",
            "Noise",
            "Fidelity",
        ),
        rows,
        note=(
            "Shares with 95 % Clopper-Pearson intervals. d₁, d₂: distances to the nearest and "
            "second nearest training image, in units of the data (pixels from −1 to 1); "
            f"u = {any_one.unit:.3g} is the median distance of a training image to the nearest "
            "other one. Nearer to train: share nearer to a training than to a held-out image, "
            "with the p-value of the share test (0.0005 or more). "
            "Noise: median d₁ over the square root of the "
            "number of pixels. Fidelity: median distance to held-out images over that of "
            "training images to them; 1 is ideal (and met by copies), above it is noise. "
            "*: at the end of the grid of the selection."
        ),
        stacked=True,
    )


EXPERIMENTS = (
    Experiment(
        name="real-data",
        title="Real images: copies, noise around copies, and held-out images",
        question=(
            "On images, are samples of the closed-form score copies of the training data? Do "
            "regularisers, at the strength that the data choose, stop the copying, and do their "
            "samples then differ from training images by more than noise?"
        ),
        reference="[B25] (regularisation); the sampler of [K22]; test of [Y23]",
        needs=("B25", "K22", "Y23"),
        run=run,
        threads=None,
    ),
)
