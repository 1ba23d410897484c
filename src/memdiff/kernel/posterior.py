"""Posterior quantities at some queries."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Posterior"]


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
        error_bound: Bound of the Euclidean error of ``mean``, shape ``(B,)``. The part of what
            was left out holds for certain; that of float32 and float64 rounding holds with
            probability above 0.999 (:mod:`memdiff.kernel.rounding`).
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
