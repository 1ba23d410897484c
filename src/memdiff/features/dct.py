"""The low frequencies of images."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from memdiff.features.separable import Separable

__all__ = ["DCT"]


class DCT(Separable):
    r"""The low-frequency block of the orthonormal 2-D DCT-II of every channel.

    With :math:`h = H, w = W` distances are those of pixels; a smaller block is a low-pass filter:
    distances never exceed those of pixels.

    Args:
        size: ``(h, w)`` of the block of lowest frequencies, or one number for both; at most the
            size of the images.

    References:
        Ahmed, Natarajan and Rao 1974, Discrete Cosine Transform.
    """

    _noun: ClassVar[str] = "dct"

    @staticmethod
    def matrix(size: int, length: int) -> Tensor:
        r""":math:`\sqrt{(2 - \delta_{k0}) / L} \cos(\pi k (2 j + 1) / 2 L)`, row k, column j."""
        k = torch.arange(size, dtype=torch.float64)[:, None]
        j = torch.arange(length, dtype=torch.float64)
        basis = torch.cos(k * (2 * j + 1) * (math.pi / (2 * length))) * math.sqrt(2 / length)
        basis[0] = 1 / math.sqrt(length)
        return basis
