r"""Losses that are quadratic in the output of a network, drawn for many steps at once.

Denoising losses are quadratic in the network output :math:`f`, so that their gradient is affine,

.. math::
    \frac{\partial L}{\partial f} = a f + b,

with coefficients that depend on the data and the noise alone. A loss of this module draws the
inputs and the coefficients of a block of steps; :class:`~memdiff.training.ensemble.Ensemble`
trains with them and needs no automatic differentiation.

All randomness of a block is a function of the seed and the number of the block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from memdiff.processes import EDM, ForwardProcess
from memdiff.scores import NetworkScore

__all__ = ["EDMBatches", "FullBatchScoreMatching", "QuadraticDraws", "QuadraticLoss"]


@dataclass(frozen=True, eq=False)
class QuadraticDraws:
    """Network inputs and loss coefficients of a block of ``K`` steps with ``B`` points each.

    Attributes:
        x: Points as the network sees them, with shape ``(K, B, d)``.
        t: Times as the network sees them, with shape ``(K, B)``.
        index: Training point of each, int64 with shape ``(K, B)``; None for all in their order.
        slope: Coefficient ``a`` of the gradient, with shape ``(K, B, 1)``.
        shift: Coefficient ``b``, with shape ``(K, B, d)``.
    """

    x: Tensor
    t: Tensor
    index: Tensor | None
    slope: Tensor
    shift: Tensor


class QuadraticLoss(Protocol):
    """A loss that is quadratic in the network output."""

    @property
    def block(self) -> int:
        """Steps that are drawn at once."""

    def batch_size(self, points: int) -> int:
        """Return the number of points in a step, for a training set of ``points`` points."""

    def draw(self, seed: int, block: int, data: Tensor) -> QuadraticDraws:
        """Draw the steps ``self.block * block`` and following.

        Args:
            seed: Seed of the network that is trained.
            block: Number of the block.
            data: Training points with shape ``(N, d)``, of the dtype of the results.
        """

    def score(self, net: nn.Module) -> NetworkScore:
        """Return the score that a trained network stands for."""


@dataclass(frozen=True)
class FullBatchScoreMatching:
    r"""Denoising score matching with a Tikhonov penalty, on the whole training set in each step.

    Each point has one time and one noise in a step,

    .. math::
        L = \frac{1}{N d} \sum_n |\sigma s + z_n|^2 + c |s|^2, \qquad
        x = m x_n + \sigma z_n, \quad t_n \sim U(0, T),

    with :math:`s = f` (``"score"``) or :math:`s = -f/\sigma` (``"noise"``: the singularity at
    :math:`\sigma = 0` is built in). With :math:`\beta = \sigma` or :math:`-1` the gradient is
    :math:`\frac{2}{N d} \big( (\beta^2 + c [s = f]) f + \beta z \big)`.

    Attributes:
        process: Forward process.
        parametrization: ``"score"`` or ``"noise"``, as in :class:`~memdiff.scores.NetworkScore`.
        strength: Tikhonov strength :math:`c`, non-negative; positive for ``"score"`` only.
        block: Steps that are drawn at once; the draws of a seed depend on it.

    Raises:
        ValueError: If a value is out of range.

    References:
        Baptista, Dasgupta, Kovachki, Oberai, Stuart, arXiv:2501.15785 (settings as in the
        authors' public notebooks).
    """

    process: ForwardProcess
    parametrization: Literal["score", "noise"] = "score"
    strength: float = 0.0
    block: int = 256

    def __post_init__(self) -> None:
        if self.parametrization not in ("score", "noise"):
            raise ValueError(
                f"parametrization must be 'score' or 'noise', got {self.parametrization!r}."
            )
        if not (0.0 <= self.strength < math.inf):
            raise ValueError(f"strength must be finite and not negative, got {self.strength}.")
        if self.strength and self.parametrization == "noise":
            raise ValueError(
                "strength must be 0 with parametrization 'noise', whose penalty E|f/sigma|^2 is "
                "infinite; use parametrization 'score'."
            )

    def batch_size(self, points: int) -> int:
        """Return the number of all points."""
        return points

    def noise(self, seed: int, block: int, points: int, features: int) -> tuple[Tensor, Tensor]:
        """Draw float32 times ``(K, N)``, uniform on [0, t_max), and noise ``(K, N, features)``."""
        generator = _generator(seed, 1, block)
        t = torch.rand(self.block, points, generator=generator) * self.process.t_max
        return t, torch.randn(self.block, points, features, generator=generator)

    def draw(self, seed: int, block: int, data: Tensor) -> QuadraticDraws:
        """Draw a block of steps; see :class:`QuadraticLoss`."""
        points, features = data.shape
        t, noise = self.noise(seed, block, points, features)
        z = noise.to(torch.float64)
        m = self.process.scale(t.to(torch.float64))[..., None]
        sigma = self.process.std(t.to(torch.float64))[..., None]
        beta = torch.full_like(sigma, -1.0) if self.parametrization == "noise" else sigma
        unit = 2.0 / (points * features)
        return QuadraticDraws(
            x=(m * data.to(torch.float64) + sigma * z).to(data.dtype),
            t=t.to(data.dtype),
            index=None,
            slope=(unit * (beta**2 + self.strength)).to(data.dtype),
            shift=(unit * beta * z).to(data.dtype),
        )

    def score(self, net: nn.Module) -> NetworkScore:
        """Return the score of a trained network."""
        return NetworkScore(net, self.process, self.parametrization)


@dataclass(frozen=True)
class EDMBatches:
    r"""The loss of Karras et al. with their preconditioning, on batches of a fixed size.

    With the target :math:`(x_0 - c_s x)/c_o` of the network it is
    :math:`\mathrm{mean}\, |f - (x_0 - c_s x)/c_o|^2`, the loss of
    :func:`memdiff.training.edm_objective` for a :class:`~memdiff.scores.NetworkScore` of kind
    ``"edm"``. Points are drawn with replacement, so that a step is the same amount of training
    whatever the number of points.

    Attributes:
        points: Points in a step.
        sigma_data: :math:`\sigma_d` of the preconditioning and of the noise levels.
        block: Steps that are drawn at once; the draws of a seed depend on it.

    References:
        Karras, Aittala, Aila, Laine, arXiv:2206.00364, table 1 (loss, noise levels,
        preconditioning).
    """

    points: int = 32
    sigma_data: float = 0.5
    block: int = 128

    def batch_size(self, points: int) -> int:
        """Return the same for every training set."""
        return self.points

    def noise(self, seed: int, block: int, points: int, features: int) -> tuple[Tensor, ...]:
        r"""Draw places ``(K, B)`` in the data, levels ``(K, B)`` and noise ``(K, B, features)``.

        The logarithms of the levels are normal with mean :math:`-1.2 + \ln(\sigma_d/0.5)` and
        deviation 1.2.
        """
        generator, size = _generator(seed, 2, block), (self.block, self.points)
        index = torch.randint(points, size, generator=generator)
        center = -1.2 + math.log(self.sigma_data / 0.5)
        sigma = (center + 1.2 * torch.randn(size, generator=generator)).exp()
        return index, sigma, torch.randn(*size, features, generator=generator)

    def draw(self, seed: int, block: int, data: Tensor) -> QuadraticDraws:
        """Draw a block of steps; see :class:`QuadraticLoss`."""
        index, level, noise = self.noise(seed, block, *data.shape)
        sigma, z = level.to(data.dtype)[..., None], noise.to(data.dtype)
        x0 = data[index]
        x = x0 + sigma * z
        total = sigma**2 + self.sigma_data**2
        keep, out = self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt()
        unit = 2.0 / (self.points * data.shape[1])
        return QuadraticDraws(
            x=x / total.sqrt(),
            t=0.25 * sigma[..., 0].log(),
            index=index,
            slope=torch.full_like(sigma, unit),
            shift=-unit * ((x0 - keep * x) / out),
        )

    def score(self, net: nn.Module) -> NetworkScore:
        """Return the score of a trained network."""
        return NetworkScore(net, EDM(), "edm", sigma_data=self.sigma_data)


def _generator(seed: int, stream: int, block: int) -> torch.Generator:
    (state,) = np.random.SeedSequence([seed, stream, block]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state))
