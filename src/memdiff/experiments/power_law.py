r"""Fits of the onset law: when a curve crosses a level, and how that time grows with the size.

For times :math:`\tau_i` at sizes :math:`N_i` the model is
:math:`\ln \tau_i = a + b \ln N_i + s \epsilon_i` with normal :math:`\epsilon_i`. A run that ended
at step :math:`k` before it crossed says :math:`\tau_i > k`: it enters the likelihood with the
probability of that (the Tobit model), where dropping it would bias :math:`b` downwards.

The interval for :math:`b` is that of the profile likelihood :math:`\ell(b)`,
:math:`2 (\ell_{max} - \ell(b)) \le n \ln(1 + q^2/(n - 2))` with the quantile :math:`q` of
Student's law with :math:`n - 2` degrees of freedom. With no censored run it is the interval of
ordinary least squares, exactly.

References:
    Tobin, *Estimation of relationships for limited dependent variables*, Econometrica 1958.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["PowerLaw", "crossing", "fit_power_law"]


FARTHEST = 100.0
"""An interval that reaches this far from the exponent says nothing about it."""


@dataclass(frozen=True)
class PowerLaw:
    r"""A fitted law :math:`\tau = e^a N^b`.

    Attributes:
        exponent: :math:`b`.
        low: Lower end of its interval.
        high: Upper end of its interval.
        log_factor: :math:`a`.
        scatter: :math:`s`, standard deviation of :math:`\ln \tau` about the law (maximum
            likelihood).
        censored: Number of runs that ended before they crossed.
    """

    exponent: float
    low: float
    high: float
    log_factor: float
    scatter: float
    censored: int

    def at(self, size: float) -> float:
        """Return the fitted time at a size."""
        return math.exp(self.log_factor) * size**self.exponent


def crossing(steps: Sequence[float], values: Sequence[float], level: float) -> float | None:
    """Return the first step at which the best rising fit of a noisy curve reaches a level.

    The fit is isotonic least squares, linear in between in the logarithm of the step.

    Args:
        steps: Positive steps, increasing.
        values: Values of the curve.
        level: The level.

    Returns:
        The step; None where the fit stays below the level, and the first step where it starts
        at or above it.

    Example:
        >>> crossing([100, 200, 400], [0.0, 0.4, 0.6], 0.4)
        200.0
    """
    from scipy.optimize import isotonic_regression

    fit = np.asarray(isotonic_regression(np.asarray(values, dtype=np.float64)).x)
    above = np.flatnonzero(fit >= level)
    if not len(above):
        return None
    place = int(above[0])
    if place == 0:
        return float(steps[0])
    share = (level - fit[place - 1]) / (fit[place] - fit[place - 1])
    return float(steps[place] ** share * steps[place - 1] ** (1.0 - share))


def fit_power_law(
    sizes: Sequence[float],
    times: Sequence[float | None],
    ends: Sequence[float],
    *,
    confidence: float = 0.95,
) -> PowerLaw | None:
    """Fit times of crossing that may be censored.

    Args:
        sizes: Size of each run, positive.
        times: Time of each run; None where it ended first.
        ends: Last step of each run.
        confidence: Coverage of the interval.

    Returns:
        The law; None where fewer than two sizes have a run that crossed, or fewer than three runs
        did, or the interval is unbounded: no exponent can be told.
    """
    from scipy.optimize import brentq
    from scipy.stats import t as student

    crossed = np.array([time is not None for time in times])
    x = np.log(np.asarray(sizes, dtype=np.float64))
    y = np.log([end if time is None else time for time, end in zip(times, ends, strict=True)])
    if len(set(x[crossed].tolist())) < 2 or crossed.sum() < 3:
        return None
    center = x.mean()
    count = len(x)

    def profile(slope: float) -> tuple[float, float, float]:
        """Return the largest log likelihood at a slope, with its level and scatter."""
        return _best_level(y - slope * (x - center), crossed)

    start = float(np.polyfit(x[crossed], y[crossed], 1)[0])
    slope = _maximise(lambda b: profile(b)[0], start)
    best, level, scatter = profile(slope)
    quantile = float(student.ppf(0.5 + confidence / 2.0, count - 2))
    drop = 0.5 * count * math.log1p(quantile**2 / (count - 2))

    def excess(reach: float, sign: float) -> float:
        return profile(slope + sign * reach)[0] - best + drop

    bounds = []
    for sign in (-1.0, 1.0):
        reach = 1e-3
        while excess(reach, sign) > 0.0:
            reach *= 2.0
            if reach > FARTHEST:
                return None
        bounds.append(slope + sign * float(brentq(excess, 0.0, reach, args=(sign,))))
    low, high = bounds
    return PowerLaw(slope, low, high, level - slope * center, scatter, int(count - crossed.sum()))


def _best_level(rest: np.ndarray, crossed: np.ndarray) -> tuple[float, float, float]:
    """Maximum of the likelihood of a normal sample, censored from the right.

    In ``u = level / scatter`` and ``v = 1 / scatter`` the likelihood is concave (Olsen, *Note on
    the uniqueness of the maximum likelihood estimator for the Tobit model*, Econometrica 1978).
    """
    from scipy.optimize import minimize
    from scipy.special import log_ndtr

    half_log = 0.5 * math.log(2.0 * math.pi)
    seen, cut = rest[crossed], rest[~crossed]
    level, scatter = float(rest.mean()), max(float(rest.std()), 1e-9)
    if not len(cut):
        z = (rest - level) / scatter
        return -float((0.5 * z**2 + half_log + math.log(scatter)).sum()), level, scatter

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        u, v = parameters
        z, beyond = v * seen - u, v * cut - u
        tail = log_ndtr(-beyond)
        hazard = np.exp(-0.5 * beyond**2 - half_log - tail)
        value = float((0.5 * z**2 + half_log - math.log(v)).sum() - tail.sum())
        by_level = -float(z.sum() + hazard.sum())
        by_scale = float((z * seen - 1.0 / v).sum() + (hazard * cut).sum())
        return value, np.array([by_level, by_scale])

    guess = np.array([level / scatter, 1.0 / scatter])
    bounds = [(None, None), (1e-6, None)]
    options = {"ftol": 1e-15, "gtol": 1e-9}
    found = minimize(loss, guess, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    u, v = found.x
    return -float(found.fun), float(u / v), float(1.0 / v)


def _maximise(value: Callable[[float], float], start: float) -> float:
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda b: -value(b), bracket=(start - 0.1, start + 0.1), tol=1e-8)
    return float(found.x)
