"""The paper's experiments, measured next to what was published; :func:`reproduce` runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdiff.experiments.registry import NAMES, REGISTRY
from memdiff.public.lazy import lazily

if TYPE_CHECKING:
    from memdiff.experiments.experiment import Context, Experiment, Outcome
    from memdiff.experiments.runner import Progress, ReproductionError, reproduce

__all__ = [
    "NAMES",
    "REGISTRY",
    "Context",
    "Experiment",
    "Outcome",
    "Progress",
    "ReproductionError",
    "reproduce",
]

__getattr__, __dir__ = lazily(__name__)
