"""Conditions of a network: a class, or a vector of numbers."""

from __future__ import annotations

from torch import Tensor

__all__ = ["checked_condition", "condition_columns"]


def condition_columns(classes: int, condition_features: int) -> int:
    """Count the columns that a condition takes: one for each class, or the length of the vector.

    Raises:
        ValueError: If a number is negative, or both are positive.
    """
    if classes < 0 or condition_features < 0 or (classes and condition_features):
        raise ValueError(
            f"classes and condition_features must be non-negative and at most one of them "
            f"positive, got {classes} and {condition_features}."
        )
    return classes + condition_features


def checked_condition(
    y: Tensor | None, batch: int, classes: int, condition_features: int
) -> Tensor | None:
    """Return the condition checked, as int64 classes ``(B,)`` or vectors ``(B, k)``, or None.

    A vector condition of length one may come with shape ``(B,)``.

    Raises:
        ValueError: If the network is conditional and ``y`` is missing or of another form, or the
            network is not conditional and ``y`` is given.
    """
    if not classes and not condition_features:
        if y is not None:
            raise ValueError(
                "y was given, but the network takes no condition: build it with classes or "
                "condition_features."
            )
        return None
    wanted = f"({batch},)" if classes else f"({batch}, {condition_features})"
    if y is None:
        raise ValueError(f"y is missing: the network takes conditions with shape {wanted}.")
    if condition_features == 1 and y.ndim == 1:
        y = y[:, None]
    if tuple(y.shape) != ((batch,) if classes else (batch, condition_features)):
        raise ValueError(f"y must have shape {wanted}, got {tuple(y.shape)}.")
    if not classes:
        return y
    y = y.long()
    if bool(((y < 0) | (y >= classes)).any()):
        raise ValueError(
            f"y must lie in 0 .. {classes - 1}, the classes of the network, "
            f"got {int(y.min())} .. {int(y.max())}."
        )
    return y
