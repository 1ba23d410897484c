"""The files that a finished run is read by."""

from __future__ import annotations

from pathlib import Path

from memdiff.run.writing import write_json
from memdiff.training.assessment import Assessment, summary
from memdiff.training.page import compose
from memdiff.training.run import TrainingRun

__all__ = ["write_reports"]


def write_reports(run: TrainingRun, assessment: Assessment | None) -> Path:
    """Write ``report.json``, ``report.html`` and the page of the audit, ``audit.html``.

    Args:
        run: The run.
        assessment: What :func:`assess` found, or None.

    Returns:
        The path of ``report.html``.
    """
    from memdiff.report import write_html

    write_json(run.folder / "report.json", summary(run, assessment))
    if assessment is not None:
        assessment.audit.to_json(run.folder / "audit.json")
        assessment.audit.to_html(run.folder / "audit.html")
    path = run.folder / "report.html"
    write_html(compose(run, assessment), path)
    return path
