"""Randomness with a stream for each sample.

Sample ``i`` under seed ``s`` has its own generators, keyed by a hash of ``(s, i)``. Its latent and
its Brownian path therefore depend on neither the batch size nor the number of samples (the habit
of EDM's ``StackedRandomGenerator``, arXiv:2206.00364, with a wider key).

The streams are numpy's Philox under ``SeedSequence``, drawn on the CPU. A ``torch.Generator`` for
each sample would not do: torch's CPU engine keeps 32 bits of its seed, so that about one pair in
:math:`10^5` samples would share its stream, and a duplicate is what this library looks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["BrownianMotion", "SeededBrownianMotion", "draw_latents"]

_LATENT, _PATH = 0, 1


class BrownianMotion(Protocol):
    """Where a stochastic sampler takes its noise from."""

    def increment(self, t: Tensor, t_next: Tensor) -> Tensor:
        """Increment of one Brownian motion per sample over the step from ``t`` to ``t_next``.

        Args:
            t: Start of the step, float64 with shape ``()``.
            t_next: End of the step; steps follow each other and do not overlap.

        Returns:
            float64 tensor with shape ``(B, *S)``, of variance ``|t - t_next|``.
        """


class SeededBrownianMotion:
    """Brownian motions of the samples ``indices`` under ``seed``.

    Args:
        seed: Non-negative integer.
        indices: Index of each sample of the batch in the whole run.
        shape: Shape ``S`` of one sample.
        device: Device of the increments.
    """

    def __init__(
        self,
        seed: int,
        indices: Iterable[int],
        shape: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        self._seed = seed
        self._indices = tuple(indices)
        self._streams: list[np.random.Generator] = []
        self._shape = tuple(shape)
        self._device = device

    def increment(self, t: Tensor, t_next: Tensor) -> Tensor:
        """As :meth:`BrownianMotion.increment`; each call advances the path."""
        if not self._streams:
            self._streams = [_stream(self._seed, index, _PATH) for index in self._indices]
        normal = _stack(self._streams, self._shape).to(self._device)
        return normal * (t - t_next).abs().sqrt()


def draw_latents(
    num: int,
    shape: Sequence[int],
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    start: int = 0,
) -> Tensor:
    """Standard normal latents, the ones that :func:`~memdiff.samplers.sample` draws itself.

    Args:
        num: Number of latents ``B``.
        shape: Shape ``S`` of one latent.
        seed: Non-negative integer.
        dtype: Floating dtype of the result; torch's default if None.
        start: Index of the first latent: latent ``i`` depends on ``seed``, ``i``, ``shape``.

    Returns:
        Tensor with shape ``(B, *S)``, on the CPU.

    Example:
        >>> some, more = draw_latents(2, (3,), seed=1), draw_latents(5, (3,), seed=1)
        >>> torch.equal(some, more[:2])
        True
    """
    streams = (_stream(seed, index, _LATENT) for index in range(start, start + num))
    return _stack(streams, tuple(shape)).to(dtype or torch.get_default_dtype())


def _stream(seed: int, index: int, purpose: int) -> np.random.Generator:
    sequence = np.random.SeedSequence(seed, spawn_key=(index, purpose))
    return np.random.Generator(np.random.Philox(sequence))


def _stack(streams: Iterable[np.random.Generator], shape: tuple[int, ...]) -> Tensor:
    draws = [stream.standard_normal(shape) for stream in streams]
    return torch.from_numpy(np.stack(draws).astype(np.float64, copy=False))
