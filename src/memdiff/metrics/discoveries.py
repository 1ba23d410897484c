r"""The flagged list: which samples are copies, at a stated false-discovery rate?

Over thresholds :math:`\tau` of the ratio, with :math:`T` and :math:`D` the distinct training and
held-out units whose closest sample has a ratio of at most :math:`\tau`, the list is made at the
largest :math:`\tau` with

.. math::
    \frac{N}{H} \, \frac{1 + D(\tau)}{\max(T(\tau), 1)} \le q .

Among the training units listed, the expected share that is there by chance is at most :math:`q`
where units are exchangeable and chance hits are independent of copies (Barber and Candes 2015).
Units and not samples are counted: repetitions of one fresh sample are one coincidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memdiff.metrics.competition import Competition
from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import clopper_pearson
from memdiff.metrics.metric_result import MetricResult, Null
from memdiff.metrics.tail import CLOSE, competed, signed_ratios
from memdiff.neighbors import RowData

__all__ = ["Discoveries", "discoveries"]


@dataclass(frozen=True)
class Discoveries(MetricResult):
    r"""Result of :func:`discoveries`.

    ``value`` is the share of flagged samples, ``scores`` those of
    :class:`~memdiff.metrics.TailTest`. ``interval`` takes the list as given; ``null`` is 0.

    Attributes:
        flagged: bool ``(M,)``.
        units: Number of distinct training units (points or groups) on the list.
        ratio: The threshold :math:`\tau`, or 0 for an empty list.
        rate: The false-discovery rate asked for.
        least_units: Fewest distinct training units that a list can hold. With fewer copied ones
            the list stays empty; more held-out points lower the number.
    """

    flagged: Tensor
    units: int
    ratio: float
    rate: float
    least_units: int


def discoveries(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    competition: Competition | None = None,
    rate: float = 0.1,
    within: float = CLOSE,
    level: float = 0.95,
) -> Discoveries:
    """Flag samples as copies, with a controlled false-discovery rate.

    Args:
        generated: Samples ``(M, *S)``.
        train: Training points ``(N, *S)``.
        heldout: Held-out points ``(H, *S)``.
        distances: Ready distances, in place of the three sets.
        competition: Ready competition, in place of all of them.
        rate: False-discovery rate :math:`q`.
        within: Largest ratio of a flagged sample.
        level: Coverage of the interval.

    Returns:
        Discoveries.

    Raises:
        ValueError: If there are no held-out points or the rate is not in (0, 1).

    References:
        Barber, Candes, *Controlling the false discovery rate via knockoffs*, Annals of Statistics
        43 (2015), the procedure with + 1; Elias, Gygi, Nature Methods 4 (2007), decoys of another
        number than targets. Reconstructed: units as hypotheses.
    """
    if not 0.0 < rate < 1.0:
        raise ValueError(f"rate must lie between 0 and 1, got {rate}.")
    result = competed(competition, distances, generated, train, heldout)
    order, ends = result.order(within)
    m = result.samples
    flagged = np.zeros(m, dtype=bool)
    units, ratio = 0, 0.0
    if len(order):
        targets = result.cells.train[order].cumsum()[ends - 1]
        decoys = result.cells.heldout[order].cumsum()[ends - 1]
        bound = result.odds * (1.0 + decoys) / np.maximum(targets, 1.0)
        fits = np.flatnonzero(bound <= rate * (1.0 + 1e-9))
        if len(fits):
            listed = order[: ends[fits[-1]]]
            units = round(float(targets[fits[-1]]))
            ratio = float(result.closest[listed].max())
            on_list = np.zeros(len(result.cells.train), dtype=bool)
            on_list[listed] = result.cells.target[listed] > 0.5
            close = result.ratios[result.sample] <= ratio
            flagged[result.sample[on_list[result.cell] & close]] = True
    hits = int(flagged.sum())
    return Discoveries(
        value=hits / m,
        scores=torch.from_numpy(signed_ratios(result)),
        interval=clopper_pearson(hits, m, level),
        null=Null(0.0, None, "decoys"),
        flagged=torch.from_numpy(flagged),
        units=units,
        ratio=ratio,
        rate=rate,
        least_units=int(np.ceil(result.odds / rate - 1e-9)),
    )
