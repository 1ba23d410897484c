r"""U-Net trained on two images: distance of its samples to them along the training ([B25]).

The paper's images of a small and a large square, EDM preconditioning and loss
(:math:`P_{mean} = -1.2`, :math:`P_{std} = 1.2`, :math:`\sigma_d = 0.5`), averaged weights, 40
steps of Heun's method, and the distance of a sample to the nearest training image
against epochs. An epoch is one step on both images.

The authors' repository trains for 50,000 epochs, in steps of one image, a DDPM++ U-Net of width
128 (about fifty million weights), Adam with a learning rate that rises in proportion to the images
seen to 1e-5 at the end, on a GPU. A step of it takes seconds on a processor core, 100,000 of them
several days. The ``paper`` preset keeps the images, the loss and the sampler and reduces the
network (width 8, one block per level, some 113,000 weights), the epochs (10,000, at a constant
learning rate of 2e-3) and the samples at a look (8 of 16). It has a fourth level, 8 x 8 pixels,
where the authors' has four to five blocks a level: without that level and without attention a
network of this width draws squares, but not in the places of the two, for 2000 epochs at least.
``quick`` averages the images over blocks of 4 x 4 pixels and has three levels.

References:
    Baptista et al., arXiv:2501.15785 (image experiments; settings as in the authors' public
    repository). Karras et al., arXiv:2206.00364, table 1 and algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from memdiff.data.builtin import rectangles
from memdiff.experiments.experiment import Context, Experiment, Figure, Outcome
from memdiff.neighbors import nearest
from memdiff.processes import EDM
from memdiff.report.document import Table
from memdiff.report.figures import BLACK, BLUE, GREY, legend, new_panels
from memdiff.report.pictures import ImageRow, image_grid
from memdiff.samplers import Heun, sample
from memdiff.scores import NetworkScore, Score
from memdiff.training import (
    TrainingSettings,
    TrainingState,
    edm_objective,
    load_state,
    save_state,
    train,
)
from memdiff.training.networks import UNet

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

__all__ = ["EXPERIMENTS", "RectanglesStudy", "images", "run_study"]

SHOWN = 8
PAPER_EPOCHS = (10, 50, 200, 1000, 2000, 3000, 5000, 10_000)
COPY = 0.1
"""A sample is called a copy where its root mean square difference per pixel is below this; the
images have values 0 and 1."""


@dataclass(frozen=True)
class RectanglesStudy:
    """Sizes of the study.

    Attributes:
        side: Pixels of a side; 64 for the images of the paper.
        width: Channels of the first level of the U-Net.
        multipliers: Channels of its levels, in units of ``width``.
        seeds: Number of training seeds.
        epochs: Epochs of the looks, increasing.
        samples: Samples at a look.
        sampler_steps: Steps of Heun's method.
        learning_rate: Step size of Adam.
    """

    side: int
    width: int
    multipliers: tuple[int, ...]
    seeds: int
    epochs: tuple[int, ...]
    samples: int
    sampler_steps: int
    learning_rate: float = 2e-3

    def network(self, seed: int) -> UNet:
        """Return the untrained network."""
        shape = (1, self.side, self.side)
        return UNet(shape, width=self.width, multipliers=self.multipliers, blocks=1, seed=seed)


def images(side: int) -> Tensor:
    """Return the two images ``(2, 1, side, side)``, averaged over blocks below 64 pixels."""
    x = rectangles().x
    return x if side == x.shape[-1] else nn.functional.avg_pool2d(x, x.shape[-1] // side)


def train_seed(context: Context, study: RectanglesStudy, seed: int) -> list[dict[str, np.ndarray]]:
    """Train one network and sample at each of ``epochs``; samples are kept on disk."""
    data = images(study.side)
    names = {epoch: f"seed-{seed}-{epoch}" for epoch in study.epochs}
    score = NetworkScore(study.network(seed), EDM(), "edm", sigma_data=0.5)
    settings = TrainingSettings(
        steps=study.epochs[-1],
        batch_size=None,
        learning_rate=study.learning_rate,
        clip=1.0,
        ema=0.9999,
        seed=context.seed + seed,
    )
    state, file = TrainingState(score, settings), context.directory / f"seed-{seed}.safetensors"
    if file.is_file():
        load_state(file, state)

    def draw() -> dict[str, np.ndarray]:
        return {"x": samples(state.averaged, study, context.seed + seed).numpy()}

    for step in train(score, data, edm_objective(0.5), settings, state=state):
        if step.step in names:
            context.progress(f"seed {seed}, epoch {step.step}", step.step / study.epochs[-1])
            context.cached_arrays(names[step.step], draw)
            save_state(state, file)
    return [context.cached_arrays(name, draw) for name in names.values()]


def samples(score: Score, study: RectanglesStudy, seed: int) -> Tensor:
    """Draw samples ``(B, 1, side, side)``, from the same latents at every epoch."""
    sampler = Heun(steps=study.sampler_steps)
    return sample(score, num=study.samples, sampler=sampler, seed=seed, batch_size=16).x


def distances(x: Tensor, data: Tensor) -> Tensor:
    """Return the root mean square difference per pixel to the nearest image, ``(B,)``."""
    return nearest(x, data).distances[:, 0].double() / math.sqrt(data[0].numel())


def run(context: Context) -> Outcome:
    """Run the study at the size of the preset."""
    return run_study(
        context,
        context.pick(
            quick=RectanglesStudy(16, 8, (1, 2, 2), 4, (10, 40, 160), 8, 12),
            paper=RectanglesStudy(64, 8, (1, 2, 2, 2), 4, PAPER_EPOCHS, 8, 40),
        ),
    )


def run_study(context: Context, study: RectanglesStudy) -> Outcome:
    """Train every seed, measure distances along the way."""
    data = images(study.side)
    found = [train_seed(context, study, seed) for seed in range(study.seeds)]
    each = torch.stack(
        [
            torch.stack([distances(torch.from_numpy(one["x"]), data) for one in row])
            for row in found
        ]
    )  # (seed, epoch, sample)
    mean, largest = each.mean(2), each.amax(2)
    copies = (each <= COPY).double().mean(2)
    apart = float((data[1] - data[0]).norm()) / math.sqrt(data[0].numel())
    average, deviation = mean.mean(0), mean.std(0)
    falls = float(average[0] - average[-1])
    error = float(((deviation[0] ** 2 + deviation[-1] ** 2) / study.seeds).sqrt())
    paper = context.preset == "paper"
    return Outcome(
        measured={
            "side": study.side,
            "width": study.width,
            "multipliers": study.multipliers,
            "weights": sum(p.numel() for p in study.network(0).parameters()),
            "seeds": study.seeds,
            "epochs": study.epochs,
            "distance_per_pixel": average,
            "deviation": deviation,
            "largest_distance_per_pixel": largest.mean(0),
            "share_of_copies": copies.mean(0),
            "distance_between_images_per_pixel": apart,
        },
        published={"statement": "The distance to the training images falls with epochs."},
        within=falls > 3.0 * error and float(average[-1]) < 0.5 * apart if paper else None,
        tolerance=(
            f"The mean distance over {study.seeds} seeds falls from the first to the last look by "
            "more than three standard errors, and ends below half of the distance between the two "
            "images; the paper prints a curve and no values, of a larger network. The quick "
            "preset, on smaller images, is not judged."
        ),
        finding=(
            f"From {study.epochs[0]} to {study.epochs[-1]} epochs the mean distance of a sample "
            f"to the nearest training image goes from {average[0]:.3f} to {average[-1]:.3f} a "
            f"pixel (the two images are {apart:.3f} apart), and the share of samples within "
            f"{COPY:g} from {copies.mean(0)[0]:.2f} to {copies.mean(0)[-1]:.2f}; U-Net of width "
            f"{study.width}, {study.side} x {study.side} pixels."
        ),
        figures=(
            Figure(
                "distance",
                _distance_plot(study, average, deviation, largest, apart),
                "Distance of samples to the nearest training image, root mean square per pixel, "
                "against epochs: mean over samples and seeds with the standard deviation over "
                "training seeds, and the farthest sample. Dashed: distance between the images.",
                "The distance against epochs, next to that between the two images.",
            ),
            Figure(
                "samples",
                _image_plot(study, found[0], data),
                "Samples of the first seed from the same latents at some epochs; under a sample: "
                f"distance per pixel. Framed: within {COPY:g} of a training image.",
                "Rows of images: noise at first, then shapes like the two squares.",
            ),
        ),
        tables=(_table(study, mean, largest, copies),),
        measured_text=f"distance per pixel {average[0]:.3f} to {average[-1]:.3f}, "
        f"{study.epochs[0]} to {study.epochs[-1]} epochs",
        published_text="falls with epochs (figure)",
    )


def _table(study: RectanglesStudy, mean: Tensor, largest: Tensor, copies: Tensor) -> Table:
    return Table(
        "Distance to the nearest training image, a pixel.",
        ("Epochs", "Mean", "Farthest sample", f"Share within {COPY:g}"),
        [
            [
                f"{epoch}",
                f"{mean[:, i].mean():.4f} ± {mean[:, i].std():.4f}",
                f"{largest[:, i].mean():.4f}",
                f"{copies[:, i].mean():.3f} ± {copies[:, i].std():.3f}",
            ]
            for i, epoch in enumerate(study.epochs)
        ],
        note=f"Mean ± standard deviation over {study.seeds} training seeds, {study.samples} "
        f"samples each; {study.sampler_steps} steps of Heun's method.",
    )


def _distance_plot(
    study: RectanglesStudy, average: Tensor, deviation: Tensor, largest: Tensor, apart: float
) -> Plot:
    figure, panels = new_panels(1, 1, height=3.4)
    axes = panels[0, 0]
    axes.errorbar(
        study.epochs,
        average.tolist(),
        yerr=deviation.tolist(),
        color=BLUE,
        marker="o",
        markersize=4.5,
        capsize=2,
        label=f"mean, {study.seeds} seeds",
    )
    axes.plot(
        study.epochs, largest.mean(0).tolist(), "s:", color=GREY, markersize=4, label="farthest"
    )
    axes.axhline(apart, color=BLACK, linestyle="--", linewidth=1.1, label="between the images")
    axes.set(xscale="log", xlabel="epochs", ylabel="distance per pixel (r.m.s.)", ylim=(0, None))
    legend(axes)
    return figure


def _image_plot(study: RectanglesStudy, looks: Sequence[dict[str, Any]], data: Tensor) -> Plot:
    places = sorted({0, len(looks) // 2, len(looks) - 1})
    rows = []
    for place in places:
        x = torch.from_numpy(looks[place]["x"])[:SHOWN]
        values = distances(x, data)
        captions = [f"{value:.2f}" for value in values.tolist()]
        label = f"{study.epochs[place]} epochs"
        rows.append(ImageRow(x, label, captions, (values <= COPY).tolist()))
    rows.append(ImageRow(data, "training"))
    return image_grid(rows, value_range=(-0.5, 1.5))


EXPERIMENTS = (
    Experiment(
        name="rectangles-network",
        title="Networks: two images and a U-Net",
        question=(
            "A U-Net is trained on two images. How do its samples approach them as the training "
            "goes on?"
        ),
        reference="[B25], image experiments: two rectangle images, U-Net, distance against "
        "epochs; loss and sampler of [K22].",
        run=run,
        needs=("K22",),
    ),
)
