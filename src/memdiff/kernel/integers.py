r"""Rows rounded to 8-bit integers: a screen at a quarter of the cost, with a certified error.

A row is :math:`x = s c + e` with a step ``s``, integers ``c`` in [-127, 127] and a rest ``e``
whose norm is known. Inner products of integers are exact and take a quarter of the time of those
of float32 where the processor has instructions for them. By the triangle inequality

.. math::
    \big|\, |x - y| - |s_x c_x - s_y c_y| \,\big| \le |e_x| + |e_y| ,

so that they tell which rows can be near, and never more than that.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.kernel.products import BLOCK, dimension_class, remembered

__all__ = ["IntegerRows", "ProductBuffer", "integers_pay"]

_LARGEST = 127
# Coordinates whose products of integers cannot leave int32.
_LENGTH = 2**17
# Below this dimension what follows the product decides; a float32 one is as good.
_LEAST_DIMENSION = 192
# What the product must take of the float32 one at most, to make up for wider margins.
_SHARE = 0.6
# From this share on in a small product, no large one is tried.
_HOPELESS = 20.0
_QUERIES = 256
# Numbers that are rounded at a time.
_CACHED = 2**18


@dataclass(frozen=True)
class IntegerRows:
    """Rows as integers.

    Attributes:
        codes: :math:`c`, int8 ``(n, d)``.
        step: :math:`s`, float32 ``(n,)``.
        error: :math:`|e|`, rounded up, float64 ``(n,)``.
        half_norm: Half of :math:`|s c|^2`, float64 ``(n,)``.
    """

    codes: Tensor
    step: Tensor
    error: Tensor
    half_norm: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> IntegerRows:
        """Round rows ``(n, d)``, float32 or float64, whose squares do not leave their dtype.

        The error covers that the rows were themselves rounded to their dtype before.
        """
        if rows.numel() > 2 * _CACHED:  # several times faster in parts that stay in the cache
            size = max(1, _CACHED // rows.shape[1])
            return cls.joined([cls.of(part) for part in rows.split(size)])
        unit = 0.5 * torch.finfo(rows.dtype).eps
        step = (rows.abs().amax(1) / _LARGEST).to(torch.float32)
        step = torch.where(step > 0, step, 1.0)
        exact = step.to(rows.dtype)[:, None]
        whole = (rows / exact).round_().clamp_(-_LARGEST, _LARGEST)
        # Whole numbers below 2^24 are added exactly in float32.
        exact_sum = rows.shape[1] * _LARGEST**2 < 2**24
        squares = whole if exact_sum else whole.to(torch.float64)
        square = torch.linalg.vecdot(squares, squares).to(torch.float64)
        codes = whole.to(torch.int8)
        rest = whole.mul_(exact).sub_(rows).norm(dim=1).to(torch.float64)
        half_norm = 0.5 * step.to(torch.float64) ** 2 * square
        rest = rest * (1.0 + 2.0 * (rows.shape[1] + 8) * unit)
        return cls(codes, step, rest + 8.0 * unit * (2.0 * half_norm).sqrt(), half_norm)

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def joined(cls, parts: list[IntegerRows]) -> IntegerRows:
        """One after the other."""
        return cls(
            torch.cat([part.codes for part in parts]),
            torch.cat([part.step for part in parts]),
            torch.cat([part.error for part in parts]),
            torch.cat([part.half_norm for part in parts]),
        )

    def __getitem__(self, rows: slice) -> IntegerRows:
        return IntegerRows(
            self.codes[rows], self.step[rows], self.error[rows], self.half_norm[rows]
        )

    def products(self, others: IntegerRows, buffer: ProductBuffer) -> Tensor:
        r"""Inner products :math:`c_i \cdot s_j c_j` with other rows, float32 ``(n, m)``.

        Correct to two units of float32; the step of these rows is left to whoever goes on. The
        result lies in the buffer.
        """
        mine, theirs = self.codes.split(_LENGTH, 1), others.codes.split(_LENGTH, 1)
        whole, values = buffer.of(len(self), len(others))
        for piece, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            if a.shape[1] == 1:  # which that function gets wrong
                torch.mul(a.to(torch.int32), b.T, out=whole)
            else:
                torch._int_mm(a, b.T, out=whole)
            if piece:
                values.add_(whole * others.step)
            else:
                torch.mul(whole, others.step, out=values)
        return values


class ProductBuffer:
    """Memory of products, used again: 8 bytes for each."""

    def __init__(self) -> None:
        self._whole = torch.empty(0, dtype=torch.int32)
        self._values = torch.empty(0)

    def of(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """An int32 and a float32 tensor ``(rows, columns)``."""
        size = rows * columns
        if len(self._values) < size:
            self._whole = torch.empty(size, dtype=torch.int32)
            self._values = torch.empty(size)
        return self._whole[:size].view(rows, columns), self._values[:size].view(rows, columns)


def integers_pay(dimension: int, device: torch.device) -> bool:
    """Whether screens in integers are faster than in float32 on this machine.

    Measured once a machine and class of dimensions in some hundredths of a second and remembered,
    as :func:`~memdiff.kernel.products.gemm_path` does; ``MEMDIFF_INTEGERS`` set to 0 or 1 decides
    without. False where torch has no product of integers (the function is a private one), or it
    is wrong, or the device is not the CPU.

    Raises:
        ValueError: If ``MEMDIFF_INTEGERS`` is something else, or 1 where there is no product.
    """
    wish = os.environ.get("MEMDIFF_INTEGERS", "")
    if wish not in ("", "0", "1"):
        raise ValueError(f"MEMDIFF_INTEGERS must be 0 (never) or 1 (always), got {wish!r}.")
    if device.type != "cpu" or dimension < _LEAST_DIMENSION or wish == "0":
        return False
    size = dimension_class(dimension)
    if wish == "1":
        if not _right(IntegerRows.of(torch.ones(16, size)), torch.ones(64, size), ProductBuffer()):
            raise ValueError(
                "MEMDIFF_INTEGERS must be 0 or unset here: torch has no right product of 8-bit "
                "integers on this machine."
            )
        return True
    return remembered(f"8-bit d <= {size}", lambda: _faster(size)) == "yes"


def _right(query: IntegerRows, points: Tensor, buffer: ProductBuffer) -> bool:
    """Whether products of integers are there, and exact."""
    others = IntegerRows.of(points)
    try:
        found = query.products(others, buffer)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    mine, theirs = query.codes.to(torch.float64), others.codes.to(torch.float64)
    expected = torch.mm(mine, theirs.T) * others.step
    return torch.allclose(found.to(torch.float64), expected, rtol=1e-6, atol=0.0)


def _faster(dimension: int) -> str:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(BLOCK, dimension, generator=generator)
    # Sums of the largest integers are where some processors saturate.
    points[::2] = points[::2].sign()
    others = IntegerRows.of(points)
    query = IntegerRows.of(torch.randn(_QUERIES, dimension, generator=generator).abs())
    plain = query.codes.to(torch.float32)
    buffer = ProductBuffer()
    # A few first: where torch multiplies integers one by one, all would take seconds.
    for queries, size, share in ((16, 64, _HOPELESS), (_QUERIES, BLOCK, _SHARE)):
        rows, some = query[:queries], others[:size]
        if queries < _QUERIES and not _right(rows, points[:size], buffer):
            return "no"
        fast, slow = [], []
        for _ in range(5):
            start = time.perf_counter()
            rows.products(some, buffer)
            middle = time.perf_counter()
            torch.mm(plain[:queries], points[:size].T)
            fast.append(middle - start)
            slow.append(time.perf_counter() - middle)
        if min(fast) > share * min(slow):
            return "no"
    return "yes" if _right(query, points, buffer) else "no"
