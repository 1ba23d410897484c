r"""What a network of ``diffusers`` is given and what it returns, one class a family of schedulers.

A convention says, at the noise level :math:`(m, \sigma)` of a time, how the point :math:`x`
becomes the network's input and how the network's output becomes the denoiser :math:`D` and the
residual :math:`r = \sigma^2 s = m D - x`; and the three the other way round. The two are kept
apart because each loses digits where the other keeps them: :math:`D` from :math:`(x + r)/m` at
large noise, :math:`r` from :math:`m D - x` at small noise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from memdiff.processes import EDM, ForwardProcess, LinearInterpolant
from memdiff.processes.tabulated import TabulatedVP

__all__ = ["Chain", "Convention", "Flow", "Preconditioned", "Prediction"]

Prediction = Literal["epsilon", "sample", "v_prediction"]


class Convention(ABC):
    r"""Base class; see the module.

    Everywhere ``x``, outputs, denoised points and residuals have shape ``(B, *S)``, ``m`` and
    ``sigma`` broadcast against them, and all are float64.

    Attributes:
        process: The forward process of the points :math:`x`.
    """

    process: ForwardProcess

    @abstractmethod
    def timestep(self, t: Tensor) -> Tensor:
        """What the network is told at the times ``t`` with shape ``(B,)``; float64, ``(B,)``."""

    @abstractmethod
    def levels(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`m` and :math:`\sigma` where the scheduler calls the network with ``timestep``.

        Args:
            timestep: float64 with shape ``()`` or ``(B,)``.
        """

    def network_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The network's input at the points ``x``."""
        return x

    def point(self, network_input: Tensor, sigma: Tensor) -> Tensor:
        """The points at which the network's input is ``network_input``."""
        return network_input

    @abstractmethod
    def denoised(self, output: Tensor, x: Tensor, m: Tensor, sigma: Tensor) -> Tensor:
        """The denoiser :math:`D` that an output stands for."""

    @abstractmethod
    def residual(self, output: Tensor, x: Tensor, m: Tensor, sigma: Tensor) -> Tensor:
        """The residual :math:`m D - x` that an output stands for."""

    @abstractmethod
    def output(
        self, denoised: Tensor, residual: Tensor, x: Tensor, m: Tensor, sigma: Tensor
    ) -> Tensor:
        """The output that stands for a denoiser and its residual."""


