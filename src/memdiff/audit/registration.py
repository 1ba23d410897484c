"""Competition between registered images: which pool image is a sample an edited copy of?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from memdiff.data import Dataset
from memdiff.features import registered_residual
from memdiff.features.descriptor import signed_pixels
from memdiff.metrics import Competition, Distances, compete_again
from memdiff.run.ranks import Ranks

__all__ = ["register"]

_SAMPLES = 2000
"""Samples that are registered, at most: those with the closest ratios before."""

_PAIRS = 4096  # images held at a time


def register(
    found: Distances,
    first: Competition,
    sets: Mapping[str, Dataset],
    compared: Mapping[str, Tensor],
    ranks: Ranks | None = None,
) -> Competition:
    """Let the candidates of a competition compete again, by their residuals after registration.

    Each sample is registered (shift, rotation, scale, gain, offset, mirror image) to its nearest
    pool images, at most 4; of more than 2000 samples those that came closest. Both are chosen
    without a look at labels.

    Args:
        found: The distances of the first competition.
        first: The first competition.
        sets: The images: ``generated``, ``train`` and ``heldout``.
        compared: Index of the compared points, of ``train`` and ``heldout``.
        ranks: Processes that share the work; each makes the same call.

    Returns:
        The competition.
    """
    ranks = Ranks() if ranks is None else ranks
    size = found.size("train")
    which = np.sort(first.ratios.argsort(kind="stable")[:_SAMPLES])
    row, column = np.nonzero(first.candidates[which] >= 0)
    sample, point = which[row], first.candidates[which[row], column]
    mine = ranks.part(len(sample))
    residuals = []
    for start in range(mine.start, mine.stop, _PAIRS):
        part = slice(start, min(start + _PAIRS, mine.stop))
        residuals.append(
            registered_residual(
                _images(sets["generated"], torch.from_numpy(sample[part])),
                _pool_images(sets, compared, point[part], size),
            )
        )
    found_here = torch.cat(residuals) if residuals else torch.empty(0, dtype=torch.float64)
    distance = np.full((len(which), first.candidates.shape[1]), np.inf)
    distance[row, column] = ranks.concatenate(found_here).numpy()
    return compete_again(found, first, which, distance)


def _pool_images(
    sets: Mapping[str, Dataset], compared: Mapping[str, Tensor], point: np.ndarray, size: int
) -> Tensor:
    chosen = torch.from_numpy(point)
    trained = chosen < size
    train = _images(sets["train"], compared["train"][chosen[trained]])
    heldout = _images(sets["heldout"], compared["heldout"][chosen[~trained] - size])
    images = torch.empty(len(chosen), *train.shape[1:], dtype=train.dtype)
    images[trained], images[~trained] = train, heldout
    return images


def _images(data: Dataset, index: Tensor) -> Tensor:
    # Indexing copies, so that the mapping in place touches no data.
    return signed_pixels(data.x[index].clone(), data)
