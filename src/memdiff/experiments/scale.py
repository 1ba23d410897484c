r"""Exact empirical scores of up to 60,000 images: memorisation against the training-set size.

The paper's closed forms, at sizes that it does not try. The images are those of MNIST 5k under
random small affine maps (:class:`~memdiff.training.AffineAugmentation`): rotation to 10 degrees,
shift to 1/14 of a side, zoom to 10 %. *Maps of one image are near duplicates*, so that the split
is by image: a fifth of the images is held out before any map is drawn, and every held-out picture
is a map of one of those. The training sets are nested: the first 4000 are maps of different
images, and only then each image comes again. For the ratio test, :math:`d_2` is the distance to
the nearest map of *another* image than that of :math:`d_1`.

For every size the score is sampled as it is and under Tikhonov, :math:`s = r/(\sigma^2 + c)`,
with ``c`` from leave-one-out (:mod:`memdiff.generate.selection`), by Heun's method with 40 steps:

* *copies*: the share with :math:`d_1/d_2 < 1/3`, and with :math:`d_1` below a third of the median
  distance of a held-out picture to the training set;
* *noisy copies*: the share with :math:`d_1^2 < c\,\chi^2_{d, 0.99}`: no farther from a training
  picture than white noise of variance ``c`` is, which is what Tikhonov leaves on one. 99 % of
  training pictures under that noise pass; held-out pictures under it are the null;
* *the choice of c*: that of leave-one-out next to the minimiser of the same loss on noised
  held-out pictures. Leave-one-out leaves out one map and keeps the others of the same image.

**Predictions.** The exact score returns its training set at every size. Under Tikhonov
:math:`|x - x_n| = \sqrt{c}\,|z|` near a training image, :math:`z` standard normal.

Reconstructed: the predictions for images; [B25] has those of a single point.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memdiff.experiments.experiment import Context, Experiment, Outcome
from memdiff.experiments.image_copies import digit_images
from memdiff.experiments.mapped_images import Images, build_images
from memdiff.experiments.scale_views import (
    copies_figure,
    distances_figure,
    images_figure,
    scale_table,
)
from memdiff.generate.families import TIKHONOV
from memdiff.generate.selection import leave_one_out_draws, select
from memdiff.metrics import clopper_pearson
from memdiff.neighbors import nearest
from memdiff.objectives import Draws, LogUniformRatio, draw
from memdiff.processes import EDM
from memdiff.samplers import Heun, sample
from memdiff.scores import EmpiricalScore, Score, Tikhonov, silverman_bandwidth

__all__ = ["EXPERIMENTS", "measure", "other_image_ratio"]

SIZES: dict[str, tuple[int, ...]] = {
    "quick": (100, 300, 1000),
    "paper": (100, 300, 1000, 3000, 10_000, 30_000, 60_000),
}
STEPS = 40
GRID = 61
"""Candidates for the strength: 6 % apart in √c, finer than those of the selection, which is
made for choosing and not for following the choice along N."""
THRESHOLD, QUANTILE = 1 / 3, 0.99
ALL, NONE = 0.99, 0.01
"""Shares that count as all and as none."""
NOISE_TOLERANCE = 0.05
"""Largest relative difference of the noise on training images to its prediction."""


def empirical_score(train: Tensor) -> tuple[EmpiricalScore, Tensor]:
    """Return the exact score of centred pictures under EDM of their scale, and the centre."""
    centre = train.mean(0, dtype=torch.float64).to(train.dtype)
    centred = train - centre
    unit = float(centred.to(torch.float64).pow(2).mean().sqrt()) / 0.5
    process = EDM(sigma_min=0.002 * unit, sigma_max=80.0 * unit)
    return EmpiricalScore(centred, process), centre


def choose(images: Images, num: int, max_draws: int, seed: int) -> dict[str, Any]:
    """Choose the strength by leave-one-out and by held-out pictures, at the same noise levels.

    Returns:
        ``strength``, ``at_edge``, ``heldout_strength``, and the curves ``candidates``,
        ``leave_one_out``, ``heldout``.
    """
    score, centre = empirical_score(images.train[:num])
    per_point = max(2, min(16, max_draws // num))
    fitting = leave_one_out_draws(score, per_point=per_point, max_draws=max_draws, seed=seed)
    bandwidth = silverman_bandwidth(score.data)
    candidates = (bandwidth * torch.logspace(-1, 0.5, GRID, dtype=torch.float64)) ** 2
    chosen = select(TIKHONOV, score, candidates, draws=fitting)
    high = float(score.process.ratio(score.process.t_max))
    fresh = draw(
        score.process,
        images.heldout - centre,
        min(max_draws, 4 * len(images.heldout)),
        torch.Generator().manual_seed(seed),
        times=LogUniformRatio(0.1 * bandwidth, high),
    )
    losses = tikhonov_losses(score, fresh, candidates)
    return {
        "strength": chosen.best,
        "at_edge": chosen.at_edge,
        "heldout_strength": float(candidates[int(losses.argmin())]),
        "candidates": candidates,
        "leave_one_out": chosen.loss,
        "heldout": losses,
    }


def tikhonov_losses(score: EmpiricalScore, draws: Draws, candidates: Tensor) -> Tensor:
    r"""Denoising loss :math:`E |\sigma r/(\sigma^2 + c) + z|^2` at every ``c``, from one residual.

    Args:
        score: The empirical score.
        draws: Noised points outside its training set.
        candidates: Strengths ``c`` with shape ``(K,)``, float64.

    Returns:
        float64 tensor with shape ``(K,)``.
    """
    total = torch.zeros_like(candidates)
    for part in draws.batches(512):
        sigma = score.process.std(part.t)
        residual = score.residual(part.x, part.t).to(torch.float64).flatten(1)
        z = part.z.flatten(1)
        factor = sigma / (sigma**2 + candidates[:, None])
        loss = factor**2 * (residual**2).sum(1) + 2 * factor * (residual * z).sum(1)
        total += (loss + (z**2).sum(1)).sum(1)
    return total / len(draws)


def draw_samples(
    images: Images, num: int, strength: float | None, samples: int, seed: int
) -> dict[str, np.ndarray]:
    r"""Draw samples of the score of the first ``num`` pictures.

    Returns:
        ``x``, samples in the units of the data; processor ``seconds`` of the sampling
        run, all threads together, which other programs on the machine change least;
        ``effective_points`` :math:`e^H` of the posterior at each sample, at :math:`\sigma` the
        smallest noise level above 0, or :math:`\sqrt{c}` where that is larger.
    """
    empirical, centre = empirical_score(images.train[:num])
    score: Score = empirical if strength is None else Tikhonov(empirical, strength)
    start = time.process_time()
    made = sample(score, num=samples, sampler=Heun(steps=STEPS), seed=seed, batch_size=256)
    seconds = time.process_time() - start
    process = empirical.process
    level = max(process.ratio_min, math.sqrt(strength or 0.0))
    posterior = empirical.posterior(made.x, process.time_at_ratio(torch.tensor(level)))
    return {
        "x": (made.x + centre).numpy(),
        "seconds": np.array(seconds),
        "effective_points": posterior.effective_points.numpy(),
    }


def other_image_ratio(x: Tensor, train: Tensor, base: Tensor, repeats: int) -> Tensor:
    r"""Return the nearest distance and its ratio to the nearest map of another image.

    Args:
        x: Queries with shape ``(B, 1, H, W)``.
        train: Training pictures ``(N, 1, H, W)`` of at least two images.
        base: The image of each, ``(N,)``.
        repeats: Largest number of maps of one image.

    Returns:
        :math:`d_1` and :math:`d_1/d_2`, float64 with shape ``(2, B)``.
    """
    found = nearest(x, train, min(repeats + 1, len(train)))
    labels = base[found.indices]
    distances = found.distances.to(torch.float64)
    other = labels != labels[:, :1]
    second = torch.where(other, distances, math.inf).amin(1)
    first = distances[:, 0]
    return torch.stack([first, torch.where(second == 0, 0.0, first / second)])


def measure(x: Tensor, images: Images, num: int, strength: float | None) -> dict[str, Any]:
    """Measure copies, noisy copies and distances of samples, in plain numbers.

    Args:
        x: Samples with shape ``(B, 1, H, W)``.
        images: The pictures.
        num: Number of training pictures.
        strength: ``c`` of Tikhonov, or None.

    Returns:
        ``ratio`` and ``near`` (shares of copies) and ``noisy`` (of noisy copies, None without
        ``c``), each ``[share, low, high]``; the same of held-out pictures as ``*_heldout``;
        ``noise`` and ``noise_heldout``, the median of d1 over the root of the number of pixels.
    """
    from scipy.stats import chi2

    train, base = images.train[:num], images.base[:num]
    first, ratios = other_image_ratio(x, train, base, images.repeats)
    fresh_first, fresh_ratios = other_image_ratio(images.heldout, train, base, images.repeats)
    near = THRESHOLD * float(fresh_first.median())
    root = x[0].numel() ** 0.5
    noisy = noisy_heldout = None
    if strength is not None:
        noise = torch.randn(images.heldout.shape, generator=torch.Generator().manual_seed(0))
        noised = nearest(images.heldout + math.sqrt(strength) * noise, train, 1).distances[:, 0]
        reach = math.sqrt(strength * float(chi2.ppf(QUANTILE, x[0].numel())))
        noisy, noisy_heldout = _share(first < reach), _share(noised < reach)
    return {
        "ratio": _share(ratios < THRESHOLD),
        "ratio_heldout": _share(fresh_ratios < THRESHOLD),
        "near": _share(first < near),
        "near_heldout": _share(fresh_first < near),
        "noisy": noisy,
        "noisy_heldout": noisy_heldout,
        "noise": float(first.median()) / root,
        "noise_heldout": float(fresh_first.median()) / root,
    }


def _range(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    """Smallest to largest share under Tikhonov over the sizes."""
    shares = [row["tikhonov"][key][0] for row in rows]
    low, high = f"{min(shares):.1%}", f"{max(shares):.1%}"
    return low if low == high else f"{low} to {high}"


def _share(hits: Tensor) -> list[float]:
    """Share and 95 % Clopper-Pearson interval."""
    interval = clopper_pearson(int(hits.sum()), len(hits))
    return [float(hits.double().mean()), interval.low, interval.high]


def run(context: Context) -> Outcome:
    """Sample at every size, with and without Tikhonov; measure."""
    context.progress("mapping images")
    data = digit_images()
    sizes = SIZES[context.preset]
    samples = context.pick(quick=100, paper=256)
    halve = context.preset == "quick" and data.shape[-1] >= 28
    images = build_images(data, sizes[-1], context.seed, halve=halve)
    rows: list[dict[str, Any]] = []
    drawn: list[dict[str, Tensor]] = []
    for num in sizes:
        done = sum(sizes[: len(rows)]) / sum(sizes)
        context.progress(f"N = {num:,}: strength", done)
        draws = context.pick(quick=1024, paper=4096)
        chosen = context.cached(f"choice-{num}", partial(choose, images, num, draws, context.seed))
        row: dict[str, Any] = {"num": num, "choice": chosen}
        found: dict[str, Tensor] = {}
        for name, strength in (("none", None), ("tikhonov", float(chosen["strength"]))):
            context.progress(f"N = {num:,}: {name}", done)
            made = context.cached_arrays(
                f"{name}-{num}",
                partial(draw_samples, images, num, strength, samples, context.seed),
            )
            found[name] = torch.from_numpy(made["x"])
            row[name] = {
                **context.cached(
                    f"measured-{name}-{num}", partial(measure, found[name], images, num, strength)
                ),
                "seconds": float(made["seconds"]),
                "effective_points": float(np.median(made["effective_points"])),
            }
        rows.append(row)
        drawn.append(found)
    return _outcome(rows, drawn, images, samples)


def _outcome(
    rows: Sequence[Mapping[str, Any]],
    drawn: Sequence[Mapping[str, Tensor]],
    images: Images,
    samples: int,
) -> Outcome:
    sizes = [row["num"] for row in rows]
    plain = min(row["none"]["ratio"][0] for row in rows)
    fresh = max(row["none"]["ratio_heldout"][0] for row in rows)
    strengths = [math.sqrt(row["choice"]["strength"]) for row in rows]
    heldout = [math.sqrt(row["choice"]["heldout_strength"]) for row in rows]
    noise = [row["tikhonov"]["noise"] for row in rows]
    off = max(abs(a / b - 1) for a, b in zip(noise, strengths, strict=True))
    last = rows[-1]["tikhonov"]
    decay = np.polyfit(np.log(sizes), np.log([row["none"]["noise_heldout"] for row in rows]), 1)[0]
    return Outcome(
        measured={
            "data": images.source,
            "pixels": images.train[0].numel(),
            "heldout": len(images.heldout),
            "samples": samples,
            "sizes": sizes,
            "rows": rows,
            "heldout_distance_exponent": float(decay),
        },
        published={"ratio_none": [1.0] * len(sizes), "noise_tikhonov": strengths},
        within=plain >= ALL and fresh <= NONE and off <= NOISE_TOLERANCE,
        tolerance=(
            f"At every N: without a regulariser at least {ALL:.0%} copies by ratio, of held-out "
            f"pictures at most {NONE:.0%}; the noise on Tikhonov's samples within "
            f"{NOISE_TOLERANCE:.0%} of √c, the prediction from a single training image, which "
            f"leaves out the other images and the error of {STEPS} steps."
        ),
        finding=(
            f"From N = {sizes[0]:,} to {sizes[-1]:,} the exact score returns its training set: "
            f"at least {plain:.1%} of {samples} samples are copies by ratio, of held-out pictures "
            f"at most {fresh:.1%}. Under Tikhonov {_range(rows, 'ratio')} are, but "
            f"{_range(rows, 'noisy')} are no farther from a training picture than its noise √c, "
            f"as {_range(rows, 'noisy_heldout')} of held-out pictures under the same noise. "
            f"Leave-one-out takes √c from {strengths[0]:.2f} to {strengths[-1]:.2f}, held-out "
            f"pictures would take {heldout[0]:.2f} to {heldout[-1]:.2f}"
            + (
                ": of an image with several maps it leaves out one and sees the others. "
                if images.repeats > 1
                else ". "
            )
            + "The distance of a fresh "
            f"picture to the training set falls as N^({decay:.2f}), so that halving it takes "
            f"about {float(f'{2 ** (-1 / min(decay, -0.01)):.0e}'):,.0f} times as many."
        ),
        figures=[
            copies_figure(rows),
            distances_figure(rows),
            images_figure(
                {f"N = {sizes[i]:,}": drawn[i]["tikhonov"] for i in (0, len(sizes) - 1)},
                images.train,
                [sizes[0], sizes[-1]],
            ),
        ],
        tables=[scale_table(rows)],
        measured_text=(
            f"N to {sizes[-1]:,}: copies {plain:.1%}; Tikhonov {last['ratio'][0]:.1%}, noisy "
            f"copies {last['noisy'][0]:.1%}"
        ),
        published_text="copies 100 % at every N (theory)",
    )


EXPERIMENTS = (
    Experiment(
        name="scale",
        title="Exact scores of up to 60,000 images",
        question=(
            "The exact score of a finite set returns its points. Does a larger training set "
            "change that, when leave-one-out chooses the strength of Tikhonov, for pictures of "
            "digits up to the size of MNIST?"
        ),
        reference="[B25] (Tikhonov) at sizes that it does not try; the sampler of [K22]; [Y23]",
        needs=("B25", "K22", "Y23"),
        run=run,
        threads=None,
    ),
)
