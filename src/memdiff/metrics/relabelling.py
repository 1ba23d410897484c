"""Random labels for a pool: which units would be training units if chance had chosen them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["hypergeometric_tail", "train_counts"]


def train_counts(
    blocks: np.ndarray, train: int, total: int, draws: int, seed: int
) -> Iterator[np.ndarray]:
    """Numbers of training units in disjoint blocks of units, under random labels.

    The blocks are drawn one after the other, each from the hypergeometric law given those before
    it: the exact law of a random relabelling, in memory that does not grow with the pool.

    Args:
        blocks: Number of units in each block, int64 ``(K,)``, adding up to at most ``total``.
        train: Number of training units in the pool.
        total: Number of units in the pool.
        draws: Number of relabellings.
        seed: Seed.

    Yields:
        For each block, int64 ``(draws,)``.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    left, units = np.full(draws, train, dtype=np.int64), total
    for block in blocks.tolist():
        drawn = rng.hypergeometric(left, units - left, block)
        left, units = left - drawn, units - block
        yield drawn


def hypergeometric_tail(drawn: int, train: int, total: int) -> np.ndarray:
    r"""``P(X >= x)`` for ``x = 0, ..., drawn``, of the training units among ``drawn`` units.

    Summed from the far end, so that small tails keep their digits.

    Args:
        drawn: Number of units drawn without replacement.
        train: Number of training units in the pool.
        total: Number of units in the pool.

    Returns:
        float64 ``(drawn + 1,)``.
    """
    import numpy as np
    from scipy.stats import hypergeom

    logs = hypergeom.logpmf(np.arange(drawn + 1), total, train, drawn)
    return np.minimum(np.exp(np.logaddexp.accumulate(logs[::-1])[::-1]), 1.0)
