"""Training of score networks, watched for memorisation, and of ensembles of small networks."""

from typing import TYPE_CHECKING

from memdiff.public.lazy import lazily

if TYPE_CHECKING:
    from memdiff.training.assessment import Assessment, assess, summary
    from memdiff.training.augmentation import AffineAugmentation
    from memdiff.training.batches import batch_index, step_seed
    from memdiff.training.checkpoints import load_state, load_weights, save_state, save_weights
    from memdiff.training.ensemble import Ensemble, Member
    from memdiff.training.journal import Journal, read_journal
    from memdiff.training.loop import TrainingState, TrainingStep, train
    from memdiff.training.loop_settings import TrainingSettings
    from memdiff.training.model import ModelConfig, load_encoding, load_model
    from memdiff.training.model_choice import Choice
    from memdiff.training.monitor import Monitor, MonitorSettings
    from memdiff.training.objective import (
        EDMWeighting,
        LogNormalRatio,
        Losses,
        Objective,
        Penalty,
        TikhonovPenalty,
        edm_objective,
    )
    from memdiff.training.observation import Level, Observation
    from memdiff.training.onset import Onset, Reading, find_onset
    from memdiff.training.run_report import train_and_report, write_reports
    from memdiff.training.run_settings import RunSettings
    from memdiff.training.training_run import TrainingRun, train_in_folder

__all__ = [
    "AffineAugmentation",
    "Assessment",
    "Choice",
    "EDMWeighting",
    "Ensemble",
    "Journal",
    "Level",
    "LogNormalRatio",
    "Losses",
    "Member",
    "ModelConfig",
    "Monitor",
    "MonitorSettings",
    "Objective",
    "Observation",
    "Onset",
    "Penalty",
    "Reading",
    "RunSettings",
    "TikhonovPenalty",
    "TrainingRun",
    "TrainingSettings",
    "TrainingState",
    "TrainingStep",
    "assess",
    "batch_index",
    "edm_objective",
    "find_onset",
    "load_encoding",
    "load_model",
    "load_state",
    "load_weights",
    "read_journal",
    "save_state",
    "save_weights",
    "step_seed",
    "summary",
    "train",
    "train_and_report",
    "train_in_folder",
    "write_reports",
]

__getattr__, __dir__ = lazily(__name__)
