r"""The one notion that everything shares: a score.

A score :math:`s(x, t)` is an approximation of :math:`\nabla \log p_t(x)` for a
:class:`~memdiff.processes.ForwardProcess`. A model, a closed form and a regulariser are all
scores. Two quantities follow from it,

.. math::
    r(x, t) = \sigma^2 s(x, t), \qquad D(x, t) = (x + r(x, t)) / m .

The residual :math:`r = m D - x` stays finite as :math:`\sigma \to 0`, where the score of a finite
training set is infinite; samplers and regularisers work with it. For a regularised score, which is
not the score of :math:`p_t`, :math:`D` is a definition and not a posterior mean.
"""

from __future__ import annotations

import html
from abc import abstractmethod

import torch
from torch import Tensor, nn

from memdiff.processes import ForwardProcess

__all__ = ["Score", "expand_time", "per_sample"]


def expand_time(t: float | Tensor, x: Tensor) -> Tensor:
    """Bring a time to the batch of ``x``.

    Args:
        t: Scalar or tensor with shape ``()`` or ``(B,)``.
        x: Points with shape ``(B, *S)``.

    Returns:
        float64 tensor with shape ``(B,)``, on the device of ``x``.

    Raises:
        ValueError: If ``t`` has another shape.
    """
    time = torch.as_tensor(t, dtype=torch.float64, device=x.device)
    if time.ndim == 0:
        return time.expand(x.shape[0])
    if time.shape == (x.shape[0],):
        return time
    raise ValueError(
        f"t must be a scalar or have shape ({x.shape[0]},), one time a point, "
        f"got shape {tuple(time.shape)}."
    )


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """Reshape ``(B,)`` to broadcast against ``x`` with shape ``(B, *S)``; dtype is kept."""
    return values.reshape(-1, *([1] * (x.ndim - 1)))


class Score(nn.Module):
    r"""Base class of every score. A subclass writes :meth:`forward`, and no more is required.

    A subclass whose score is infinite at :math:`\sigma = 0` should write :meth:`residual` as well
    (and may then write ``forward`` through :meth:`score_from_residual`).

    Args:
        process: The forward process whose :math:`p_t` the score refers to.
    """

    def __init__(self, process: ForwardProcess) -> None:
        super().__init__()
        self.process = process

    def __repr__(self) -> str:
        """One line: the scores inside, what sets this one apart, the process."""
        inner = [module for module in self.children() if isinstance(module, Score)]
        facts = [*map(repr, inner), self.extra_repr(), "" if inner else repr(self.process)]
        return f"{type(self).__name__}({', '.join(filter(None, facts))})"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"

    @abstractmethod
    def forward(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        """The score.

        Args:
            x: Points with shape ``(B, *S)``.
            t: Time, a scalar or ``(B,)``.
            y: Conditions with shape ``(B,)`` or ``(B, k)`` for a conditional score.

        Returns:
            Tensor with the shape, dtype and device of ``x``.
        """

    def residual(
        self,
        x: Tensor,
        t: float | Tensor,
        y: Tensor | None = None,
        *,
        exclude: Tensor | None = None,
    ) -> Tensor:
        r"""The residual :math:`r = \sigma^2 s = m D - x`, of the shape and dtype of ``x``.

        Args:
            x: Points with shape ``(B, *S)``.
            t: Time, a scalar or ``(B,)``.
            y: Conditions with shape ``(B,)`` or ``(B, k)``.
            exclude: Index of a training point that each query leaves out, int64 with shape
                ``(B,)``, -1 for none; for scores that are functions of a training set.

        Raises:
            ValueError: If ``exclude`` is given and the score has no training set.
        """
        if exclude is not None:
            raise ValueError(
                f"exclude was given, but {type(self).__name__} is not a function of a training "
                "set: leave-one-out needs an EmpiricalScore or a regularised one."
            )
        sigma = self.process.std(expand_time(t, x))
        return self(x, t, y) * per_sample(sigma**2, x).to(x.dtype)

    def score_from_residual(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        r""":math:`r / \sigma^2`; infinite or NaN at :math:`\sigma = 0`, as the score itself."""
        sigma = self.process.std(expand_time(t, x))
        residual = self.residual(x, t, y).to(torch.float64)
        return (residual / per_sample(sigma**2, x)).to(x.dtype)

    def denoise(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        r"""The denoiser :math:`D = (x + \sigma^2 s) / m`, of the shape and dtype of ``x``."""
        m = self.process.scale(expand_time(t, x))
        residual = self.residual(x, t, y)
        return ((x + residual).to(torch.float64) / per_sample(m, x)).to(x.dtype)

    def noise(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        r"""The predicted noise :math:`\epsilon = -\sigma s`, of the shape and dtype of ``x``."""
        sigma = self.process.std(expand_time(t, x))
        return -(self(x, t, y).to(torch.float64) * per_sample(sigma, x)).to(x.dtype)

    @property
    def shape(self) -> torch.Size | None:
        """Shape ``S`` of one point where the score knows it, else None."""
        return None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the samples that are drawn with this score when no latents are given."""
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.is_floating_point():
                return tensor.dtype
        return torch.get_default_dtype()

    @property
    def device(self) -> torch.device:
        """Device on which the score computes."""
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor.device
        return torch.device("cpu")
