"""Training, audit of the kept model and report in one call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from memdiff.data import Dataset
from memdiff.report import write_html
from memdiff.run.pace import Forecast
from memdiff.run.ranks import Ranks
from memdiff.run.writing import write_json
from memdiff.training.assessment import Assessment, assess, summary
from memdiff.training.run_page import compose
from memdiff.training.run_settings import RunSettings
from memdiff.training.training_run import TrainingRun, train_in_folder
from memdiff.training.watched_training import Progress

__all__ = ["train_and_report", "write_reports"]


def train_and_report(
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
) -> tuple[TrainingRun, Assessment | None]:
    """Train a model, audit samples of the kept one, write the report: all of ``memdiff train``.

    The arguments are those of :func:`train_in_folder`. As many samples are audited as confirm the
    choice of a model, ``settings.monitor.confirm``, by the sampler of the monitor.

    Returns:
        The run, and its assessment. There is none where the time limit has ended the run, no
        samples are asked for, or another process audits.
    """
    run = train_in_folder(
        train,
        out,
        model,
        settings,
        heldout=heldout,
        device=device,
        progress=progress,
        ranks=ranks,
        overwrite=overwrite,
        forecast=forecast,
    )
    if ranks is not None and not ranks.is_first:
        return run, None
    assessment, num = None, run.settings.monitor.confirm
    if num and run.ending != "time":
        assessment = assess(run, num, device=device, progress=progress)
    write_reports(run, assessment)
    return run, assessment


def write_reports(run: TrainingRun, assessment: Assessment | None) -> Path:
    """Write ``report.json``, ``report.html`` and the page of the audit, ``audit.html``.

    Args:
        run: The run.
        assessment: What :func:`assess` found, or None.

    Returns:
        The path of ``report.html``.
    """
    write_json(run.folder / "report.json", summary(run, assessment))
    if assessment is not None:
        assessment.audit.to_json(run.folder / "audit.json")
        assessment.audit.to_html(run.folder / "audit.html")
    path = run.folder / "report.html"
    write_html(compose(run, assessment), path)
    return path
