r"""Closeness statistics: one number a point that is small for copies of training points.

``distance``
    :math:`d(g, train)`.
``local``
    :math:`d(g, train)/d(g, heldout)`: small on the local scale, and not for samples that are
    merely typical, where all points are close. For a held-out point the denominator leaves out
    the point itself, so it has one reference point less than a sample has: its distance is
    stochastically larger, its statistic smaller, and tests err to the safe side.
``ratio``
    :math:`d_1/d_2` of the two nearest training points of different groups of duplicates: a local
    scale that needs no held-out points.

Any metric will do. Ratios of cosine distances are the squares of those of lengths, so that the
order of points, and every test that rests on it, is that of the unit vectors.

A test compares the statistic of the samples with that of a *reference*: held-out points or, where
there are none, the training points themselves, each without its own group of duplicates.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from memdiff.metrics.distances import Distances

__all__ = ["Reference", "Statistic", "closeness"]

Statistic = Literal["distance", "local", "ratio"]
Reference = Literal["heldout", "train"]


def closeness(found: Distances, name: str, statistic: Statistic = "distance") -> Tensor:
    """The statistic of every point of a set.

    Args:
        found: The distances.
        name: ``"generated"``, ``"heldout"``, or ``"train"`` for training points seen by the
            others (leave-one-out over groups of duplicates).
        statistic: Which one; see the module.

    Returns:
        float64 with one value a point. 0/0 is 1 for ``local`` (equally close to both sets) and 0
        for ``ratio`` (a copy between two groups at no distance).

    Raises:
        ValueError: If ``local`` is asked for with fewer than 2 held-out points.
    """
    distinct = name == "train"
    if statistic == "ratio":
        near, second = found.to_train(name, 2, distinct=True).distances.unbind(1)
        return torch.where(second == 0, 0.0, near / second)
    near = found.to_train(name, distinct=distinct).distances[:, 0]
    if statistic == "distance":
        return near
    found.require_heldout("the local scale")
    if found.size("heldout") < 2:
        raise ValueError(
            "heldout must hold at least 2 points for a local scale, got 1: use the statistic "
            "'distance' or 'ratio'."
        )
    scale = found.to_heldout(name).distances[:, 0]
    return torch.where((near == 0) & (scale == 0), 1.0, near / scale)
