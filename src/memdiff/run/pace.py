"""How long work will take, from its first seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Forecast", "Pace"]

Forecast = Callable[[float], None]
"""Receives the seconds that work is expected to take; it may raise, which ends the work."""


class Pace:
    """Tells once how long work will take.

    Args:
        tell: Receives the seconds that the whole takes; None for nobody.
        after: Seconds of work after which they are known well enough.
    """

    def __init__(self, tell: Forecast | None, *, after: float = 2.0) -> None:
        self._tell = tell
        self._after = after
        self._start = time.perf_counter()

    @property
    def is_told(self) -> bool:
        """Whether there is nothing more to tell."""
        return self._tell is None

    def at(self, share: float) -> None:
        """Note that a share of the work, in [0, 1], is done."""
        if self._tell is None or share <= 0.0:
            return
        seconds = time.perf_counter() - self._start
        if seconds >= self._after:
            tell, self._tell = self._tell, None
            tell(seconds / share)
