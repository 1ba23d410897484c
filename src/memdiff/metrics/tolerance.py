r"""Tolerance fraction: the share of samples within a distance of a training point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import Interval, clopper_pearson
from memdiff.metrics.metric_result import MetricResult, Null
from memdiff.neighbors import RowData

__all__ = ["ToleranceFraction", "tolerance_fraction"]


@dataclass(frozen=True)
class ToleranceFraction(MetricResult):
    """Result of :func:`tolerance_fraction`.

    ``value``, ``interval`` and ``null`` are those of the first tolerance. ``scores`` are the
    distances :math:`d_1`; small is suspicious.

    Attributes:
        tolerances: The tolerances, in the order given.
        values: The fraction at each.
        intervals: Its Clopper-Pearson interval.
        nulls: The same fraction of the held-out points, or None without them.
    """

    tolerances: tuple[float, ...]
    values: tuple[float, ...]
    intervals: tuple[Interval, ...]
    nulls: tuple[Null | None, ...]


def tolerance_fraction(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    tolerances: float | Sequence[float] = (0.01, 0.05, 0.1, 0.5),
    level: float = 0.95,
) -> ToleranceFraction:
    r"""Share of samples with :math:`d_1 < \mathrm{tol}` to the nearest training point.

    Args:
        generated: Samples ``(M, *S)``.
        train: Training points ``(N, *S)``.
        heldout: Held-out points ``(H, *S)``, for the null.
        distances: Ready distances, in place of the three sets.
        tolerances: One or more distances, in the units of the data, above 0.
        level: Coverage of the intervals.

    Returns:
        ToleranceFraction.

    Raises:
        ValueError: If a tolerance is not positive, or as :class:`memdiff.metrics.Distances`.

    References:
        arXiv:2501.15785, numerical experiments: tolerances 0.01, 0.05, 0.1 and 0.5.

    Example:
        >>> import torch
        >>> train = torch.tensor([[0.0], [1.0]])
        >>> result = tolerance_fraction(
        ...     generated=torch.tensor([[0.001], [0.5]]), train=train, tolerances=(0.01, 0.6)
        ... )
        >>> result.values
        (0.5, 1.0)
    """
    chosen = (tolerances,) if isinstance(tolerances, (int, float)) else tuple(tolerances)
    if not chosen or not all(0.0 < tol < math.inf for tol in chosen):
        raise ValueError(f"tolerances must be positive and finite, got {chosen}.")
    found = Distances.resolve(distances, generated, train, heldout)
    scores = found.to_train("generated").distances[:, 0]
    hits = [_below(scores, tol) for tol in chosen]
    intervals = tuple(clopper_pearson(hit, len(scores), level) for hit in hits)
    nulls: tuple[Null | None, ...] = (None,) * len(chosen)
    if found.has_heldout:
        fresh = found.to_train("heldout").distances[:, 0]
        nulls = tuple(
            Null(
                _below(fresh, tol) / len(fresh),
                clopper_pearson(_below(fresh, tol), len(fresh), level),
                "held-out points",
            )
            for tol in chosen
        )
    values = tuple(hit / len(scores) for hit in hits)
    return ToleranceFraction(
        value=values[0],
        scores=scores,
        interval=intervals[0],
        null=nulls[0],
        tolerances=chosen,
        values=values,
        intervals=intervals,
        nulls=nulls,
    )


def _below(distances: Tensor, tolerance: float) -> int:
    return int((distances < tolerance).sum())
