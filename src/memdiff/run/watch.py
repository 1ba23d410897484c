"""Who is alive: signs of life of the ranks, in the store of the launcher."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch.distributed as dist

__all__ = ["Watch"]


class Watch:
    """Signs of life of the ranks, in a thread of their own.

    Args:
        rank: Number of this process.
        count: Number of processes.
        timeout: Seconds of silence after which a rank counts as dead.
        store: What all of them share.
        on_death: Called with one sentence when a rank is found dead.

    Attributes:
        leaving: Set once this process ends, so that a store that has gone is no death.
    """

    def __init__(
        self,
        rank: int,
        count: int,
        timeout: float,
        store: dist.Store,
        on_death: Callable[[str], None],
    ) -> None:
        self.rank = rank
        self.count = count
        self.timeout = timeout
        self.store = store
        self.on_death = on_death
        self.leaving = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memdiff-ranks", daemon=True)

    def start(self) -> None:
        """Give the first sign, and begin to look."""
        self.store.set(f"alive/{self.rank}", "0")
        self._thread.start()

    def stop(self) -> None:
        """Give no more signs."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        pause = min(1.0, self.timeout / 5)
        names = [f"alive/{r}" for r in range(self.count)]
        seen = [(b"", time.monotonic())] * self.count
        beat = 0
        while not self._over.wait(pause):
            beat += 1
            try:
                self.store.set(names[self.rank], str(beat))
                signs = [self.store.get(name) for name in names]
            except RuntimeError:
                if not (self.leaving.is_set() or self._over.is_set()):
                    self.on_death("the first process of the run, which keeps its store, has ended")
                return
            now = time.monotonic()
            seen = [
                old if old[0] == sign else (sign, now)
                for old, sign in zip(seen, signs, strict=True)
            ]
            dead = [r for r, (_, since) in enumerate(seen) if now - since > self.timeout]
            if dead:
                self.on_death(f"rank {dead[0]} of the run has been silent for {self.timeout:g} s")
                return
