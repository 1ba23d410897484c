"""Training run in a folder: from a data set to a model, watched for memorisation, resumable.

What the folder holds is in :mod:`memdiff.training.run_folder`. A table is trained on in the unit
of its columns (:class:`~memdiff.data.TableEncoding`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from memdiff.data import Dataset
from memdiff.run.outputs import require_apart
from memdiff.run.pace import Forecast
from memdiff.run.ranks import Ranks
from memdiff.scores.base import Score
from memdiff.training.checkpoints import load_weights
from memdiff.training.model import WEIGHTS
from memdiff.training.model_choice import Choice
from memdiff.training.monitor import Monitor
from memdiff.training.run_folder import FILES, FOLDERS, RunFolder
from memdiff.training.run_plan import RunPlan
from memdiff.training.run_settings import RunSettings
from memdiff.training.watched_training import Ending, Progress, WatchedTraining

__all__ = ["TrainingRun", "train_in_folder"]


@dataclass(frozen=True, eq=False)
class TrainingRun(RunPlan):
    """Result of :func:`train_in_folder`: its plan, and what became of it.

    Attributes:
        folder: The folder.
        score: The kept model, on the CPU, in evaluation mode.
        ending: ``"steps"``, ``"memorization"`` (stopped), or ``"time"`` (to be gone on with).
        step: Steps done.
        kept_step: Step of the kept model.
        choice: The best model before an onset, ``best.safetensors``.
        monitor: The monitor with its observations, or None where nothing was held out.
        seconds: Wall time, over all parts of the run.
    """

    folder: Path
    score: Score
    ending: Ending
    step: int
    kept_step: int
    choice: Choice
    monitor: Monitor | None
    seconds: float


def train_in_folder(
    train: Dataset,
    out: str | Path,
    model: Mapping[str, Any] | None = None,
    settings: RunSettings | None = None,
    *,
    heldout: Dataset | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    ranks: Ranks | None = None,
    overwrite: bool = False,
    forecast: Forecast | None = None,
) -> TrainingRun:
    """Train a model on a data set; a call after an interruption goes on where it stopped.

    Args:
        train: Training data.
        out: The folder of the run, new or that of the same run.
        model: Fields of :class:`ModelConfig` other than those that the data determine.
        settings: Settings; ``RunSettings()`` by default.
        heldout: Data of the same source, not trained on; without them a share of ``train``, drawn
            with the seed, is held out.
        device: Where to train.
        progress: Receives (stage, done, total).
        ranks: Processes that share each batch and see the same folder; each makes this call with
            the same arguments. By default this process alone.
        overwrite: Whether to start anew where the folder holds a run, and to remove its files.
        forecast: Where a single process trains for more than two seconds, receives the seconds
            that it will take, once; what it raises ends the call.

    Returns:
        The run, the same on all ranks.

    Raises:
        ValueError: If the data or settings do not fit, the folder holds another run or something
            else, or training diverges.
        ImportError: If TensorBoard is asked for and not installed.
        RankError: If another rank has ended.
    """
    folder = RunFolder(Path(out))
    require_apart(
        [folder.path, *(folder.path / name for name in FILES)],
        {"train": train.source, "heldout": None if heldout is None else heldout.source},
        folders=[folder.path / name for name in FOLDERS],
    )
    plan = RunPlan.of(train, heldout, model or {}, settings or RunSettings())
    training = WatchedTraining(
        folder,
        plan,
        torch.device(device),
        ranks or Ranks(),
        overwrite=overwrite,
        forecast=forecast,
    )
    ending = training.run(progress or (lambda stage, done, total: None))
    score = plan.config.build()
    load_weights(score, folder.path / WEIGHTS)
    return TrainingRun(
        **vars(plan),
        folder=folder.path,
        score=score.eval().requires_grad_(False),
        ending=ending,
        step=training.state.step,
        kept_step=training.kept_step,
        choice=training.choice,
        monitor=training.monitor,
        seconds=training.seconds,
    )
