r"""Eigendecompositions of covariances, given in any of the usual forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["as_floating", "check_finite", "covariance_spectra"]


def covariance_spectra(
    covariances: Tensor | Sequence[Any] | float, means: Tensor
) -> tuple[Tensor, Tensor | None]:
    r"""Eigenvalues and eigenvectors of the covariances of ``K`` means in ``d`` dimensions.

    Args:
        covariances: Full ``(K, d, d)``, shared ``(d, d)``, diagonal ``(K, *S)`` or ``(K, d)``,
            isotropic ``(K,)`` or one number; they may be singular.
        means: Means with shape ``(K, *S)``.

    Returns:
        Eigenvalues ``(K, d)`` and None for the identity as eigenvectors; or for full covariances
        ``(K, d)`` and ``(K, d, d)``, with 1 in place of ``K`` for a shared one. float64.
        Eigenvalues of full covariances below the rounding of their dtype are 0.

    Raises:
        ValueError: If the shape does not fit or is ambiguous, a value is not finite, or a
            covariance is not symmetric and positive semi-definite.
    """
    given = as_floating(covariances)
    check_finite("covariances", given)
    components, d = means.shape[0], means[0].numel()
    full = given.shape in ((components, d, d), (d, d))
    diagonal = given.shape in (means.shape, (components, d))
    if full and diagonal and d > 1:
        raise ValueError(
            f"covariances with shape {tuple(given.shape)} for {components} means could be one "
            f"full covariance or {components} diagonal ones: pass ({components}, {d}, {d}), "
            f"made by covariance.expand({components}, -1, -1) or torch.diag_embed(variances)."
        )
    if diagonal or given.shape in ((), (components,)):
        variances = given.to(torch.float64)
        if bool((variances < 0).any()):
            raise ValueError(
                f"covariances given as variances must be non-negative, got {float(given.min()):g}."
            )
        if diagonal:
            return variances.reshape(components, d), None
        return variances.reshape(-1, 1).expand(components, d).contiguous(), None
    if not full:
        raise ValueError(
            f"covariances must have shape ({components}, {d}, {d}), ({d}, {d}), "
            f"{tuple(means.shape)}, ({components}, {d}), ({components},) or be one number, "
            f"got {tuple(given.shape)}."
        )
    matrices = given.to(torch.float64).reshape(-1, d, d)
    epsilon = torch.finfo(given.dtype).eps
    size = matrices.abs().amax(dim=(1, 2), keepdim=True)
    if bool(((matrices - matrices.mT).abs() > 100 * epsilon * size).any()):
        raise ValueError(
            "covariances must be symmetric, got a matrix that differs from its transpose: "
            "pass (C + C.mT) / 2 if the difference is rounding."
        )
    values, vectors = torch.linalg.eigh(0.5 * (matrices + matrices.mT))
    tolerance = d * epsilon * values.abs().amax(dim=1, keepdim=True)
    if bool((values < -10 * tolerance).any()):
        raise ValueError(
            f"covariances must be positive semi-definite, got eigenvalue {float(values.min()):g}."
        )
    return torch.where(values > tolerance, values, torch.zeros_like(values)), vectors


def as_floating(values: Tensor | Sequence[Any] | float) -> Tensor:
    """A floating-point tensor; Python numbers keep float64."""
    if isinstance(values, Tensor):
        return values.detach() if values.is_floating_point() else values.to(torch.float64)
    return torch.as_tensor(values, dtype=torch.float64)


def check_finite(name: str, values: Tensor) -> None:
    """Raise a ``ValueError`` that names the argument if a value is NaN or infinite."""
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).sum())
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite values.")
