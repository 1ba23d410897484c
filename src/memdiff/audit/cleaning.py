"""Sets of which one was cleaned of duplicates: what can be compared all the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from memdiff.metrics.relabelling import train_counts

__all__ = ["compared_points", "first_of_each"]

_DRAWS = 999
_UNLIKELY = 0.01
_OF_ONE_SIZE = 0.05
_FRAMES = 3  # values, such as blank frames, that every set holds whatever its size


def compared_points(
    values: Mapping[str, Tensor], groups: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
    """Return what the tests compare, a note where that is not all, and a problem if it is unfair.

    The tests take the labels of single points for exchangeable. If one set was cleaned of
    duplicates and the other was not, they are not. Distinct values then are, where points were
    repeated by hand or both sets were of one size. Else, where values repeat by nature, the set
    that was larger before holds more of the rare ones, and no comparison is fair.
    """
    real = {name: values[name] for name in ("train", "heldout") if name in values}
    everything = {name: torch.arange(len(labels)) for name, labels in real.items()}
    if "heldout" not in values or groups or not _repeats_differ(real):
        return everything, (), ()
    first = {name: first_of_each(labels) for name, labels in real.items()}
    repeated = {name: len(labels) - len(first[name]) for name, labels in real.items()}
    if not any(repeated.values()):  # a split that has leaked, which is said of the overlap
        return everything, (), ()
    if (natural := _natural_repeats(real)) > _FRAMES and _own_values_differ(real):
        problem = (
            "Train and held-out cannot be compared: one was cleaned of duplicates and the other "
            f"was not, {natural} values repeat by nature, and the set that was larger before "
            "holds more of the rare ones, whatever the model does. Give both sets as they were "
            "split, before any cleaning."
        )
        return everything, (), (problem,)
    note = (
        f"{repeated['train']} training points and {repeated['heldout']} held-out points repeat "
        "others of their set, more unequally than a random split would make it: one of the sets "
        "was cleaned of duplicates, or filled with them. The tests count each distinct value of "
        "a set once."
    )
    return first, (note,), ()


def _natural_repeats(real: Mapping[str, Tensor]) -> int:
    """Number of values that one set repeats and the other holds as well."""
    shared = real["train"][torch.isin(real["train"], real["heldout"])].unique()
    several = []
    for labels in real.values():
        found, counts = labels.unique(return_counts=True)
        several.append(found[counts > 1])
    return int(torch.isin(shared, torch.cat(several)).sum())


def _own_values_differ(real: Mapping[str, Tensor]) -> bool:
    """Whether one set has more values that the other lacks, as a larger set has."""
    from scipy.stats import binomtest

    distinct = {name: labels.unique() for name, labels in real.items()}
    both = int(torch.isin(distinct["train"], distinct["heldout"]).sum())
    own = [len(values) - both for values in distinct.values()]
    return sum(own) > 0 and binomtest(own[0], sum(own)).pvalue <= _OF_ONE_SIZE


def first_of_each(labels: Tensor) -> Tensor:
    """Index of the first point of each value, increasing."""
    _, inverse = labels.unique(return_inverse=True)
    first = torch.full((int(inverse.max()) + 1,), len(labels))
    first.scatter_reduce_(0, inverse, torch.arange(len(labels)), "amin")
    return first.sort().values


def _repeats_differ(real: Mapping[str, Tensor]) -> bool:
    """Whether the numbers of repeated points in the two sets contradict a random split."""
    pool = torch.cat([real["train"], real["heldout"]])
    several = torch.bincount(pool).numpy()
    several = several[several > 1]
    if not len(several):
        return False
    train = len(real["train"])
    repeated = {name: np.zeros(_DRAWS) for name in real}
    # Values that occur equally often are drawn one by one all the same: each has its own count.
    counts = train_counts(several, train, len(pool), _DRAWS, 0)
    for occurrences, count in zip(several, counts, strict=True):
        repeated["train"] += np.maximum(count - 1, 0)
        repeated["heldout"] += np.maximum(occurrences - count - 1, 0)
    # Of both sets: in the larger one the repetitions hardly depend on what the smaller one has.
    for name, labels in real.items():
        observed = len(labels) - len(labels.unique())
        least = min(
            int((repeated[name] <= observed).sum()), int((repeated[name] >= observed).sum())
        )
        if 2.0 * (1 + least) / (_DRAWS + 1) <= _UNLIKELY / 2.0:
            return True
    return False
