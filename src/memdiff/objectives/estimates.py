"""Monte Carlo estimates of the objectives, with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.objectives.draws import Draws
from memdiff.objectives.losses import (
    LeaveOneOut,
    Weighting,
    denoising_loss,
    explicit_loss,
    implicit_loss,
    leave_one_out_loss,
    sigma2,
)
from memdiff.scores.base import Score

__all__ = [
    "Estimate",
    "denoising_score_matching",
    "excess_empirical_risk",
    "explicit_score_matching",
    "implicit_score_matching",
    "leave_one_out_denoising",
    "paired_difference",
]


@dataclass(frozen=True)
class Estimate:
    r"""A Monte Carlo average of losses.

    Attributes:
        value: The mean of the losses.
        standard_error: Its standard error, over independent groups of draws. NaN for one group.
        losses: The losses with shape ``(B,)``, float64, detached.
        objective: Name of the objective.
        groups: Integer label of the group of each draw with shape ``(B,)``, where draws that share
            a training point are dependent (leave-one-out); None where all are independent.
    """

    value: float
    standard_error: float
    losses: Tensor
    objective: str
    groups: Tensor | None = None


def paired_difference(first: Estimate, second: Estimate) -> Estimate:
    """The difference of two estimates on the same draws, with the standard error of the pairs.

    Args:
        first: An estimate.
        second: Another one, of the same :class:`Draws`.

    Returns:
        The estimate of ``first - second``.

    Raises:
        ValueError: If the estimates are not of the same number of draws.

    Example:
        >>> from memdiff.objectives import draw
        >>> from memdiff.processes import VE
        >>> from memdiff.scores.population import GaussianScore
        >>> exact = GaussianScore(torch.zeros(2), 1.0, VE())
        >>> wrong = GaussianScore(torch.zeros(2), 2.0, VE())
        >>> draws = draw(VE(), exact, 500, torch.Generator().manual_seed(0))
        >>> gap = paired_difference(
        ...     denoising_score_matching(wrong, draws), denoising_score_matching(exact, draws)
        ... )
        >>> gap.value > 3 * gap.standard_error > 0
        True
    """
    if first.losses.shape != second.losses.shape:
        raise ValueError(
            f"second must be an estimate on the same {len(first.losses)} draws as first, "
            f"got {len(second.losses)} losses."
        )
    groups = first.groups if first.groups is not None else second.groups
    name = f"{first.objective} - {second.objective}"
    return _summary(first.losses - second.losses.to(first.losses.device), name, groups)


def explicit_score_matching(
    score: Score,
    population: Score,
    draws: Draws,
    *,
    weighting: Weighting = sigma2,
    batch_size: int | None = None,
) -> Estimate:
    r"""Explicit score matching :math:`I(s)`: the true error of a score.

    Args:
        score: The score.
        population: The score of the law that the draws come from.
        draws: Draws from the population.
        weighting: The weight :math:`\lambda`.
        batch_size: Number of draws evaluated at a time; None for all.

    Returns:
        The estimate; 0 if and only if the scores agree on the draws.
    """
    return _average(
        "explicit score matching",
        draws,
        batch_size,
        lambda part: explicit_loss(score, population, part, weighting),
    )


def excess_empirical_risk(
    score: Score,
    empirical: Score,
    draws: Draws,
    *,
    weighting: Weighting = sigma2,
    batch_size: int | None = None,
) -> Estimate:
    r"""Excess risk :math:`J_N(s) - J_N(s_N) = E_t\, \lambda\, E_{p^N_t} |s - s_N|^2`.

    It is 0 for the score that memorises. As an average of squares it has a much smaller error
    than the difference of the two denoising objectives.

    Args:
        score: The score.
        empirical: The empirical score :math:`s_N`.
        draws: Draws from its training set.
        weighting: The weight :math:`\lambda`.
        batch_size: Number of draws evaluated at a time; None for all.

    Returns:
        The estimate, of the expectation over draws from the given training set.

    Raises:
        ValueError: If the draws are not of a training set.
    """
    if draws.index is None:
        raise ValueError(
            "draws must be of the training set of the empirical score, got draws of a known law: "
            "pass the training data to draw()."
        )
    return _average(
        "excess empirical risk",
        draws,
        batch_size,
        lambda part: explicit_loss(score, empirical, part, weighting),
    )


def denoising_score_matching(
    score: Score,
    draws: Draws,
    *,
    weighting: Weighting = sigma2,
    batch_size: int | None = None,
) -> Estimate:
    r"""Denoising score matching :math:`J(s)`, or :math:`J_N(s)` for draws of a training set.

    Args:
        score: The score.
        draws: Noised points.
        weighting: The weight :math:`\lambda`.
        batch_size: Number of draws evaluated at a time; None for all.

    Returns:
        The estimate.
    """
    return _average(
        "denoising score matching",
        draws,
        batch_size,
        lambda part: denoising_loss(score, part, weighting),
    )


def implicit_score_matching(
    score: Score,
    draws: Draws,
    *,
    weighting: Weighting = sigma2,
    probes: Tensor | None = None,
    batch_size: int | None = None,
) -> Estimate:
    r"""Implicit score matching :math:`E_t\, \lambda\, E[|s|^2 + 2\, \mathrm{div}\, s]`.

    Args:
        score: The score.
        draws: Noised points.
        weighting: The weight :math:`\lambda`.
        probes: Probe vectors with shape ``(P, B, *S)``; None for the exact divergence.
        batch_size: Number of draws evaluated at a time; None for all.

    Returns:
        The estimate; it is negative for a good score.
    """
    starts = range(0, len(draws), batch_size or len(draws))
    parts = iter([None if probes is None else probes[:, i:] for i in starts])

    def loss(part: Draws) -> Tensor:
        probe = next(parts)
        probe = None if probe is None else probe[:, : len(part)]
        return implicit_loss(score, part, weighting, probes=probe)

    return _average("implicit score matching", draws, batch_size, loss)


def leave_one_out_denoising(
    score: LeaveOneOut,
    draws: Draws,
    *,
    weighting: Weighting = sigma2,
    batch_size: int | None = None,
) -> Estimate:
    r"""Leave-one-out denoising objective: an estimate of :math:`J` with no held-out data.

    Args:
        score: A score of a training set whose ``residual`` takes ``exclude``.
        draws: Draws of that training set.
        weighting: The weight :math:`\lambda`.
        batch_size: Number of draws evaluated at a time; None for all.

    Returns:
        The estimate. Draws of one training point form a group of its standard error.
    """
    return _average(
        "leave-one-out denoising",
        draws,
        batch_size,
        lambda part: leave_one_out_loss(score, part, weighting),
        draws.index,
    )


def _average(
    objective: str,
    draws: Draws,
    batch_size: int | None,
    loss: Callable[[Draws], Tensor],
    groups: Tensor | None = None,
) -> Estimate:
    with torch.no_grad():
        losses = torch.cat([loss(part) for part in draws.batches(batch_size)])
    return _summary(losses, objective, groups)


def _summary(losses: Tensor, objective: str, groups: Tensor | None) -> Estimate:
    """Mean and group-wise (cluster-robust) standard error; the usual one for groups of one."""
    deviations = losses - losses.mean()
    if groups is not None:
        _, label = groups.to(losses.device).unique(return_inverse=True)
        deviations = deviations.new_zeros(int(label.max()) + 1).index_add(0, label, deviations)
    count = len(deviations)
    correction = count / (count - 1) if count > 1 else math.nan
    error = math.sqrt(correction * float((deviations**2).sum())) / len(losses)
    return Estimate(float(losses.mean()), error, losses, objective, groups)
