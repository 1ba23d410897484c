r"""Clumped samples: how many independent ones do they amount to?

Exceedance tests take the samples for as many independent draws from the law of the data. Samples
of a model that has collapsed to a few points are not: one fresh point that happens to lie near a
training point brings all its repetitions with it, and would pass for many copies.

Let :math:`\kappa_G` be the probability that two samples share their nearest training point,
estimated by :math:`\sum_i c_i (c_i - 1) / (M (M - 1))` from the numbers :math:`c_i` of samples
nearest to point :math:`i`, and :math:`\kappa_H` that of reference points, which is not 0. What is
above counts as repetition of one draw:

.. math::
    \kappa = \frac{\max(0, \kappa_G - \kappa_H - 2 \,\mathrm{s.e.})}{1 - \kappa_H}, \qquad
    D = 1 + (M - 1) \kappa,

and a test sees :math:`M / D` samples of which :math:`B / D` are close. For samples that are
:math:`k` points repeated equally often these are the :math:`k` points. Fresh samples have
:math:`D = 1` but for 2 % of the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.metrics import Distances, Exceedance
from memdiff.metrics.closeness import Reference

__all__ = ["Clumping", "clumping"]


@dataclass(frozen=True)
class Clumping:
    """How far samples repeat each other.

    Attributes:
        samples: Number of samples M.
        collisions: Probability that two samples share their nearest training point.
        usual: The same of two reference points.
        design_effect: The factor :math:`D` by which the samples are fewer than they seem.
    """

    samples: int
    collisions: float
    usual: float
    design_effect: float

    @property
    def effective_samples(self) -> float:
        """Number of independent samples that they amount to."""
        return self.samples / self.design_effect

    def p_value(self, result: Exceedance, size: int) -> float:
        r"""The p-value of an exceedance test with the effective numbers.

        Args:
            result: The test.
            size: Number of reference points.

        Returns:
            The smallest p-value over ranks times their number. Equals ``result.p_value`` where
            :math:`D = 1`.
        """
        if self.design_effect == 1.0:
            return result.p_value
        tails = [
            self._tail(count, rank, size)
            for count, rank in zip(result.counts, result.ranks, strict=True)
        ]
        return min(1.0, len(tails) * min(tails))

    def _tail(self, count: int, rank: int, size: int) -> float:
        """``P(B >= count / D)``, the count rounded down, so that half a draw is none."""
        import numpy as np
        from scipy.special import logsumexp
        from scipy.stats import betabinom

        hits = math.floor(count / self.design_effect + 1e-9)
        m = max(hits, round(self.effective_samples))
        terms = betabinom.logpmf(np.arange(hits, m + 1), m, rank, size + 1 - rank)
        return min(1.0, float(np.exp(logsumexp(terms))))


def clumping(found: Distances, reference: Reference) -> Clumping:
    """Measure how far the samples repeat each other.

    Args:
        found: The distances.
        reference: What they are compared with: held-out points, or training points, each seen by
            the others.

    Returns:
        Clumping.

    References:
        Rao, Scott, *A simple method for the analysis of clustered binary data*, Biometrics 48
        (1992): counts divided by the design effect. Reconstructed: the design effect from
        collisions of nearest neighbours, in place of known clusters.
    """
    labels = found.groups.labels.cpu()
    ours = found.to_train("generated").indices[:, 0].cpu()
    theirs = found.to_train(reference, distinct=reference == "train").indices[:, 0].cpu()
    m = len(ours)
    collisions, variance = _collisions(labels[ours])
    usual, other = _collisions(labels[theirs])
    excess = max(0.0, collisions - usual - 2.0 * math.sqrt(variance + other))
    repeated = 0.0 if usual >= 1.0 else excess / (1.0 - usual)
    return Clumping(m, collisions, usual, 1.0 + (m - 1) * repeated)


def _collisions(cells: Tensor) -> tuple[float, float]:
    """Unbiased probability that two draws share their cell, and the variance of the estimate."""
    n = len(cells)
    if n < 3:
        return 0.0, 0.0
    counts = torch.bincount(cells).to(torch.float64)
    pairs = float((counts * (counts - 1)).sum()) / (n * (n - 1))
    triples = float((counts * (counts - 1) * (counts - 2)).sum()) / (n * (n - 1) * (n - 2))
    # Variance of a U statistic of degree 2 (Hoeffding).
    shared = max(0.0, triples - pairs**2)
    return pairs, (4.0 * (n - 2) * shared + 2.0 * pairs * (1.0 - pairs)) / (n * (n - 1))
