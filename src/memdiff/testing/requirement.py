"""How the suites fail: always (also under ``python -O``), and in a sentence."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["require", "require_close"]


def require(condition: bool, message: str) -> None:
    """Raise ``AssertionError(message)`` unless ``condition``."""
    if not condition:
        raise AssertionError(message)


def require_close(actual: Tensor, expected: Tensor, allowed: float | Tensor, claim: str) -> None:
    """Raise unless ``|actual - expected| <= allowed`` everywhere; NaN never is.

    Args:
        actual: Any shape.
        expected: The same shape.
        allowed: Largest difference, a number or a tensor that broadcasts.
        claim: What was claimed, the beginning of the message.

    Raises:
        AssertionError: Naming the claim, the worst difference and what was allowed.
    """
    require(
        actual.shape == expected.shape,
        f"{claim}: shapes {tuple(actual.shape)} and {tuple(expected.shape)} differ.",
    )
    difference = (actual.to(torch.float64) - expected.to(torch.float64)).abs()
    bound = torch.as_tensor(allowed, dtype=torch.float64).expand_as(difference)
    wrong = ~(difference <= bound)
    if bool(wrong.any()):
        excess = torch.where(wrong, difference / bound.clamp_min(1e-300), -1.0)
        worst = int(excess.nan_to_num(nan=torch.inf).argmax())
        raise AssertionError(
            f"{claim}: difference {difference.flatten()[worst]:.3g} "
            f"(allowed {bound.flatten()[worst]:.3g}) between {actual.flatten()[worst]:.9g} "
            f"and {expected.flatten()[worst]:.9g}."
        )
