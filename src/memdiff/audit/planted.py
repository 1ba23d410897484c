"""Sets of points in which it is known what was copied: the truth that an audit is checked on."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from memdiff.neighbors import self_nearest

__all__ = [
    "Digits",
    "Gaussian",
    "Law",
    "Manifold",
    "Mixture",
    "PlantedCase",
    "PlantedSets",
    "StudentT",
    "Transform",
    "generator_of",
]

Transform = Literal["flip", "shift"]


def generator_of(*key: int | str) -> torch.Generator:
    """A generator whose stream depends on the whole key, and on nothing else."""
    import numpy as np

    words = [part if isinstance(part, int) else zlib.crc32(part.encode()) for part in key]
    state = np.random.SeedSequence(words).generate_state(2)
    return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]))


class Law(ABC):
    """A law to draw data from."""

    name: str
    dimension: int | None = None
    """The dimension of the only data there are, or None where any will do."""

    @abstractmethod
    def draw(self, num: int, dimension: int, generator: torch.Generator) -> Tensor:
        """Draw ``num`` independent points ``(num, *S)`` of ``dimension`` values, float32."""


class Gaussian(Law):
    """Standard normal."""

    name = "Gaussian"

    def draw(self, num: int, dimension: int, generator: torch.Generator) -> Tensor:
        """As :meth:`Law.draw`."""
        return torch.randn(num, dimension, generator=generator)


class StudentT(Law):
    """Multivariate Student t with 3 degrees of freedom: tails so heavy that outliers rule."""

    name = "Student t, 3"

    def draw(self, num: int, dimension: int, generator: torch.Generator) -> Tensor:
        """As :meth:`Law.draw`."""
        normal = torch.randn(num, dimension, generator=generator)
        chi_squared = torch.randn(num, 3, generator=generator).square().sum(1, keepdim=True)
        return normal / (chi_squared / 3.0).sqrt()


class Mixture(Law):
    """Five Gaussian clusters of unequal weight (1 : 2 : 3 : 4 : 5) and width (0.1 to 1)."""

    name = "mixture"

    def draw(self, num: int, dimension: int, generator: torch.Generator) -> Tensor:
        """As :meth:`Law.draw`."""
        centres = 4.0 * torch.randn(5, dimension, generator=generator_of("mixture", dimension))
        weights = torch.arange(1.0, 6.0)
        label = torch.multinomial(weights, num, replacement=True, generator=generator)
        widths = torch.logspace(-1.0, 0.0, 5)[label, None]
        return centres[label] + widths * torch.randn(num, dimension, generator=generator)


class Manifold(Law):
    """A wavy surface of 2 intrinsic dimensions (a curve in the plane), of uneven density."""

    name = "manifold"

    def draw(self, num: int, dimension: int, generator: torch.Generator) -> Tensor:
        """As :meth:`Law.draw`."""
        inner = 1 if dimension == 2 else 2
        fixed = generator_of("manifold", dimension)
        directions = 1.5 * torch.randn(inner, dimension, generator=fixed)
        phases = 6.28 * torch.rand(dimension, generator=fixed)
        return (torch.randn(num, inner, generator=generator) @ directions + phases).sin()


class Digits(Law):
    """The 1797 images of 8 x 8 pixels of scikit-learn, without replacement."""

    name = "digits"
    dimension = 64

    def draw(self, num: int, dimension: int, generator: torch.Generator) -> Tensor:
        """As :meth:`Law.draw`, ``(num, 1, 8, 8)``.

        Raises:
            ValueError: If there are not so many.
        """
        from memdiff.data import load

        images = load("digits").x
        if num > len(images):
            raise ValueError(f"num must be at most {len(images)} for digits, got {num}.")
        return images[torch.randperm(len(images), generator=generator)[:num]]


@dataclass(frozen=True)
class PlantedSets:
    """Sets with their truth.

    Attributes:
        generated: ``(M, *S)``.
        train: ``(N, *S)``.
        heldout: ``(H, *S)``, or None.
        copied: bool ``(M,)``: which samples are copies of a training point.
    """

    generated: Tensor
    train: Tensor
    heldout: Tensor | None
    copied: Tensor


@dataclass(frozen=True)
class PlantedCase:
    """What is done to fresh samples, and what is thereby true.

    Attributes:
        name: What it is called.
        law: The law of the data.
        copied: Share of the samples that are copies of training points; at least one if above 0.
        noise: Noise of the copies: its norm in units of the median distance of training points to
            their nearest other one.
        transform: What was done to the copies: ``"flip"`` mirrors, ``"shift"`` moves by a pixel.
        sources: Number of training points that are copied, or None for any.
        points: Where the samples that are no copies have collapsed: to this many fresh points;
            None for no collapse.
        spread: Spread about those points, in the unit of ``noise``.
        scale: Factor of the samples that are no copies, about the mean.
        repeats: How often each training point occurs.
        overlap: Share of the held-out points that are training points.
        heldout: Whether there are held-out points.
        invariance: Invariance of the audit.
        demanded: How often the verdict must be "memorizing", at the least, at 200 points or more.
    """

    name: str
    law: Law
    copied: float = 0.0
    noise: float = 0.0
    transform: Transform | None = None
    sources: int | None = None
    points: int | None = None
    spread: float = 0.0
    scale: float = 1.0
    repeats: int = 1
    overlap: float = 0.0
    heldout: bool = True
    invariance: str | None = None
    demanded: float = 0.0

    @property
    def memorizes(self) -> bool:
        """Whether the verdict "memorizing" is the truth."""
        return self.copied > 0.0

    def draw(self, size: int, dimension: int, generator: torch.Generator) -> PlantedSets:
        """Draw the sets.

        Args:
            size: Number of samples, of different training points, and of held-out points.
            dimension: Dimension of the data.
            generator: Source of randomness.

        Returns:
            The sets, in random order.
        """
        train, heldout, fresh = self.law.draw(3 * size, dimension, generator).split(size)
        num = max(1, round(self.copied * size)) if self.copied else 0
        rest = size - num
        others = fresh[:rest]
        scale = self_nearest(train.flatten(1)).distances[:, 0].median().to(train.dtype)

        def noise(like: Tensor) -> Tensor:
            normal = torch.randn(like.shape, generator=generator)
            return scale / like[0].numel() ** 0.5 * normal

        if self.points is not None:
            others = fresh[torch.randint(self.points, (rest,), generator=generator)]
            others = others + self.spread * noise(others)
        if self.scale != 1.0:
            centre = train.mean(0)
            others = centre + self.scale * (others - centre)
        pick = torch.randint(self.sources or size, (num,), generator=generator)
        copies = _transformed(train[pick], self.transform)
        copies = copies + self.noise * noise(copies) if num else copies
        order = torch.randperm(size, generator=generator)
        if self.overlap:
            seen = round(self.overlap * size)
            heldout = torch.cat([train[:seen], heldout[seen:]])
        return PlantedSets(
            generated=torch.cat([copies, others])[order],
            train=torch.cat([train] * self.repeats),
            heldout=heldout if self.heldout else None,
            copied=(torch.arange(size) < num)[order],
        )


def _transformed(images: Tensor, transform: str | None) -> Tensor:
    if transform == "flip":
        return images.flip(-1)
    if transform == "shift":
        return images.roll(1, -1)
    return images
