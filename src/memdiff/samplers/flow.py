r"""The reverse-time flow of a score, as samplers see it.

.. math::
    dx = \left[f x - \tfrac{1 + \eta^2}{2}\, g^2\, s(x, t)\right] dt + \eta\, g\, dW,

integrated from ``t_max`` down. :math:`\eta = 0` is the probability-flow ODE and :math:`\eta = 1`
the reverse SDE (Song et al. 2021, equations 6 and 13; arXiv:2501.15785).

The flow is evaluated through the residual :math:`r = \sigma^2 s`, which stays finite as
:math:`\sigma \to 0`: :math:`g^2 s = (g^2 / \sigma^2)\, r`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from memdiff.kernel import Batch
from memdiff.scores.base import Score, per_sample

__all__ = ["ReverseFlow"]


class ReverseFlow:
    """A score with the conditions of one batch, which counts its own evaluations.

    All results are float64. ``rows`` names the samples of the batch that the points belong to,
    for samplers that drop finished samples; None means all of them, in order.

    Args:
        score: The score.
        y: Conditions of the batch with shape ``(B,)`` or ``(B, k)``, or None.

    Attributes:
        score: The score.
        process: The forward process of the score.
        batch: What exact scores remember of the batch, and what they did.
        calls: Number of calls of the score so far.
        evaluations: Number of points at which the score was evaluated so far.
    """

    def __init__(self, score: Score, y: Tensor | None = None) -> None:
        self.batch = Batch()
        self.score = score
        self.process = score.process
        self.y = y
        self.calls = 0
        self.evaluations = 0

    def residual(self, x: Tensor, t: Tensor, rows: Tensor | None = None) -> Tensor:
        r"""The residual :math:`r = \sigma^2 s` at ``x``.

        Args:
            x: Points with shape ``(B, *S)``, float64.
            t: Time with shape ``()`` or ``(B,)``, float64.
            rows: Samples that the points belong to, or None.

        Returns:
            Tensor with shape ``(B, *S)``.

        Raises:
            ValueError: If the score returns another shape, or a value that is not finite.
        """
        return self._evaluate(self.score.residual, x, t, rows)

    def velocity(
        self, x: Tensor, t: Tensor, rows: Tensor | None = None, *, eta: float = 0.0
    ) -> Tensor:
        r"""The drift :math:`f x - \frac{1 + \eta^2}{2} g^2 s` of the reverse process.

        At :math:`\sigma = 0`, where :math:`(g^2 / \sigma^2) r` is 0/0, the score itself is used:
        regularised scores are finite there.

        Args:
            x: Points with shape ``(B, *S)``, float64.
            t: Time with shape ``()`` or ``(B,)``, float64.
            rows: Samples that the points belong to, or None.
            eta: Noise level of the reverse process.

        Returns:
            Tensor with shape ``(B, *S)``.

        Raises:
            ValueError: As :meth:`residual`; in particular for a score that is infinite at the end
                of the process.
        """
        variance = self.process.std(t) ** 2
        strength = 0.5 * (1.0 + eta**2) * self.process.diffusion(t) ** 2
        drift = per_sample(self.process.drift(t), x) * x
        singular = variance == 0
        if not bool(singular.any()):
            return drift - per_sample(strength / variance, x) * self.residual(x, t, rows)
        if bool(singular.all()):
            return drift - per_sample(strength, x) * self._evaluate(self.score, x, t, rows)
        pull = torch.empty_like(x)
        for group, quantity, factor in (
            (~singular, self.score.residual, strength / variance),
            (singular, self.score, strength),
        ):
            some = None if rows is None and self.y is None else group.nonzero().squeeze(1)
            members = some if rows is None or some is None else rows[some]
            value = self._evaluate(quantity, x[group], t[group], members)
            pull[group] = per_sample(factor[group], x) * value
        return drift - pull

    def exponential_step(self, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        r"""Solve the flow from ``t`` to ``t_next`` exactly, with the denoiser held fixed.

        In :math:`\hat x = x/m` and :math:`\rho = \sigma/m`, the flow is
        :math:`d\hat x / d\rho = -(r/m) / \rho`, and holding :math:`D = \hat x + r/m` gives
        :math:`\hat x' = \hat x + (1 - \rho'/\rho)\, r/m`. To ``t_next = 0`` it returns :math:`D`.

        Args:
            x: Points with shape ``(B, *S)``, float64.
            t: Time with shape ``()``, float64, positive.
            t_next: Next time with shape ``()``, float64, from 0 to ``t``.

        Returns:
            Tensor with shape ``(B, *S)``.
        """
        shrink = 1.0 - self.process.ratio(t_next) / self.process.ratio(t)
        scaling = self.process.scale(t_next) / self.process.scale(t)
        return scaling * (x + shrink * self.residual(x, t))

    def _evaluate(
        self,
        quantity: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        x: Tensor,
        t: Tensor,
        rows: Tensor | None,
    ) -> Tensor:
        y = self.y if self.y is None or rows is None else self.y[rows]
        with self.batch.follow(rows):
            value = quantity(x, t, y)
        self.calls += 1
        self.evaluations += x.shape[0]
        name = type(self.score).__name__
        if value.shape != x.shape:
            raise ValueError(
                f"score must return the shape of x, {tuple(x.shape)}, "
                f"but {name} returned {tuple(value.shape)}."
            )
        if not bool(torch.isfinite(value).all()):
            time = float(t.min())
            remedy = (
                "the score is singular there: pass t_end > 0 or the LogTime sampler"
                if float(self.process.std(time)) == 0.0
                else "check the score, or pass a larger t_end"
            )
            raise ValueError(
                f"score must be finite along the flow, but {name} returned NaN or infinity at "
                f"t = {time:g}; {remedy}."
            )
        return value.to(torch.float64)
