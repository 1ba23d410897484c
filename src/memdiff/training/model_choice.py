"""Choice of the model that a run keeps, among those stored while it trained.

A monitor looks with few samples and at many models, and the model that it calls the best was
chosen for passing. So weights of several clean looks are stored, and the best one has to be
confirmed by more and fresh samples (:meth:`Monitor.confirm
<memdiff.training.Monitor.confirm>`); if it is not, the one before it, and so on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from memdiff.scores.base import Score
from memdiff.training.checkpoints import load_weights, save_weights
from memdiff.training.monitor import Monitor
from memdiff.training.observation import Observation

__all__ = ["Candidates", "Choice", "choose"]

MOST = 8
"""Models stored at a time; of more, the one with the closest neighbours goes."""


class Candidates:
    """Weights of the steps at which no test rejected, one file per step.

    Args:
        folder: The folder; it is made with the first file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def steps(self) -> list[int]:
        """Steps that are stored, increasing."""
        return sorted(
            int(path.stem.removeprefix("step-")) for path in self.folder.glob("step-*.safetensors")
        )

    def path(self, step: int) -> Path:
        """Return the name of the file of a step."""
        return self.folder / f"step-{step:08d}.safetensors"

    def add(self, step: int, score: Score, best: int | None) -> None:
        """Store the weights of a step, and make room.

        Args:
            step: The step.
            score: The score to store.
            best: A step that must stay, or None.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        save_weights(score, self.path(step), facts={"step": step})
        # Files beyond this step are of an interrupted run that has gone back before them.
        steps = [stored for stored in self.steps if stored <= step]
        while len(steps) > MOST:
            extra = _superfluous(steps, best)
            self.path(extra).unlink()
            steps.remove(extra)

    def load(self, step: int, score: Score) -> Score:
        """Load the weights of a step into a score, in evaluation mode."""
        load_weights(score, self.path(step))
        return score.eval().requires_grad_(False)


@dataclass(frozen=True)
class Choice:
    """The chosen candidate.

    Attributes:
        step: Its step; None where no look was clean.
        confirmed: Whether fresh samples confirmed it; None where none were asked for.
        confirmations: The confirming looks, the last one of the chosen model.
    """

    step: int | None
    confirmed: bool | None = None
    confirmations: tuple[Observation, ...] = ()


def choose(
    monitor: Monitor,
    candidates: Candidates,
    build: Callable[[], Score],
    progress: Callable[[str, int, int], None],
    *,
    confirm: bool,
) -> Choice:
    """Choose the best model before an onset, and confirm it by fresh samples.

    Args:
        monitor: The monitor with its observations.
        candidates: The stored models.
        build: Makes a score for their weights.
        progress: Receives (stage, done, total).
        confirm: Whether to draw fresh samples; otherwise the best candidate is taken as it is.

    Returns:
        The best candidate by held-out loss, or the first one before it that is confirmed. Where
        none is, the earliest one.
    """
    stored = set(candidates.steps)
    clean = [step for step in monitor.onset.clean if step in stored]
    if not clean:
        return Choice(None)
    if not confirm or not monitor.settings.confirm:
        return Choice(clean[0])
    order = sorted((step for step in clean if step <= clean[0]), reverse=True)
    found: list[Observation] = []
    for number, step in enumerate(order):
        progress("confirming", number, len(order))
        found.append(monitor.confirm(step, candidates.load(step, build())))
        if monitor.is_confirmed(found[-1]):
            return Choice(step, True, tuple(found))
    return Choice(order[-1], False, tuple(found))


def _superfluous(steps: list[int], best: int | None) -> int:
    """The step, not an end and not the best, whose neighbours are closest on a log scale."""
    spans = {
        here: math.log((after + 1) / (before + 1))
        for before, here, after in zip(steps, steps[1:], steps[2:], strict=False)
        if here != best
    }
    return min(spans, key=spans.__getitem__)
