r"""Random affine maps of images, as a regulariser of training.

A network that never sees a training image twice in the same place has, in effect, more of them.
It learns the distribution of the transformed images: choose maps under which the data are
invariant, and audit the samples with a descriptor that sees through them
(``--features`` of ``memdiff audit``), since a shifted copy is a copy.

References:
    Karras et al., *Training Generative Adversarial Networks with Limited Data*, arXiv:2006.06676
    (augmentation leaks into samples unless the network is told of it; it is not told here).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["AffineAugmentation"]


@dataclass(frozen=True)
class AffineAugmentation:
    """Rotation, shift, zoom and mirror of images, each drawn afresh for each image.

    Bilinear interpolation; what comes in from outside repeats the edge.

    Attributes:
        degrees: Largest rotation to either side, in degrees, in [0, 180].
        shift: Largest shift to either side, as a fraction of a side, in [0, 0.5].
        zoom: Largest relative change of size to either side, in [0, 0.5].
        mirror: Whether half of the images are mirrored left to right.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> images = torch.arange(4.0).reshape(1, 1, 2, 2)
        >>> flipped = AffineAugmentation(mirror=True)
        >>> drawn = [flipped(images, torch.Generator().manual_seed(i)) for i in range(8)]
        >>> sorted({tuple(x.flatten().tolist()) for x in drawn})
        [(0.0, 1.0, 2.0, 3.0), (1.0, 0.0, 3.0, 2.0)]
    """

    degrees: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    mirror: bool = False

    def __post_init__(self) -> None:
        for name, most in (("degrees", 180.0), ("shift", 0.5), ("zoom", 0.5)):
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must lie in [0, {most:g}], got {getattr(self, name)}.")

    @property
    def changes(self) -> bool:
        """Whether any image is changed."""
        return bool(self.degrees or self.shift or self.zoom or self.mirror)

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Map images.

        Args:
            x: Images with shape ``(B, C, H, W)`` or ``(B, H, W)``.
            generator: Source of the maps; the same state gives the same maps.

        Returns:
            Tensor of the shape and dtype of ``x``.

        Raises:
            ValueError: If ``x`` has no two axes of an image.
        """
        if x.ndim not in (3, 4):
            raise ValueError(
                f"augmentation needs images with shape (B, C, H, W) or (B, H, W), got "
                f"{tuple(x.shape)}."
            )
        uniform = torch.rand(
            len(x), 5, generator=generator, device=generator.device, dtype=torch.float64
        )
        signed = (2.0 * uniform[:, :4] - 1.0).to(x.device)
        mirrored = (uniform[:, 4] < 0.5).to(x.device) if self.mirror else None
        images = x if x.ndim == 4 else x[:, None]
        if self.degrees or self.shift or self.zoom:
            images = self._warp(images, signed)
        if mirrored is not None:
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        return images if x.ndim == 4 else images[:, 0]

    def _warp(self, images: Tensor, signed: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        angle = signed[:, 0] * math.radians(self.degrees)
        size = 1.0 + self.zoom * signed[:, 1]
        cos, sin = angle.cos() / size, angle.sin() / size
        # grid_sample counts in half sides; a rotation of pixels needs their true proportions.
        rows = torch.stack(
            [
                torch.stack([cos, -sin * height / width, 2.0 * self.shift * signed[:, 2]], -1),
                torch.stack([sin * width / height, cos, 2.0 * self.shift * signed[:, 3]], -1),
            ],
            dim=1,
        )
        grid = torch.nn.functional.affine_grid(
            rows.to(images.dtype), list(images.shape), align_corners=False
        )
        return torch.nn.functional.grid_sample(
            images, grid, mode="bilinear", padding_mode="border", align_corners=False
        )
