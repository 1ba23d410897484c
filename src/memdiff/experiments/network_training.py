"""What the studies of trained networks share: training runs kept on disk, and what is measured.

Setting ([B25]; the authors' public notebooks): 20 points in the plane, VP process, the MLP of
:mod:`memdiff.training.networks.mlp`, Adam, averaged weights; 1000 latents, the probability-flow
ODE by RK45 with tolerances 1e-5, and the fraction of samples within 0.01, 0.05, 0.1 and 0.5 of a
training point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from memdiff.experiments.experiment import Context
from memdiff.experiments.published import published
from memdiff.metrics import tolerance_fraction
from memdiff.processes import ForwardProcess
from memdiff.run.writing import replace_file
from memdiff.samplers import RK45, sample
from memdiff.scores import NetworkScore, Score
from memdiff.training.ensemble import Ensemble, Member
from memdiff.training.networks import MLP

__all__ = [
    "TOLERANCES",
    "Spread",
    "fractions",
    "member_fractions",
    "seed_latents",
    "spread",
    "train_with_snapshots",
]

TOLERANCES = published().network.tolerances
"""Distances within which a sample counts as a copy, in units of the data."""

CHUNK = 5000
"""Steps between two savings of the state: what an interruption costs at most."""

LAST_TIME = 1e-6
"""Where sampling ends for a score that is infinite at 0; there sigma is 3e-5."""

DEVIATIONS = 3.0
"""Standard deviations that a difference to a published value may have."""


def train_with_snapshots(
    data: Tensor,
    process: ForwardProcess,
    members: Sequence[Member],
    snapshots: Sequence[int],
    directory: Path,
    name: str,
    progress: Callable[[str, float | None], None] | None = None,
) -> dict[int, list[MLP]]:
    """Train members together; hand back their averaged networks at some steps.

    Snapshots and state lie in ``directory``; what is there already is not trained again, and an
    interrupted run goes on exactly.

    Args:
        data: Training points with shape ``(N, *S)``.
        process: Forward process.
        members: The networks.
        snapshots: Steps, increasing.
        directory: Where to keep the files.
        name: Start of their names, one for each set of members.
        progress: Receives a message and the fraction done.

    Returns:
        Networks at each step of ``snapshots``, in the order of ``members``.
    """
    files = {step: directory / f"{name}-{step:07d}.safetensors" for step in snapshots}
    if not all(file.is_file() for file in files.values()):
        _train(data, process, members, files, directory / f"{name}-state.safetensors", progress)
    return {step: _read(file, members, data) for step, file in files.items()}


def _train(
    data: Tensor,
    process: ForwardProcess,
    members: Sequence[Member],
    files: dict[int, Path],
    state: Path,
    progress: Callable[[str, float | None], None] | None,
) -> None:
    ensemble, last = Ensemble(data, process, members), max(files)
    if state.is_file():
        ensemble.restore(state)
    while ensemble.step < last:
        following = min(step for step in files if step > ensemble.step)
        ensemble.advance(min(CHUNK, following - ensemble.step))
        if ensemble.step in files:
            _write(files[ensemble.step], ensemble)
        ensemble.save(state)
        if progress is not None:
            progress(f"step {ensemble.step} of {last}", ensemble.step / last)


def _write(path: Path, ensemble: Ensemble) -> None:
    from safetensors.torch import save_file

    tensors = {
        f"{index}.{key}": value.contiguous()
        for index, net in enumerate(ensemble.networks())
        for key, value in net.state_dict().items()
    }
    with replace_file(path) as temporary:
        save_file(tensors, temporary)


def _read(path: Path, members: Sequence[Member], data: Tensor) -> list[MLP]:
    from safetensors.torch import load_file

    tensors, nets = load_file(path), []
    for index, member in enumerate(members):
        net = member.network(data.shape[1:]).to(torch.float32)
        net.load_state_dict({key: tensors[f"{index}.{key}"] for key in net.state_dict()})
        nets.append(net.eval().requires_grad_(False))
    return nets


def seed_latents(context: Context, seed: int, num: int) -> Tensor:
    """Standard normal latents ``(num, 2)`` of one training seed, float64.

    Seeds have latents of their own, so that the spread over seeds includes the sampling error.
    """
    return torch.randn(num, 2, generator=context.generator(1000 + seed), dtype=torch.float64)


def fractions(score: Score, z: Tensor, data: Tensor, *, t_end: float = 0.0) -> list[float]:
    """Memorised fraction at each of :data:`TOLERANCES`, of samples that start from ``z``."""
    x = sample(score, z, sampler=RK45(), t_end=t_end).x
    return list(tolerance_fraction(generated=x, train=data, tolerances=TOLERANCES).values)


def member_fractions(
    context: Context,
    name: str,
    nets: Sequence[MLP],
    members: Sequence[Member],
    data: Tensor,
    process: ForwardProcess,
    latents: int,
) -> list[list[float]]:
    """Memorised fractions ``[member][tolerance]`` of trained networks, kept under ``name``."""

    def compute() -> dict[str, list[list[float]]]:
        context.progress(f"sampling {name}")
        found = []
        for net, member in zip(nets, members, strict=True):
            score = NetworkScore(net, process, member.parametrization)
            end = 0.0 if member.parametrization == "score" else LAST_TIME
            z = seed_latents(context, member.seed, latents)
            found.append(fractions(score, z, data, t_end=end))
        return {"fractions": found}

    return context.cached(f"fractions-{name}", compute)["fractions"]


@dataclass(frozen=True)
class Spread:
    r"""A fraction over training seeds.

    Attributes:
        mean: Mean over the seeds.
        deviation: Standard deviation of a single run: that over the seeds, or the binomial
            :math:`\sqrt{p (1 - p) / n}` of :math:`n` samples where it is larger.
        seeds: Number of seeds :math:`k`.
    """

    mean: float
    deviation: float
    seeds: int

    def allowed(self, reading_error: float = 0.0) -> float:
        r"""Largest difference to one more run: :math:`e + 3 s \sqrt{1 + 1/k}`."""
        return reading_error + DEVIATIONS * self.deviation * math.sqrt(1.0 + 1.0 / self.seeds)


def spread(values: Sequence[float], latents: int) -> Spread:
    """Mean and spread of one fraction over seeds, each of ``latents`` samples.

    >>> spread([0.5, 0.5], 100)
    Spread(mean=0.5, deviation=0.05, seeds=2)
    """
    count = len(values)
    mean = sum(values) / count
    # A fraction of 0 or 1 has an uncertainty too: one half sample is added to either side.
    shrunk = (mean * latents + 0.5) / (latents + 1.0)
    binomial = math.sqrt(shrunk * (1.0 - shrunk) / latents)
    variance = sum((value - mean) ** 2 for value in values) / max(1, count - 1)
    return Spread(mean, max(math.sqrt(variance), binomial), count)
