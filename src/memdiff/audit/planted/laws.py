"""Laws to draw planted data from: what the real points of a case are like."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache

import numpy as np

from memdiff.data import Dataset, from_array

__all__ = [
    "Blanks",
    "Categorical",
    "Clusters",
    "Digits",
    "Gaussian",
    "HeavyTable",
    "LargeColumn",
    "Law",
    "Manifold",
    "MixedTable",
    "Mixture",
    "Patients",
    "Scales",
    "StudentT",
    "TwoClasses",
    "TwoWidths",
    "Windows",
    "ZeroInflated",
]

Array = np.ndarray


class Law(ABC):
    """A law to draw data from.

    Points drawn together may depend on each other (patients, patches of one photograph), but for
    whole groups of ``together`` rows their order means nothing.
    """

    name: str
    dimension: int | None = None
    """The dimension of the only data there are, or None where any will do."""
    points: int | None = None
    """The number of points that there are, or None where there is no end to them."""
    together: int = 1
    """Rows that belong together, one after the other."""

    @abstractmethod
    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """Draw ``num`` points ``(num, *S)`` of ``dimension`` values."""

    def dataset(self, x: Array, name: str) -> Dataset:
        """The points as an audit would load them."""
        return from_array(x, name=name)

    def split(
        self, sizes: tuple[int, int, int], dimension: int, rng: np.random.Generator
    ) -> tuple[Array, Array, Array]:
        """Draw fresh, training and held-out points, so many of each.

        Args:
            sizes: Numbers of them.
            dimension: Dimension.
            rng: Source of randomness.
        """
        x = self.draw(sum(sizes), dimension, rng)
        first, second = sizes[0], sizes[0] + sizes[1]
        return x[:first], x[first:second], x[second:]

    def classes(self, x: Array) -> Array:
        """The class of each point, int64 ``(num,)``; one class unless a law says otherwise."""
        return np.zeros(len(x), dtype=np.int64)


def _fixed(name: str, dimension: int) -> np.random.Generator:
    """The generator of what belongs to a law and not to a draw."""
    return np.random.default_rng([len(name), dimension])


class Gaussian(Law):
    """Standard normal."""

    name = "Gaussian"

    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """As :meth:`Law.draw`."""
        return rng.standard_normal((num, dimension), dtype=np.float32)


class StudentT(Law):
    """Multivariate Student t with 3 degrees of freedom: tails so heavy that outliers rule."""

    name = "Student t, 3"

    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """As :meth:`Law.draw`."""
        normal = rng.standard_normal((num, dimension))
        return (normal / np.sqrt(rng.chisquare(3, (num, 1)) / 3.0)).astype(np.float32)


class Mixture(Law):
    """Five Gaussian clusters of unequal weight (1 : 2 : 3 : 4 : 5) and width (0.1 to 1)."""

    name = "mixture"

    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """As :meth:`Law.draw`."""
        label = rng.choice(5, num, p=np.arange(1.0, 6.0) / 15.0)
        widths = np.logspace(-1.0, 0.0, 5)[label, None]
        x = self._centres(dimension)[label] + widths * rng.standard_normal((num, dimension))
        return x.astype(np.float32)

    def classes(self, x: Array) -> Array:
        """The nearest centre."""
        centres = self._centres(x.shape[1])
        return ((x[:, None] - centres[None]) ** 2).sum(2).argmin(1)

    def _centres(self, dimension: int) -> Array:
        return 4.0 * _fixed(self.name, dimension).standard_normal((5, dimension))


class Manifold(Law):
    """A wavy surface of 2 intrinsic dimensions (a curve in the plane), of uneven density."""

    name = "manifold"

    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """As :meth:`Law.draw`."""
        inner = 1 if dimension == 2 else 2
        fixed = _fixed(self.name, dimension)
        directions = 1.5 * fixed.standard_normal((inner, dimension))
        phases = 6.28 * fixed.random(dimension)
        x = np.sin(rng.standard_normal((num, inner)) @ directions + phases)
        return x.astype(np.float32)


class Digits(Law):
    """The 1797 images of 8 x 8 pixels of scikit-learn, without replacement."""

    name, dimension, points = "digits", 64, 1797

    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """As :meth:`Law.draw`, ``(num, 1, 8, 8)`` in [-1, 1].

        Raises:
            ValueError: If there are not so many.
        """
        images = _digits()
        if num > len(images):
            raise ValueError(f"num must be at most {len(images)} for digits, got {num}.")
        return images[rng.permutation(len(images))[:num]]

    def dataset(self, x: Array, name: str) -> Dataset:
        """As images."""
        return from_array(x, name=name, encoding="signed", layout="channels_first")


@cache
def _digits() -> Array:
    from memdiff.data import load

    return np.asarray(load("digits").x.numpy())


@dataclass(frozen=True)
class Blanks(Law):
    """Images of 8 x 8 random bytes, some of them blank frames.

    Attributes:
        share: Share of the blank ones.
    """

    share: float
    dimension = 64

    @property
    def name(self) -> str:  # type: ignore[override]
        """With the share."""
        return f"{100 * self.share:g} % blank frames"

    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """As :meth:`Law.draw`, uint8 ``(num, 8, 8)``."""
        x = rng.integers(1, 255, (num, 8, 8)).astype(np.uint8)
        x[rng.random(num) < self.share] = 0
        return x


class ZeroInflated(Law):
    """Log-normal values; in two fifths of the rows all but one are 0."""

    name, dimension = "zero-inflated", 12

    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """As :meth:`Law.draw`."""
        x = rng.lognormal(0, 1, (num, dimension))
        zero = rng.random(num) < 0.4
        x[zero] *= np.eye(dimension)[rng.integers(0, dimension, zero.sum())]
        return x.astype(np.float32)


class Scales(Law):
    """Four equal clusters whose widths lie a factor of ten apart each."""

    name = "several scales"

    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """As :meth:`Law.draw`."""
        centres = 4.0 * _fixed(self.name, dimension).standard_normal((4, dimension))
        label = rng.integers(0, 4, num)
        widths = np.array([1.0, 0.1, 0.01, 0.001])[label, None]
        return centres[label] + widths * rng.standard_normal((num, dimension))


@dataclass(frozen=True)
class LargeColumn(Law):
    """One integer column in thousands beside two small ones.

    Attributes:
        table: Whether the points are rows of a table, or vectors.
    """

    table: bool
    dimension = 3

    @property
    def name(self) -> str:  # type: ignore[override]
        """With the kind."""
        return f"one large column, {'table' if self.table else 'vectors'}"

    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """As :meth:`Law.draw`."""
        columns = [rng.integers(0, n, num) * s for n, s in ((800, 1000.0), (3, 1.0), (2, 1.0))]
        return np.stack(columns, axis=1)

    def dataset(self, x: Array, name: str) -> Dataset:
        """As a table or as vectors."""
        return _table(x, name, {}) if self.table else from_array(x, name=name)


class Categorical(Law):
    """Eight categories of three values, as numbers: most rows occur several times."""

    name, dimension = "categorical", 8

    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """As :meth:`Law.draw`."""
        return rng.choice(3, size=(num, dimension), p=[0.6, 0.3, 0.1]).astype(np.float32)


class MixedTable(Law):
    """A table: two continuous columns, an amount that is often 0, a count, three categories."""

    name, dimension = "mixed table", 7

    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """As :meth:`Law.draw`."""
        hidden = rng.standard_normal((num, 2))
        amount = np.where(rng.random(num) < 0.5, 0.0, rng.lognormal(3.0, 1.0, num).round(2))
        count = rng.poisson(np.exp(hidden[:, 0] / 2.0))
        codes = [
            np.minimum((rng.exponential(scale, num) + 0.5 * (hidden[:, 1] > 0)).astype(int), most)
            for scale, most in ((0.7, 1), (1.2, 3), (2.0, 8))
        ]
        return np.column_stack([hidden, amount, count, *codes]).astype(np.float32)

    def dataset(self, x: Array, name: str) -> Dataset:
        """As a table with categories."""
        return _table(x, name, {4: 2, 5: 4, 6: 9})


class HeavyTable(Law):
    """A table with log-normal and Pareto columns, zeros, and a rounded one."""

    name, dimension = "heavy-tailed table", 6

    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """As :meth:`Law.draw`."""
        x = np.column_stack(
            [
                rng.lognormal(0, 2, (num, 2)),
                rng.pareto(1.5, (num, 2)),
                rng.standard_normal(num).round(1),
                rng.exponential(1, num),
            ]
        )
        x[:, 3:] *= rng.random((num, 3)) < 0.6
        return x.astype(np.float32)

    def dataset(self, x: Array, name: str) -> Dataset:
        """As a table."""
        return _table(x, name, {})


def _table(x: Array, name: str, categories: dict[int, int]) -> Dataset:
    from dataclasses import replace

    columns = tuple(f"column {i}" for i in range(x.shape[1]))
    return replace(
        from_array(x, name=name),
        kind="table",
        columns=columns,
        categories={
            columns[i]: tuple(f"value {code}" for code in range(count))
            for i, count in categories.items()
        },
    )


class Windows(Law):
    """Windows of 24 values at random places of one long noisy wave, which overlap."""

    name, dimension = "windows of a series", 24

    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """As :meth:`Law.draw`."""
        length = 5 * num + dimension
        time = np.arange(length)
        noise = np.convolve(rng.standard_normal(length), np.ones(5) / 5.0, mode="same")
        series = np.sin(time / 7.0) + 0.5 * np.sin(time / 31.0) + noise
        start = rng.integers(0, length - dimension, num)
        return series[start[:, None] + np.arange(dimension)].astype(np.float32)


class Clusters(Law):
    """Tight clusters, one for five points on average, that all sets share."""

    name = "clusters"

    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """As :meth:`Law.draw`."""
        centres = rng.standard_normal((max(2, num // 5), dimension))
        x = centres[rng.integers(0, len(centres), num)]
        return (x + 0.05 * rng.standard_normal(x.shape)).astype(np.float32)


class Patients(Law):
    """Patients with twenty scans each; a split keeps a patient together."""

    name, together = "patients", 20

    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """As :meth:`Law.draw`; rows of a patient one after the other."""
        people = rng.standard_normal((-(-num // self.together), dimension))
        x = np.repeat(people, self.together, axis=0)[:num]
        return (x + 0.3 * rng.standard_normal(x.shape)).astype(np.float32)


class TwoClasses(Law):
    """A tight class (1) and a wide one (0), of equal weight and far from each other."""

    name, dimension = "two classes", 20

    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """As :meth:`Law.draw`."""
        tight = np.zeros((num, dimension))
        tight[:, :2], tight[:, -1] = rng.standard_normal((num, 2)) / 2.0, 6.0
        wide = rng.standard_normal((num, dimension))
        return np.where((rng.random(num) < 0.5)[:, None], tight, wide).astype(np.float32)

    def classes(self, x: Array) -> Array:
        """Whether points are of the tight class."""
        return (x[:, -1] == 6.0).astype(np.int64)


class TwoWidths(Law):
    """Two classes about one centre, the one (0) twenty times as wide as the other (1)."""

    name, dimension = "two widths", 20

    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """As :meth:`Law.draw`."""
        widths = np.where(rng.random(num) < 0.5, 0.05, 1.0)
        return (widths[:, None] * rng.standard_normal((num, dimension))).astype(np.float32)

    def classes(self, x: Array) -> Array:
        """Whether points are of the narrow class."""
        return (np.linalg.norm(x, axis=1) < 1.0).astype(np.int64)
