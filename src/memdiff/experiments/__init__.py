"""The paper's experiments, measured next to what was published.

:func:`reproduce` runs them. :data:`REGISTRY` is their list, in the order of the report: the name
of an experiment and the module of this package whose ``EXPERIMENTS`` holds it. A module is
imported when its experiment is run. To add an experiment, write its module against
:mod:`memdiff.experiments.experiment` and add its line here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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

REGISTRY: tuple[tuple[str, str], ...] = (
    ("ve-trajectories", "trajectories"),
    ("vp-trajectories", "trajectories"),
    ("time-change", "time_change"),
    ("structured-points", "structured_points"),
    ("tikhonov-sweep", "tikhonov_sweep"),
    ("empirical-bayes-sweep", "empirical_bayes_sweep"),
    ("rectangles-closed-form", "rectangles_closed_form"),
    ("conditional", "conditional"),
    ("consistency", "consistency"),
    ("selection", "selection"),
    ("real-data", "real_data"),
    ("scale", "scale"),
    ("early-stopping", "early_stopping"),
    ("width", "width"),
    ("singularity", "singularity"),
    ("network-tikhonov", "network_tikhonov"),
    ("onset-law", "onset_law"),
    ("rectangles-network", "rectangles_network"),
    ("conditional-network", "conditional_network"),
)

NAMES: tuple[str, ...] = tuple(name for name, _ in REGISTRY)

__getattr__, __dir__ = lazily(__name__)
