"""Identical rows: found by hashes, and told from chance by comparison."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from memdiff.sources import Rows

__all__ = [
    "equal_to_first",
    "identical_rows",
    "numbered",
    "row_hashes",
]

# Columns that are hashed first: most sets have no two rows that agree in all of them.
_COLUMNS = 24
_PAIRS_BYTES = 2**24
_MIX = -7046029254386353131


def identical_rows(rows: Rows) -> Tensor:
    """For each row the index of the first one that is identical, int64 ``(N,)``.

    Takes 32 bytes for each row, and blocks of 16 MB.
    """
    first = torch.arange(len(rows), device=rows.device)
    keys = row_hashes(rows)
    _, group, counts = keys.unique(return_inverse=True, return_counts=True)
    order = group.argsort(stable=True)
    left = order[counts[group[order]] > 1]
    # Each round settles the rows that equal the first one left of their hash; more than one is
    # needed only where different rows share a hash.
    while len(left):
        leader, same = equal_to_first(left, group[left], rows.gather, rows.features)
        first[left[same]] = leader[same]
        left = left[~same]
    return first


def equal_to_first(
    order: Tensor, group: Tensor, gather: Callable[[Tensor], Tensor], features: int
) -> tuple[Tensor, Tensor]:
    """The first row of the group of each row, and whether the two are equal.

    Args:
        order: Rows, those of a group one after the other, ``(M,)``.
        group: Their groups, ``(M,)``.
        gather: Rows of given indices.
        features: Number of elements of a row.
    """
    starts = torch.ones_like(order, dtype=torch.bool)
    starts[1:] = group[1:] != group[:-1]
    leader = order[starts.nonzero()[:, 0][starts.cumsum(0) - 1]]
    same = torch.empty_like(starts)
    for part in torch.arange(len(order), device=order.device).split(
        max(1, _PAIRS_BYTES // (24 * features))
    ):
        same[part] = (gather(order[part]) == gather(leader[part])).all(1)
    return leader, same


def row_hashes(rows: Rows) -> Tensor:
    """A 64-bit hash of each row, int64 ``(N,)``: equal rows have equal hashes.

    A few columns are hashed first, and whole rows only where those agree with another row's.
    """
    device, size = rows.device, max(1, 2**21 // rows.features)
    keys = torch.empty(len(rows), dtype=torch.int64, device=device)
    few = torch.linspace(0, rows.features - 1, min(_COLUMNS, rows.features), device=device).long()
    for start in range(0, len(rows), size):
        stop = min(start + size, len(rows))
        keys[start:stop] = _mixed(rows.read(start, stop)[:, few])
    if rows.features <= _COLUMNS:
        return keys
    _, group, counts = keys.unique(return_inverse=True, return_counts=True)
    alike = (counts[group] > 1).nonzero()[:, 0]
    for some in alike.split(size):
        keys[some] = _mixed(rows.gather(some))
    return keys


def _mixed(values: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(values.shape[1])
    limits = (-(2**63), 2**63 - 1, (values.shape[1],))
    weights = torch.randint(*limits, generator=generator, dtype=torch.int64)
    weights = (weights | 1).to(values.device)
    bits = (values.to(torch.float64) + 0.0).view(torch.int64)  # + 0.0: one sign of zero
    # The low bits of short numbers are zero: spread the high ones before the sum.
    bits = bits * _MIX
    return ((bits ^ (bits >> 32)) * weights).sum(1)


def numbered(labels: Tensor) -> Tensor:
    """Labels 0, 1, ... in the order in which groups first appear."""
    _, inverse = labels.unique(return_inverse=True)
    position = torch.arange(len(labels), device=labels.device)
    first = torch.full((int(inverse.max()) + 1,), len(labels), device=labels.device)
    first.scatter_reduce_(0, inverse, position, "amin")
    return first.argsort().argsort()[inverse]
