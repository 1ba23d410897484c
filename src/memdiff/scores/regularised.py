"""What regularised scores share: another score inside, whose data and process they keep."""

from __future__ import annotations

import torch
from torch import Tensor

from memdiff.scores.base import Score

__all__ = ["RegularisedScore"]


class RegularisedScore(Score):
    """A score made from another one. Regularised scores compose: each takes any score it can use.

    A subclass writes :meth:`residual`, with ``exclude`` handed on to ``score.residual``.

    Args:
        score: The score to regularise.
    """

    score: Score

    def __init__(self, score: Score) -> None:
        super().__init__(score.process)
        self.score = score

    def forward(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        """The regularised score, of the shape and dtype of ``x``."""
        return self.score_from_residual(x, t, y)

    @property
    def shape(self) -> torch.Size | None:
        """Shape ``S`` of one point where the inner score knows it, else None."""
        return self.score.shape

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the inner score."""
        return self.score.dtype
