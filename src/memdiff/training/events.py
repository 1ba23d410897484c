"""Curves of a run for loggers: TensorBoard event files and the names of the curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memdiff.training.observation import Observation

__all__ = ["Events", "curves"]


class Events:
    """Event files for TensorBoard, from the records of ``metrics.jsonl``.

    Args:
        folder: Where they are written; point ``tensorboard --logdir`` at it or above it.
        upto: Last step to keep of what an interrupted run has written there.

    Raises:
        ImportError: If TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path, *, upto: int = -1) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "event files need TensorBoard: pip install 'memdiff[train]'."
            ) from error
        # TensorBoard hides what earlier files hold from this step on.
        self._writer = SummaryWriter(str(folder), purge_step=upto + 1 if upto >= 0 else None)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record of training or of the monitor; it is with the system afterwards."""
        if record["kind"] == "training":
            values = _training(record)
        else:
            fields = {name: value for name, value in record.items() if name != "kind"}
            values = curves(Observation.from_dict(fields))
        for name, value in values.items():
            self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        self._writer.close()


def curves(seen: Observation) -> dict[str, float]:
    """Return the values of an observation by the name of their curve."""
    return {
        "denoising loss/train": seen.train_loss,
        "denoising loss/heldout": seen.heldout_loss,
        "denoising loss/excess empirical risk": seen.excess_risk,
        "memorised fraction/samples": seen.fraction,
        "memorised fraction/heldout": seen.null_fraction,
        "closer to train/samples": seen.closer_to_train,
        "closer to train/expected": seen.null_closer,
        "p-value/memorised fraction": seen.p_fraction,
        "p-value/closeness": seen.p_close,
        "nearest distance/samples to train": seen.train_distance,
        "nearest distance/samples to heldout": seen.heldout_distance,
        "nearest distance/heldout to train": seen.fresh_distance,
    }


def _training(record: Mapping[str, Any]) -> dict[str, float]:
    names = {
        "denoising_loss": "training/denoising loss",
        "penalty": "training/penalty",
        "gradient_norm": "training/gradient norm",
        "learning_rate": "training/learning rate",
    }
    return {label: record[name] for name, label in names.items()}
