"""Monitor of memorisation as a callback of Lightning, with the extra ``lightning``.

.. code-block:: python

    monitor = Monitor(train, heldout, VP())  # tensors on the device of training
    watch = MonitorCallback(monitor, lambda module: NetworkScore(module.ema, VP(), "noise"))
    Trainer(callbacks=[watch], max_steps=100_000).fit(module, loader)
    watch.monitor.onset, watch.best_step
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from typing_extensions import override

from memdiff.scores.base import Score
from memdiff.training.events import curves
from memdiff.training.monitor import Monitor

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise ImportError("the callback needs Lightning: pip install 'memdiff[lightning]'.") from error

__all__ = ["MonitorCallback"]


class MonitorCallback(Callback):
    """Callback that stops training at memorisation and keeps the best weights.

    There is an observation before the first step, every ``every`` steps of the optimizer, and
    after the last. Its numbers are logged, as ``memorised fraction/samples`` and so on. When an
    onset is confirmed the trainer is asked to stop (it first does its ``min_steps``), and at the
    end the watched score gets the weights of the best observation before the onset.

    Put it after a callback that averages weights. Lightning calls the hooks of callbacks before
    those of the module: an average that the module moves in its own ``on_train_batch_end`` is seen
    as it was one step before.

    Of several processes (DDP) the first observes, the others wait for what it has seen. Strategies
    that split a model among processes are not supported. Checkpoints of Lightning hold the
    observations and the best weights, so that ``ckpt_path`` goes on.

    Args:
        monitor: The monitor; its data are on the device of the model.
        score: Gives the score to watch, from the module: for example one of its moving average.
            It may be made anew at each call, but its weights are those of the module, not copies.
        every: Steps of the optimizer between observations.
        stop: Whether to stop at an onset.
        restore: Whether to bring back the best weights after an onset.

    Attributes:
        monitor: The monitor with its observations; on the first process alone.
        best_step: Step of the best weights, or None where no observation was clean.
        best_weights: They, as a ``state_dict`` of the score on the CPU, or None.

    Raises:
        ValueError: If ``every`` is not positive.
    """

    def __init__(
        self,
        monitor: Monitor,
        score: Callable[[LightningModule], Score],
        *,
        every: int = 1000,
        stop: bool = True,
        restore: bool = True,
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}.")
        self.monitor = monitor
        self.score = score
        self.every, self.stop, self.restore = every, stop, restore
        self.best_step: int | None = None
        self.best_weights: dict[str, Tensor] | None = None
        self._seen = -1
        self._memorizing = False

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Observe the model before the first step, or a resumed one where it was not observed."""
        if trainer.global_step == 0:
            self._look(trainer, pl_module)

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Observe after every so many steps of the optimizer."""
        if trainer.global_step % self.every == 0:
            self._look(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Observe the last step, and bring back the best weights after an onset."""
        self._look(trainer, pl_module)
        if self.restore and self._memorizing and self.best_weights is not None:
            self.score(pl_module).load_state_dict(self.best_weights)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint of Lightning holds."""
        return {
            "monitor": self.monitor.state_dict(),
            "best_step": self.best_step,
            "best_weights": self.best_weights,
            "seen": self._seen,
            "memorizing": self._memorizing,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.monitor.load_state_dict(state_dict["monitor"])
        self.best_step, self.best_weights = state_dict["best_step"], state_dict["best_weights"]
        self._seen, self._memorizing = state_dict["seen"], state_dict["memorizing"]

    def _look(self, trainer: Trainer, module: LightningModule) -> None:
        step = trainer.global_step
        if step <= self._seen:  # batches whose gradients are still accumulated, or after a resume
            return
        self._seen = step
        score = self.score(module)
        found = (False, False)
        if trainer.is_global_zero:
            values = curves(self.monitor.observe(step, score))
            for logger in trainer.loggers:
                logger.log_metrics(values, step=step)
            found = (self.monitor.memorizing, self.monitor.is_best())
        self._memorizing, best = trainer.strategy.broadcast(found)
        if best:
            self.best_step = step
            self.best_weights = {
                name: tensor.detach().to("cpu", copy=True)
                for name, tensor in score.state_dict().items()
            }
        if self.stop and self._memorizing:
            trainer.should_stop = True
