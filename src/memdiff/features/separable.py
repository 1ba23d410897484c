"""Linear maps that act on rows and columns of an image apart."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from memdiff.data import Dataset
from memdiff.data.dataset import Kind
from memdiff.features.descriptor import Descriptor

__all__ = ["Separable"]


class Separable(Descriptor):
    r"""Features :math:`A_h X A_w^\top` of every channel :math:`X` (of every frame).

    Args:
        size: ``(h, w)`` of the result, or one number for both; at most the size of the images.

    Raises:
        ValueError: If ``size`` is not one or two integers of at least 1.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("images", "video")
    _noun: ClassVar[str]

    def __init__(self, size: int | Sequence[int]) -> None:
        sides = tuple(size) if isinstance(size, Sequence) else (size,)
        if (
            len(sides) not in (1, 2)
            or not all(isinstance(s, int) and not isinstance(s, bool) for s in sides)
            or min(sides) < 1
        ):
            raise ValueError(
                f"size of {self._noun!r} features must be a number of pixels or (height, width), "
                f"at least 1, got {size!r}."
            )
        self.size: tuple[int, int] = (sides[0], sides[-1])

    @staticmethod
    @abstractmethod
    def matrix(size: int, length: int) -> Tensor:
        """The matrix ``(size, length)``, float64, that acts along a side of that length."""

    @property
    def name(self) -> str:
        """Noun and size, e.g. ``"dct:8"``."""
        h, w = self.size
        return f"{self._noun}:{h}" if h == w else f"{self._noun}:{h}x{w}"

    @property
    def parameters(self) -> dict[str, Any]:
        """The size."""
        return {"size": list(self.size)}

    def check(self, data: Dataset) -> None:
        """Raise unless ``data`` holds images or clips of at least ``size``."""
        super().check(data)
        h, w = data.shape[-2:]
        if h < self.size[0] or w < self.size[1]:
            raise ValueError(
                f"features {self.name!r} need images of at least {self.size[0]} x {self.size[1]}, "
                f"but {data.title} has {h} x {w}; give a smaller size, or use pixels."
            )

    def _describe(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        rows = _cached_matrix(type(self), self.size[0], h).to(x.device)
        columns = _cached_matrix(type(self), self.size[1], w).to(x.device)
        images = x.reshape(-1, h, w).to(torch.float64)
        # One product an image, and not one for the batch: so equal images get equal bits.
        n = len(images)
        reduced = torch.bmm(torch.bmm(rows.expand(n, -1, -1), images), columns.T.expand(n, -1, -1))
        return reduced.reshape(len(x), -1).to(x.dtype)


@cache
def _cached_matrix(kind: type[Separable], size: int, length: int) -> Tensor:
    return kind.matrix(size, length)
