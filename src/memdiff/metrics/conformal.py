r"""Conformal p-values: which samples are closer to train than held-out points are?

With a statistic :math:`s` that is small for copies,

.. math::
    p(g) = \frac{1 + \#\{h : s(h) \le s(g)\}}{1 + H},

is valid for a sample exchangeable with the held-out points: :math:`P(p \le u) \le u`. The
Benjamini-Hochberg procedure then bounds the expected share of false entries in the list of flagged
samples (false-discovery rate).

Any statistic of :mod:`memdiff.metrics.closeness` will do: :func:`conformal` takes the distance,
:func:`conformal_local` the distance on the local scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.metrics.closeness import Reference, Statistic, closeness
from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import clopper_pearson
from memdiff.metrics.result import MetricResult, Null
from memdiff.neighbors import RowData

__all__ = ["Conformal", "benjamini_hochberg", "conformal", "conformal_local"]


@dataclass(frozen=True)
class Conformal(MetricResult):
    """Result of :func:`conformal` and :func:`conformal_local`.

    ``value`` is the share of flagged samples, ``scores`` the statistic of each sample (small is
    suspicious). ``interval`` takes the threshold as given; ``null`` is the rate below which false
    discoveries stay: with no copies at all, a flagged list appears with probability at most
    ``false_discovery_rate``.

    Attributes:
        p_values: float64 ``(M,)``.
        flagged: bool ``(M,)``: the list of Benjamini and Hochberg.
        indices: int64 ``(M,)``: nearest training point of each sample.
        false_discovery_rate: The level of the list.
        least_flagged: Fewest samples that the list can hold if it holds any, given the
            resolution ``1 / (1 + H)`` of the p-values. Where it is above ``M``, no list is
            possible and more held-out points are needed.
    """

    p_values: Tensor
    flagged: Tensor
    indices: Tensor
    false_discovery_rate: float
    least_flagged: int


def benjamini_hochberg(p_values: Tensor, rate: float) -> Tensor:
    """The step-up procedure: which hypotheses are rejected at a false-discovery rate.

    Args:
        p_values: ``(M,)``.
        rate: False-discovery rate, between 0 and 1.

    Returns:
        bool ``(M,)``.

    Raises:
        ValueError: If ``rate`` is out of range.

    References:
        Benjamini, Hochberg, *Controlling the False Discovery Rate*, JRSS B 57 (1995).

    Example:
        >>> benjamini_hochberg(torch.tensor([0.01, 0.9, 0.04, 0.03]), 0.06).tolist()
        [True, False, True, True]
    """
    if not 0.0 < rate < 1.0:
        raise ValueError(f"false_discovery_rate must lie between 0 and 1, got {rate}.")
    m = len(p_values)
    ordered, order = p_values.to(torch.float64).sort()
    line = rate * torch.arange(1, m + 1, dtype=torch.float64, device=p_values.device) / m
    # The products must not decide a tie with the line by their last digit.
    below = (ordered <= line * (1.0 + 1e-12)).nonzero()
    flagged = torch.zeros(m, dtype=torch.bool, device=p_values.device)
    if len(below):
        flagged[order[: int(below[-1]) + 1]] = True
    return flagged


def conformal(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    reference: Reference = "heldout",
    false_discovery_rate: float = 0.1,
    level: float = 0.95,
) -> Conformal:
    """Flag samples that are closer to train than held-out points are.

    Args:
        generated: Samples ``(M, *S)``.
        train: Training points ``(N, *S)``.
        heldout: Held-out points ``(H, *S)``, required unless ``reference`` is ``"train"``.
        distances: Ready distances, in place of the three sets.
        reference: What the samples are compared with. ``"train"``, training points each seen by
            the others, needs no held-out points; validity is then approximate.
        false_discovery_rate: Level of the list of flagged samples.
        level: Coverage of the interval.

    Returns:
        Conformal.

    Raises:
        ValueError: If there are no held-out points or the rate is out of range.

    References:
        Bates, Candes, Lei, Romano, Sesia, *Testing for Outliers with Conformal p-values*, Annals
        of Statistics 51 (2023): validity, and Benjamini-Hochberg on p-values that share the
        held-out points.
    """
    found = Distances.resolve(distances, generated, train, heldout)
    return _flag(found, "distance", reference, false_discovery_rate, level)


def conformal_local(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    false_discovery_rate: float = 0.1,
    level: float = 0.95,
) -> Conformal:
    r"""Flag samples whose distance to train is small on the local scale :math:`d(g, heldout)`.

    Args:
        generated: Samples ``(M, *S)``.
        train: Training points ``(N, *S)``.
        heldout: Held-out points ``(H, *S)``, at least 2.
        distances: Ready distances, in place of the three sets.
        false_discovery_rate: Level of the list of flagged samples.
        level: Coverage of the interval.

    Returns:
        Conformal. A sample at distance 0 from both sets has the statistic 1.

    Raises:
        ValueError: If there are fewer than 2 held-out points or the rate is out of range.

    References:
        As :func:`conformal`. Reconstructed: the statistic with leave-one-out scale.
    """
    found = Distances.resolve(distances, generated, train, heldout)
    return _flag(found, "local", "heldout", false_discovery_rate, level)


def _flag(
    found: Distances, statistic: Statistic, reference: Reference, rate: float, level: float
) -> Conformal:
    if reference == "heldout":
        found.require_heldout("conformal p-values")
    samples = closeness(found, "generated", statistic)
    fresh = closeness(found, reference, statistic)
    count = torch.searchsorted(fresh.sort()[0], samples.contiguous(), right=True)
    p_values = (1.0 + count.to(torch.float64)) / (1.0 + len(fresh))
    flagged = benjamini_hochberg(p_values, rate)
    hits = int(flagged.sum())
    return Conformal(
        value=hits / len(samples),
        scores=samples,
        interval=clopper_pearson(hits, len(samples), level),
        null=Null(0.0, None, f"no list with probability {1.0 - rate:g} at least"),
        p_values=p_values,
        flagged=flagged,
        indices=found.to_train("generated").indices[:, 0],
        false_discovery_rate=rate,
        least_flagged=math.ceil(len(samples) / (rate * (1 + len(fresh))) - 1e-9),
    )
