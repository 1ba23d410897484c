"""One call of an empirical score: arguments checked, kernel chosen, Jacobian known."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from memdiff.kernel import PartialPosterior, Queries
from memdiff.kernel.labels import LabelledEngine
from memdiff.kernel.trajectories import Trajectory
from memdiff.processes import ForwardProcess
from memdiff.scores.base import expand_time
from memdiff.scores.conditions import Conditions, ConditionTerms
from memdiff.scores.kernels import Kernels

__all__ = ["DifferentiableResidual", "ScoreQuery"]


class Queried(Protocol):
    """What a query needs of an empirical score."""

    process: ForwardProcess
    kernels: Kernels
    conditions: Conditions | None

    @property
    def shape(self) -> torch.Size:
        """Shape ``S`` of one point."""
        ...

    @property
    def num_points(self) -> int:
        """Number of training points."""
        ...

    def truncation(self) -> tuple[float, Trajectory | None]:
        """Mass that a call may leave out, and what is remembered where a sampler asks."""
        ...


class ScoreQuery:
    """One validated call of an empirical score: all its points at fixed times and conditions."""

    def __init__(
        self,
        score: Queried,
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
        self.kernels = score.kernels
        self.tolerance, self.trajectory = score.truncation()
        self.scale = score.process.scale(time)
        tau = torch.as_tensor(temperature, dtype=torch.float64, device=x.device)
        if not bool((tau > 0).all()):
            raise ValueError(f"temperature must be positive, got {temperature}.")
        # Dividing the logits by a temperature is the same as widening sigma in them.
        self.width = score.process.std(time) * tau.sqrt()
        self.exclude = _exclusion(exclude, x, score.num_points)
        self.terms: ConditionTerms | None = None
        self.labels: Tensor | None = None
        if y is not None:
            if score.conditions is None:
                raise ValueError(
                    "y was given, but the score has no conditions: pass conditions= to it."
                )
            self.terms = score.conditions.at(y, len(x))
            if self.kernels.labelled is not None:
                self.labels = self.terms.labels

    @property
    def radius(self) -> float | Tensor:
        """Largest distance of a point from the mean of those that a query may use."""
        if self.labels is None:
            return self.kernels.whole.radius
        return self._labelled.radius(self.labels)

    @property
    def _labelled(self) -> LabelledEngine:
        assert self.kernels.labelled is not None
        return self.kernels.labelled

    def _at(self, x: Tensor) -> Queries:
        exclude, terms = self.exclude, self.terms
        if self.labels is not None or terms is None:
            return Queries.of(x.flatten(1), self.scale, self.width, exclude=exclude)
        return Queries.of(
            x.flatten(1), self.scale, self.width, terms=terms, bound=terms.bound, exclude=exclude
        )

    def sums(self, x: Tensor, *, entropy: bool = True) -> PartialPosterior:
        """The sums at ``x``, ``(B, *S)``."""
        queries = self._at(x.detach())
        how = {"tolerance": self.tolerance, "trajectory": self.trajectory, "entropy": entropy}
        if self.labels is not None:
            return self._labelled(queries, self.labels, **how)  # type: ignore[arg-type]
        return self.kernels.whole(queries, **how)  # type: ignore[arg-type]

    def residual(self, x: Tensor) -> Tensor:
        """The residual at ``x``, of its shape and dtype."""
        part = self.sums(x, entropy=False)
        return (part.residual_sum / part.total[:, None]).reshape(x.shape).to(x.dtype)

    def weights(self, x: Tensor) -> Tensor:
        """All weights at ``x``, ``(B, N)``."""
        if self.labels is not None:
            return self._labelled.weights(self._at(x), self.labels)
        return self.kernels.whole.weights(self._at(x))

    def residual_jacobian_product(self, x: Tensor, vectors: Tensor) -> Tensor:
        """Product of the (symmetric) Jacobian of the residual with one vector per query."""
        queries, vector = self._at(x), vectors.flatten(1).to(torch.float64)
        if self.labels is not None:
            product = self._labelled.covariance_product(queries, vector, self.labels)
        else:
            product = self.kernels.whole.covariance_product(queries, vector)
        product = (self.scale / self.width).pow(2)[:, None] * product - vector
        return product.reshape(x.shape).to(x.dtype)


class DifferentiableResidual(torch.autograd.Function):
    """The residual with the exact product of its Jacobian, without storing the weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, query: ScoreQuery) -> Tensor:  # noqa: ANN401, D102
        ctx.save_for_backward(x)
        ctx.query = query
        return query.residual(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401, D102
        (x,) = ctx.saved_tensors
        return ctx.query.residual_jacobian_product(x, grads[0]), None


def _exclusion(exclude: Tensor | None, x: Tensor, num_points: int) -> Tensor | None:
    if exclude is None:
        return None
    exclude = torch.as_tensor(exclude, device=x.device)
    if exclude.shape != (len(x),) or exclude.is_floating_point():
        raise ValueError(
            f"exclude must hold one index per query, integers with shape ({len(x)},), "
            f"got {exclude.dtype} with shape {tuple(exclude.shape)}."
        )
    if bool(((exclude < -1) | (exclude >= num_points)).any()):
        raise ValueError(f"exclude must lie in -1 .. {num_points - 1}.")
    return exclude.to(torch.int64)
