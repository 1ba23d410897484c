"""How many decimals the numbers of a column have."""

from __future__ import annotations

import numpy as np

__all__ = ["decimals_of", "round_to"]

_MOST = 12
_EXACT = 2.0**53


def decimals_of(values: np.ndarray) -> int | None:
    """The number of decimals with which all values are written, at most 12.

    Args:
        values: Finite float64 numbers with shape ``(N,)``, at least one.

    Returns:
        The smallest number of decimals that loses nothing, or None where there is no such number.

    Example:
        >>> decimals_of(np.array([5.1, 0.25])), decimals_of(np.array([1 / 3]))
        (2, None)
    """
    some = values[:: max(1, len(values) // 1000)]
    for decimals in range(_MOST + 1):
        if np.array_equal(round_to(some, decimals), some) and np.array_equal(
            round_to(values, decimals), values
        ):
            return decimals
    return None


def round_to(values: np.ndarray, decimals: int) -> np.ndarray:
    """Round to a number of decimals: the floats that those decimals are read as.

    Args:
        values: float64 numbers of any shape; those with more than 15 digits before the rounded
            one are NaN, as the result would be no decimal.
        decimals: From 0 to 12.
    """
    with np.errstate(over="ignore"):
        scaled = np.rint(values * 10.0**decimals) + 0.0  # no -0.0
    # Both are whole numbers below 2^53, so that the quotient is the float next to the decimal.
    return np.where(np.abs(scaled) < _EXACT, scaled, np.nan) / 10.0**decimals
