"""Small versions of images."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from memdiff.features.separable import Separable

__all__ = ["Downscaled"]


class Downscaled(Separable):
    """Images reduced by area averaging: every new pixel is the mean over the area it covers.

    Pixels that a new pixel covers in part count by that part (OpenCV's ``INTER_AREA``), so there
    is no aliasing at any ratio. Blind to fine detail: near copies that differ by noise come close.

    Args:
        size: ``(h, w)``, or one number for both; at most the size of the images.

    Example:
        >>> Downscaled.matrix(2, 3) * 3
        tensor([[2., 1., 0.],
                [0., 1., 2.]], dtype=torch.float64)
    """

    _noun: ClassVar[str] = "downscaled"

    @staticmethod
    def matrix(size: int, length: int) -> Tensor:
        """Shares ``(size, length)`` of the old pixels in the new ones; rows sum to 1."""
        # In units of 1/size of an old pixel all borders are integers, so the shares are exact.
        old = torch.arange(length, dtype=torch.float64) * size
        new = torch.arange(size, dtype=torch.float64)[:, None] * length
        overlap = torch.minimum(old + size, new + length) - torch.maximum(old, new)
        return overlap.clamp_(min=0) / length
