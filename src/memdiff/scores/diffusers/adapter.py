r"""A network of ``diffusers`` as a score.

.. math::
    s(x, t) = r(x, t) / \sigma^2, \qquad r = m D - x,

with :math:`D` and :math:`r` from the network's output (the noise, the denoiser or the velocity)
by the :class:`~memdiff.scores.diffusers.Convention` of its scheduler.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from memdiff.scores.base import Score, expand_time, per_sample
from memdiff.scores.diffusers.schedulers import convention_of

__all__ = ["DiffusersScore"]


class DiffusersScore(Score):
    r"""The score that a network of ``diffusers`` has learned.

    For a discrete chain the process is :class:`~memdiff.processes.tabulated.TabulatedVP`: step
    ``k`` of the scheduler, counted from 0, is the time :math:`t = k + 1`, where the noise level is
    exactly the scheduler's; between steps the network is given the fractional step :math:`t - 1`,
    which the usual sinusoidal embedding takes. Before the first step, :math:`t < 1`, it is given
    step 0.

    The score is of what the network sees: images in [-1, 1] by the habit of ``diffusers``, latents
    for a latent model. Clipping and thresholding belong to the scheduler's steps and are not
    applied. The mode of the network is the caller's: dropout must be off (``net.eval()``) for
    the score to be a function.

    Args:
        net: Called as ``net(x, timesteps)``, with ``class_labels=y`` if conditional, and
            returning an object with ``.sample``, a tuple or a tensor: of the shape of ``x``, or
            with twice its channels, of which the second half is a learned variance and not used.
            It is called in the dtype of its parameters.
        scheduler: The scheduler that it was trained with: a discrete chain (prediction types
            ``epsilon``, ``sample``, ``v_prediction``; zero terminal signal-to-noise ratio with the
            last two), an EDM scheduler (scaled inputs), or one of flow matching.
        timesteps: ``"fractional"``, or ``"nearest"`` to round the step given to the network, for
            one that knows integers only; the noise level is that of the time in both.

    Raises:
        ValueError: If the scheduler is of another kind, or the network does not fit it.

    References:
        Ho, Jain, Abbeel 2020, arXiv:2006.11239; Salimans, Ho 2022, arXiv:2202.00512;
        Nichol, Dhariwal 2021, arXiv:2102.09672 (learned variance).
    """

    def __init__(
        self,
        net: nn.Module,
        scheduler: Any,  # noqa: ANN401
        *,
        timesteps: Literal["fractional", "nearest"] = "fractional",
    ) -> None:
        if timesteps not in ("fractional", "nearest"):
            raise ValueError(f"timesteps must be 'fractional' or 'nearest', got {timesteps!r}.")
        convention = convention_of(scheduler, nearest=timesteps == "nearest")
        super().__init__(convention.process)
        self.convention = convention
        self.timesteps = timesteps
        self.net = net
        embedding = self._configured("time_embedding_type")
        if embedding == "learned" and timesteps == "fractional":
            raise ValueError(
                "net has a learned embedding of integer time steps: pass timesteps='nearest'."
            )
        if embedding == "fourier":
            raise ValueError(
                "net has time_embedding_type 'fourier', which expects noise levels and "
                "not the time steps of a scheduler's table; expected 'positional' or 'learned'."
            )

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        unet: str = "unet",
        scheduler: str | Path | None = None,
        timesteps: Literal["fractional", "nearest"] = "fractional",
    ) -> DiffusersScore:
        """Read a network and its scheduler from a folder on this machine.

        Nothing is downloaded, no code of the folder is run and no pickle is read: the weights
        must be ``.safetensors``. The network is a ``UNet2DModel``, set to evaluation mode.

        Args:
            folder: What ``save_pretrained`` of a pipeline such as ``DDPMPipeline`` wrote
                (``model_index.json``, ``unet/``, ``scheduler/``), or the same without the index,
                or one folder with both ``config.json`` and ``scheduler_config.json``.
            unet: Sub-folder of the network, for example ``"unet_ema"``.
            scheduler: Folder of the scheduler, if it is kept elsewhere.
            timesteps: As for the class.

        Returns:
            The score, on the CPU, in the dtype of the weights.

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If it holds no such network or scheduler, or weights are missing.
            ImportError: If ``diffusers`` is not installed.
        """
        from memdiff.scores.diffusers.folder import load_network, load_scheduler

        return cls(
            load_network(folder, unet),
            load_scheduler(folder if scheduler is None else scheduler),
            timesteps=timesteps,
        )

    def forward(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        r"""The score; infinite or NaN at :math:`\sigma = 0`.

        Args:
            x: Points with shape ``(B, *S)``.
            t: Time, a scalar or ``(B,)``: the scheduler's step plus 1 for a chain, the noise level
                for an EDM scheduler, the interpolation time for flow matching.
            y: Class labels, for a conditional network.

        Raises:
            ValueError: If ``y`` is missing or was not expected, or the network's output does not
                fit ``x``.
        """
        output, points, m, sigma = self._evaluate(x, t, y)
        return (self.convention.residual(output, points, m, sigma) / sigma**2).to(x.dtype)

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
        return self.convention.residual(*self._evaluate(x, t, y)).to(x.dtype)

    @override
    def denoise(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        return self.convention.denoised(*self._evaluate(x, t, y)).to(x.dtype)

    @override
    def noise(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        output, points, m, sigma = self._evaluate(x, t, y)
        return (-self.convention.residual(output, points, m, sigma) / sigma).to(x.dtype)

    def _evaluate(
        self, x: Tensor, t: float | Tensor, y: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The network's output, the points, m and sigma: float64, ready to broadcast."""
        time = expand_time(t, x)
        m = per_sample(self.process.scale(time), x)
        sigma = per_sample(self.process.std(time), x)
        points = x.to(torch.float64)
        inputs = self.convention.network_input(points, sigma).to(self._net_dtype(x.dtype))
        steps = self.convention.timestep(time)
        steps = steps.to(torch.int64 if self.timesteps == "nearest" else torch.float32)
        found = self.net(inputs, steps, **self._labels(y, len(x)))
        output = found if isinstance(found, Tensor) else getattr(found, "sample", None)
        if output is None:
            output = found[0]
        if x.ndim > 1 and output.shape == (x.shape[0], 2 * x.shape[1], *x.shape[2:]):
            output = output[:, : x.shape[1]]  # the second half is a learned variance
        if output.shape != x.shape:
            raise ValueError(
                f"net must return the shape of x, {tuple(x.shape)}, or twice its "
                f"channels, got {tuple(output.shape)}."
            )
        return output.to(torch.float64), points, m, sigma

    def _labels(self, y: Tensor | None, size: int) -> dict[str, Tensor]:
        conditional = getattr(self.net, "class_embedding", None) is not None
        if y is None:
            if conditional:
                raise ValueError(
                    f"y must be given: net is conditional; expected class labels with "
                    f"shape ({size},)."
                )
            return {}
        if hasattr(self.net, "class_embedding") and not conditional:
            raise ValueError("y was given, but net is not conditional: leave it out.")
        if y.ndim < 1 or len(y) != size:
            raise ValueError(
                f"y must hold one condition a point, {size} in all, got shape {tuple(y.shape)}."
            )
        return {"class_labels": y}

    def _net_dtype(self, default: torch.dtype) -> torch.dtype:
        for tensor in self.net.parameters():
            if tensor.is_floating_point():
                return tensor.dtype
        return default

    def _configured(self, key: str) -> Any:  # noqa: ANN401
        config = getattr(self.net, "config", None)
        return None if config is None else getattr(config, key, None)

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the network's parameters and buffers, to record with a result."""
        from memdiff.sources.hashing import state_sha256

        return state_sha256(self.net)

    @property
    def shape(self) -> torch.Size | None:
        """Shape ``(C, H, W)`` of one sample where the network's configuration states it."""
        channels, size = self._configured("in_channels"), self._configured("sample_size")
        if channels is None or size is None:
            return None
        return torch.Size([channels, *((size, size) if isinstance(size, int) else size)])
