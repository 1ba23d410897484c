"""Scores: exact, regularised, population and learned."""

from memdiff.scores.base import Score
from memdiff.scores.empirical import EmpiricalScore

__all__ = ["EmpiricalScore", "Score"]
