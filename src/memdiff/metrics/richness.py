r"""How many kinds are there, and how many will be seen, from the counts of those seen so far.

Statistics of ecology for training points in place of species: of :math:`n` samples,
:math:`f_k` training points were copied exactly :math:`k` times. Good and Toulmin predict how many
new ones another :math:`t n` samples would copy,

.. math::
    U(t) = -\sum_{k \ge 1} (-t)^k f_k,

unbiased for Poisson counts, but for :math:`t > 1` with a variance that explodes; averaging over
the point where the series is cut, :math:`L \sim B(r, \theta)`, gives
:math:`-\sum_k (-t)^k P(L \ge k) f_k`. Chao1 bounds from below how many there are in all:
:math:`S + \frac{n-1}{n} \frac{f_1^2}{2 f_2}`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from memdiff.metrics.intervals import Interval, check_level

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Richness", "chao1", "good_toulmin"]


@dataclass(frozen=True)
class Richness:
    """A number of kinds with its interval.

    Attributes:
        value: The estimate.
        interval: Of :func:`good_toulmin`, a prediction interval of the number that will be seen;
            of :func:`chao1`, a confidence interval of the lower bound on the number there are.
        reliable: Whether the estimate lies in the range that its theory covers.
    """

    value: float
    interval: Interval
    reliable: bool


def good_toulmin(counts: Tensor, t: float, *, level: float = 0.95) -> Richness:
    r"""Number of new kinds in another ``t n`` draws, after ``n``.

    With weights :math:`h_k`, so that the estimate is :math:`\sum_k h_k f_k`, its error against the
    number that will be seen has for Poisson counts the variance
    :math:`\sum_i E h(X_i)^2 + E U`, estimated by :math:`\sum_k h_k^2 f_k + U`. The interval is
    normal, with an additional ``-log((1 - level)/2)`` at the upper end, the exact limit of a
    Poisson number after none was seen, where no kind was seen just once. It does not include the
    bias of the smoothing.

    Args:
        counts: Non-negative integers, draws of each kind; zeros do not matter.
        t: Number of new draws over the number of old ones, positive. Above 1 the series is
            smoothed with :math:`\theta = 2/(2 + t)` and
            :math:`r = \lceil \frac12 \log_3 \frac{n t^2}{t - 1} \rceil`, ``n`` the sum of the
            counts.
        level: Coverage of the interval.

    Returns:
        Richness, ``reliable`` for ``t`` up to 1 or the logarithm of the sum of the counts, the
        limit of what any estimator can do. The value may be negative by chance.

    Raises:
        ValueError: If ``t`` is not positive, or a count is negative or not an integer.

    References:
        Good, Toulmin, *The number of new species, and the increase in population coverage, when a
        sample is increased*, Biometrika 43 (1956).
        Efron, Thisted, *Estimating the number of unseen species*, Biometrika 63 (1976): the
        variance.
        Orlitsky, Suresh, Wu, *Optimal prediction of the number of unseen species*, PNAS 113
        (2016). Reconstructed: the constants of the binomial smoothing.

    Example:
        >>> good_toulmin(torch.tensor([1, 1, 1, 2, 3]), 1.0).value
        3.0
    """
    check_level(level)
    if not 0.0 < t < math.inf:
        raise ValueError(f"t must be positive and finite, got {t}.")
    import numpy as np
    from scipy.stats import binom, norm

    kinds = _frequencies(counts)
    k = np.arange(1, len(kinds) + 1, dtype=np.float64)
    total = float((k * kinds).sum())
    if t <= 1.0:
        weights = -((-t) ** k)
    else:
        r = math.ceil(0.5 * math.log(max(total, 1.0) * t**2 / (t - 1.0), 3.0))
        tail = binom.sf(k - 1.0, max(r, 1), 2.0 / (2.0 + t))
        kept = tail > 0.0  # beyond r the powers of t may overflow
        weights = np.zeros_like(k)
        weights[kept] = -((-t) ** k[kept]) * tail[kept]
    value = float((weights * kinds).sum())
    spread = math.sqrt(float((weights**2 * kinds).sum()) + max(value, 0.0))
    half = float(norm.isf((1.0 - level) / 2.0)) * spread
    spare = 0.0 if len(kinds) and kinds[0] else -t * math.log((1.0 - level) / 2.0)
    method = "normal, Efron-Thisted variance"
    interval = Interval(value - half, value + half + spare, level, method)
    return Richness(value, interval, t <= max(1.0, math.log(max(total, 1.0))))


def chao1(counts: Tensor, draws: int | None = None, *, level: float = 0.95) -> Richness:
    r"""Lower bound on the number of kinds.

    :math:`S + a f_1^2/(2 f_2)`, or the bias-corrected :math:`S + a f_1 (f_1 - 1)/2` without
    doubletons, :math:`a = (n - 1)/n`. Close to the number itself where the rare kinds are about
    equally rare.

    Args:
        counts: Non-negative integers, draws of each kind; zeros do not matter.
        draws: ``n``, draws in all including those of no kind; by default the sum of the counts.
        level: Coverage of the interval.

    Returns:
        Richness with Chao's log-normal interval, which starts at the number seen. Without
        singletons nothing hints at unseen kinds, and the interval is that of the kinds seen
        under Poisson counts. Not ``reliable`` without doubletons.

    Raises:
        ValueError: If a count is negative or not an integer, or ``draws`` is below their sum.

    References:
        Chao, *Estimating the population size for capture-recapture data with unequal
        catchability*, Biometrics 43 (1987): the bound and the interval.
        Reconstructed, as implemented in EstimateS (Colwell): the variances without doubletons and
        without singletons.

    Example:
        >>> round(chao1(torch.tensor([1, 1, 1, 1, 2, 2, 5])).value, 2)
        10.69
    """
    check_level(level)
    import numpy as np
    from scipy.stats import norm

    kinds = _frequencies(counts)
    k = np.arange(1, len(kinds) + 1, dtype=np.float64)
    total = int((k * kinds).sum())
    n = total if draws is None else draws
    if n < total:
        raise ValueError(f"draws must be at least the sum of the counts {total}, got {draws}.")
    method = "Chao's log-normal"
    seen = float(kinds.sum())
    if seen == 0.0:
        return Richness(0.0, Interval(0.0, math.inf, level, "nothing seen"), False)
    z = float(norm.isf((1.0 - level) / 2.0))
    a = (n - 1.0) / n
    f1, f2 = float(kinds[0]), float(kinds[1]) if len(kinds) > 1 else 0.0
    unseen = a * f1**2 / (2.0 * f2) if f2 else a * f1 * (f1 - 1.0) / 2.0
    if unseen > 0.0:
        if f2:
            q = f1 / f2
            variance = f2 * (a * q**2 / 2.0 + a**2 * q**3 + a**2 * q**4 / 4.0)
        else:
            variance = a * f1 * (f1 - 1.0) / 2.0 + a**2 * f1 * (2.0 * f1 - 1.0) ** 2 / 4.0
            variance = max(variance - a**2 * f1**4 / (4.0 * (seen + unseen)), 0.0)
        factor = math.exp(z * math.sqrt(math.log1p(variance / unseen**2)))
        interval = Interval(seen + unseen / factor, seen + unseen * factor, level, method)
        return Richness(seen + unseen, interval, f2 > 0.0)
    missing = float((np.exp(-k) * kinds).sum()) / seen
    variance = float((kinds * (np.exp(-k) - np.exp(-2.0 * k))).sum())
    variance = max(variance - float((k * np.exp(-k) * kinds).sum()) ** 2 / n, 0.0)
    high = (seen + z * math.sqrt(variance)) / (1.0 - missing)
    return Richness(seen, Interval(seen, high, level, "Poisson counts"), f2 > 0.0 or f1 == 0.0)


def _frequencies(counts: Tensor) -> np.ndarray:
    """``f_k`` for ``k`` from 1 to the largest count, as a float64 array."""
    import numpy as np

    if counts.is_floating_point() or counts.is_complex() or bool((counts < 0).any()):
        raise ValueError(
            f"counts must be non-negative integers, got dtype {counts.dtype} with smallest value "
            f"{counts.min().item() if counts.numel() else 'none'}."
        )
    values = counts[counts > 0].to("cpu", torch.int64).numpy()
    return np.bincount(values, minlength=1)[1:].astype(np.float64)
