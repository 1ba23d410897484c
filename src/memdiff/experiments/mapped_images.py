"""Training sets of any size: images under random small affine maps, split by image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.data import Dataset
from memdiff.training import AffineAugmentation

__all__ = ["MAPS", "Images", "build_images"]

MAPS = AffineAugmentation(degrees=10.0, shift=1 / 14, zoom=0.1)


@dataclass(frozen=True)
class Images:
    """Maps of images, split by image.

    Attributes:
        train: Training pictures with shape ``(N, 1, H, W)``, float32; a smaller training set is a
            prefix.
        base: The image that each is a map of, int64 with shape ``(N,)``.
        heldout: Pictures of other images, one of each.
        source: Name of the data set.
        repeats: How often the most frequent image occurs in ``train``.
    """

    train: Tensor
    base: Tensor
    heldout: Tensor
    source: str
    repeats: int


def build_images(data: Dataset, num: int, seed: int, *, halve: bool = False) -> Images:
    """Split images into training and held-out ones, and map them.

    Args:
        data: Images ``(M, 1, H, W)``.
        num: Number of training pictures.
        seed: Seed of the split and of the maps.
        halve: Whether to average pixels two by two first.

    Returns:
        The pictures; those of a smaller ``num`` are a prefix of those of a larger one.
    """
    x = data.x.to(torch.float32)
    if halve:
        x = torch.nn.functional.avg_pool2d(x, 2)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    bases, heldout = order.split([len(x) - len(x) // 5, len(x) // 5])
    rounds = -(-num // len(bases))
    generators = [torch.Generator().manual_seed(seed + 1 + i) for i in range(rounds + 1)]
    train = torch.cat([MAPS(x[bases], generator) for generator in generators[1:]])[:num]
    return Images(
        train=train,
        base=bases.repeat(rounds)[:num],
        heldout=MAPS(x[heldout], generators[0]),
        source=data.source,
        repeats=rounds,
    )
