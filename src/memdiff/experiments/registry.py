"""Registry of the experiments, in the order of the report.

An entry is the name of an experiment and the module of this package whose ``EXPERIMENTS`` holds
it. A module is imported when its experiment is run. To add an experiment, write its module against
:mod:`memdiff.experiments.experiment` and add its line here.
"""

from __future__ import annotations

__all__ = ["NAMES", "REGISTRY"]

REGISTRY: tuple[tuple[str, str], ...] = (
    ("ve-trajectories", "exact_flow"),
    ("vp-trajectories", "exact_flow"),
    ("time-change", "time_change"),
    ("structured-points", "structured_points"),
    ("tikhonov-sweep", "tikhonov_sweep"),
    ("empirical-bayes-sweep", "empirical_bayes_sweep"),
    ("rectangles-closed-form", "rectangles_closed_form"),
    ("conditional", "conditional"),
    ("consistency", "consistency"),
    ("selection", "strength_selection"),
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
