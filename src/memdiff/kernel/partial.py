"""Posterior quantities, and the sums over some of the training points that make them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

__all__ = ["LOGIT_FLOOR", "PartialPosterior", "Posterior"]

# Shifted logits are clamped here before exp: weights below 1e-30 change no digit, and denormal
# numbers, which would follow, slow the weighted sum by an order of magnitude.
LOGIT_FLOOR = -69.0


@dataclass(frozen=True)
class Posterior:
    r"""The posterior over training points at ``B`` queries.

    Attributes:
        mean: :math:`D = \sum_n w_n x_n`, shape ``(B, *S)``.
        log_density: :math:`\log p^N_t(x)`, normalised, shape ``(B,)``.
        entropy: Entropy of the weights in nats, shape ``(B,)``.
        effective_points: ``exp(entropy)``, between 1 and N, shape ``(B,)``.
        top_weight: Largest weight, shape ``(B,)``.
        top_index: Index of the training point that has it, int64, shape ``(B,)``.
        error_bound: Upper bound of the Euclidean error of ``mean``, shape ``(B,)``.
        residual: :math:`r = m D - x = \sigma^2 s_N`, shape ``(B, *S)``; accurate where
            subtracting ``x`` from ``m * mean`` would cancel.
    """

    mean: Tensor
    log_density: Tensor
    entropy: Tensor
    effective_points: Tensor
    top_weight: Tensor
    top_index: Tensor
    error_bound: Tensor
    residual: Tensor

    def __repr__(self) -> str:
        """One line: the queries, and between which values the weights are spread."""
        if not len(self.mean):
            return f"Posterior(0 queries of shape {tuple(self.mean.shape[1:])})"
        effective, top = (
            f"{float(values.min()):.4g} to {float(values.max()):.4g}"
            for values in (self.effective_points, self.top_weight)
        )
        return (
            f"Posterior({len(self.mean):,} queries of shape {tuple(self.mean.shape[1:])}, "
            f"effective points {effective}, top weight {top}, "
            f"error bound at most {float(self.error_bound.max()):.2g})"
        )

    def _repr_html_(self) -> str:
        return _table(
            f"Posterior at {len(self.mean):,} queries of shape {tuple(self.mean.shape[1:])}",
            {
                name: getattr(self, name)
                for name in (
                    "log_density",
                    "entropy",
                    "effective_points",
                    "top_weight",
                    "error_bound",
                )
            },
        )


def _table(caption: str, rows: dict[str, Tensor]) -> str:
    """Least, median and largest values, for a notebook."""
    lines = [
        f"<tr><th>{name.replace('_', ' ')}</th>"
        + "".join(f"<td>{float(v):.4g}</td>" for v in (x.min(), x.median(), x.max()))
        + "</tr>"
        for name, x in rows.items()
        if len(x)
    ]
    head = "<tr><th></th><th>least</th><th>median</th><th>largest</th></tr>"
    return f"<table><caption>{caption}</caption>{head}{''.join(lines)}</table>"


@dataclass
class PartialPosterior:
    """Sums over some of the training points, relative to the largest logit among them.

    Attributes:
        top_logit: Largest logit, shape ``(B,)``; ``-inf`` while no point has been seen.
        top_index: Index of the point that has it (the smallest one of several), shape ``(B,)``.
        total: Sum of ``exp(logit - top_logit)``, shape ``(B,)``.
        residual_sum: Sum of ``exp(logit - top_logit) (m x_n - x)``, shape ``(B, d)``.
        entropy_sum: Sum of ``exp(logit - top_logit) (logit - top_logit)``, shape ``(B,)``.
        logit_error: Bound of the absolute error of every logit, shape ``(B,)``.
        sum_error: Bound of what rounding and left-out points add to the Euclidean error of
            ``residual_sum / total``, shape ``(B,)``.
    """

    top_logit: Tensor
    top_index: Tensor
    total: Tensor
    residual_sum: Tensor
    entropy_sum: Tensor
    logit_error: Tensor
    sum_error: Tensor

    @classmethod
    def empty(cls, num: int, dim: int, device: torch.device) -> PartialPosterior:
        """The neutral element of :meth:`merge` for ``num`` queries in ``dim`` dimensions."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(
            top_logit=torch.full((num,), -math.inf, dtype=torch.float64, device=device),
            top_index=torch.full((num,), -1, dtype=torch.int64, device=device),
            total=zeros(num),
            residual_sum=zeros(num, dim),
            entropy_sum=zeros(num),
            logit_error=zeros(num),
            sum_error=zeros(num),
        )

    def merge(self, other: PartialPosterior) -> PartialPosterior:
        """Combine two disjoint sets of points; associative and commutative up to rounding."""
        top = torch.maximum(self.top_logit, other.top_logit)
        index = torch.where(other.top_logit > self.top_logit, other.top_index, self.top_index)
        tie = (other.top_logit == self.top_logit) & (other.top_index >= 0) & (self.top_index >= 0)
        index = torch.where(tie, torch.minimum(self.top_index, other.top_index), index)
        mine, others = self.rescaled(top), other.rescaled(top)
        return PartialPosterior(
            top_logit=top,
            top_index=index,
            total=mine[0] + others[0],
            residual_sum=mine[1] + others[1],
            entropy_sum=mine[2] + others[2],
            logit_error=torch.maximum(self.logit_error, other.logit_error),
            sum_error=torch.maximum(self.sum_error, other.sum_error),
        )

    def rescaled(self, top: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Total, residual sum and entropy sum relative to a logit ``top``, ``(B,)``."""
        # An empty part has zero sums, and -inf - -inf must not reach them: any finite shift does.
        shift = torch.where(self.top_logit == -math.inf, LOGIT_FLOOR, self.top_logit - top)
        factor = shift.exp()
        entropy = factor * (self.entropy_sum + shift.clamp_min(-700.0) * self.total)
        return factor * self.total, factor[:, None] * self.residual_sum, entropy

    def put(self, rows: Tensor, part: PartialPosterior) -> None:
        """Write the sums of some of the queries, in place."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(part, field.name)
