r"""Covariances that weight a Tikhonov penalty: operators that can be inverted after a shift.

The penalised minimiser needs :math:`(\sigma^2 I + c\,C)^{-1} r` for one noise level a sample, and
nothing else; each class below solves that in its own basis.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn
from typing_extensions import override

__all__ = ["Covariance", "DiagonalCovariance", "FourierCovariance", "LowRankCovariance"]


class Covariance(nn.Module):
    """A symmetric positive semi-definite operator on points of one shape."""

    @abstractmethod
    def solve(self, r: Tensor, shift: Tensor, strength: float) -> Tensor:
        r"""Solve :math:`(\mathrm{shift}_b I + \mathrm{strength}\; C)\, v_b = r_b`.

        Args:
            r: Right-hand sides, float64 with shape ``(B, *S)``.
            shift: Non-negative, float64 with shape ``(B,)``. Where it is 0 and ``C`` is singular,
                the result is infinite or NaN.
            strength: Positive factor of the covariance.

        Returns:
            float64 tensor with shape ``(B, *S)``.
        """

    @abstractmethod
    def apply_to(self, v: Tensor) -> Tensor:
        """Product ``C v`` for float64 ``v`` with shape ``(B, *S)``."""


class DiagonalCovariance(Covariance):
    """Independent coordinates.

    Args:
        variances: Non-negative, with the shape ``S`` of one point.
    """

    variances: Tensor

    def __init__(self, variances: Tensor) -> None:
        super().__init__()
        self.register_buffer("variances", _non_negative("variances", variances))

    @classmethod
    def from_data(cls, data: Tensor) -> DiagonalCovariance:
        """Variance of each coordinate over data with shape ``(N, *S)``."""
        return cls(data.to(torch.float64).var(0, correction=0))

    @override
    def solve(self, r: Tensor, shift: Tensor, strength: float) -> Tensor:
        _require_shape(r, self.variances.shape)
        return r / (_column(shift, r) + strength * self.variances)

    @override
    def apply_to(self, v: Tensor) -> Tensor:
        return v * self.variances


class LowRankCovariance(Covariance):
    r"""Low rank plus diagonal: :math:`C = F^T F + \mathrm{diag}(\delta)`.

    Solved by the Woodbury identity, one ``k x k`` system a distinct noise level.

    Args:
        factor: :math:`F` with shape ``(k, *S)``.
        diagonal: :math:`\delta`, a non-negative number or a tensor with shape ``S``.
    """

    factor: Tensor
    diagonal: Tensor

    def __init__(self, factor: Tensor, diagonal: float | Tensor = 0.0) -> None:
        super().__init__()
        if factor.ndim < 2:
            raise ValueError(f"factor must have shape (k, *S), got {tuple(factor.shape)}.")
        diagonal = torch.as_tensor(diagonal, dtype=torch.float64).expand(factor.shape[1:])
        self.register_buffer("factor", factor.to(torch.float64))
        self.register_buffer("diagonal", _non_negative("diagonal", diagonal).contiguous())

    @classmethod
    def from_data(cls, data: Tensor, rank: int) -> LowRankCovariance:
        """The leading ``rank`` principal directions of data ``(N, *S)``, exactly.

        The variance that they leave out is spread evenly over the coordinates, so that the trace
        is that of the data covariance (probabilistic principal components, up to the shrinkage of
        the leading variances).
        """
        flat = data.reshape(len(data), -1).to(torch.float64)
        if not 1 <= rank <= min(flat.shape):
            raise ValueError(f"rank must lie in 1 .. {min(flat.shape)}, got {rank}.")
        centred = flat - flat.mean(0)
        _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
        variances = singular**2 / len(flat)
        factor = variances[:rank].sqrt()[:, None] * directions[:rank]
        rest = float(variances[rank:].sum()) / flat.shape[1]
        return cls(factor.reshape(rank, *data.shape[1:]), rest)

    @override
    def solve(self, r: Tensor, shift: Tensor, strength: float) -> Tensor:
        _require_shape(r, self.diagonal.shape)
        flat, factor = r.reshape(len(r), -1), self.factor.reshape(len(self.factor), -1)
        diagonal = self.diagonal.reshape(-1)
        solution = torch.empty_like(flat)
        identity = torch.eye(len(factor), dtype=torch.float64, device=r.device)
        for level in shift.unique():
            rows = shift == level
            base = level + strength * diagonal
            inner = flat[rows] / base
            system = identity + strength * (factor / base) @ factor.T
            correction = torch.linalg.solve(system, factor @ inner.T).T @ factor
            solution[rows] = inner - strength * correction / base
        return solution.reshape(r.shape)

    @override
    def apply_to(self, v: Tensor) -> Tensor:
        flat, factor = v.reshape(len(v), -1), self.factor.reshape(len(self.factor), -1)
        return ((flat @ factor.T) @ factor).reshape(v.shape) + v * self.diagonal


class FourierCovariance(Covariance):
    """Stationary over the last two axes: diagonal in the two-dimensional Fourier basis.

    Args:
        spectrum: Eigenvalue of each Fourier mode, non-negative, with the shape of one image
            ``(*channels, H, W)``, in the order of ``torch.fft.fft2``. It is made symmetric under
            ``k -> -k``, so that real images stay real.
    """

    spectrum: Tensor

    def __init__(self, spectrum: Tensor) -> None:
        super().__init__()
        if spectrum.ndim < 2:
            raise ValueError(
                f"spectrum must have the shape (*channels, H, W) of an image, "
                f"got {tuple(spectrum.shape)}."
            )
        spectrum = _non_negative("spectrum", spectrum)
        mirrored = spectrum.flip(-1, -2).roll((1, 1), (-1, -2))
        self.register_buffer("spectrum", 0.5 * (spectrum + mirrored))

    @classmethod
    def from_data(cls, data: Tensor) -> FourierCovariance:
        """Power spectrum of centred images with shape ``(N, *channels, H, W)``."""
        centred = data.to(torch.float64) - data.to(torch.float64).mean(0)
        return cls(torch.fft.fft2(centred, norm="ortho").abs().square().mean(0))

    def inverse(self, floor: float = 1e-12) -> FourierCovariance:
        """The inverse where a mode has more than ``floor`` of the largest eigenvalue, else 0.

        A penalty weighted by it shrinks most what the data vary least in, and leaves modes that
        the data do not have unregularised (metrics of the field write it ``c / lambda_k``).
        """
        null = self.spectrum <= floor * self.spectrum.max()
        return FourierCovariance(torch.where(null, 0.0, 1.0 / self.spectrum.masked_fill(null, 1)))

    @override
    def solve(self, r: Tensor, shift: Tensor, strength: float) -> Tensor:
        _require_shape(r, self.spectrum.shape)
        modes = torch.fft.fft2(r) / (_column(shift, r) + strength * self.spectrum)
        return torch.fft.ifft2(modes).real

    @override
    def apply_to(self, v: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(v) * self.spectrum).real


def _column(shift: Tensor, r: Tensor) -> Tensor:
    return shift.reshape(-1, *([1] * (r.ndim - 1)))


def _non_negative(name: str, values: Tensor) -> Tensor:
    values = values.to(torch.float64)
    if not bool(((values >= 0) & (values < math.inf)).all()):
        raise ValueError(f"{name} must be finite and non-negative.")
    return values


def _require_shape(r: Tensor, shape: torch.Size) -> None:
    if r.shape[1:] != shape:
        raise ValueError(
            f"the covariance is for points of shape {tuple(shape)}, got {tuple(r.shape[1:])}."
        )
