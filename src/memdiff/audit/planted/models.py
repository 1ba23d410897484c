"""Planted models: what a generator that is audited does, when it is known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from memdiff.audit.planted.laws import Law
from memdiff.audit.planted.photographs import edited
from memdiff.neighbors import self_nearest

__all__ = [
    "Collapse",
    "Copies",
    "Dropped",
    "EditedCopies",
    "Fresh",
    "Interpolation",
    "Kernel",
    "Model",
    "Samples",
    "Scaled",
    "Transform",
]

Array = np.ndarray
Transform = Literal["flip", "shift"]


@dataclass(frozen=True, eq=False)
class Samples:
    """What a model made.

    Attributes:
        x: The samples ``(M, *S)``.
        copied: bool ``(M,)``: which are copies of a training point.
        width: See :class:`~memdiff.audit.planted.sets.PlantedSets`.
    """

    x: Array
    copied: Array
    width: float | None = None


class Model(ABC):
    """A generator of samples."""

    @property
    def disguises(self) -> bool:
        """Whether copies are changed by more than noise, so that their share need not be seen."""
        return False

    @abstractmethod
    def sample(self, law: Law, fresh: Array, train: Array, rng: np.random.Generator) -> Samples:
        """Make as many samples as there are fresh points.

        Args:
            law: The law of the data.
            fresh: Fresh points ``(M, *S)``.
            train: Training points ``(N, *S)``.
            rng: Source of randomness.
        """


class Fresh(Model):
    """Fresh points: the perfect model."""

    def sample(self, law: Law, fresh: Array, train: Array, rng: np.random.Generator) -> Samples:
        """As :meth:`Model.sample`."""
        return Samples(fresh, np.zeros(len(fresh), dtype=bool))


@dataclass(frozen=True)
class Scaled(Model):
    """Fresh points shrunk towards the mean, or inflated.

    Attributes:
        scale: The factor.
    """

    scale: float

    def sample(self, law: Law, fresh: Array, train: Array, rng: np.random.Generator) -> Samples:
        """As :meth:`Model.sample`; the centre is that of fresh points."""
        centre = fresh.mean(0, dtype=np.float64)
        x = _like(centre + self.scale * (fresh - centre), fresh)
        return Samples(x, np.zeros(len(x), dtype=bool))


@dataclass(frozen=True)
class Collapse(Model):
    """A few fresh points again and again.

    Attributes:
        points: Number of them.
        spread: Spread about them: its norm in units of the neighbour distance of train.
    """

    points: int
    spread: float = 0.0

    def sample(self, law: Law, fresh: Array, train: Array, rng: np.random.Generator) -> Samples:
        """As :meth:`Model.sample`."""
        x = fresh[rng.integers(0, self.points, len(fresh))]
        if self.spread:
            x = _like(x + self.spread * neighbour_distance(train) * _unit(x.shape, rng), fresh)
        return Samples(x, np.zeros(len(x), dtype=bool))


@dataclass(frozen=True)
class Dropped(Model):
    """Fresh points of some classes only.

    Attributes:
        kept: The classes.
    """

    kept: tuple[int, ...]

    def sample(self, law: Law, fresh: Array, train: Array, rng: np.random.Generator) -> Samples:
        """As :meth:`Model.sample`."""
        found = np.empty((0, *fresh.shape[1:]), fresh.dtype)
        while len(found) < len(fresh):
            more = law.draw(4 * len(fresh), fresh[0].size, rng)
            found = np.concatenate([found, more[np.isin(law.classes(more), self.kept)]])
        return Samples(found[: len(fresh)], np.zeros(len(fresh), dtype=bool))


@dataclass(frozen=True)
class Interpolation(Model):
    """SMOTE: a random place between a training point and one of its nearest ones.

    Attributes:
        neighbours: Number of nearest ones to choose from.
    """

    neighbours: int = 5

    def sample(self, law: Law, fresh: Array, train: Array, rng: np.random.Generator) -> Samples:
        """As :meth:`Model.sample`."""
        near = self_nearest(_rows(train), self.neighbours).indices.numpy()
        m = len(fresh)
        one = rng.integers(0, len(train), m)
        two = near[one, rng.integers(0, self.neighbours, m)]
        part = rng.random((m, *[1] * (train.ndim - 1)))
        x = _like(train[one] + part * (train[two].astype(np.float64) - train[one]), train)
        return Samples(x, np.zeros(m, dtype=bool))


@dataclass(frozen=True)
class Kernel(Model):
    """Kernel density of the training points: each with noise.

    The width goes from a tenth of the neighbour distance of train (0) to twice the width of
    Silverman (1), in equal factors.

    Attributes:
        place: Where between them.
    """

    place: float

    def sample(self, law: Law, fresh: Array, train: Array, rng: np.random.Generator) -> Samples:
        """As :meth:`Model.sample`; a sample counts as a copy up to a width of 0.3."""
        n, d = len(train), train[0].size
        unit = neighbour_distance(train)
        silverman = (4.0 / (d + 2.0) / n) ** (1.0 / (d + 4.0)) * float(train.std(0).mean())
        smallest, largest = 0.1 * unit, 2.0 * silverman * d**0.5
        norm = smallest ** (1.0 - self.place) * largest**self.place
        x = train[rng.integers(0, n, len(fresh))]
        x = _like(x + norm * _unit(x.shape, rng), train)
        return Samples(x, np.full(len(x), norm <= 0.3 * unit), norm / unit)


@dataclass(frozen=True)
class Copies(Model):
    """Some samples are copies of training points, the others are of another model.

    Attributes:
        share: Share of the copies; at least one sample.
        noise: Noise of the copies: its norm in units of the median distance of training points to
            their nearest other one.
        absolute: Standard deviation of the noise in each value, in place of ``noise``.
        transform: What was done to the copies: ``"flip"`` mirrors, ``"shift"`` moves by a pixel.
        sources: Number of training points that are copied, or None for any.
        distinct: Whether no training point is copied twice.
        of_class: The class that is copied, or None for all.
        others: The model of the other samples.
    """

    share: float
    noise: float = 0.0
    absolute: float = 0.0
    transform: Transform | None = None
    sources: int | None = None
    distinct: bool = False
    of_class: int | None = None
    others: Model = field(default_factory=Fresh)

    @property
    def disguises(self) -> bool:
        """Whether they are transformed."""
        return self.transform is not None

    def sample(self, law: Law, fresh: Array, train: Array, rng: np.random.Generator) -> Samples:
        """As :meth:`Model.sample`."""
        m = len(fresh)
        num = max(1, round(self.share * m))
        x = self.others.sample(law, fresh, train, rng).x
        ready = np.arange(len(train))
        if self.of_class is not None:
            ready = np.flatnonzero(law.classes(train) == self.of_class)
        ready = ready[: self.sources]
        source = rng.permutation(ready)[:num] if self.distinct else rng.choice(ready, num)
        copies = _transformed(train[source], self.transform)
        unit = neighbour_distance(train)
        norm = self.absolute * train[0].size ** 0.5 if self.absolute else self.noise * unit
        if norm:
            copies = _like(copies + norm * _unit(copies.shape, rng), train)
        width = norm / unit if unit else 0.0
        return Samples(np.concatenate([copies, x[num:]]), np.arange(m) < num, width)


@dataclass(frozen=True)
class EditedCopies(Model):
    """Some samples are edited copies of training images, the others are fresh.

    Attributes:
        edit: One of ``memdiff.audit.planted.photographs.EDITS``.
        num: Number of copies.
    """

    edit: str
    num: int

    @property
    def disguises(self) -> bool:
        """Whether they are edited."""
        return self.edit != "exact"

    def sample(self, law: Law, fresh: Array, train: Array, rng: np.random.Generator) -> Samples:
        """As :meth:`Model.sample`."""
        source = rng.permutation(len(train))[: self.num]
        copies = edited(train[source], self.edit, fresh[: self.num], rng)
        x = np.concatenate([copies, fresh[self.num :]])
        return Samples(x, np.arange(len(x)) < self.num)


def neighbour_distance(train: Array) -> float:
    """Median distance of training points to their nearest other one."""
    return float(self_nearest(_rows(train)).distances[:, 0].median())


def _rows(x: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x.reshape(len(x), -1), dtype=np.float32))


def _unit(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Normal noise of unit norm, about."""
    size = int(np.prod(shape[1:]))
    return rng.standard_normal(shape) / size**0.5


def _like(x: Array, other: Array) -> Array:
    """As the dtype of another array, rounded and cut to what it can hold."""
    if np.issubdtype(other.dtype, np.integer):
        limits = np.iinfo(other.dtype)
        x = x.round().clip(limits.min, limits.max)
    return x.astype(other.dtype)


def _transformed(images: Array, transform: str | None) -> Array:
    if transform == "flip":
        return images[..., ::-1]
    if transform == "shift":
        return np.roll(images, 1, -1)
    return images
