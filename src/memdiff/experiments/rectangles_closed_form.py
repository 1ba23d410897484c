r"""Exact score of two images, as it is and under Tikhonov regularisation.

The paper's images of a small and a large square are sampled with the process and the sampler of
EDM. The exact score returns them to the last digit. With Tikhonov regularisation of strength
:math:`c` a trajectory that has one training point :math:`x_n` to follow obeys

.. math::
    \frac{|x(0) - x_n|}{|x(T) - x_n|} = \sqrt{\frac{c}{\sigma_{max}^2 + c}},

so with 4096 pixels a sample is :math:`x_n` plus what is left of its noise, about
:math:`\sqrt{c}` a pixel. The 40 steps of the sampler add an error of their own, which a run at
tolerances 1e-8 separates from the law.

References:
    Baptista et al., arXiv:2501.15785 (Tikhonov regularisation, and the image
    experiments). Karras et al., arXiv:2206.00364, algorithm 1 (the sampler).
    Reconstructed: the law above, from the flow of a single training point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.data.builtin import rectangles
from memdiff.experiments.experiment import Context, Experiment, Figure, Outcome, Table
from memdiff.neighbors import nearest
from memdiff.processes import EDM
from memdiff.report.figures import BLACK, BLUE, VERMILION, legend, new_figure
from memdiff.report.pictures import ImageRow, image_grid
from memdiff.samplers import RK45, Heun, Sampler, draw_latents, sample
from memdiff.scores import EmpiricalScore, Tikhonov

__all__ = ["EXPERIMENTS", "Decay", "decay", "run"]

LATENTS, SHOWN = 16, 8
STRENGTH = 0.05
STRENGTHS = (0.0005, 0.005, STRENGTH, 0.5)
COPY_TOLERANCE = 1e-6
STEP_TOLERANCE, LAW_TOLERANCE = 0.03, 0.002


@dataclass(frozen=True)
class Decay:
    """Samples at one strength, and the distance that the law of one training point predicts.

    Attributes:
        strength: Tikhonov strength c.
        x: Samples with shape ``(B, 1, 64, 64)``.
        index: Nearest training image with shape ``(B,)``.
        distance: Distance to it with shape ``(B,)``.
        predicted: Distance by the law with shape ``(B,)``.
    """

    strength: float
    x: Tensor
    index: Tensor
    distance: Tensor
    predicted: Tensor

    @property
    def per_pixel(self) -> Tensor:
        """Root mean square difference per pixel with shape ``(B,)``."""
        return self.distance / math.sqrt(self.x[0].numel())

    @property
    def ratio(self) -> Tensor:
        """Measured over predicted distance with shape ``(B,)``."""
        return self.distance / self.predicted


def decay(score: EmpiricalScore, latents: Tensor, strength: float, sampler: Sampler) -> Decay:
    """Sample with a strength to sigma = 0, and compare with the law."""
    process = score.process
    x = sample(Tikhonov(score, strength), latents, sampler=sampler, t_end=0.0).x
    found = nearest(x, score.data.to(x.dtype))
    index = found.indices[:, 0]
    sigma_max = float(process.std(process.t_max))
    start = (sigma_max * latents - score.data[index]).flatten(1).norm(dim=1)
    return Decay(
        strength=strength,
        x=x,
        index=index,
        distance=found.distances[:, 0].double(),
        predicted=math.sqrt(strength / (sigma_max**2 + strength)) * start,
    )


def run(context: Context, score: EmpiricalScore) -> Outcome:
    """Sample two images with and without regularisation.

    Args:
        context: Seed and progress; the sizes are small and serve both presets.
        score: The score of the two images.

    Returns:
        The outcome.
    """
    shape = tuple(score.shape)
    latents = draw_latents(LATENTS, shape, seed=context.seed, dtype=torch.float64)
    context.progress("unregularised", 0.0)
    plain = decay(score, latents, 0.0, Heun(steps=40))
    regularised = {}
    for done, strength in enumerate(STRENGTHS, start=1):
        context.progress(f"c = {strength:g}", done / (len(STRENGTHS) + 2))
        regularised[strength] = decay(score, latents, strength, Heun(steps=40))
    ours = regularised[STRENGTH]
    context.progress("resolved integration", 0.8)
    resolved = decay(score, latents, STRENGTH, RK45(rtol=1e-8, atol=1e-8))
    noise_time = float(score.process.time_at_ratio(math.sqrt(STRENGTH)))
    top_weight = score.posterior(ours.x, noise_time).top_weight

    within = (
        bool((plain.distance <= COPY_TOLERANCE).all())
        and bool(((ours.ratio - 1.0).abs() <= STEP_TOLERANCE).all())
        and bool(((resolved.ratio - 1.0).abs() <= LAW_TOLERANCE).all())
    )
    apart = float((score.data[1] - score.data[0]).double().norm())
    measured = {
        "unregularised_distance": float(plain.distance.max()),
        "share_of_each_image": [float((plain.index == n).double().mean()) for n in range(2)],
        "distance_over_prediction": float(resolved.ratio.mean()),
        "distance_over_prediction_range": [
            float(resolved.ratio.min()),
            float(resolved.ratio.max()),
        ],
        "distance_over_prediction_40_steps": float(ours.ratio.mean()),
        "distance": float(ours.distance.mean()),
        "distance_per_pixel": float(ours.per_pixel.mean()),
        "distance_between_images": apart,
        "same_image_as_unregularised": float((ours.index == plain.index).double().mean()),
        "smallest_top_weight": float(top_weight.min()),
        "strengths": list(STRENGTHS),
        "distances_per_pixel": [float(one.per_pixel.mean()) for one in regularised.values()],
    }
    return Outcome(
        measured=measured,
        published={"unregularised_distance": 0.0, "distance_over_prediction": 1.0},
        within=within,
        tolerance=(
            f"Unregularised samples within {COPY_TOLERANCE:g} of a training image; at c = "
            f"{STRENGTH:g} every distance within {LAW_TOLERANCE:.1%} of the law when the flow is "
            f"resolved, and within {STEP_TOLERANCE:.0%} with the 40 steps of the sampler. The law "
            "is exact for one training image; a second one changes it a little on the way."
        ),
        finding=(
            f"Without regularisation the {LATENTS} samples are at most {plain.distance.max():.1g} "
            f"from a training image. With c = {STRENGTH:g} they stay {ours.distance.mean():.1f} "
            f"away, {ours.per_pixel.mean():.3f} a pixel (the images are {apart:.1f} apart), "
            f"{resolved.ratio.mean():.4f} times the distance of the law when the flow is resolved "
            f"and {ours.ratio.mean():.3f} times with 40 steps. Given the noise that is left in a "
            f"sample, its training image has posterior weight {top_weight.min():.4f} or more."
        ),
        figures=[
            _image_figure(score, plain, ours),
            _distance_figure(score, list(regularised.values())),
        ],
        tables=[_table([plain, *regularised.values()])],
        measured_text=(
            f"distance {plain.distance.max():.1g}; with c = {STRENGTH:g} "
            f"{resolved.ratio.mean():.4f} of the law"
        ),
        published_text="distance 0; 1 of the law (theory)",
    )


def _table(decays: Sequence[Decay]) -> Table:
    return Table(
        f"Distance to the nearest training image, {LATENTS} samples, 40 steps.",
        ("Strength c", "Distance, mean", "A pixel, mean", "Smallest", "Largest", "Over the law"),
        [
            [
                f"{one.strength:g}",
                f"{one.distance.mean():.3g}",
                f"{one.per_pixel.mean():.3g}",
                f"{one.distance.min():.3g}",
                f"{one.distance.max():.3g}",
                f"{one.ratio.mean():.4f}" if one.strength > 0 else None,
            ]
            for one in decays
        ],
        note="Distances are Euclidean, over 64 × 64 pixels with values 0 and 1; a pixel: root "
        "mean square. The excess over the law is the error of 40 steps.",
    )


def _image_figure(score: EmpiricalScore, plain: Decay, ours: Decay) -> Figure:
    rows = []
    for one, label in ((plain, "c = 0"), (ours, f"c = {STRENGTH:g}")):
        captions = [f"{value:.2f}" for value in one.per_pixel[:SHOWN].tolist()]
        rows.append(
            ImageRow(one.x[:SHOWN], label, captions, (one.distance <= 1e-6).tolist()[:SHOWN])
        )
        rows.append(ImageRow(score.data[one.index[:SHOWN]], "nearest"))
    return Figure(
        "samples",
        image_grid(rows, value_range=(-0.5, 1.5)),
        f"Samples without regularisation and with c = {STRENGTH:g}, from the same latents, each "
        "above its nearest training image; values from −0.5 (black) to 1.5 (white). Under a "
        "sample: root mean square difference per pixel. Framed: copies.",
        "Rows of images: unregularised samples equal the small or the large square; regularised "
        "ones show the same squares under noise.",
    )


def _distance_figure(score: EmpiricalScore, decays: Sequence[Decay]) -> Figure:
    figure, axes = new_figure(height=3.4)
    strengths = [one.strength for one in decays]
    side = math.sqrt(score.data[0].numel())
    axes.plot(
        strengths,
        [float(one.predicted.mean()) / side for one in decays],
        color=BLACK,
        linestyle=(0, (5, 3)),
        label="law of one training image",
    )
    axes.plot(
        strengths,
        [float(one.per_pixel.mean()) for one in decays],
        "o",
        color=BLUE,
        label=f"mean of {LATENTS} samples, 40 steps",
    )
    apart = float((score.data[1] - score.data[0]).double().norm()) / side
    axes.axhline(apart, color=VERMILION, linewidth=1.2, label="between the training images")
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(0.01, 2.0),
        xlabel="Tikhonov strength c",
        ylabel="distance per pixel (r.m.s.)",
    )
    legend(axes)
    return Figure(
        "distance",
        figure,
        "Distance of regularised samples to the nearest training image, as root mean square a "
        "pixel (images have values 0 and 1), with the law of a single training image and the "
        "distance between the two images.",
        "Log-log plot: measured distances lie on the line of the law, which rises as the square "
        "root of the strength.",
    )


EXPERIMENTS = (
    Experiment(
        name="rectangles-closed-form",
        title="Two images: copies, and what Tikhonov regularisation leaves",
        question=(
            "Does sampling with the exact score return images as it returns points, and how far "
            "from the training images does Tikhonov regularisation keep the samples?"
        ),
        reference="[B25]: Tikhonov regularisation, the rectangle images; sampler of [K22]",
        run=lambda context: run(context, EmpiricalScore(rectangles().x, EDM())),
        needs=("K22",),
    ),
)
