"""The one entry: draw samples with a score and a sampler."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.kernel import LevelCounts
from memdiff.kernel.trajectories import Counts
from memdiff.processes import ForwardProcess
from memdiff.run.memory import require_memory
from memdiff.samplers.base import Path, Sampler
from memdiff.samplers.fixed_step import Heun
from memdiff.samplers.flow import ReverseFlow
from memdiff.samplers.noise import SeededBrownianMotion, draw_latents
from memdiff.scores.base import Score

__all__ = ["SamplerStats", "Samples", "sample"]


@dataclass(frozen=True)
class SamplerStats:
    """What a run of :func:`sample` cost.

    Attributes:
        samples: Number of samples.
        score_calls: Number of calls of the score, each on a batch.
        score_evaluations: Number of points at which the score was evaluated.
        accepted_steps: Steps taken, summed over the samples.
        rejected_steps: Steps refused by error control, summed over the samples.
        seconds: Wall time.
        levels: What the exact score of a training set did at each noise level, from the largest
            to the smallest: queries that were answered by one certified point, by few candidates,
            in fewer dimensions and by all points. Empty for other scores, and where the training
            set is too small for that to matter.
    """

    samples: int
    score_calls: int
    score_evaluations: int
    accepted_steps: int
    rejected_steps: int
    seconds: float
    levels: tuple[LevelCounts, ...] = ()

    @property
    def evaluations_per_sample(self) -> float:
        """Mean number of score evaluations for a sample, the NFE of the literature."""
        return self.score_evaluations / self.samples


@dataclass(frozen=True)
class Samples:
    """Result of :func:`sample`.

    Attributes:
        x: Samples with shape ``(B, *S)``, of the dtype and device of the latents.
        times: Decreasing times, float64 with shape ``(K + 1,)``, on the CPU: the grid of a
            fixed-step sampler, the recorded times of an adaptive one (start and end only, if
            no trajectory was asked for).
        trajectory: Points at ``times``, float64 with shape ``(K + 1, B, *S)``, or None.
        stats: What the run cost.
    """

    x: Tensor
    times: Tensor
    trajectory: Tensor | None
    stats: SamplerStats

    def __repr__(self) -> str:
        """One line: how many, of what shape, and what they cost."""
        kind = str(self.x.dtype).removeprefix("torch.")
        path = "" if self.trajectory is None else f", with paths at {len(self.times)} times"
        return (
            f"Samples({len(self.x):,} of shape {tuple(self.x.shape[1:])}, {kind}{path}, "
            f"{self.stats.evaluations_per_sample:.4g} evaluations per sample, "
            f"{self.stats.seconds:.2g} s)"
        )

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"


def sample(
    score: Score,
    latents: Tensor | None = None,
    *,
    shape: Sequence[int] | None = None,
    num: int | None = None,
    sampler: Sampler = Heun(steps=40),  # noqa: B008  (frozen)
    t_end: float | None = None,
    seed: int = 0,
    start: int = 0,
    y: Tensor | None = None,
    trajectory: bool = False,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Samples:
    r"""Draw samples: start at :math:`\sigma(t_{max})\, z` and follow the reverse process.

    Sample ``i`` depends on the score, the sampler, ``seed`` and ``i``, and on neither ``num`` nor
    ``batch_size`` (up to the rounding of the score itself, if that depends on the batch). The
    state is float64 whatever the dtype of the latents; the score sees float64 points and is
    evaluated without gradients.

    Args:
        score: The score to sample from.
        latents: Standard normal :math:`z` with shape ``(B, *S)``, floating; drawn if None (see
            :func:`~memdiff.samplers.draw_latents`).
        shape: Shape ``S`` of one sample; not needed with latents or a score that knows it.
        num: Number of samples ``B``; not needed with latents.
        sampler: The method.
        t_end: Final time, in ``[0, t_max)``. If None, the time at which :math:`\sigma/m` is the
            sampler's ``ratio_end``: 0 for ``Euler``, ``Heun``, ``DDIM``; 1e-3 for ``RK45``,
            ``EulerMaruyama``; 1e-8 for ``LogTime``.
        seed: Non-negative seed of the latents and of the noise of a stochastic sampler.
        start: Index of the first sample in a larger run: a run may be made in parts, in any order.
        y: Conditions with shape ``(B,)`` or ``(B, k)``, one per sample.
        trajectory: Whether to record the paths (``K + 1`` times the memory of the samples, in
            float64).
        batch_size: Number of samples that are integrated together; all if None.
        progress: Called with the number of samples done and their total; a batch that is partly
            done counts in part.

    Returns:
        Samples, times, trajectory and stats.

    Raises:
        ValueError: If an argument is out of range or does not fit the others, or if the score is
            not finite along the flow.

    References:
        arXiv:2501.15785 (start and reverse processes).

    Example:
        >>> from memdiff.processes import VE
        >>> from memdiff.samplers import LogTime
        >>> class OnePoint(Score):
        ...     '''Score of a training set that is the single point 3.'''
        ...     def residual(self, x, t, y=None):
        ...         return 3.0 - x
        ...     forward = Score.score_from_residual
        >>> x = sample(OnePoint(VE()), shape=(1,), num=2, sampler=LogTime()).x
        >>> (x - 3.0).abs().max() < 1e-6
        tensor(True)
    """
    if not isinstance(sampler, Sampler):
        raise ValueError(
            f"sampler must be a memdiff.samplers.Sampler such as Heun(steps=40), got {sampler!r}."
        )
    _check_integer("seed", seed, 0)
    _check_integer("start", start, 0)
    process = score.process
    t_end = _resolve_end(process, sampler, t_end)
    num, shape = _resolve_shape(score, latents, num, shape)
    if batch_size is not None:
        _check_integer("batch_size", batch_size, 1)
    if y is not None and (y.ndim not in (1, 2) or y.shape[0] != num):
        raise ValueError(
            f"y must have shape ({num},) or ({num}, k), one condition a sample, "
            f"got {tuple(y.shape)}."
        )
    device = score.device if latents is None else latents.device
    dtype = score.dtype if latents is None else latents.dtype

    require_memory(
        math.prod(shape) * (num * dtype.itemsize + 4 * 8 * min(num, batch_size or num)),
        f"num={num} samples of shape {tuple(shape)}",
        "draw fewer, or in parts (start=, batch_size=)",
    )
    started = time.perf_counter()
    flows: list[ReverseFlow] = []
    paths: list[Path] = []
    results: list[Tensor] = []
    for first in range(0, num, batch_size or num):
        stop = min(first + (batch_size or num), num)
        if latents is None:
            drawn = (stop - first, shape)
            batch = draw_latents(*drawn, seed=seed, dtype=dtype, start=start + first).to(device)
        else:
            batch = latents[first:stop].detach()
        flow = ReverseFlow(score, None if y is None else y[first:stop].to(device))
        noise = SeededBrownianMotion(seed, range(start + first, start + stop), shape, device)
        with torch.no_grad():
            path = sampler.integrate(
                flow,
                process.std(process.t_max).to(device) * batch.to(torch.float64),
                t_end,
                noise,
                trajectory=trajectory,
                report=_batch_report(progress, first, stop, num),
            )
        flows.append(flow)
        paths.append(path)
        results.append(path.x.to(dtype))
    return Samples(
        x=torch.cat(results),
        times=paths[0].times,
        trajectory=_concatenate([path.trajectory for path in paths]),
        stats=SamplerStats(
            samples=num,
            score_calls=sum(flow.calls for flow in flows),
            score_evaluations=sum(flow.evaluations for flow in flows),
            accepted_steps=sum(path.accepted_steps for path in paths),
            rejected_steps=sum(path.rejected_steps for path in paths),
            seconds=time.perf_counter() - started,
            levels=_levels(flows),
        ),
    )


def _levels(flows: list[ReverseFlow]) -> tuple[LevelCounts, ...]:
    counts = Counts()
    for flow in flows:
        counts.merge(flow.batch.counts)
    return counts.levels()


def _concatenate(trajectories: list[Tensor | None]) -> Tensor | None:
    recorded = [trajectory for trajectory in trajectories if trajectory is not None]
    return torch.cat(recorded, dim=1) if recorded else None


def _batch_report(
    progress: Callable[[int, int], None] | None, start: int, stop: int, num: int
) -> Callable[[float], None] | None:
    if progress is None:
        return None
    return lambda fraction: progress(start + math.floor(fraction * (stop - start) + 1e-9), num)


def _resolve_end(process: ForwardProcess, sampler: Sampler, t_end: float | None) -> float:
    if t_end is None:
        if sampler.ratio_end == 0.0:
            return 0.0
        t_end = float(process.time_at_ratio(sampler.ratio_end))
    if not 0.0 <= t_end < process.t_max:
        raise ValueError(
            f"t_end must lie in [0, t_max) = [0, {process.t_max:g}) of {process!r}, got {t_end!r}."
        )
    return float(t_end)


def _resolve_shape(
    score: Score, latents: Tensor | None, num: int | None, shape: Sequence[int] | None
) -> tuple[int, tuple[int, ...]]:
    wanted = score.shape if shape is None else tuple(shape)
    if latents is None:
        if num is None:
            raise ValueError("num must be given when latents are not, got None.")
        _check_integer("num", num, 1)
        if wanted is None:
            raise ValueError(
                f"shape must be given when latents are not and the score ({type(score).__name__}) "
                f"does not know its own, got None."
            )
        if any(size < 1 for size in wanted):
            raise ValueError(f"shape must hold positive sizes, got {tuple(wanted)}.")
        return num, tuple(wanted)
    if not latents.is_floating_point() or latents.ndim == 0 or latents.shape[0] == 0:
        raise ValueError(
            f"latents must be a floating tensor with shape (B, *S) and B at least 1, "
            f"got {latents.dtype} with shape {tuple(latents.shape)}."
        )
    if num is not None and num != latents.shape[0]:
        raise ValueError(
            f"num must be the number of latents, {latents.shape[0]}, or None, got {num!r}."
        )
    if wanted is not None and tuple(wanted) != tuple(latents.shape[1:]):
        raise ValueError(
            f"latents must have shape (B, *S) with S = {tuple(wanted)}, "
            f"got {tuple(latents.shape)}."
        )
    if not bool(torch.isfinite(latents).all()):
        raise ValueError(
            f"latents must be finite, got {int((~torch.isfinite(latents)).sum())} values that are "
            f"NaN or infinite."
        )
    return latents.shape[0], tuple(latents.shape[1:])


def _check_integer(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")
