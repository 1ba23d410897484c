"""Sets of points in which it is known what was copied: the truth that an audit is checked on."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from memdiff.audit.planted.laws import Law
from memdiff.audit.planted.models import Fresh, Model
from memdiff.data import Dataset

__all__ = ["PlantedCase", "PlantedSets", "Truth", "generator_of"]

Truth = Literal["fresh", "copies", "follows", "unfair"]
"""What is true of a case, and so what may be said of it.

- ``"fresh"``: no sample knows of the training points: "memorizing" and "overfitting" are errors;
- ``"copies"``: some samples are copies of training points;
- ``"follows"``: samples are made of training points and are no copies: anything may be said;
- ``"unfair"``: the sets allow no verdict: anything but "inconclusive" is an error.
"""


def generator_of(*key: int | str) -> np.random.Generator:
    """A generator whose stream depends on the whole key, and on nothing else."""
    words = [part if isinstance(part, int) else zlib.crc32(part.encode()) for part in key]
    return np.random.default_rng(words)


@dataclass(frozen=True)
class PlantedSets:
    """Sets with their truth.

    Attributes:
        generated: M samples.
        train: N training points.
        heldout: H held-out points, or None.
        groups: Labels of points that belong together, of train and held-out; None for none.
        copied: bool ``(M,)``: which samples are copies of a training point.
        width: Noise of copies or width of a kernel, its norm in units of the median distance of
            training points to their nearest other one; None where there is none.
    """

    generated: Dataset
    train: Dataset
    heldout: Dataset | None
    groups: dict[str, np.ndarray] | None
    copied: torch.Tensor
    width: float | None


@dataclass(frozen=True)
class PlantedCase:
    """Sets, what the model does, and what is thereby true.

    Attributes:
        name: What it is called.
        law: The law of the data.
        model: What the model does.
        truth: What is true.
        demanded: How often the verdict must be one of ``right``, at the least.
        right: Verdicts that count.
        least: Number of samples from which on that is demanded.
        sizes: Numbers of samples, training points and held-out points where the case needs its
            own; None for equal ones of any number.
        repeats: How often each training point occurs.
        overlap: Share of the held-out points that are training points.
        overlap_noise: Noise of these, its standard deviation.
        heldout_repeats: Share of the held-out points that repeat others of their set: the
            training set was cleaned of duplicates and the held-out set was not.
        cleaned: ``"train"`` or ``"heldout"``: the set of which one point is kept per value; empty
            for none.
        shift: Shift of the held-out points, in standard deviations of each value.
        heldout: Whether there are held-out points.
        groups: Whether the rows that belong together are given as groups.
        invariance: Invariance of the audit.
        estimate: Limits within which the estimated copied fraction is demanded.
        ladder: Name of the series that the case is a step of; verdicts of a ladder may only fall.
    """

    name: str
    law: Law
    model: Model = field(default_factory=Fresh)
    truth: Truth = "fresh"
    demanded: float = 0.0
    right: tuple[str, ...] = ("memorizing",)
    least: int = 0
    sizes: tuple[int, int, int] | None = None
    repeats: int = 1
    overlap: float = 0.0
    overlap_noise: float = 0.0
    heldout_repeats: float = 0.0
    cleaned: Literal["", "train", "heldout"] = ""
    shift: float = 0.0
    heldout: bool = True
    groups: bool = False
    invariance: str | None = None
    estimate: tuple[float, float] | None = None
    ladder: str = ""

    def draw(
        self, sizes: tuple[int, int, int], dimension: int, rng: np.random.Generator
    ) -> PlantedSets:
        """Draw the sets.

        Args:
            sizes: Numbers of samples, of different training points, and of held-out points.
            dimension: Dimension of the data.
            rng: Source of randomness.

        Returns:
            The sets, the samples in random order.
        """
        fresh, train, heldout = self.law.split(sizes, dimension, rng)
        made = self.model.sample(self.law, fresh, train, rng)
        order = rng.permutation(len(made.x))
        if self.overlap:
            seen = round(self.overlap * len(heldout))
            noise = self.overlap_noise * rng.standard_normal(train[:seen].shape)
            heldout = np.concatenate([(train[:seen] + noise).astype(train.dtype), heldout[seen:]])
        if self.heldout_repeats:
            heldout = heldout.copy()
            again = round(self.heldout_repeats * len(heldout))
            heldout[:again] = heldout[rng.integers(again, len(heldout), again)]
        if self.shift:
            heldout = (heldout + self.shift * train.std(0)).astype(train.dtype)
        if self.cleaned == "train":
            train = np.unique(train, axis=0)
        elif self.cleaned == "heldout":
            heldout = np.unique(heldout, axis=0)
        train = np.concatenate([train] * self.repeats)
        groups = None
        if self.groups:
            of_train = np.arange(len(train)) // self.law.together
            of_heldout = np.arange(len(heldout)) // self.law.together
            groups = {"train": of_train, "heldout": of_heldout + of_train.max() + 1}
        return PlantedSets(
            generated=self.law.dataset(made.x[order], "generated"),
            train=self.law.dataset(train, "train"),
            heldout=self.law.dataset(heldout, "heldout") if self.heldout else None,
            groups=groups,
            copied=torch.from_numpy(made.copied[order]),
            width=made.width,
        )
