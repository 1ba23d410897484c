r"""Measurements of copies among image samples, and their pictures.

Every measurement is taken of held-out images too: they are what a perfect model would draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memdiff.data import Dataset, load
from memdiff.experiments.experiment import Figure
from memdiff.metrics import (
    Distances,
    Ratio,
    ShareTest,
    ToleranceFraction,
    ratio,
    share_test,
    tolerance_fraction,
)
from memdiff.report.figures import BLACK, GREY, PALETTE, Curve, curve_plot, new_panels
from memdiff.report.pictures import ImageRow, image_grid

__all__ = [
    "ABSOLUTE",
    "THIRD",
    "Copies",
    "digit_images",
    "fraction_figure",
    "images_figure",
    "measure",
]

TOLERANCES = (0.01, 0.05, 0.1, 0.5)
"""The tolerances of [B25], distances in units of the data."""
ABSOLUTE = TOLERANCES.index(0.1)
"""Place of the tolerance of the summary."""
THIRD = len(TOLERANCES)
"""Place of the tolerance that is a third of the unit."""
SHOWN = 10


def digit_images() -> Dataset:
    """Load MNIST, or the digits of scikit-learn where the package that has it is missing."""
    try:
        return load("mnist5k")
    except ImportError:
        return load("digits")


@dataclass(frozen=True)
class Copies:
    r"""Measurements of samples, and of held-out images as their nulls.

    Attributes:
        x: The samples with shape ``(M, C, H, W)``.
        nearest: Index of the nearest training image of each.
        ratios: :math:`d_1/d_2` of the samples, and of the held-out images.
        distances: :math:`d_1` of both.
        unit: Median distance of a training image to the nearest other one.
        fraction: Tolerance fraction at 0.01, 0.05, 0.1, 0.5 and a third of the unit.
        ratio: Ratio test, :math:`d_1/d_2 < 1/3`.
        share: Share test; its value is the share nearer to train than to held-out.
        noise: Median :math:`d_1/\sqrt{d}`: standard deviation of the noise, if samples are
            training images under white noise.
        fidelity: Median distance to the nearest held-out image, over that of held-out images to
            the nearest training image. 1 for fresh images, more for noise.
    """

    x: Tensor
    nearest: Tensor
    ratios: tuple[Tensor, Tensor]
    distances: tuple[Tensor, Tensor]
    unit: float
    fraction: ToleranceFraction
    ratio: Ratio
    share: ShareTest
    noise: float
    fidelity: float


def measure(x: Tensor, train: Dataset, heldout: Dataset, seed: int = 0) -> Copies:
    """Measure samples ``(M, C, H, W)`` against training and held-out images.

    Args:
        x: The samples.
        train: Training images.
        heldout: Held-out images, as many.
        seed: Seed of the share test.

    Returns:
        The measurements.
    """
    found = Distances(generated=x, train=train.x, heldout=heldout.x)
    near, fresh = found.to_train("generated", 2), found.to_train("heldout", 2)
    d_1, fresh_d_1 = near.distances[:, 0], fresh.distances[:, 0]
    by_ratio = ratio(distances=found)
    unit = float(found.to_train("train").distances[:, 0].median())
    return Copies(
        x=x,
        nearest=near.indices[:, 0],
        ratios=(by_ratio.scores, fresh_d_1 / fresh.distances[:, 1]),
        distances=(d_1, fresh_d_1),
        unit=unit,
        fraction=tolerance_fraction(distances=found, tolerances=(*TOLERANCES, unit / 3)),
        ratio=by_ratio,
        share=share_test(distances=found, seed=seed),
        noise=float(d_1.median()) / train.x[0].numel() ** 0.5,
        fidelity=float(found.to_heldout("generated").distances.median() / fresh_d_1.median()),
    )


def fraction_figure(found: Mapping[str, Copies]) -> Figure:
    """Draw the memorised fraction against the tolerance and against the threshold of the ratio.

    Args:
        found: Measurements by the label of the method, against the same images.

    Returns:
        The figure.
    """
    figure, axes = new_panels(1, 2, height=4.0, sharey=True)
    first = next(iter(found.values()))
    tolerance = np.geomspace(3e-3, 300.0, 400)
    threshold = np.linspace(1e-3, 1.0, 400)
    curves: tuple[list[Curve], list[Curve]] = ([], [])
    colors = [GREY if color == BLACK else color for color in PALETTE]
    for index, (label, one) in enumerate(found.items()):
        values = (one.distances[0] / one.unit, one.ratios[0])
        for panel, x, value in zip(curves, (tolerance, threshold), values, strict=True):
            # Curves that coincide show through each other's gaps.
            style = "dashed" if "Bayes" in label else "plain"
            panel.append(
                Curve(x, _below(value, x), label, style=style, color=colors[index])  # type: ignore[arg-type]
            )
    fresh = (first.distances[1] / first.unit, first.ratios[1])
    for panel, x, value in zip(curves, (tolerance, threshold), fresh, strict=True):
        panel.append(Curve(x, _below(value, x), "Held-out images", style="plain", color=BLACK))
    curve_plot(
        curves[0],
        xlabel="tolerance / distance between training images",
        ylabel="memorised fraction",
        yscale="linear",
        axes=axes[0, 0],
    )
    curve_plot(
        curves[1],
        xlabel="threshold of the ratio d₁/d₂",
        ylabel="",
        xscale="linear",
        yscale="linear",
        axes=axes[0, 1],
    )
    for axis in axes.flat:
        axis.get_legend().remove()
        axis.axvline(1 / 3, color=GREY, linewidth=1.0, linestyle=":")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return Figure(
        "fraction",
        figure,
        "Memorised fraction against the tolerance, in units of the median distance of a training "
        "image to the nearest other one (left), and against the threshold of the ratio test "
        "(right). Dotted: a third. Black: held-out images. A curve to the left of it is closer to "
        "the training images than fresh images are; one to the right is farther, being noise.",
        "Two plots of fractions between 0 and 1. Without a regulariser the fraction is 1 "
        "everywhere; under Tikhonov and early stopping it is 0 at a third and rises before the "
        "held-out curve in the ratio.",
    )


def images_figure(found: Mapping[str, Copies], train: Dataset, heldout: Dataset) -> Figure:
    """Draw samples of every method, and held-out images, above their nearest training images.

    Args:
        found: Measurements by the label of the method.
        train: Training images.
        heldout: Held-out images.

    Returns:
        The figure.
    """
    spread = torch.linspace(0, len(heldout) - 1, min(SHOWN, len(heldout))).long()
    rows: list[ImageRow] = []
    for label, one in {**found, "Held-out": measure(heldout.x[spread], train, heldout)}.items():
        shown = one.ratios[0][:SHOWN].tolist()
        rows.append(
            ImageRow(
                one.x[:SHOWN],
                label.replace(" at ", "\nat ").replace("Empirical ", "Empirical\n"),
                captions=[f"{value:.2f}" for value in shown],
                marked=[value < one.ratio.threshold for value in shown],
            )
        )
        rows.append(ImageRow(train.x[one.nearest[:SHOWN]], "nearest train"))
    return Figure(
        "images",
        image_grid(rows, value_range=train.value_range or (0.0, 1.0)),
        "The first samples of every method, and under each its nearest training image. The number "
        "is d₁/d₂; a frame marks it below a third, which the ratio test calls a copy. Pixels "
        "outside the range of the data are clipped.",
        "Pairs of rows of images. Without a regulariser samples equal training images; under "
        "Tikhonov and early stopping they are training images with noise on them; held-out images "
        "differ from their nearest training images.",
    )


def _below(values: Tensor, thresholds: np.ndarray) -> np.ndarray:
    ordered = np.sort(values.cpu().numpy())
    return np.searchsorted(ordered, thresholds, side="left") / len(ordered)
