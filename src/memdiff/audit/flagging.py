r"""The flagged list: which samples are copies?

A sample must be suspicious twice: closer to train than reference points are, and on the local
scale too. Its p-value is the larger of the two conformal p-values, which is valid where one of
them is, and Benjamini-Hochberg makes the list. A model with too little variance moves all
distances; by distance alone half of the list of such a model would be no copies.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from memdiff.metrics import (
    Conformal,
    Distances,
    benjamini_hochberg,
    clopper_pearson,
    closeness,
    conformal,
)
from memdiff.metrics.closeness import Reference, Statistic

__all__ = ["flag"]


def flag(found: Distances, reference: Reference, local: Statistic, rate: float) -> Conformal:
    """Flag samples.

    Args:
        found: The distances.
        reference: What the samples are compared with.
        local: The statistic of the local scale.
        rate: False-discovery rate of the list.

    Returns:
        Conformal whose scores are distances to train.
    """
    by_distance = conformal(distances=found, reference=reference, false_discovery_rate=rate)
    fresh = closeness(found, reference, local).sort().values
    samples = closeness(found, "generated", local).contiguous()
    count = torch.searchsorted(fresh, samples, right=True).to(torch.float64)
    p_values = torch.maximum(by_distance.p_values, (1.0 + count) / (1.0 + len(fresh)))
    flagged = benjamini_hochberg(p_values, rate)
    hits = int(flagged.sum())
    return replace(
        by_distance,
        value=hits / len(samples),
        interval=clopper_pearson(hits, len(samples)),
        p_values=p_values,
        flagged=flagged,
    )
