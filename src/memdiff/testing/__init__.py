"""Conformance suites: run them on your own process, score, sampler or metric.

Each takes an object, tries what the rest of the library relies on, and raises an
``AssertionError`` whose message says what is wrong. They need no test framework.
"""

from memdiff.testing.metrics import check_metric
from memdiff.testing.processes import check_process
from memdiff.testing.samplers import check_sampler
from memdiff.testing.scores import check_score

__all__ = ["check_metric", "check_process", "check_sampler", "check_score"]
