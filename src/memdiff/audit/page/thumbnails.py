"""Small pictures of data points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memdiff.data import Dataset, StreamedDataset
from memdiff.report import Image
from memdiff.report.pictures import image_png

__all__ = ["Thumbnails", "has_pictures"]

_SIDE = 96
_FRAME = 72


def has_pictures(data: Dataset) -> bool:
    """Whether a point of the set can be shown as a picture."""
    return data.kind in ("images", "video") and data.x.ndim >= 4


@dataclass
class Thumbnails:
    """Pictures of the points of one set, of bounded size, counted in bytes.

    An image is shrunk to at most 96 pixels a side. A clip becomes a strip of its first, middle
    and last frame. Pixels of an unknown range are shown between the 0.5 % and 99.5 % quantiles of
    the training pixels, transparency against white; other numbers of channels than 1, 3 and 4 as
    the mean over channels.

    Args:
        train: The training set, which sets the range.
    """

    train: Dataset
    used: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.train, StreamedDataset):
            points = self.train.x
            some = points[:: max(1, points.numel() // 1_000_000)].flatten().numpy()
        else:
            flat = self.train.x.flatten()
            some = flat[:: max(1, len(flat) // 1_000_000)].numpy()
        low, high = np.quantile(some, [0.005, 0.995])
        self._free = (float(low), float(high) if high > low else float(low) + 1.0)

    def image(self, data: Dataset, index: int, label: str, point: Tensor | None = None) -> Image:
        """The picture of one point.

        Args:
            data: Its set.
            index: Its index.
            label: Text under it.
            point: Shown in its place, such as its mirror image.
        """
        x = data.x[index] if point is None else point
        value_range = data.value_range or self._free
        if data.kind == "video":
            x = _strip(x, value_range[1])
        png = image_png(
            _displayed(x, value_range),
            value_range,
            max_side=3 * _FRAME if data.kind == "video" else _SIDE,
        )
        self.used += len(png)
        return Image(png, label, f"{label}: {data.names[index]}")


def _strip(clip: Tensor, white: float) -> Tensor:
    """First, middle and last frame side by side, ``(C, H, 3 W + gaps)``."""
    frames = sorted({0, (len(clip) - 1) // 2, len(clip) - 1})
    gap = torch.full((*clip.shape[1:3], max(1, clip.shape[3] // 24)), white, dtype=clip.dtype)
    parts = [clip[frames[0]]]
    for frame in frames[1:]:
        parts += [gap, clip[frame]]
    return torch.cat(parts, dim=2)


def _displayed(image: Tensor, value_range: tuple[float, float]) -> Tensor:
    low, high = value_range
    channels = image.shape[0]
    if channels in (1, 3):
        return image
    if channels == 4:
        alpha = ((image[3:] - low) / (high - low)).clamp(0.0, 1.0)
        return image[:3] * alpha + high * (1.0 - alpha)
    return image.mean(0, keepdim=True)
