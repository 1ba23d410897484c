r"""U-Net for images, after DDPM++.

Residual blocks in levels of halved resolution, joined by skips, with group normalisation, SiLU,
self-attention at chosen resolutions and an embedding of time and condition added inside each
block. With ``width=128, multipliers=(2, 2, 2), blocks=4, attention=(16,)`` on 3 x 32 x 32 images
it is the 56M-parameter network of Karras et al. for CIFAR-10; ``width=16, multipliers=(1, 2),
blocks=1`` has about 0.2M parameters.

References:
    Song et al., *Score-Based Generative Modeling through Stochastic Differential Equations*,
    arXiv:2011.13456, appendix H (DDPM++). Karras et al., arXiv:2206.00364, table 7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from memdiff.training.networks.conditioning import checked_condition, condition_columns

__all__ = ["UNet"]

MAX_FREQUENCY = 1000.0
"""Largest angular frequency of the time features; resolves times (or log noise) to about 1e-3."""


class UNet(nn.Module):
    r"""U-Net of an image, a time and optionally a condition.

    The output starts at zero, whatever the input. As an image goes down one level its sides halve,
    so they must be divisible by ``2 ** (len(multipliers) - 1)``.

    Args:
        shape: Shape ``(C, H, W)``, or ``(H, W)`` for one channel.
        width: Channels of the first level, a multiple of 4.
        multipliers: Channels of each level, in units of ``width``.
        blocks: Residual blocks per level.
        attention: Heights at which blocks attend; the lowest level always does once.
        classes: Number of classes for integer conditions ``y`` with shape ``(B,)``, else 0.
        condition_features: Length of vector conditions ``y`` with shape ``(B, k)``, else 0.
        dropout: Dropout probability inside the blocks.
        padding: ``"zeros"``, or ``"circular"`` for periodic images.
        seed: Seed of the weights.

    Raises:
        ValueError: If the shape does not fit the levels, or a size is out of range.

    Example:
        >>> import torch
        >>> net = UNet((1, 8, 8), width=8, multipliers=(1, 2), blocks=1)
        >>> net(torch.zeros(3, 1, 8, 8), torch.rand(3)).shape
        torch.Size([3, 1, 8, 8])
    """

    frequencies: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        *,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (16,),
        classes: int = 0,
        condition_features: int = 0,
        dropout: float = 0.0,
        padding: Literal["zeros", "circular"] = "zeros",
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check(shape, width, multipliers, blocks, dropout, padding)
        self.shape = tuple(int(size) for size in shape)
        self.classes, self.condition_features = classes, condition_features
        columns = condition_columns(classes, condition_features)
        channels = self.shape[0] if len(self.shape) == 3 else 1
        frequencies = torch.exp(torch.linspace(0.0, math.log(MAX_FREQUENCY), width // 2))
        self.register_buffer("frequencies", frequencies)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            features = 4 * width
            self.embed_time = nn.Sequential(
                nn.Linear(2 * len(frequencies), features), nn.SiLU(), nn.Linear(features, features)
            )
            self.embed_condition = nn.Linear(columns, features) if columns else None
            builder = _Builder(features, dropout, padding, frozenset(attention))
            self._build(builder, channels, width, tuple(multipliers), blocks)
            self.apply(_initialise)

    def _build(
        self, new: _Builder, channels: int, width: int, multipliers: tuple[int, ...], blocks: int
    ) -> None:
        height = self.shape[-2]
        self.enter = new.convolution(channels, width)
        skips, current = [width], width
        down: list[nn.Module] = []
        for level, multiplier in enumerate(multipliers):
            if level:
                down.append(new.block(current, current, resample="down"))
                skips.append(current)
            for _ in range(blocks):
                down.append(new.block(current, multiplier * width, height=height >> level))
                current = multiplier * width
                skips.append(current)
        self.down = nn.ModuleList(down)
        self.middle = nn.ModuleList(
            [new.block(current, current, attends=True), new.block(current, current)]
        )
        up: list[nn.Module] = []
        for level in reversed(range(len(multipliers))):
            if level < len(multipliers) - 1:
                up.append(new.block(current, current, resample="up"))
            for index in range(blocks + 1):
                at = height >> level if index == blocks else None
                out = multipliers[level] * width
                up.append(new.block(current + skips.pop(), out, height=at, joins=True))
                current = out
        self.up = nn.ModuleList(up)
        self.leave = nn.Sequential(
            _normalisation(current), nn.SiLU(), _zero(new.convolution(current, channels))
        )

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the output, of the shape of ``x``.

        Args:
            x: Images with shape ``(B, *S)``, in the dtype of the weights.
            t: Times (or noise labels) with shape ``(B,)``.
            y: Conditions: classes ``(B,)``, or vectors ``(B, k)``.

        Raises:
            ValueError: If the network is conditional and ``y`` is missing or has another form, or
                is not and ``y`` is given; or the shape of ``x`` is another one.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"x must have shape (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}."
            )
        embedding = self._embedding(x, t, y)
        hidden = self.enter(x.reshape(len(x), -1, *self.shape[-2:]))
        skips = [hidden]
        for block in self.down:
            hidden = block(hidden, embedding)
            skips.append(hidden)
        for block in self.middle:
            hidden = block(hidden, embedding)
        for block in cast(list[_Block], list(self.up)):
            if block.joins:
                hidden = torch.cat([hidden, skips.pop()], dim=1)
            hidden = block(hidden, embedding)
        return cast(Tensor, self.leave(hidden)).reshape(x.shape)

    def _embedding(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        angle = t.to(x.dtype)[:, None] * self.frequencies
        embedding = self.embed_time(torch.cat([angle.cos(), angle.sin()], dim=1))
        condition = checked_condition(y, len(x), self.classes, self.condition_features)
        if condition is not None and self.embed_condition is not None:
            if self.classes:
                condition = nn.functional.one_hot(condition, self.classes)
                # One active column among many: bring it to unit size for the initial weights.
                condition = condition * math.sqrt(self.classes)
            embedding = embedding + self.embed_condition(condition.to(x.dtype))
        return nn.functional.silu(embedding)


class _Builder:
    """Makes the parts of one network."""

    def __init__(
        self,
        features: int,
        dropout: float,
        padding: Literal["zeros", "circular"],
        attention: frozenset[int],
    ) -> None:
        self.features, self.dropout = features, dropout
        self.padding: Literal["zeros", "circular"] = padding
        self.attention = attention

    def convolution(self, inputs: int, outputs: int) -> nn.Conv2d:
        return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode=self.padding)

    def block(
        self,
        inputs: int,
        outputs: int,
        *,
        height: int | None = None,
        resample: Literal["up", "down"] | None = None,
        attends: bool = False,
        joins: bool = False,
    ) -> _Block:
        attends = attends or height in self.attention
        return _Block(self, inputs, outputs, resample, attends, joins)


class _Block(nn.Module):
    """Residual block; ``joins`` says that it takes a skip beside the current image."""

    def __init__(
        self,
        new: _Builder,
        inputs: int,
        outputs: int,
        resample: Literal["up", "down"] | None,
        attends: bool,
        joins: bool,
    ) -> None:
        super().__init__()
        self.resample, self.joins = resample, joins
        self.before = _normalisation(inputs)
        self.first = new.convolution(inputs, outputs)
        self.embed = nn.Linear(new.features, outputs)
        self.between = _normalisation(outputs)
        self.dropout = nn.Dropout(new.dropout)
        self.second = _zero(new.convolution(outputs, outputs))
        self.skip = (
            nn.Identity() if inputs == outputs and not resample else nn.Conv2d(inputs, outputs, 1)
        )
        self.attention = _Attention(outputs) if attends else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.first(self._resampled(nn.functional.silu(self.before(x))))
        hidden = self.between(hidden + self.embed(embedding)[:, :, None, None])
        hidden = self.second(self.dropout(nn.functional.silu(hidden)))
        # A sum of two halves of the variance keeps the variance.
        hidden = (self.skip(self._resampled(x)) + hidden) * math.sqrt(0.5)
        return hidden if self.attention is None else cast(Tensor, self.attention(hidden))

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return nn.functional.avg_pool2d(x, 2)
        if self.resample == "up":
            return nn.functional.interpolate(x, scale_factor=2, mode="nearest")
        return x


class _Attention(nn.Module):
    """Self-attention between the places of an image, in heads of about 64 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // 64) if channels % max(1, channels // 64) == 0 else 1
        self.normalise = _normalisation(channels)
        self.enter = nn.Conv2d(channels, 3 * channels, 1)
        self.leave = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        joint = self.enter(self.normalise(x)).reshape(
            batch, 3, self.heads, channels // self.heads, height * width
        )
        query, key, value = joint.transpose(-1, -2).unbind(1)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        mixed = mixed.transpose(-1, -2).reshape(x.shape)
        return (x + self.leave(mixed)) * math.sqrt(0.5)


