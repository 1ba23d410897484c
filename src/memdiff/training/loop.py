r"""Training loop of a score, as a generator that its caller drives.

>>> from memdiff.processes import VP
>>> class Slope(Score):
...     '''The score -a x; for data of unit variance a is 1.'''
...     def __init__(self, process):
...         super().__init__(process)
...         self.a = torch.nn.Parameter(torch.tensor(0.0))
...     def forward(self, x, t, y=None):
...         return -self.a * x
>>> data = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
>>> score = Slope(VP())
>>> for step in train(score, data, settings=TrainingSettings(steps=300, learning_rate=0.05)):
...     if step.step == 300:
...         print(f"a = {score.a.item():.1f}")
a = 1.0

The caller logs, samples, saves (:mod:`memdiff.training.checkpoints`), watches for memorisation
(:mod:`memdiff.training.monitor`), and stops by leaving the loop.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from memdiff.objectives import Draws
from memdiff.run.ranks import Ranks
from memdiff.scores.base import Score
from memdiff.training.averages import LinearWarmup, update_average
from memdiff.training.batches import batch_index, step_seed
from memdiff.training.loop_settings import TrainingSettings
from memdiff.training.objective import Objective

__all__ = ["TrainingState", "TrainingStep", "train"]

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class TrainingState:
    """State of a run between two steps: weights, their average, the optimizer.

    Args:
        score: The score to train; it is changed in place.
        settings: Settings of the optimizer.
        optimizer: Makes another optimizer than AdamW from the parameters.

    Attributes:
        score: The score.
        averaged: Its moving average, in evaluation mode: the one to sample from.
        optimizer: The optimizer.
        step: Number of steps done.

    Raises:
        ValueError: If the score has no parameter to train.
    """

    def __init__(
        self,
        score: Score,
        settings: TrainingSettings,
        *,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        parameters = [p for p in score.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError(
                f"score must have parameters to train, got a {type(score).__name__} with none."
            )
        self.score = score
        self.averaged = copy.deepcopy(score).eval().requires_grad_(False)
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(
                parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
            )
            if optimizer is None
            else optimizer(parameters)
        )
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.step = 0


@dataclass(frozen=True)
class TrainingStep:
    """Result of one step.

    Attributes:
        step: Its number, from 1: the weights are those after it.
        loss: Mean loss of the batch before the step, with the penalty.
        denoising: Its part without the penalty.
        penalty: The penalty.
        gradient_norm: Norm of the gradient before clipping.
        learning_rate: Learning rate of the first group of parameters.
        state: The state, to save or to look into; the next step changes it.
    """

    step: int
    loss: float
    denoising: float
    penalty: float
    gradient_norm: float
    learning_rate: float
    state: TrainingState

    @property
    def score(self) -> Score:
        """The score that is trained."""
        return self.state.score

    @property
    def averaged(self) -> Score:
        """Its moving average."""
        return self.state.averaged


def train(
    score: Score,
    data: Tensor,
    objective: Objective | None = None,
    settings: TrainingSettings | None = None,
    *,
    y: Tensor | None = None,
    state: TrainingState | None = None,
    ranks: Ranks | None = None,
) -> Iterator[TrainingStep]:
    """Train a score, and yield once per step.

    Args:
        score: The score, for example a ``NetworkScore``; it is changed in place.
        data: Training data with shape ``(N, *S)``, floating.
        objective: What to minimise; ``Objective()`` by default.
        settings: How; ``TrainingSettings()`` by default.
        y: Conditions of the training points with shape ``(N,)`` or ``(N, k)``.
        state: Where to go on, from :func:`memdiff.training.load_state`; the run then ends as it
            would have ended without the interruption, to the last bit. By default a new run.
        ranks: Processes that share each batch, each with the same arguments: give
            :func:`memdiff.run.ranks.joined` where ``torchrun`` or ``accelerate.Accelerator()`` has
            set them up. All start from the weights of the first, and the loss curve is that of
            one process with the same ``batch_size``, to rounding; dropout differs. By default
            this process alone.

    Yields:
        The steps, from ``state.step + 1`` to ``settings.steps``.

    Raises:
        ValueError: If an argument does not fit, or a loss is not finite.
        RankError: If another rank has ended.
    """
    objective = objective or Objective()
    settings = settings or TrainingSettings()
    _check_data(data, y)
    state = TrainingState(score, settings) if state is None else state
    if state.score is not score:
        raise ValueError("state must be of the score that is trained, got one of another score.")
    ranks = ranks or Ranks()
    size = len(data) if settings.batch_size is None else min(settings.batch_size, len(data))
    if size < ranks.count:
        raise ValueError(
            f"the batch must have a point for each of the {ranks.count} processes, got {size}: "
            "raise batch_size, or start fewer processes."
        )
    _share(ranks, score, state.averaged)
    device = score.device
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    while state.step < settings.steps:
        step = state.step
        index = batch_index(len(data), settings.batch_size, settings.seed, step)
        generator = torch.Generator().manual_seed(step_seed(settings.seed, step))
        here = index.to(data.device)
        draws = objective.draw(
            score.process,
            data[here].to(device),
            generator,
            None if y is None else y[index.to(y.device)].to(device),
        )
        draws = _part(draws, ranks.part(size))
        rate = _learning_rates(state, settings)
        score.train()
        state.optimizer.zero_grad(set_to_none=True)
        with (
            _global_seed(step_seed(settings.seed, step, 1 + ranks.rank), device),
            _precision(settings, device),
        ):
            losses = objective(score, draws)
        (losses.total.sum() / size).backward()
        _sum_gradients(ranks, parameters)
        means = torch.stack([losses.denoising.sum(), losses.penalty.sum()]).detach() / size
        denoising, penalty = ranks.sum(means).tolist()
        if not math.isfinite(denoising + penalty):
            raise ValueError(
                f"training has diverged: the loss is {denoising + penalty} at step {step + 1}: "
                f"lower the learning rate (--lr, now {rate:g}), clip the gradient (--clip), or "
                "raise the smallest time, and start anew in another folder or with --overwrite."
            )
        limit = math.inf if settings.clip is None else settings.clip
        norm = float(nn.utils.clip_grad_norm_(parameters, limit))
        state.optimizer.step()
        state.step = step + 1
        update_average(state.averaged, score, _decay(settings, step))
        yield TrainingStep(
            step=state.step,
            loss=denoising + penalty,
            denoising=denoising,
            penalty=penalty,
            gradient_norm=norm,
            learning_rate=rate,
            state=state,
        )


def _decay(settings: TrainingSettings, step: int) -> float:
    if not settings.ema_warmup:
        return settings.ema
    return LinearWarmup(settings.ema).decay_at(step)


def _learning_rates(state: TrainingState, settings: TrainingSettings) -> float:
    factor = min(1.0, (state.step + 1) / settings.warmup) if settings.warmup else 1.0
    for group in state.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return float(state.optimizer.param_groups[0]["lr"])


def _precision(settings: TrainingSettings, device: torch.device) -> AbstractContextManager:
    wanted = settings.precision
    if wanted == "auto":
        capable = device.type == "cuda" and torch.cuda.is_bf16_supported()
        wanted = "bfloat16" if capable else "float32"
    if wanted == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@contextmanager
def _global_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from torch's global generators: seed them for the block, then restore them."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.random.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _part(draws: Draws, part: range) -> Draws:
    """The draws of one rank."""
    if len(part) == len(draws):
        return draws
    rows = slice(part.start, part.stop)
    return replace(
        draws,
        x0=draws.x0[rows],
        t=draws.t[rows],
        z=draws.z[rows],
        x=draws.x[rows],
        index=None if draws.index is None else draws.index[rows],
        y=None if draws.y is None else draws.y[rows],
    )


@torch.no_grad()
def _share(ranks: Ranks, *modules: nn.Module) -> None:
    """Start all ranks from the weights of the first."""
    if ranks.count == 1:
        return
    for module in modules:
        for tensor in module.state_dict().values():
            tensor.copy_(ranks.broadcast(tensor))


def _sum_gradients(ranks: Ranks, parameters: list[nn.Parameter]) -> None:
    """One message: the sum over the parts of a batch is the gradient of the whole batch."""
    if ranks.count == 1:
        return
    gradients = [
        torch.zeros_like(p) if p.grad is None else p.grad for p in parameters
    ]  # all ranks send the same layout
    flat = ranks.sum(torch.cat([gradient.flatten() for gradient in gradients]))
    for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p)


def _check_data(data: Tensor, y: Tensor | None) -> None:
    if data.ndim < 2 or len(data) == 0 or not data.is_floating_point():
        raise ValueError(
            f"data must be floating-point with shape (N, *S) and N at least 1, got {data.dtype} "
            f"with shape {tuple(data.shape)}."
        )
    if y is not None and len(y) != len(data):
        raise ValueError(
            f"y must have {len(data)} rows, one for each training point, got {len(y)}."
        )
