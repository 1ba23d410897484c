"""Training of an ensemble up to steps at which it is measured, resumable after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from memdiff.training.ensemble import Ensemble

__all__ = ["train_and_look"]

CHUNK = 5000
"""Steps between two savings of the state: what an interruption costs at most."""


def train_and_look(
    ensemble: Ensemble,
    steps: Sequence[int],
    state: Path,
    look: Callable[[int], bool | None],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Train an ensemble to each of some steps and measure it there.

    After an interruption the same call goes on exactly. The steps that lie behind are looked at
    again: ``look`` answers from what it kept, and
    :meth:`~memdiff.training.ensemble.Ensemble.require_step` refuses to measure anew.

    Args:
        ensemble: The ensemble, untrained.
        steps: Steps of the looks, increasing.
        state: File of the state of training.
        look: Called with each step; True ends the training.
        progress: Receives the step after each saving of the state.
    """
    if state.is_file():
        ensemble.restore(state)
    for step in steps:
        while ensemble.step < step:
            ensemble.advance(min(CHUNK, step - ensemble.step))
            ensemble.save(state)
            if progress is not None:
                progress(ensemble.step)
        if look(step):
            return
