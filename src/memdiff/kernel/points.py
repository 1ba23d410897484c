"""The training points behind the engine: every route reads them through this."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from memdiff.kernel.integers import IntegerRows, integers_pay
from memdiff.neighbors import duplicate_groups

__all__ = ["Points", "TensorPoints", "blocks"]

# Beyond this radius, or below its inverse, squares come near the ends of float32.
_RADIUS = 1e12


class Points(Protocol):
    """What the routes ask of ``N`` training points with ``d`` coordinates.

    Attributes:
        num: N.
        dim: d.
        dtype: Dtype of the points, float32 or float64: that of the single-precision routes.
        device: Device of what the methods return.
        centre: The mean, float64 with shape ``(d,)``.
        half_norm: Half the squared distances from it, float64 with shape ``(N,)``.
        radius: Largest distance from it.
    """

    num: int
    dim: int
    dtype: torch.dtype
    device: torch.device
    centre: Tensor
    half_norm: Tensor
    radius: float

    def centred(self, block: slice, dtype: torch.dtype) -> Tensor:
        """Points of a block minus the centre, rounded once to ``dtype``, ``(K, d)``."""

    def exact(self, block: slice) -> Tensor:
        """Points of a block, float64 with shape ``(K, d)``."""

    def gather(self, index: Tensor) -> Tensor:
        """Points at ``index`` of any shape ``I``, float64 with shape ``(*I, d)``."""

    def integers(self) -> IntegerRows | None:
        """All centred points as 8-bit integers; None where screens do without."""

    def duplicates(self) -> Tensor:
        """Group of identical points that each point is in, numbered by first points, ``(N,)``."""


class TensorPoints:
    """Points that lie in memory, with a centred copy beside them.

    Where products of 8-bit integers are fast on this machine, another copy in these is made when
    it is first asked for: ``d + 20`` bytes a point.

    Args:
        points: Tensor with shape ``(N, d)``, float32 or float64.
        memory_limit: Bound in bytes of temporary memory.
    """

    def __init__(self, points: Tensor, memory_limit: int = 2**26) -> None:
        self.tensor = points
        self.num, self.dim = points.shape
        self.dtype, self.device = points.dtype, points.device
        self.centre = points.mean(0, dtype=torch.float64)
        self._centred = torch.empty_like(points)
        self.half_norm = points.new_empty(self.num, dtype=torch.float64)
        for block in blocks(self.num, max(1, memory_limit // (16 * self.dim))):
            difference = points[block].to(torch.float64) - self.centre
            self._centred[block] = difference
            self.half_norm[block] = 0.5 * (difference**2).sum(1)
        self.radius = float((2.0 * self.half_norm.max()).sqrt())
        self._integers: IntegerRows | None = None

    def centred(self, block: slice, dtype: torch.dtype) -> Tensor:
        """Points of a block minus the centre, rounded once to ``dtype``, ``(K, d)``."""
        if dtype == self.dtype:
            return self._centred[block]
        return (self.exact(block) - self.centre).to(dtype)

    def exact(self, block: slice) -> Tensor:
        """Points of a block, float64 with shape ``(K, d)``."""
        return self.tensor[block].to(torch.float64)

    def gather(self, index: Tensor) -> Tensor:
        """Points at ``index`` of any shape ``I``, float64 with shape ``(*I, d)``."""
        return self.tensor[index].to(torch.float64)

    def integers(self) -> IntegerRows | None:
        """All centred points as 8-bit integers; None where screens do without."""
        if self._integers is None:
            tame = 1.0 / _RADIUS <= self.radius <= _RADIUS
            if not tame or not integers_pay(self.dim, self.device):
                return None
            few = blocks(self.num, max(1, 2**19 // self.dim))
            self._integers = IntegerRows.joined([IntegerRows.of(self._centred[i]) for i in few])
        return self._integers

    def duplicates(self) -> Tensor:
        """Group of identical points that each point is in, numbered by first points, ``(N,)``."""
        return duplicate_groups(self.tensor).labels


def blocks(num: int, size: int) -> list[slice]:
    """Slices of at most ``size`` that cover ``num`` points in order."""
    return [slice(i, min(i + size, num)) for i in range(0, num, size)]
