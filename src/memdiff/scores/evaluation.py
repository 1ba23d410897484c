"""One evaluation of an empirical score: arguments checked, posterior chosen, Jacobian known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from memdiff.kernel import PartialPosterior
from memdiff.kernel.labelled import LabelledEngine
from memdiff.kernel.sharded import Engine
from memdiff.scores.base import expand_time
from memdiff.scores.conditions import ConditionTerms

if TYPE_CHECKING:
    from memdiff.scores.empirical import EmpiricalScore

__all__ = ["DifferentiableResidual", "Evaluation"]


class Evaluation:
    """One validated call of the engine, for all queries at fixed times and conditions."""

    def __init__(
        self,
        score: EmpiricalScore,
        x: Tensor,
        t: float | Tensor,
        y: Tensor | None,
        exclude: Tensor | None,
        temperature: Tensor | float,
    ) -> None:
        if x.shape[1:] != score.shape or not x.is_floating_point():
            raise ValueError(
                f"x must be floating point with shape (B, {', '.join(map(str, score.shape))}) as "
                f"the training data, got {x.dtype} with shape {tuple(x.shape)}."
            )
        time = expand_time(t, x)
        self.tolerance, self.trajectory = score.tolerance or 0.0, score._trajectory
        self.scale = score.process.scale(time)
        self.sigma = score.process.std(time)
        tau = torch.as_tensor(temperature, dtype=torch.float64, device=x.device)
        if not bool((tau > 0).all()):
            raise ValueError(f"temperature must be positive, got {temperature}.")
        # Dividing the logits by a temperature is the same as widening sigma in them.
        self.width = self.sigma * tau.sqrt()
        self.exclude = _exclusion(exclude, x, score.num_points)
        self.terms: ConditionTerms | None = None
        self.labelled: LabelledEngine | None = None
        if y is not None:
            if score.conditions is None:
                raise ValueError(
                    "y was given, but the score has no conditions: pass conditions= to it."
                )
            self.terms = score.conditions.at(y, len(x))
            self.labelled = score.posteriors.labelled
        self.posteriors = score.posteriors

    @property
    def engine(self) -> Engine:
        """The posterior over all points, for queries without a label."""
        return self.posteriors.whole

    @property
    def labels(self) -> Tensor:
        """The labels of the queries, ``(B,)``."""
        assert self.terms is not None and self.terms.labels is not None
        return self.terms.labels

    @property
    def radius(self) -> float | Tensor:
        """Largest distance of a point from the mean of those that a query may use."""
        return self.engine.radius if self.labelled is None else self.labelled.radius(self.labels)

    def partial(self, x: Tensor, *, entropy: bool = True) -> PartialPosterior:
        """The sums at ``x``, ``(B, *S)``."""
        queries = (x.detach().reshape(len(x), -1), self.scale, self.width)
        if self.labelled is not None:
            return self.labelled(
                *queries,
                labels=self.labels,
                exclude=self.exclude,
                tolerance=self.tolerance,
                trajectory=self.trajectory,
                entropy=entropy,
            )
        return self.engine(
            *queries,
            log_prior=self.terms,
            log_prior_bound=0.0 if self.terms is None else self.terms.bound,
            exclude=self.exclude,
            tolerance=self.tolerance,
            trajectory=self.trajectory,
            entropy=entropy,
        )

    def residual(self, x: Tensor) -> Tensor:
        """The residual at ``x``, of its shape and dtype."""
        part = self.partial(x, entropy=False)
        return (part.residual_sum / part.total[:, None]).reshape(x.shape).to(x.dtype)

    def weights(self, x: Tensor) -> Tensor:
        """All weights at ``x``, ``(B, N)``."""
        queries = (x.reshape(len(x), -1), self.scale, self.width)
        if self.labelled is not None:
            return self.labelled.weights(*queries, labels=self.labels, exclude=self.exclude)
        return self.engine.weights(*queries, log_prior=self.terms, exclude=self.exclude)

    def residual_jacobian_product(self, x: Tensor, vectors: Tensor) -> Tensor:
        """Product of the (symmetric) Jacobian of the residual with one vector a query."""
        flat, vector = x.reshape(len(x), -1), vectors.reshape(len(x), -1).to(torch.float64)
        queries = (flat, self.scale, self.width, vector)
        if self.labelled is not None:
            product = self.labelled.covariance_product(
                *queries, labels=self.labels, exclude=self.exclude
            )
        else:
            product = self.engine.covariance_product(
                *queries, log_prior=self.terms, exclude=self.exclude
            )
        product = (self.scale / self.width).pow(2)[:, None] * product - vector
        return product.reshape(x.shape).to(x.dtype)


class DifferentiableResidual(torch.autograd.Function):
    """The residual with the exact product of its Jacobian, without storing the weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, evaluate: Evaluation) -> Tensor:  # noqa: ANN401, D102
        ctx.save_for_backward(x)
        ctx.evaluate = evaluate
        return evaluate.residual(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401, D102
        (x,) = ctx.saved_tensors
        return ctx.evaluate.residual_jacobian_product(x, grads[0]), None


def _exclusion(exclude: Tensor | None, x: Tensor, num_points: int) -> Tensor | None:
    if exclude is None:
        return None
    exclude = torch.as_tensor(exclude, device=x.device)
    if exclude.shape != (len(x),) or exclude.is_floating_point():
        raise ValueError(
            f"exclude must hold one index a query, integers with shape ({len(x)},), "
            f"got {exclude.dtype} with shape {tuple(exclude.shape)}."
        )
    if bool(((exclude < -1) | (exclude >= num_points)).any()):
        raise ValueError(f"exclude must lie in -1 .. {num_points - 1}.")
    return exclude.to(torch.int64)
