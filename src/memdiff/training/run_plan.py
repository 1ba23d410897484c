"""Plan of a training run: split and encoded data, configured model, settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from memdiff.data import Dataset, TableEncoding, check_comparable
from memdiff.run.provenance import provenance
from memdiff.training.model import ModelConfig
from memdiff.training.objective import Objective, TikhonovPenalty, edm_objective
from memdiff.training.run_settings import RunSettings

__all__ = ["RunPlan"]


@dataclass(frozen=True, eq=False)
class RunPlan:
    """Data, model and settings that decide a run.

    Attributes:
        train: The training points.
        heldout: The held-out points, or None.
        encoding: How the rows of a table are encoded for the model, or None.
        split: Whether the held-out points were split off the training data.
        config: How the model is built.
        settings: The settings.
    """

    train: Dataset
    heldout: Dataset | None
    encoding: TableEncoding | None
    split: bool
    config: ModelConfig
    settings: RunSettings

    @classmethod
    def of(
        cls,
        train: Dataset,
        heldout: Dataset | None,
        model: Mapping[str, Any],
        settings: RunSettings,
    ) -> RunPlan:
        """Split and encode the data as the settings ask for, and configure the model for them.

        Args:
            train: Training data.
            heldout: Held-out data, or None for a share of ``train``.
            model: Fields of :class:`ModelConfig` other than those that the data determine.
            settings: The settings.

        Raises:
            ValueError: If the data or settings do not fit.
        """
        seed = settings.training.seed
        split = heldout is None and settings.heldout_share > 0.0
        if split:
            train.require_at_least(
                10, "to hold some out: give held-out data, or a heldout_share of 0"
            )
            heldout, train = train.split(settings.heldout_share, seed=seed)
            heldout = heldout.renamed("heldout")
        encoding = TableEncoding.fit(train).require_model(train) if train.kind == "table" else None
        if heldout is not None:
            heldout = heldout if encoding is None else encoding.conform(heldout)
            check_comparable(train, heldout)
        elif settings.stop_on_memorization:
            raise ValueError(
                "stop_on_memorization needs held-out data to tell memorisation from chance: give "
                "held-out data, or a positive heldout_share."
            )
        if settings.augmentation.changes and train.kind != "images":
            raise ValueError(
                f"augmentation needs images, got training data of kind {train.kind!r}."
            )
        points = train if encoding is None else encoding.encode(train)
        config = ModelConfig.for_data(points.x, **{"seed": seed, **model})
        return cls(train, heldout, encoding, split, config, settings)

    def points(self, data: Dataset) -> torch.Tensor:
        """Return a data set as the model sees it, float32."""
        seen = data if self.encoding is None else self.encoding.encode(data)
        return seen.x.to(torch.float32)

    def objective(self) -> Objective:
        """Return what is minimised."""
        c = self.settings.tikhonov
        penalty = TikhonovPenalty(c) if c > 0.0 else None
        augmentation = self.settings.augmentation if self.settings.augmentation.changes else None
        if self.config.process == "edm":
            return edm_objective(
                self.config.sigma_data, penalty=penalty, augmentation=augmentation
            )
        return Objective(penalty=penalty, augmentation=augmentation)

    def key(self) -> dict[str, Any]:
        """Return what must be equal for a run to go on, in plain JSON types.

        That is all but its length and what follows its end.
        """
        settings = asdict(self.settings)
        monitor = settings["monitor"]
        monitor["sampler"] = repr(self.settings.monitor.sampler)
        settings["monitor_every"] = self.settings.period
        for name in ("time_limit", "save_every", "log_every", "tensorboard"):
            del settings[name]
        for name in ("confirm", "confirm_level"):
            del monitor[name]
        del settings["training"]["steps"]
        sets = {"train": self.train, "heldout": self.heldout}
        key = {
            "model": self.config.to_dict(),
            "settings": settings,
            "data": {name: None if data is None else data.sha256 for name, data in sets.items()},
        }
        plain: dict[str, Any] = json.loads(json.dumps(key))
        return plain

    def description(self) -> dict[str, Any]:
        """Return the content of ``config.json``."""
        return {
            "schema": 1,
            "model": self.config.to_dict(),
            "encoding": self.train.encoding,
            "kind": self.train.kind,
            "table": None if self.encoding is None else self.encoding.to_dict(),
            "run": self.key(),
            "provenance": provenance(seed=self.settings.training.seed),
        }
