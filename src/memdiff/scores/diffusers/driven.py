"""A score in the place of a network of ``diffusers``: their schedulers and pipelines drive it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memdiff.processes import ForwardProcess
from memdiff.scores.base import Score, per_sample
from memdiff.scores.diffusers.conventions import Convention
from memdiff.scores.diffusers.schedulers import convention_of

__all__ = ["DrivenScore", "DrivenScoreConfig", "DrivenScoreOutput", "as_diffusers_model"]


@dataclass(frozen=True)
class DrivenScoreOutput:
    """Output of :class:`DrivenScore`.

    Attributes:
        sample: What the scheduler takes as ``model_output``, with the shape of the input.
    """

    sample: Tensor


@dataclass(frozen=True)
class DrivenScoreConfig:
    """The entries of a network's configuration that pipelines read.

    Attributes:
        in_channels: Channels of one sample; None for a score that does not know its shape.
        out_channels: The same.
        sample_size: Height and width of one sample, or None.
    """

    in_channels: int | None
    out_channels: int | None
    sample_size: tuple[int, int] | None


class DrivenScore(nn.Module):
    r"""A score that is called as a ``UNet2DModel`` is; see :func:`as_diffusers_model`.

    Attributes:
        score: The score.
        convention: What the scheduler gives and expects.
    """

    def __init__(self, score: Score, convention: Convention) -> None:
        super().__init__()
        self.score = score
        self.convention = convention

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> DrivenScoreOutput | tuple[Tensor]:
        """The output that the scheduler expects of a network.

        Args:
            sample: Points with shape ``(B, *S)``, after ``scheduler.scale_model_input``.
            timestep: Time step of the scheduler, a number or ``()`` or ``(B,)``.
            class_labels: Conditions ``y`` of the score.
            return_dict: Whether to return an object with ``.sample``, else a tuple.

        Returns:
            Output with the shape and dtype of ``sample``; computed in float64.
        """
        step = torch.as_tensor(timestep, device=sample.device).to(torch.float64)
        m, sigma = self.convention.levels(step)
        points = sample.to(torch.float64)
        batch = points.new_ones(len(points))
        m, sigma = m * batch, sigma * batch
        wide_m, wide_sigma = per_sample(m, points), per_sample(sigma, points)
        x = self.convention.point(points, wide_sigma)

        # The score at the same noise-to-signal ratio, in the scale of its own process.
        finite_m = torch.where(m > 0, m, self._smallest_scale().to(m))
        process = self.score.process
        t = _time_at_ratio(process, sigma / finite_m)
        rescale = per_sample(process.scale(t) / finite_m, points)
        residual = self.score.residual(x * rescale, t, class_labels) / rescale
        denoised = self.score.denoise(x * rescale, t, class_labels)

        output = self.convention.output(denoised, residual, x, wide_m, wide_sigma)
        output = output.to(sample.dtype)
        return DrivenScoreOutput(sample=output) if return_dict else (output,)

    def _smallest_scale(self) -> Tensor:
        process = self.convention.process
        return process.scale(process.t_max)

    @property
    def config(self) -> DrivenScoreConfig:
        """What pipelines read of a network's configuration."""
        shape = self.score.shape
        if shape is None or len(shape) != 3:
            return DrivenScoreConfig(None, None, None)
        return DrivenScoreConfig(shape[0], shape[0], (shape[1], shape[2]))

    @property
    def dtype(self) -> torch.dtype:
        """Dtype in which pipelines draw their noise."""
        return self.score.dtype

    @property
    def device(self) -> torch.device:
        """Device on which the score computes."""
        return self.score.device


def as_diffusers_model(score: Score, scheduler: Any) -> DrivenScore:  # noqa: ANN401
    r"""Put a score in the place of a network, for a scheduler or a pipeline of ``diffusers``.

    The process of the score need not be that of the scheduler: at each call the score is
    evaluated at the time at which its own process has the noise-to-signal ratio of the
    scheduler, and :math:`D` and :math:`r/m`, which are in units of the data, are carried over.
    For a regularised score this keeps what the regulariser does in its own process.

    Args:
        score: Any score.
        scheduler: The scheduler that will drive it: a discrete chain, an EDM scheduler, or one of
            flow matching. The same object must be stepped, since some schedulers change their
            noise levels with the number of inference steps.

    Returns:
        A module that is called as a ``UNet2DModel`` is and answers in the scheduler's prediction
        type. With a score of images, ``DDPMPipeline(unet=module, scheduler=scheduler)`` runs.

    Raises:
        ValueError: If the scheduler is of another kind; see
            :func:`~memdiff.scores.diffusers.convention_of`.

    Note:
        ``DDPMScheduler`` and ``DDIMScheduler`` clip :math:`D` to [-1, 1] unless
        ``clip_sample=False``.
    """
    return DrivenScore(score, convention_of(scheduler))


def _time_at_ratio(process: ForwardProcess, ratio: Tensor) -> Tensor:
    """As the process says; a ratio that exceeds its largest by float32 rounding is the largest."""
    high = process.ratio(process.t_max).to(ratio)
    rounded = (ratio > high) & (ratio <= high * (1.0 + 1e-5))
    return process.time_at_ratio(torch.where(rounded, high, ratio))
