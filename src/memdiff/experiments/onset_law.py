r"""Onset of memorisation against the number of training points: :math:`\tau_{mem} \sim N`.

Bonnaire et al. find two times in the training of diffusion models at a fixed batch size and
learning rate: samples become good at :math:`\tau_{gen}`, which does not depend on the number
:math:`N` of training points, and become copies at :math:`\tau_{mem} \sim N`. Here small networks
are trained on digits of 8 x 8 pixels, each seed on a subset of its own.

Definitions, fixed before the runs:

``tau_mem``
    The step at which the memorised fraction reaches 1/2: samples by 18 steps of Heun's method of
    averaged weights, memorised where :math:`d_1/d_2 < 1/3` (ratio of the distances to the nearest
    and second nearest training image), at steps a factor :math:`\sqrt 2` apart; the crossing is
    that of the isotonic fit. A run that ends first is censored, not dropped
    (:mod:`memdiff.experiments.power_law`).
``tau_gen``
    The step at which the denoising loss of held-out images has made 95 % of the way from its
    value before training to its least. A run on so few images that the loss never falls has none.

The batch is 32 images, drawn with replacement, so a step is the same amount of work at
any :math:`N`, and an image is seen every :math:`N/32` steps on average. Batches of all :math:`N`
images, or time in epochs, are other clocks, to which the exponent measured here does not apply.
A step in larger batches is more: at a constant learning rate the noise of small batches keeps the
weights from settling, and a run in batches of 128 at one size tells how much that delays copies.
The plateau of ``tau_gen`` is that of the run itself, and lies lower, hence later, for more images.
Weights are averaged over the last ninth of the steps so far; that lag is a fixed share of the step
and leaves exponents alone.

References:
    Bonnaire, Urfin, Biroli, Mezard, *Why Diffusion Models Don't Memorize*, arXiv:2505.17638 (the
    law, for U-Nets on CelebA and in a random-feature model; ratio test with threshold 1/3).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memdiff.data import load
from memdiff.experiments.experiment import Context, Experiment, Figure, Outcome
from memdiff.experiments.network_training import train_and_look
from memdiff.experiments.onset_views import curves_plot, law_plot, onset_table
from memdiff.experiments.power_law import PowerLaw, crossing, fit_power_law
from memdiff.metrics import ratio
from memdiff.objectives import draw
from memdiff.samplers import Heun, sample
from memdiff.scores import Score
from memdiff.training.averages import LinearWarmup
from memdiff.training.ensemble import Ensemble, Member
from memdiff.training.networks import MLP
from memdiff.training.objective import Objective, edm_objective
from memdiff.training.quadratic_losses import EDMBatches

__all__ = ["EXPERIMENTS", "OnsetStudy", "digits", "judge", "run_study"]

SIGMA_DATA = 0.75
"""Standard deviation of the pixels, values in [-1, 1]; one number for every size."""

BATCH, LEARNING_RATE = 32, 1e-3
"""Images in each step and step size of Adam, at every size."""

HELDOUT = 512
LEVEL, OTHER_LEVELS = 0.5, (0.1, 0.25)
PLATEAU = 0.95
MARGIN = 0.2
"""How far an exponent may be from the published one: 1.7 in time over a factor 16 in N."""


@dataclass(frozen=True)
class OnsetStudy:
    """Sizes of the study.

    Attributes:
        sizes: Numbers of training images.
        seeds: Number of training seeds, each with a subset of its own.
        last: Largest step; a run that has not memorised by then is censored.
        samples: Samples at a look.
        width: Units of a hidden layer.
        large_batch: Batch size of a second run at the second size, which tells how much of
            ``tau_mem`` is the noise of small batches; None for no such run.
        first: Step of the first look.
    """

    sizes: tuple[int, ...]
    seeds: int
    last: int
    samples: int
    width: int
    large_batch: int | None = None
    first: int = 32

    def steps(self) -> list[int]:
        """Return the steps of the looks, a factor of the square root of 2 apart."""
        steps, power = [], 0
        while (step := round(self.first * 2.0 ** (power / 2.0))) <= self.last:
            steps.append(step)
            power += 1
        return steps


def digits(seed: int) -> tuple[Tensor, Tensor]:
    """Return training images ``(1285, 1, 8, 8)`` in an order of the seed, and 512 held-out ones.

    The mean image of the training pool is subtracted; held-out images are the same for all seeds.
    """
    x = load("digits").x
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    x = x - x[HELDOUT:].mean(0)
    heldout, pool = x[:HELDOUT], x[HELDOUT:]
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(1 + seed))
    return pool[order], heldout


def heldout_loss(score: Score, heldout: Tensor, objective: Objective) -> float:
    """Return the denoising loss per pixel, with the same noise at every call."""
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(len(heldout))
    draws = draw(
        score.process, heldout, len(heldout), generator, times=objective.times, index=index
    )
    with torch.no_grad():
        return float(objective(score, draws).denoising.mean())


def measure(
    context: Context, study: OnsetStudy, size: int, batch_size: int = BATCH
) -> dict[str, Any]:
    """Train on ``size`` images with every seed, until all memorise or the last step.

    Returns:
        ``steps``, and ``fraction`` and ``heldout`` as ``[seed][step]``; the first step is 0, where
        there is no fraction.
    """
    seeds = [context.seed + number for number in range(study.seeds)]
    split = [digits(seed) for seed in seeds]
    train = [pool[:size] for pool, _ in split]
    loss = EDMBatches(batch_size, SIGMA_DATA)
    name = f"{size}" if batch_size == BATCH else f"{size}-batch-{batch_size}"
    objective = edm_objective(SIGMA_DATA)
    nets = [MLP((1, 8, 8), width=study.width, depth=2, seed=seed) for seed in seeds]
    members = [Member(net, x, loss, s) for net, x, s in zip(nets, train, seeds, strict=True)]
    ensemble = Ensemble(members, learning_rate=LEARNING_RATE, average=LinearWarmup())

    def compute(step: int) -> dict[str, list[float]]:
        ensemble.require_step(step)
        found: dict[str, list[float]] = {"fraction": [], "heldout": []}
        for index, seed in enumerate(seeds):
            score = ensemble.score(index)
            found["heldout"].append(heldout_loss(score, split[index][1], objective))
            if step:
                x = sample(score, num=study.samples, sampler=Heun(steps=18), seed=seed).x
                copies = ratio(generated=x, train=train[index], threshold=1 / 3, dimension=1.0)
                found["fraction"].append(copies.value)
        return found

    steps, looks = [0], [context.cached(f"look-{name}-0", lambda: compute(0))]

    def look(step: int) -> bool:
        context.progress(f"N = {size}, step {step}")
        looks.append(context.cached(f"look-{name}-{step}", lambda: compute(step)))
        steps.append(step)
        return min(looks[-1]["fraction"]) >= LEVEL + 0.1

    state = context.directory / f"ensemble-{name}.safetensors"
    train_and_look(ensemble, study.steps(), state, look)
    return {
        "steps": steps,
        "fraction": [[one["fraction"][i] for one in looks[1:]] for i in range(study.seeds)],
        "heldout": [[one["heldout"][i] for one in looks] for i in range(study.seeds)],
    }


def tau_gen(steps: Sequence[int], losses: Sequence[float]) -> float | None:
    """Return the step at which a held-out loss has made 95 % of its way down.

    Args:
        steps: Steps, the first of them 0.
        losses: Losses at the steps.
    """
    first, least = losses[0], min(losses)
    if least >= first:
        return None
    best, way = first, []
    for loss in losses[1:]:
        best = min(best, loss)
        way.append((first - best) / (first - least))
    return crossing(steps[1:], way, PLATEAU)


def local_exponents(
    sizes: Sequence[int], run_sizes: Sequence[int], times: Sequence[float | None]
) -> list[float | None]:
    """Return exponents between successive sizes, of geometric means; None at a censored run."""
    means: list[float | None] = []
    for size in sizes:
        own = [time for s, time in zip(run_sizes, times, strict=True) if s == size]
        logs = [math.log(time) for time in own if time is not None]
        means.append(sum(logs) / len(logs) if len(logs) == len(own) else None)
    return [
        None if a is None or b is None else (b - a) / math.log(large / small)
        for (small, a), (large, b) in itertools.pairwise(zip(sizes, means, strict=True))
    ]


def judge(mem: PowerLaw | None, gen: PowerLaw | None) -> bool:
    """Tell whether both intervals come within ``MARGIN`` of the published exponents, 1 and 0."""
    if mem is None or gen is None:
        return False
    return all(
        law.low <= known + MARGIN and law.high >= known - MARGIN
        for law, known in ((mem, 1.0), (gen, 0.0))
    )


def run(context: Context) -> Outcome:
    """Run the study at the size of the preset."""
    return run_study(
        context,
        context.pick(
            quick=OnsetStudy((2, 4, 6, 8), 4, 1449, 64, 256),
            paper=OnsetStudy((8, 16, 32, 64, 128), 4, 32_768, 256, 256, 128),
        ),
    )


def run_study(context: Context, study: OnsetStudy) -> Outcome:
    """Train at every size, find both times, fit their laws."""
    found = []
    for size in study.sizes:
        compute = functools.partial(measure, context, study, size)
        found.append(context.cached(f"size-{size}", compute))
    large = _large_batch(context, study)
    runs = [
        (size, one, seed)
        for size, one in zip(study.sizes, found, strict=True)
        for seed in range(study.seeds)
    ]
    sizes = [size for size, _, _ in runs]
    ends = [one["steps"][-1] for _, one, _ in runs]

    def memorised(level: float) -> list[float | None]:
        return [crossing(one["steps"][1:], one["fraction"][seed], level) for _, one, seed in runs]

    times = memorised(LEVEL)
    generalised = [tau_gen(one["steps"], one["heldout"][seed]) for _, one, seed in runs]
    mem = fit_power_law(sizes, times, ends)
    # A run whose held-out loss never falls has no plateau, late or early: it is no censored run.
    falls = [place for place, value in enumerate(generalised) if value is not None]
    gen = None
    if 2 * len(falls) >= len(runs):
        gen = fit_power_law(
            [sizes[i] for i in falls], [generalised[i] for i in falls], [ends[i] for i in falls]
        )
    others = {level: fit_power_law(sizes, memorised(level), ends) for level in OTHER_LEVELS}
    paper = context.preset == "paper"
    sensitivity = "; ".join(
        f"{_law_text(law)} at level {level:g}" for level, law in others.items()
    )
    finding = (
        f"From N = {study.sizes[0]} to {study.sizes[-1]} the step at which half of the samples "
        f"are copies grows as N to the power {_law_text(mem)} ({sensitivity}); the published law "
        f"is 1. The held-out loss reaches its plateau at a step that grows as N to the power "
        f"{_law_text(gen)}; published: 0."
        + _large_batch_text(study, large)
        + (f" {mem.censored} of {len(runs)} runs are censored." if mem and mem.censored else "")
    )
    return Outcome(
        measured={
            "sizes": study.sizes,
            "seeds": study.seeds,
            "width": study.width,
            "batch_size": BATCH,
            "large_batch_size": study.large_batch,
            "large_batch_tau_mem": large,
            "learning_rate": LEARNING_RATE,
            "tau_mem": times,
            "tau_gen": generalised,
            "run_sizes": sizes,
            "last_steps": ends,
            "tau_mem_local_exponents": local_exponents(study.sizes, sizes, times),
            "tau_mem_law": _law_json(mem),
            "tau_gen_law": _law_json(gen),
            "tau_mem_law_at_level": {
                f"{level:g}": _law_json(law) for level, law in others.items()
            },
            "curves": {f"{s}": one for s, one in zip(study.sizes, found, strict=True)},
        },
        published={"tau_mem_exponent": 1.0, "tau_gen_exponent": 0.0},
        within=judge(mem, gen) if paper else None,
        tolerance=(
            f"The 95 % intervals of both exponents come within {MARGIN} of the published ones; "
            "over a factor 16 in N that is a factor 1.7 in time, which the published collapse of "
            "curves would hardly show. Small sizes (the quick preset) are not judged."
        ),
        finding=finding,
        figures=(
            Figure(
                "curves",
                curves_plot(study.sizes, found, LEVEL),
                "Left: memorised fraction against training steps, mean over the seeds with their "
                "range; dashed: the level of τ_mem. Right: the same against steps over N, where "
                "the published law says that the curves coincide.",
                "Two panels of rising curves, one for each number of training images; the right "
                "one shows how far dividing steps by N brings them together.",
            ),
            Figure(
                "law",
                law_plot(study.sizes, sizes, times, generalised, ends, mem, gen),
                "Onset of memorisation and plateau of the held-out loss against the number of "
                "training images, one mark a seed (open triangles: runs that ended before, "
                "censored), with the fitted laws and the published slope.",
                "Log-log plot: the memorisation time rises with N, the generalisation time "
                "hardly does.",
            ),
        ),
        tables=(
            onset_table(
                study.sizes,
                sizes,
                times,
                generalised,
                f"{study.seeds} seeds, each with a subset of its own; batches of "
                f"{BATCH}, width {study.width}, {study.samples} samples a "
                "look.",
            ),
        ),
        measured_text=f"τ_mem ∼ N^{_law_text(mem)}, τ_gen ∼ N^{_law_text(gen)}",
        published_text="τ_mem ∼ N, τ_gen constant",
    )


def _large_batch(context: Context, study: OnsetStudy) -> list[float | None] | None:
    """``tau_mem`` of every seed at the second size, in large batches."""
    if study.large_batch is None:
        return None
    size, batch = study.sizes[1], study.large_batch
    one = context.cached(f"size-{size}-batch", lambda: measure(context, study, size, batch))
    return [crossing(one["steps"][1:], row, LEVEL) for row in one["fraction"]]


def _large_batch_text(study: OnsetStudy, large: list[float | None] | None) -> str:
    reached = [time for time in large or () if time is not None]
    if not reached:
        return ""
    return (
        f" With batches of {study.large_batch} in place of {BATCH} it comes, at N = "
        f"{study.sizes[1]}, after {min(reached):.0f} to {max(reached):.0f} steps."
    )


def _law_text(law: PowerLaw | None) -> str:
    return "(not told)" if law is None else f"{law.exponent:.2f} [{law.low:.2f}, {law.high:.2f}]"


def _law_json(law: PowerLaw | None) -> dict[str, float] | None:
    if law is None:
        return None
    return {
        "exponent": law.exponent,
        "low": law.low,
        "high": law.high,
        "scatter": law.scatter,
        "censored": law.censored,
    }


EXPERIMENTS = (
    Experiment(
        name="onset-law",
        title="Networks: the onset of memorisation against the number of training images",
        question=(
            "At a fixed batch size and learning rate, how does the training step at which samples "
            "become copies grow with the number of training images, and does the step at which "
            "the network has learned what there is to learn stay?"
        ),
        reference="[Bo25]: τ_mem grows as N, τ_gen does not depend on N.",
        run=run,
    ),
)
