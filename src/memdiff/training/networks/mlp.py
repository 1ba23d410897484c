r"""Multilayer perceptron, the network of the paper's studies in the plane.

.. math::
    h_0 = [x,\ \sin(2\pi W t),\ \cos(2\pi W t),\ y], \qquad
    h_{k+1} = \mathrm{ReLU}(A_k h_k + b_k), \qquad f = A_{L} h_{L} + b_{L},

with frequencies :math:`W \sim N(0, \mathrm{scale}^2)` that are drawn once and not trained.

References:
    Baptista, Dasgupta, Kovachki, Oberai, Stuart, arXiv:2501.15785 (settings as in the authors'
    public notebooks: width 256, two hidden layers after the first, 8 features of time, scale 1).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from memdiff.training.networks.conditioning import checked_condition, condition_columns

__all__ = ["MLP", "time_columns"]


class MLP(nn.Module):
    r"""Multilayer perceptron of a point, a time and optionally a condition.

    The network itself has no notion of score or noise: :class:`~memdiff.scores.NetworkScore` says
    what its output means. Weights are drawn as by :class:`torch.nn.Linear`, from ``seed`` alone.

    Args:
        shape: Shape ``S`` of one point, such as ``(2,)``.
        width: Units of a hidden layer.
        depth: Hidden layers after the first.
        time_features: Features of the time, an even number: half sines, half cosines.
        time_scale: Standard deviation of their frequencies.
        classes: Number of classes for integer conditions ``y`` with shape ``(B,)``, else 0.
        condition_features: Length of vector conditions ``y`` with shape ``(B, k)``, else 0.
        seed: Seed of weights and frequencies.

    Raises:
        ValueError: If a size is out of range, or both kinds of condition are asked for.

    Example:
        >>> import torch
        >>> net = MLP((2,), width=64)
        >>> net(torch.zeros(5, 2), torch.rand(5)).shape
        torch.Size([5, 2])
    """

    frequencies: Tensor

    def __init__(
        self,
        shape: Sequence[int] = (2,),
        *,
        width: int = 256,
        depth: int = 2,
        time_features: int = 8,
        time_scale: float = 1.0,
        classes: int = 0,
        condition_features: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if width < 1 or depth < 0:
            raise ValueError(
                f"width must be at least 1 and depth at least 0, got {width} and {depth}."
            )
        if time_features < 2 or time_features % 2:
            raise ValueError(f"time_features must be even and positive, got {time_features}.")
        self.shape = tuple(int(size) for size in shape)
        self.classes, self.condition_features = classes, condition_features
        generator = torch.Generator().manual_seed(seed)
        frequencies = torch.randn(time_features // 2, generator=generator) * time_scale
        self.register_buffer("frequencies", frequencies)
        point = math.prod(self.shape)
        columns = condition_columns(classes, condition_features)
        sizes = [point + time_features + columns, *[width] * (depth + 1), point]
        self.layers = nn.ModuleList(
            _linear(fan_in, fan_out, generator) for fan_in, fan_out in itertools.pairwise(sizes)
        )

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the output, of the shape of ``x``.

        Args:
            x: Points with shape ``(B, *S)``, in the dtype of the weights.
            t: Times with shape ``(B,)``.
            y: Conditions: classes ``(B,)``, or vectors ``(B, k)``.

        Raises:
            ValueError: If the network is conditional and ``y`` is missing or has another form, or
                is not and ``y`` is given.
        """
        columns = [x.flatten(1), time_columns(t.to(x.dtype), self.frequencies)]
        condition = self._condition(x, y)
        if condition is not None:
            columns.append(condition)
        hidden = torch.cat(columns, dim=1)
        for layer in self.layers[:-1]:
            hidden = torch.relu(layer(hidden))
        return self.layers[-1](hidden).reshape(x.shape)

    def linear_layers(self) -> list[nn.Linear]:
        """Return the affine maps, from input to output."""
        return cast(list[nn.Linear], list(self.layers))

    def _condition(self, x: Tensor, y: Tensor | None) -> Tensor | None:
        condition = checked_condition(y, len(x), self.classes, self.condition_features)
        if condition is None or not self.classes:
            return None if condition is None else condition.to(x.dtype)
        return nn.functional.one_hot(condition, self.classes).to(x.dtype)


def time_columns(t: Tensor, frequencies: Tensor) -> Tensor:
    """Return sines, then cosines of ``2 pi W t`` with shape ``t.shape + (2 F,)``."""
    angle = t[..., None] * frequencies * (2.0 * math.pi)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def _linear(fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out)
    bound = 1.0 / math.sqrt(fan_in)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer
