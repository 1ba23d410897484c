r"""Where to stop: bandwidths of the kernel density that early stopping samples from.

The exact reverse flow of an empirical score, stopped at ``t_end > 0``, has the law
:math:`p^N_{t_{end}}`: after division by :math:`m`, a kernel density estimate of bandwidth
:math:`h = \sigma/m`. Each rule returns ``h`` in units of the data, as one number for an isotropic
kernel; ``process.time_at_ratio(h)`` is the time to stop at.

References:
    Silverman, *Density Estimation*, 1986, equation 4.15; Scott, *Multivariate Density
    Estimation*, 1992, equation 6.42 (isotropic form: the root mean variance in place of each
    coordinate's standard deviation). Wibisono, Wu, Yang, arXiv:2402.07747, theorem 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.scores.empirical import EmpiricalScore
from memdiff.sources import Rows

__all__ = [
    "BandwidthCurve",
    "leave_one_out_likelihood",
    "scott_bandwidth",
    "silverman_bandwidth",
]


def silverman_bandwidth(data: Tensor | Rows) -> float:
    r"""Silverman's rule :math:`h = s\,(4 / ((d + 2) N))^{1/(d+4)}`.

    Args:
        data: Training data with shape ``(N, *S)``, at least two points; rows on disk are read in
            blocks.

    Returns:
        The bandwidth; :math:`s^2` is the mean over coordinates of the unbiased variance.

    Raises:
        ValueError: If there is one point only, or all are equal.
    """
    n, d, spread = _spread(data)
    return spread * (4.0 / ((d + 2.0) * n)) ** (1.0 / (d + 4.0))


def scott_bandwidth(data: Tensor | Rows) -> float:
    r"""Scott's rule :math:`h = s\,N^{-1/(d+4)}`; arguments as :func:`silverman_bandwidth`.

    It has the order of the consistent choice for empirical Bayes estimation: with a density floor
    of order ``1/N`` the squared score error then decays like :math:`N^{-2/(d+4)}`, log factors
    aside.
    """
    n, d, spread = _spread(data)
    return spread * n ** (-1.0 / (d + 4.0))


@dataclass(frozen=True)
class BandwidthCurve:
    """Leave-one-out log likelihood of a kernel density.

    Attributes:
        bandwidths: Candidate bandwidths, float64 with shape ``(K,)``.
        log_likelihood: Mean leave-one-out log likelihood at each, shape ``(K,)``.
        standard_error: Its standard error over training points, shape ``(K,)``.
        best: Bandwidth with the largest likelihood.
    """

    bandwidths: Tensor
    log_likelihood: Tensor
    standard_error: Tensor
    best: float


def leave_one_out_likelihood(
    score: EmpiricalScore, bandwidths: Tensor | None = None
) -> BandwidthCurve:
    r"""Likelihood of each training point under the kernel density of the others.

    Repeated training points drive the choice to the smallest bandwidth, as they must: the others
    then predict a point exactly. Remove duplicates first.

    Args:
        score: The empirical score, with at least two points.
        bandwidths: Positive candidates, increasing; default 25 log-spaced from 1/30 to 3 times
            Silverman's.

    Returns:
        The curve and its maximum. For large training sets the cost is ``K`` passes of ``N``
        queries.

    Raises:
        ValueError: If there is one point only, or a bandwidth is not positive.
    """
    data = score.source
    if bandwidths is None:
        centre = silverman_bandwidth(data)
        bandwidths = centre * torch.logspace(-math.log10(30), math.log10(3), 25).to(torch.float64)
    elif not bool((bandwidths > 0).all()):
        raise ValueError("bandwidths must be positive.")
    elif len(data) < 2:
        raise ValueError("leave-one-out needs at least two training points, got 1.")
    index = torch.arange(len(data), device=data.device)
    size = len(data) if isinstance(data, Tensor) else 8192
    values, errors = [], []
    for bandwidth in bandwidths.tolist():
        t = score.process.time_at_ratio(bandwidth)
        m = float(score.process.scale(t))
        log_p = torch.cat(
            [
                score.log_density(m * part.to(torch.float64), t, exclude=own)
                for part, own in zip(data.split(size), index.split(size), strict=True)
            ]
        )
        # Density in data units, of the others alone.
        log_p = log_p + data[0].numel() * math.log(m) - torch.log1p(-score.log_prior.exp())
        values.append(float(log_p.mean()))
        errors.append(float(log_p.std() / len(data) ** 0.5))
    curve = torch.tensor(values, dtype=torch.float64)
    return BandwidthCurve(
        bandwidths=bandwidths,
        log_likelihood=curve,
        standard_error=torch.tensor(errors, dtype=torch.float64),
        best=float(bandwidths[int(curve.argmax())]),
    )


def _spread(data: Tensor | Rows) -> tuple[int, int, float]:
    if len(data) < 2:
        raise ValueError(f"a bandwidth rule needs at least two training points, got {len(data)}.")
    count = len(data)
    if isinstance(data, Rows):
        variance = data.moments().scatter / (count - 1)
    else:
        variance = data.reshape(count, -1).to(torch.float64).var(0)
    spread = float(variance.mean().sqrt())
    if spread == 0.0:
        raise ValueError("all training points are equal: no bandwidth rule applies.")
    return count, len(variance), spread