class Chain(Convention):
    r"""Discrete chains (``DDPMScheduler``, ``DDIMScheduler``, ``EulerDiscreteScheduler``, ...).

    The network sees the variance-preserving point :math:`x = m x_0 + \sigma z` (schedulers that
    work with :math:`x/m` scale it, ``scale_model_input``) and the step number :math:`k = t - 1`.
    It predicts

    - ``epsilon``: the noise, :math:`\epsilon = -r/\sigma`;
    - ``sample``: the denoiser :math:`D`;
    - ``v_prediction``: :math:`v = m\,\epsilon - \sigma D`, hence :math:`D = m x - \sigma v` and
      :math:`\epsilon = m v + \sigma x`.

    Before the first step (:math:`t < 1`) the network is told step 0, the nearest that it knows.

    Args:
        scheduler: A scheduler with ``alphas_cumprod``.
        process: The process of its table.
        prediction: What the network predicts.
        nearest: Round the step number, for networks that know integers only; the noise level is
            that of the time.

    References:
        Salimans, Ho, *Progressive Distillation for Fast Sampling of Diffusion Models*,
        arXiv:2202.00512, appendix D (v-prediction).
    """

    def __init__(
        self,
        scheduler: Any,  # noqa: ANN401
        process: TabulatedVP,
        prediction: Prediction,
        *,
        nearest: bool = False,
    ) -> None:
        self.scheduler = scheduler
        self.process: TabulatedVP = process
        self.prediction = prediction
        self.nearest = nearest

    @override
    def timestep(self, t: Tensor) -> Tensor:
        k = (t - 1.0).clamp(0.0, self.process.t_max - 1.0)
        return k.round() if self.nearest else k

    def levels(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`m` and :math:`\sigma` where the scheduler calls the network with ``timestep``.

        A scheduler with noise levels of its own (``sigmas``), as Euler's, may round or
        interpolate the time step that belongs to them, so at its current step they are read from
        it; otherwise from the table, at a fractional time step from the process.
        """
        ratio = _current_ratio(self.scheduler, timestep)
        if ratio is not None:
            m = (1.0 + timestep.new_tensor(ratio) ** 2).rsqrt()
            return m, ratio * m
        t = timestep + 1.0
        m, sigma = self.process.scale(t), self.process.std(t)
        if self.process.zero_terminal_snr:  # the chain itself ends at m = 0
            last = t >= self.process.t_max
            m, sigma = torch.where(last, 0.0, m), torch.where(last, 1.0, sigma)
        return m, sigma

    @override
    def denoised(self, output: Tensor, x: Tensor, m: Tensor, sigma: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return (x - sigma * output) / m
        return output if self.prediction == "sample" else m * x - sigma * output

    @override
    def residual(self, output: Tensor, x: Tensor, m: Tensor, sigma: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return -sigma * output
        if self.prediction == "sample":
            return m * output - x
        return -sigma * (m * output + sigma * x)

    @override
    def output(
        self, denoised: Tensor, residual: Tensor, x: Tensor, m: Tensor, sigma: Tensor
    ) -> Tensor:
        if self.prediction == "epsilon":
            return -residual / sigma
        if self.prediction == "sample":
            return denoised
        return -m * residual / sigma - sigma * denoised


class Preconditioned(Convention):
    r"""The preconditioning of EDM (``EDMEulerScheduler``, ``EDMDPMSolverMultistepScheduler``).

    With :math:`x = x_0 + \sigma z`, :math:`\sigma_d` the standard deviation of the data and
    :math:`q^2 = \sigma^2 + \sigma_d^2`, the network :math:`F` sees the scaled input :math:`x/q`
    and :math:`\tfrac14 \log \sigma`, and :math:`D = \sigma_d^2/q^2\, x \pm \sigma\sigma_d/q\, F`
    with ``+`` for ``epsilon`` and ``-`` for ``v_prediction``.

    Args:
        process: The process.
        sigma_data: Standard deviation of the data, positive.
        prediction: ``"epsilon"`` or ``"v_prediction"``.

    References:
        Karras et al. 2022, arXiv:2206.00364, table 1.
    """

    def __init__(
        self,
        process: EDM,
        sigma_data: float,
        prediction: Literal["epsilon", "v_prediction"],
    ) -> None:
        self.process: EDM = process
        self.sigma_data = sigma_data
        self.sign = 1.0 if prediction == "epsilon" else -1.0

    def _size(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2).sqrt()

    @override
    def timestep(self, t: Tensor) -> Tensor:
        # sigma = t; at 0 the logarithm is that of the smallest double, and its factor is 0
        return 0.25 * t.clamp_min(torch.finfo(t.dtype).tiny).log()

    @override
    def levels(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        sigma = (4.0 * timestep).exp()
        return torch.ones_like(sigma), sigma

    @override
    def network_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x / self._size(sigma)

    @override
    def point(self, network_input: Tensor, sigma: Tensor) -> Tensor:
        return network_input * self._size(sigma)

    @override
    def denoised(self, output: Tensor, x: Tensor, m: Tensor, sigma: Tensor) -> Tensor:
        size = self._size(sigma)
        return self.sigma_data * (self.sigma_data * x / size + self.sign * sigma * output) / size

    @override
    def residual(self, output: Tensor, x: Tensor, m: Tensor, sigma: Tensor) -> Tensor:
        size = self._size(sigma)
        return sigma * (self.sign * self.sigma_data * output - sigma * x / size) / size

    @override
    def output(
        self, denoised: Tensor, residual: Tensor, x: Tensor, m: Tensor, sigma: Tensor
    ) -> Tensor:
        size = self._size(sigma)
        return self.sign * (residual * size / sigma + sigma * x / size) / self.sigma_data


class Flow(Convention):
    r"""Flow matching (``FlowMatchEulerDiscreteScheduler``, ``FlowMatchHeunDiscreteScheduler``).

    With :math:`x = (1 - t)\, x_0 + t z`, the network sees :math:`x` and :math:`t` times the number
    of training steps, and predicts the velocity :math:`v = z - x_0`: :math:`D = x - t v`.

    Args:
        num_train_timesteps: What :math:`t` is multiplied by.

    References:
        Lipman et al., arXiv:2210.02747, section 4.1.
    """

    def __init__(self, num_train_timesteps: float) -> None:
        self.process: LinearInterpolant = LinearInterpolant()
        self.num_train_timesteps = num_train_timesteps

    @override
    def timestep(self, t: Tensor) -> Tensor:
        return t * self.num_train_timesteps

    @override
    def levels(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        sigma = timestep / self.num_train_timesteps
        return 1.0 - sigma, sigma

    @override
    def denoised(self, output: Tensor, x: Tensor, m: Tensor, sigma: Tensor) -> Tensor:
        return x - sigma * output

    @override
    def residual(self, output: Tensor, x: Tensor, m: Tensor, sigma: Tensor) -> Tensor:
        return -sigma * (x + m * output)

    @override
    def output(
        self, denoised: Tensor, residual: Tensor, x: Tensor, m: Tensor, sigma: Tensor
    ) -> Tensor:
        return -residual / sigma - denoised


def _current_ratio(scheduler: Any, timestep: Tensor) -> float | None:  # noqa: ANN401
    """sigma/m of the scheduler's step at ``timestep``, if it is running and knows."""
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is None or getattr(scheduler, "num_inference_steps", None) is None:
        return None
    if timestep.numel() == 0 or bool((timestep != timestep.flatten()[0]).any()):
        return None
    now = float(timestep.flatten()[0])
    steps = torch.as_tensor(scheduler.timesteps).to("cpu", torch.float64)
    found = (steps == now).nonzero().flatten().tolist()
    index = getattr(scheduler, "step_index", None)
    if index not in found:
        index = found[0] if found else None
    return None if index is None or index >= len(sigmas) else float(sigmas[index])
