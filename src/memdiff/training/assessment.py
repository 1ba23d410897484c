"""The audit of a finished training run: samples of the kept model against its training data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from memdiff.audit import AuditResult, audit
from memdiff.data import Dataset
from memdiff.run.provenance import provenance
from memdiff.samplers import Sampler, sample
from memdiff.training.run_folder import save_samples
from memdiff.training.training_run import TrainingRun
from memdiff.training.watched_training import Progress

__all__ = ["Assessment", "assess", "summary"]


@dataclass(frozen=True, eq=False)
class Assessment:
    """Result of :func:`assess`.

    Attributes:
        samples: Samples of the kept model.
        audit: Their audit against the training and the held-out data.
    """

    samples: Dataset
    audit: AuditResult


def assess(
    run: TrainingRun,
    num: int = 500,
    *,
    sampler: Sampler | None = None,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Assessment:
    """Sample the kept model of a run, save the samples, and audit them.

    They are saved as ``samples.npz``, or for tables as ``samples.csv`` or ``samples.parquet``.

    The latents are other ones than those of the monitor. The best model was chosen with the same
    held-out points: that favours it a little over fresh ones.

    Args:
        run: The run.
        num: Number of samples.
        sampler: How they are drawn; that of the monitor by default.
        batch_size: Samples at a time.
        device: Where to draw them.
        progress: Receives (stage, done, total).

    Returns:
        The samples and their audit.
    """
    seed = run.settings.training.seed
    sampler = sampler or run.settings.monitor.sampler
    x = sample(
        run.score.to(device),
        shape=run.config.shape,
        num=num,
        sampler=sampler,
        seed=seed,
        # The first ones are those of the monitor.
        start=run.settings.monitor.samples + run.settings.monitor.confirm,
        batch_size=batch_size,
        progress=None if progress is None else lambda i, n: progress("samples", i, n),
    ).x.cpu()
    run.score.to("cpu")
    samples = save_samples(run.folder / "samples.npz", x, run.train, run.encoding)
    result = audit(
        generated=samples,
        train=run.train,
        heldout=run.heldout,
        seed=seed,
        sampler_settings={"sampler": repr(sampler), "seed": seed, "model": str(run.folder)},
        progress=progress,
    )
    return Assessment(samples, result)


def summary(run: TrainingRun, assessment: Assessment | None) -> dict[str, Any]:
    """Return a run and its assessment in plain JSON types: the content of ``report.json``."""
    monitor = run.monitor
    onset = None if monitor is None else monitor.onset
    choice = run.choice
    audited = None if assessment is None else assessment.audit
    return {
        "schema": 1,
        "ending": run.ending,
        "step": run.step,
        "kept_step": run.kept_step,
        "verdict": None if audited is None else audited.verdict,
        "decision": None if audited is None else asdict(audited.decision),
        "onset": None
        if onset is None
        else {
            "onset": onset.onset,
            "best": onset.best,
            **asdict(onset),
        },
        "choice": {
            "step": choice.step,
            "confirmed": choice.confirmed,
            "confirmations": [look.to_dict() for look in choice.confirmations],
        },
        "observations": []
        if monitor is None
        else [observation.to_dict() for observation in monitor.observations],
        "model": run.config.to_dict(),
        "parameters": sum(p.numel() for p in run.score.parameters()),
        "settings": {
            **_plain(run),
            "period": run.settings.period,
            "noise_ratios": None if monitor is None else list(monitor.ratios),
        },
        "data": {
            name: None
            if data is None
            else {
                "source": data.source,
                "points": len(data),
                "sha256": data.sha256,
                "notes": list(data.notes),
            }
            for name, data in (("train", run.train), ("heldout", run.heldout))
        },
        "heldout_was_split_off": run.split,
        "table": None if run.encoding is None else run.encoding.to_dict(),
        "seconds": run.seconds,
        "provenance": provenance(seed=run.settings.training.seed),
    }


def _plain(run: TrainingRun) -> dict[str, Any]:
    settings = asdict(run.settings)
    settings["monitor"]["sampler"] = repr(run.settings.monitor.sampler)
    return settings
