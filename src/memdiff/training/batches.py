"""Batches and random seeds of the training steps.

Everything random in step ``k`` of a run is a function of the seed and of ``k``. A run therefore
resumes exactly from its step number, with no state of generators to save, and ranks that share a
batch agree on it without talking.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

__all__ = ["batch_index", "step_seed"]

_ORDER, _STEP = 0, 1


def step_seed(seed: int, step: int, stream: int = 0) -> int:
    """Return a 32-bit seed for one step of a run, unrelated to those of other steps and streams.

    Args:
        seed: Non-negative seed of the run.
        step: Number of the step, from 0.
        stream: Which of several sources of randomness of the step.

    Returns:
        An integer below ``2**32``, all of the seed that torch's CPU engine keeps.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(_STEP, step, stream))
    return int(sequence.generate_state(1, np.uint32)[0])


def batch_index(count: int, batch_size: int | None, seed: int, step: int) -> Tensor:
    """Return the points of one step: epochs in fresh random orders, cut into batches end to end.

    Args:
        count: Number of training points.
        batch_size: Points a step; None, or at least ``count``, for all points in their order.
        seed: Non-negative seed of the run.
        step: Number of the step, from 0.

    Returns:
        int64 tensor with the size of the batch; a batch may cross from one epoch to the next.

    Example:
        >>> parts = [batch_index(6, 2, seed=0, step=step) for step in range(3)]
        >>> sorted(torch.cat(parts).tolist())
        [0, 1, 2, 3, 4, 5]
    """
    if batch_size is None or batch_size >= count:
        return torch.arange(count)
    parts = []
    position, missing = step * batch_size, batch_size
    while missing > 0:
        epoch, offset = divmod(position, count)
        part = _epoch(count, seed, epoch)[offset : offset + missing]
        parts.append(part)
        position, missing = position + len(part), missing - len(part)
    return torch.from_numpy(np.concatenate(parts))


@functools.lru_cache(maxsize=2)
def _epoch(count: int, seed: int, epoch: int) -> np.ndarray:
    sequence = np.random.SeedSequence(seed, spawn_key=(_ORDER, epoch))
    return np.random.Generator(np.random.Philox(sequence)).permutation(count)
