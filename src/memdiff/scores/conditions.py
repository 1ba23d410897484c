r"""Training conditions: which training points a query may use, and with what kernel weight.

At a training condition the minimiser of conditional score matching uses only the points that
share it. The kernel :math:`K_h(y - y_n) = \exp(-|y - y_n|^2 / (2 h^2))` extends it between them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Conditions"]


class Conditions(nn.Module):
    r"""The conditions of the training points.

    Args:
        values: Labels with shape ``(N,)`` or vectors with shape ``(N, k)``.
        num_points: Number of training points N.
        bandwidth: Kernel width :math:`h` for vectors; 0 asks for equality.

    Attributes:
        known: The conditions that occur, ``(L,)`` or ``(L, k)``.
        labels: Which of them each training point has, int64 ``(N,)``.

    Raises:
        ValueError: If shapes do not match or the bandwidth is out of range.
    """

    values: Tensor
    known: Tensor
    labels: Tensor

    def __init__(self, values: Tensor, num_points: int, bandwidth: float) -> None:
        super().__init__()
        values = torch.as_tensor(values)
        if values.ndim not in (1, 2) or len(values) != num_points:
            raise ValueError(
                f"conditions must have shape ({num_points},) for labels or ({num_points}, k) for "
                f"vectors, got {tuple(values.shape)}."
            )
        if not bandwidth >= 0:
            raise ValueError(f"condition_bandwidth must be non-negative, got {bandwidth}.")
        if values.ndim == 1 and bandwidth > 0:
            raise ValueError(
                "condition_bandwidth applies to vector conditions with shape (N, k), labels have "
                "no distance: reshape one-dimensional vectors to (N, 1)."
            )
        self.register_buffer("values", values if values.ndim == 1 else values.to(torch.float64))
        self.bandwidth = float(bandwidth)
        known, labels = torch.unique(self.values, dim=0, return_inverse=True)
        self.register_buffer("known", known, persistent=False)
        self.register_buffer("labels", labels, persistent=False)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super()._load_from_state_dict(*arguments, **options)
        self.known, self.labels = torch.unique(self.values, dim=0, return_inverse=True)

    def at(self, y: Tensor, num_queries: int) -> ConditionTerms:
        """The terms that the conditions ``y`` of some queries add to the logits.

        Raises:
            ValueError: If ``y`` has the wrong shape or, with bandwidth 0, holds a condition that
                no training point has.
        """
        y = torch.as_tensor(y, device=self.values.device)
        expected = (num_queries, *self.values.shape[1:])
        if y.shape != expected:
            raise ValueError(f"y must have shape {tuple(expected)}, got {tuple(y.shape)}.")
        if self.values.ndim == 2:
            y = y.to(torch.float64)
        labels = self._labels_of(y) if self.bandwidth == 0.0 else None
        return ConditionTerms(self.values, y, self.bandwidth, labels)

    def _labels_of(self, y: Tensor) -> Tensor:
        """Which of the known conditions each one is, int64 ``(B,)``."""
        labels = torch.full((len(y),), -1, device=y.device)
        conditions, which = torch.unique(y, dim=0, return_inverse=True)
        for place, condition in enumerate(conditions):
            same = self.known == condition
            found = (same if self.known.ndim == 1 else same.all(1)).nonzero()[:, 0]
            if not len(found):
                raise ValueError(
                    f"y holds the condition {condition.tolist()}, which no training point has, "
                    "and there the empirical loss says nothing: use a training condition, or "
                    "vector conditions with condition_bandwidth > 0."
                )
            labels[which == place] = found[0]
        return labels


class ConditionTerms:
    """The terms in the form that the posterior engine asks for.

    Attributes:
        bound: Largest finite magnitude of a term.
        labels: Which of the known conditions each query has, ``(B,)``; None with a kernel.
    """

    def __init__(self, values: Tensor, y: Tensor, bandwidth: float, labels: Tensor | None) -> None:
        self.values, self.y, self.bandwidth, self.labels = values, y, bandwidth, labels
        self.bound = 0.0
        if bandwidth > 0 and len(y):
            reach = float(values.norm(dim=1).max() + y.norm(dim=1).max())
            self.bound = reach**2 / (2 * bandwidth**2)

    def __call__(self, queries: Tensor, points: slice | Tensor) -> Tensor:
        """Terms of some queries ``(B',)`` and points (a slice, or ``(B', K)``): ``(B', K)``."""
        theirs = self.values[points]
        if isinstance(points, slice):
            theirs = theirs[None]
        mine = self.y[queries][:, None]
        if self.bandwidth > 0:
            return -((mine - theirs) ** 2).sum(2) / (2 * self.bandwidth**2)
        same = mine == theirs
        if self.values.ndim == 2:
            same = same.all(2)
        return torch.where(same, 0.0, -math.inf).to(torch.float64)
