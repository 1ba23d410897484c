"""Rules for the bandwidth at which early stopping leaves the reverse flow."""

from __future__ import annotations

from memdiff.scores import (
    EmpiricalScore,
    leave_one_out_likelihood,
    scott_bandwidth,
    silverman_bandwidth,
)

__all__ = ["likelihood", "scott", "silverman"]


def silverman(score: EmpiricalScore) -> float:
    """Silverman's bandwidth of the training data."""
    return silverman_bandwidth(score.source)


def scott(score: EmpiricalScore) -> float:
    """Scott's bandwidth of the training data."""
    return scott_bandwidth(score.source)


def likelihood(score: EmpiricalScore) -> float:
    """The bandwidth under which each training point is likeliest, given the others."""
    return leave_one_out_likelihood(score).best
