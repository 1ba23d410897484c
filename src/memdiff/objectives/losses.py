r"""Losses, one per draw, differentiable with respect to the parameters of a score.

Written in the residual :math:`r = \sigma^2 s`, which stays finite where the score does not:
:math:`\lambda |s + z/\sigma|^2 = (\lambda/\sigma^2)\, |r/\sigma + z|^2`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from memdiff.objectives.draws import Draws
from memdiff.processes import ForwardProcess
from memdiff.scores.base import Score, expand_time, per_sample

__all__ = [
    "LeaveOneOut",
    "Weighting",
    "denoising_loss",
    "divergence",
    "explicit_loss",
    "implicit_loss",
    "leave_one_out_loss",
    "likelihood",
    "sigma2",
    "uniform",
]

Weighting = Callable[[ForwardProcess, Tensor], Tensor]
"""A weight :math:`\\lambda`: a function of the process and times ``(B,)`` to ``(B,)``."""


def sigma2(process: ForwardProcess, t: Tensor) -> Tensor:
    r""":math:`\lambda = \sigma^2`: the loss is :math:`|\sigma s + z|^2`, of order ``d``."""
    return process.std(t) ** 2


def likelihood(process: ForwardProcess, t: Tensor) -> Tensor:
    r""":math:`\lambda = g^2`: half the objective bounds the Kullback-Leibler divergence.

    References:
        Song, Durkan, Murray, Ermon, *Maximum Likelihood Training of Score-Based Diffusion Models*,
        arXiv:2101.09258, theorem 1.
    """
    return process.diffusion(t) ** 2


def uniform(process: ForwardProcess, t: Tensor) -> Tensor:
    r""":math:`\lambda = 1`."""
    return torch.ones_like(t)


def explicit_loss(
    score: Score, reference: Score, draws: Draws, weighting: Weighting = sigma2
) -> Tensor:
    r""":math:`\lambda\, |s - s_*|^2` against a reference score, one per draw.

    With the population score and draws from the population it averages to the explicit
    objective; with the empirical score and draws from its training set, to the excess risk.

    Args:
        score: The score :math:`s`.
        reference: The score :math:`s_*`, of the same process. No gradient flows through it.
        draws: Noised points.
        weighting: The weight :math:`\lambda`.

    Returns:
        float64 tensor with shape ``(B,)``, differentiable in the parameters of ``score``.

    Raises:
        ValueError: If the processes of scores and draws differ.
    """
    _check_process(score, draws)
    _check_process(reference, draws)
    with torch.no_grad():
        target = reference.residual(draws.x, draws.t, draws.y).to(torch.float64)
    residual = score.residual(draws.x, draws.t, draws.y).to(torch.float64)
    return _weight(draws, weighting) * _square(_over_sigma(residual - target, draws))


def denoising_loss(score: Score, draws: Draws, weighting: Weighting = sigma2) -> Tensor:
    r""":math:`\lambda\, |s + z/\sigma|^2`, one per draw.

    Args:
        score: The score :math:`s`.
        draws: Noised points; of a training set for the empirical objective :math:`J_N`.
        weighting: The weight :math:`\lambda`.

    Returns:
        float64 tensor with shape ``(B,)``, differentiable in the parameters of ``score``.

    Raises:
        ValueError: If the processes of score and draws differ.
    """
    _check_process(score, draws)
    residual = score.residual(draws.x, draws.t, draws.y).to(torch.float64)
    return _weight(draws, weighting) * _square(_over_sigma(residual, draws) + draws.z)


class LeaveOneOut(Protocol):
    """A score that can leave out a training point, per query: what leave-one-out losses need."""

    process: ForwardProcess

    def residual(
        self, x: Tensor, t: float | Tensor, y: Tensor | None = None, *, exclude: Tensor | None
    ) -> Tensor:
        """The residual of the score that has not seen the training points ``exclude``."""
        ...


def leave_one_out_loss(score: LeaveOneOut, draws: Draws, weighting: Weighting = sigma2) -> Tensor:
    r""":math:`\lambda\, |s^{(-n)} + z/\sigma|^2` with the score that has not seen ``x0``.

    The denoising loss of an estimate from a training set, at a point that the estimate leaves
    out: unlike :func:`denoising_loss` it is not minimised by memorising.

    Args:
        score: An empirical score, or a regularised one, whose ``residual`` takes ``exclude``.
        draws: Noised points of its training set, with ``index``.
        weighting: The weight :math:`\lambda`.

    Returns:
        float64 tensor with shape ``(B,)``.

    Raises:
        ValueError: If the draws are not of a training set, or the processes differ.
    """
    _check_process(score, draws)
    if draws.index is None:
        raise ValueError(
            "draws must be of a training set to leave points out, got draws of a known law: "
            "pass the training data of the score to draw()."
        )
    residual = score.residual(draws.x, draws.t, draws.y, exclude=draws.index).to(torch.float64)
    return _weight(draws, weighting) * _square(_over_sigma(residual, draws) + draws.z)


def implicit_loss(
    score: Score,
    draws: Draws,
    weighting: Weighting = sigma2,
    *,
    probes: Tensor | None = None,
) -> Tensor:
    r""":math:`\lambda\, (|s|^2 + 2\, \mathrm{div}\, s)`, one per draw.

    Args:
        score: The score :math:`s`.
        draws: Noised points.
        weighting: The weight :math:`\lambda`.
        probes: Probe vectors of :func:`divergence`; None for the exact divergence.

    Returns:
        float64 tensor with shape ``(B,)``, differentiable in the parameters of ``score``.

    Raises:
        ValueError: If the processes differ, or as :func:`divergence`.
    """
    _check_process(score, draws)
    residual, trace = _residual_and_trace(score, draws.x, draws.t, draws.y, probes)
    return _weight(draws, weighting) * (_square(_over_sigma(residual, draws)) + 2.0 * trace)


def divergence(
    score: Score,
    x: Tensor,
    t: float | Tensor,
    y: Tensor | None = None,
    *,
    probes: Tensor | None = None,
) -> Tensor:
    r"""Divergence of a score, :math:`\mathrm{div}\, s = \sum_i \partial s_i / \partial x_i`.

    Found by differentiating the residual, as :math:`\mathrm{tr}(\sigma^2 J) / \sigma^2`. With
    probes it is Hutchinson's estimate, the mean of
    :math:`\epsilon^T \sigma^2 J \epsilon / \sigma^2`. Signs as probes are exact on the part
    :math:`-I/\sigma^2` that dominates at small noise; Gaussian probes have variance
    :math:`2 |J|_F^2` there.

    Args:
        score: The score.
        x: Points with shape ``(B, *S)``.
        t: Time with :math:`\sigma(t) > 0`, a scalar or ``(B,)``.
        y: Conditions.
        probes: Probe vectors with shape ``(P, B, *S)``, see :func:`rademacher`: ``P`` backward
            passes. None for the exact divergence: ``d`` backward passes.

    Returns:
        float64 tensor with shape ``(B,)``, differentiable in the parameters of the score where
        autograd is on.

    Raises:
        ValueError: If the shape of the probes does not fit, or autograd cannot see the score.
    """
    _, trace = _residual_and_trace(score, x, t, y, probes)
    return trace / score.process.std(expand_time(t, x)) ** 2


def _residual_and_trace(
    score: Score, x: Tensor, t: float | Tensor, y: Tensor | None, probes: Tensor | None
) -> tuple[Tensor, Tensor]:
    r"""The residual and the trace of its Jacobian :math:`\sigma^2 J`, float64 with ``(B,)``."""
    if probes is not None and probes.shape[1:] != x.shape:
        raise ValueError(
            f"probes must have shape (P, {', '.join(map(str, x.shape))}), "
            f"got {tuple(probes.shape)}."
        )
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        residual = score.residual(point, t, y)
        if not residual.requires_grad:
            raise ValueError(
                "score must be differentiable by autograd for its divergence, got a "
                f"{type(score).__name__} whose residual is not: remove its no_grad or detach."
            )
        if probes is None:
            basis = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
            vectors = (row.reshape(1, *x.shape[1:]).expand_as(x) for row in basis)
            count = 1
        else:
            vectors, count = (probe.to(x) for probe in probes), len(probes)
        trace = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for vector in vectors:
            (product,) = torch.autograd.grad(
                residual, point, vector, create_graph=keep, retain_graph=True, allow_unused=True
            )
            if product is not None:  # None where the score does not depend on x
                trace = trace + (product * vector).flatten(1).sum(dim=1, dtype=torch.float64)
    residual = residual.to(torch.float64)
    return (residual, trace / count) if keep else (residual.detach(), trace.detach() / count)


def _weight(draws: Draws, weighting: Weighting) -> Tensor:
    r""":math:`\lambda/\sigma^2`, float64 with shape ``(B,)``."""
    weight = weighting(draws.process, draws.t)
    if weight.shape != draws.t.shape:
        raise ValueError(
            f"weighting must return one weight a time, shape {tuple(draws.t.shape)}, "
            f"got {tuple(weight.shape)}."
        )
    return weight.to(torch.float64) / draws.process.std(draws.t) ** 2


def _over_sigma(residual: Tensor, draws: Draws) -> Tensor:
    return residual / per_sample(draws.process.std(draws.t), residual)


def _square(values: Tensor) -> Tensor:
    return (values**2).flatten(1).sum(dim=1)


def _check_process(score: Score | LeaveOneOut, draws: Draws) -> None:
    ours, theirs = score.process, draws.process
    if ours is not theirs and (type(ours) is not type(theirs) or vars(ours) != vars(theirs)):
        raise ValueError(
            f"draws must be of the process of the score, {ours!r}, got {theirs!r}: their times "
            "do not mean the same noise."
        )
