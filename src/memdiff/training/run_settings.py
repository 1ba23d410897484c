"""Settings of a training run in a folder."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from memdiff.training.augmentation import AffineAugmentation
from memdiff.training.loop_settings import TrainingSettings
from memdiff.training.monitor import MonitorSettings
from memdiff.training.objective import TikhonovPenalty

__all__ = ["RunSettings"]


@dataclass(frozen=True)
class RunSettings:
    """Settings of :func:`memdiff.training.train_in_folder`.

    Attributes:
        training: Settings of the loop.
        monitor: Settings of the monitor.
        tikhonov: Strength :math:`c` of the Tikhonov penalty; 0 for none.
        augmentation: Random maps of the training images; the monitor sees the images themselves.
        monitor_every: Steps between observations; None for a twentieth of the steps. There is one
            before the first step and one after the last.
        stop_on_memorization: Whether to stop at an onset, and to keep the best model that fresh
            samples confirm; otherwise the run goes on and the last model is kept.
        heldout_share: Share of the training data to hold out where no held-out data are given; 0
            trains on all of them, with no monitor.
        save_every: Steps between saved states; None for ``monitor_every``.
        log_every: Steps between lines of training losses, which are means over them.
        time_limit: Seconds after which to save and leave; the same call goes on. None for none.
        tensorboard: Whether to write the curves for TensorBoard as well, into ``tensorboard/``.

    Raises:
        ValueError: If a value is out of range.
    """

    training: TrainingSettings = field(default_factory=TrainingSettings)
    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    tikhonov: float = 0.0
    augmentation: AffineAugmentation = field(default_factory=AffineAugmentation)
    monitor_every: int | None = None
    stop_on_memorization: bool = False
    heldout_share: float = 0.2
    save_every: int | None = None
    log_every: int = 100
    time_limit: float | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        TikhonovPenalty(self.tikhonov)
        for name in ("monitor_every", "save_every", "log_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if not 0.0 <= self.heldout_share < 1.0:
            raise ValueError(f"heldout_share must lie in [0, 1), got {self.heldout_share}.")
        if self.time_limit is not None and not 0.0 < self.time_limit < math.inf:
            raise ValueError(f"time_limit must be positive and finite, got {self.time_limit}.")

    @property
    def period(self) -> int:
        """Steps between observations."""
        return self.monitor_every or max(1, self.training.steps // 20)
