r"""A score that a network has learned.

A network predicts one of several quantities that are equivalent for a given noise level. With
:math:`x = m x_0 + \sigma z` and the network's output :math:`f`,

=============  ======================================  =====================================
"score"        :math:`s = f`                           :math:`r = \sigma^2 f`
"noise"        :math:`s = -f/\sigma`                   :math:`r = -\sigma f`
"denoiser"     :math:`D = f`                           :math:`r = m f - x`
"velocity"     :math:`f_t x - \tfrac{g^2}{2} s = f`    :math:`r = (2\sigma^2/g^2)(f_t x - f)`
"edm"          :math:`D = c_s \hat x + c_o f`          :math:`r = m c_o f - m (1 - c_s) \hat x`
=============  ======================================  =====================================

with the residual :math:`r = \sigma^2 s = m D - x` and the drift rate :math:`f_t` of the process.
All but the denoiser are evaluated without the cancellation of :math:`D` against :math:`x` that
takes the digits of :math:`r` at small noise.

- ``"velocity"`` is :math:`dx/dt` of the interpolation :math:`m x_0 + \sigma z`, hence of the
  probability-flow ODE; for :class:`~memdiff.processes.LinearInterpolant` it is :math:`z - x_0`.
- ``"edm"``: with :math:`\hat x = x/m`, :math:`\hat\sigma = \sigma/m`,
  :math:`v = \hat\sigma^2 + \sigma_d^2`: :math:`c_s = \sigma_d^2/v`,
  :math:`c_o = \hat\sigma \sigma_d/\sqrt v`, input :math:`\hat x/\sqrt v`, and
  :math:`\tfrac14 \ln\hat\sigma` in place of the time.

References:
    Baptista et al., arXiv:2501.15785 (score and noise: the singularity at :math:`\sigma = 0` left
    to the network, or built in). Ho, Jain, Abbeel, arXiv:2006.11239 (noise). Lipman et al.,
    arXiv:2210.02747 (velocity). Karras et al., arXiv:2206.00364, table 1 (EDM preconditioning).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from memdiff.processes import ForwardProcess
from memdiff.scores.base import Score, expand_time, per_sample

__all__ = ["NetworkScore", "Parametrization"]

Parametrization: TypeAlias = Literal["score", "noise", "denoiser", "velocity", "edm"]

SMALLEST_RATIO = 1e-12
"""Noise-to-signal ratio below which the input of an EDM network no longer changes."""


class NetworkScore(Score):
    """The score of a network.

    The network is called as ``net(x, t)``, or ``net(x, t, y)`` where a condition is given, with
    ``x`` of shape ``(B, *S)`` and ``t`` of shape ``(B,)``, both in the dtype of its weights (of
    ``x`` for a network without weights), and returns the shape of ``x``. States in another dtype
    are cast there and back; the algebra around the network is in float64. Its training mode is
    left as it is: call ``eval()`` before sampling if it has dropout.

    Args:
        net: The network, a module or any callable.
        process: The forward process that it was trained for.
        parametrization: What its output means; see the module.
        sigma_data: Standard deviation of the data, for ``"edm"``.
        shape: Shape ``S`` of a point; ``net.shape`` where None and the network has one.

    Raises:
        ValueError: If ``parametrization`` is unknown or ``sigma_data`` is not positive.

    Example:
        >>> import torch
        >>> from memdiff.processes import EDM
        >>> exact = NetworkScore(lambda x, t: x / t[:, None], EDM(), "noise")  # data at 0
        >>> exact(torch.ones(1, 2), 0.5)
        tensor([[-4., -4.]])
    """

    def __init__(
        self,
        net: nn.Module | Callable[..., Tensor],
        process: ForwardProcess,
        parametrization: Parametrization = "noise",
        *,
        sigma_data: float = 0.5,
        shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(process)
        if parametrization not in get_args(Parametrization):
            raise ValueError(
                f"parametrization must be one of {', '.join(get_args(Parametrization))}, "
                f"got {parametrization!r}."
            )
        if not 0.0 < sigma_data < math.inf:
            raise ValueError(f"sigma_data must be positive and finite, got {sigma_data}.")
        self.net = net
        self.parametrization: Parametrization = parametrization
        self.sigma_data = float(sigma_data)
        known = getattr(net, "shape", None) if shape is None else shape
        self._shape = torch.Size(known) if isinstance(known, Sequence) else None

    @override
    @property
    def shape(self) -> torch.Size | None:
        return self._shape

    def forward(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        """The score; infinite or NaN at sigma = 0, except for ``"score"``."""
        time = expand_time(t, x)
        if self.parametrization == "score":
            return self._output(x, time, y).to(x.dtype)
        if self.parametrization == "velocity":
            half = per_sample(0.5 * self.process.diffusion(time) ** 2, x)
            return (self._against_drift(x, time, y) / half).to(x.dtype)
        sigma = per_sample(self.process.std(time), x)
        if self.parametrization == "noise":
            return (-self._output(x, time, y) / sigma).to(x.dtype)
        return (self._residual(x, time, y) / sigma**2).to(x.dtype)

    @override
    def residual(
        self,
        x: Tensor,
        t: float | Tensor,
        y: Tensor | None = None,
        *,
        exclude: Tensor | None = None,
    ) -> Tensor:
        if exclude is not None:
            return super().residual(x, t, y, exclude=exclude)
        return self._residual(x, expand_time(t, x), y).to(x.dtype)

    @override
    def denoise(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        time = expand_time(t, x)
        if self.parametrization == "denoiser":
            return self._output(x, time, y).to(x.dtype)
        m = per_sample(self.process.scale(time), x)
        return ((x.to(torch.float64) + self._residual(x, time, y)) / m).to(x.dtype)

    @override
    def noise(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        time = expand_time(t, x)
        if self.parametrization == "noise":
            return self._output(x, time, y).to(x.dtype)
        sigma = per_sample(self.process.std(time), x)
        if self.parametrization == "score":
            return (-sigma * self._output(x, time, y)).to(x.dtype)
        return (-self._residual(x, time, y) / sigma).to(x.dtype)

    def _residual(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """The residual in float64."""
        sigma = per_sample(self.process.std(t), x)
        if self.parametrization == "score":
            return sigma**2 * self._output(x, t, y)
        if self.parametrization == "noise":
            return -sigma * self._output(x, t, y)
        if self.parametrization == "velocity":
            variance = sigma**2
            rate = variance / per_sample(0.5 * self.process.diffusion(t) ** 2, x)
            # At sigma = 0 the residual is 0, also where g = 0 makes the rate 0/0.
            rate = torch.where(variance == 0, torch.zeros_like(rate), rate)
            return rate * self._against_drift(x, t, y)
        m = per_sample(self.process.scale(t), x)
        if self.parametrization == "denoiser":
            return m * self._output(x, t, y) - x.to(torch.float64)
        ratio = sigma / m
        total = ratio**2 + self.sigma_data**2
        point = x.to(torch.float64) / m
        label = 0.25 * self.process.ratio(t).clamp_min(SMALLEST_RATIO).log()
        output = self._call(point / total.sqrt(), label, y, x.dtype)
        return sigma * (self.sigma_data / total.sqrt() * output - ratio / total * point)

    def _against_drift(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        drift = per_sample(self.process.drift(t), x) * x.to(torch.float64)
        return drift - self._output(x, t, y)

    def _output(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return self._call(x, t, y, x.dtype)

    def _call(self, x: Tensor, t: Tensor, y: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Output of the network in float64; ``dtype`` is that of a network without weights."""
        for tensor in self.parameters():
            dtype = tensor.dtype
            break
        arguments = (x.to(dtype), t.to(dtype))
        output = self.net(*arguments) if y is None else self.net(*arguments, y)
        if output.shape != x.shape:
            raise ValueError(
                f"net must return the shape of x, {tuple(x.shape)}, got {tuple(output.shape)}."
            )
        return output.to(torch.float64)

    @override
    def extra_repr(self) -> str:
        net = type(self.net).__name__
        if isinstance(self.net, nn.Module):
            net += f" of {sum(p.numel() for p in self.net.parameters()):,} weights"
        return f"{net}, parametrization={self.parametrization!r}"