def _normalisation(channels: int) -> nn.GroupNorm:
    groups = max(g for g in range(1, min(32, channels // 4) + 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    layer.starts_at_zero = True  # type: ignore[assignment]
    return layer


def _initialise(module: nn.Module) -> None:
    """Weights of Glorot's law, biases of zero; zero weights where a branch starts silent."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        if getattr(module, "starts_at_zero", False):
            nn.init.zeros_(module.weight)
        else:
            nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check(
    shape: Sequence[int],
    width: int,
    multipliers: Sequence[int],
    blocks: int,
    dropout: float,
    padding: str,
) -> None:
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"shape must be (C, H, W) or (H, W), got {tuple(shape)}.")
    if width < 4 or width % 4:
        raise ValueError(f"width must be a positive multiple of 4, got {width}.")
    if not multipliers or min(multipliers) < 1 or blocks < 1:
        raise ValueError(
            f"multipliers must be positive and blocks at least 1, "
            f"got {tuple(multipliers)} and {blocks}."
        )
    factor = 1 << (len(multipliers) - 1)
    if shape[-1] % factor or shape[-2] % factor:
        raise ValueError(
            f"shape must have sides divisible by {factor} for {len(multipliers)} levels, "
            f"got {tuple(shape)}; give fewer multipliers or pad the images."
        )
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}.")
    if padding not in ("zeros", "circular"):
        raise ValueError(f"padding must be 'zeros' or 'circular', got {padding!r}.")
