r"""Choosing the strength of a regulariser without held-out data.

The denoising objective of a score fitted on all points but the one that is noised,

.. math::
    CV(\theta) = \frac1N \sum_n E_{t, z}\, \lambda\,
        \big| s_\theta^{(-n)}(m x_n + \sigma z, t) + z/\sigma \big|^2 ,

estimates the true objective :math:`J(s_\theta)` up to the effect of one point, and
:math:`J - I` does not depend on :math:`\theta`: its minimiser estimates that of the true error.
The same noise serves every candidate, so that the *differences* along the curve are far more
certain than its values.

What is compared is a :class:`~memdiff.generate.families.Family`. :func:`regularised` is the one
call that ``memdiff sample`` makes.

References:
    The leave-one-out objective is cross-validation applied to the denoising objective of
    arXiv:2501.15785; it is ours, not the paper's.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from memdiff.generate.families import Family
from memdiff.kernel import Posterior
from memdiff.objectives import (
    Draws,
    LogUniformRatio,
    TimeLaw,
    Weighting,
    draw,
    leave_one_out_loss,
    sigma2,
)
from memdiff.scores import EmpiricalScore, Score, silverman_bandwidth

__all__ = [
    "Selection",
    "leave_one_out_draws",
    "regularised",
    "select",
]


@dataclass(frozen=True)
class Selection:
    """The leave-one-out curve over candidates and the choice that it makes.

    Attributes:
        candidates: Strengths, increasing, float64 with shape ``(K,)``.
        loss: Leave-one-out objective at each, shape ``(K,)``.
        standard_error: Standard error of each loss over training points, shape ``(K,)``.
        excess: ``loss`` minus its minimum, shape ``(K,)``.
        excess_error: Standard error of that difference under the common noise, shape ``(K,)``.
        index: Index of the smallest loss.
        draws: Number of noised points behind the curve.
    """

    candidates: Tensor
    loss: Tensor
    standard_error: Tensor
    excess: Tensor
    excess_error: Tensor
    index: int
    draws: int

    @property
    def best(self) -> float:
        """The candidate with the smallest loss."""
        return float(self.candidates[self.index])

    @property
    def at_edge(self) -> bool:
        """Whether the minimum is at an end of the grid, so that the grid should be widened."""
        return self.index in (0, len(self.candidates) - 1)

    def __repr__(self) -> str:
        """One line: the choice, and among what."""
        edge = ", at the edge of the grid" if self.at_edge else ""
        return (
            f"Selection(best {self.best:.4g} of {len(self.candidates)} candidates from "
            f"{float(self.candidates[0]):.3g} to {float(self.candidates[-1]):.3g}{edge}, "
            f"{self.draws:,} draws)"
        )

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"

    def to_dict(self) -> dict[str, object]:
        """The curve and the choice in plain types, for JSON."""
        return {
            "best": self.best,
            "at_edge": self.at_edge,
            "draws": self.draws,
            "candidates": self.candidates.tolist(),
            "loss": self.loss.tolist(),
            "standard_error": self.standard_error.tolist(),
            "excess": self.excess.tolist(),
            "excess_error": self.excess_error.tolist(),
        }


def leave_one_out_draws(
    score: EmpiricalScore,
    *,
    per_point: int = 8,
    max_draws: int = 8192,
    times: TimeLaw | None = None,
    seed: int = 0,
) -> Draws:
    r"""Noised training points for the leave-one-out objective, every point equally often.

    Args:
        score: The empirical score.
        per_point: Draws a training point.
        max_draws: Bound on their number; above it a random subset of the training points is used,
            ``per_point`` times each.
        times: Law of the times; default log-uniform in :math:`\sigma/m` from a tenth of
            Silverman's bandwidth, below which no regulariser should resolve anything, to the
            ratio at ``t_max``.
        seed: Seed of the subset, times and noise.

    Returns:
        The draws.

    Raises:
        ValueError: If there is one training point only.
    """
    if score.num_points < 2:
        raise ValueError(
            f"leave-one-out needs at least two training points, got {score.num_points}."
        )
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(score.num_points)
    if score.num_points * per_point > max_draws:
        index = torch.randperm(score.num_points, generator=generator)
        index = index[: max(2, max_draws // per_point)].sort().values
    index = index.repeat_interleave(per_point)
    if times is None:
        high = float(score.process.ratio(score.process.t_max))
        times = LogUniformRatio(min(0.1 * silverman_bandwidth(score.source), 0.5 * high), high)
    return draw(
        score.process,
        score.source,
        len(index),
        generator,
        times=times,
        index=index.to(score.device),
    )


def select(
    family: Family,
    score: EmpiricalScore,
    candidates: Tensor | None = None,
    *,
    draws: Draws | None = None,
    weighting: Weighting = sigma2,
    seed: int = 0,
    batch_size: int = 1024,
    progress: Callable[[int, int], None] | None = None,
) -> Selection:
    """Leave-one-out curve of a family, and its minimiser.

    Repeated training points are each other's memory, and leave-one-out cannot see past them:
    remove duplicates first.

    Args:
        family: The regulariser.
        score: The empirical score.
        candidates: Strengths to compare, increasing; default ``family.grid(score)``.
        draws: Noised training points that all candidates share; default
            :func:`leave_one_out_draws`.
        weighting: The weight of the objective.
        seed: Seed of the default draws.
        batch_size: Draws evaluated at a time.
        progress: Receives (draws done, draws in all).

    Returns:
        The curve.

    Raises:
        ValueError: If there is one training point only, or no candidate.
    """
    draws = leave_one_out_draws(score, seed=seed) if draws is None else draws
    candidates = family.grid(score) if candidates is None else candidates.to(torch.float64)
    if candidates.ndim != 1 or len(candidates) == 0:
        raise ValueError(
            f"candidates must be a non-empty list of strengths, got shape "
            f"{tuple(candidates.shape)}."
        )
    remembered = _Remembered(score)
    scores = [family.build(remembered, strength) for strength in candidates.tolist()]
    losses = torch.empty(len(candidates), len(draws), dtype=torch.float64)
    done = 0
    with torch.no_grad():
        # One posterior a batch serves all candidates of a family that only reads it.
        for part in draws.batches(batch_size):
            for k, regularised_score in enumerate(scores):
                loss = leave_one_out_loss(regularised_score, part, weighting)
                losses[k, done : done + len(part)] = loss.cpu()
            done += len(part)
            if progress is not None:
                progress(done, len(draws))
    if draws.index is None:
        raise ValueError("draws must be of the training set (with an index), for leave-one-out.")
    by_point = _means_by_point(losses, draws.index.cpu())
    mean = losses.mean(1)
    index = int(mean.argmin())
    difference = by_point - by_point[index]
    return Selection(
        candidates=candidates,
        loss=mean,
        standard_error=_standard_error(by_point),
        excess=mean - mean[index],
        excess_error=_standard_error(difference),
        index=index,
        draws=len(draws),
    )


def regularised(
    score: EmpiricalScore,
    family: Family,
    strength: float | Literal["auto"],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Score, float, Selection | None]:
    """Regularise a score with a given strength or, for ``"auto"``, with the selected one.

    Args:
        score: The empirical score.
        family: The regulariser.
        strength: A number in the units of ``family.parameter``, or ``"auto"``.
        seed: Seed of the leave-one-out draws.
        progress: Receives (draws done, draws in all) of a selection.

    Returns:
        The regularised score, its strength, and the selection behind it if there was one.
    """
    selection = None
    if strength == "auto":
        selection = select(family, score, seed=seed, progress=progress)
        strength = selection.best
    return family.build(score, float(strength)), float(strength), selection


class _Remembered(EmpiricalScore):
    """An empirical score that remembers its last posterior, for candidates on the same draws."""

    def __init__(self, score: EmpiricalScore) -> None:
        super().__init__(
            score.source,
            score.process,
            memory_limit=score.memory_limit,
            tolerance=score.tolerance,
            ranks=score.ranks,
        )
        self.log_prior, self.conditions = score.log_prior, score.conditions
        self.kernels = score.kernels  # what was built of the points serves this one too
        self._key: tuple[object, ...] = ()  # the arguments themselves, so that they stay alive
        self._last: Posterior | None = None

    def posterior(
        self,
        x: Tensor,
        t: float | Tensor,
        y: Tensor | None = None,
        *,
        exclude: Tensor | None = None,
        temperature: Tensor | float = 1.0,
    ) -> Posterior:
        if isinstance(temperature, Tensor) or temperature != 1.0:
            return super().posterior(x, t, y, exclude=exclude, temperature=temperature)
        key = (x, t, y, exclude)
        same = len(self._key) == len(key) and all(
            mine is theirs for mine, theirs in zip(self._key, key, strict=True)
        )
        if self._last is None or not same:
            self._last = super().posterior(x, t, y, exclude=exclude)
            self._key = key
        return self._last

    def residual(
        self,
        x: Tensor,
        t: float | Tensor,
        y: Tensor | None = None,
        *,
        exclude: Tensor | None = None,
        temperature: Tensor | float = 1.0,
    ) -> Tensor:
        if isinstance(temperature, Tensor) or temperature != 1.0:
            return super().residual(x, t, y, exclude=exclude, temperature=temperature)
        return self.posterior(x, t, y, exclude=exclude).residual


def _means_by_point(losses: Tensor, index: Tensor) -> Tensor:
    """Mean loss of each training point, ``(K, points)``: the independent units of the error."""
    _, label, counts = index.unique(return_inverse=True, return_counts=True)
    sums = losses.new_zeros(len(losses), len(counts)).index_add(1, label, losses)
    return sums / counts


def _standard_error(by_point: Tensor) -> Tensor:
    count = by_point.shape[1]
    if count < 2:
        return torch.full((len(by_point),), math.nan, dtype=torch.float64)
    return by_point.std(1) / math.sqrt(count)
