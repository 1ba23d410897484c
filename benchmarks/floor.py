"""The floor: bare matrix products by the fastest path that this machine offers."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from memdiff.kernel.products import GemmPath, available_paths

__all__ = ["interleaved", "product", "two_products"]


def interleaved(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Shortest time of each call, in turns, so that a busy machine slows all of them."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: min(found) for name, found in times.items()}


def two_products(x: Tensor, points: Tensor, block: int = 2048) -> Callable[[], Tensor]:
    """Logits and weighted sum, ``B x d x N`` and ``B x N x d``, and nothing else.

    In blocks, by the fastest of the forms that this machine offers for the same product: on some
    processors they go to different libraries.
    """
    logits = _fastest(x, points[:block].T)
    weighted = _fastest(logits(x, points[:block].T), points[:block])

    def run() -> Tensor:
        total = torch.zeros_like(x)
        for part in points.split(block):
            total += weighted(logits(x, part.T), part)
        return total

    return run


def product(x: Tensor, points: Tensor, rows: int = 1024, block: int = 2048) -> Callable[[], None]:
    """All inner products of ``x`` and ``points``, kept nowhere."""
    form = _fastest(x[:rows], points[:block].T)

    def run() -> None:
        for part in points.split(block):
            for some in x.split(rows):
                form(some, part.T)

    return run


def _by_path(path: GemmPath, a: Tensor, b: Tensor) -> Tensor:
    return path.logits(a, b.T, None)


def _fastest(a: Tensor, b: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The fastest form of ``a @ b`` by a short trial."""
    bias = torch.zeros(b.shape[1], dtype=a.dtype)

    def plain(a: Tensor, b: Tensor) -> Tensor:
        return torch.mm(a, b)

    def fused(a: Tensor, b: Tensor) -> Tensor:
        return torch.addmm(bias[: b.shape[1]], a, b)

    forms = {"plain": plain, "fused": fused}
    for name, path in available_paths().items():
        if name != "torch" and a.dtype == torch.float32:
            forms[name] = partial(_by_path, path)
    seconds = interleaved({name: partial(form, a, b) for name, form in forms.items()}, 7)
    return forms[min(seconds, key=lambda name: seconds[name])]
