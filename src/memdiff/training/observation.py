"""Observation of a monitor at one step: losses and memorised fraction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from memdiff.training.onset import Reading

__all__ = ["Level", "Observation"]


@dataclass(frozen=True)
class Level:
    r"""Losses at one noise level, per value of a point: 1 is what a score of 0 has.

    Attributes:
        ratio: :math:`\sigma/m`.
        train_loss: Mean :math:`|\sigma s + z|^2/d` on training points.
        heldout_loss: The same on held-out points, with the same :math:`z`.
        gap_error: Standard error of their difference.
        excess_risk: :math:`\sigma^2 |s - s_N|^2/d` at the noised training points, the excess over
            the loss of the memorising score :math:`s_N`; 0 is memorisation.
    """

    ratio: float
    train_loss: float
    heldout_loss: float
    gap_error: float
    excess_risk: float

    @property
    def gap(self) -> float:
        """Held-out loss minus training loss."""
        return self.heldout_loss - self.train_loss


@dataclass(frozen=True)
class Observation:
    """Losses, memorised fraction and closeness to the training data at one step.

    Attributes:
        step: The step.
        levels: The losses, one for each noise level.
        fraction: Share of samples that pass the ratio test.
        interval: Its Clopper-Pearson interval.
        null_fraction: The same share of the held-out points.
        p_fraction: One-sided p-value of ``fraction`` against ``null_fraction``.
        closer_to_train: Share of samples nearer to train than to held-out.
        null_closer: Its expectation if the model treats both alike.
        p_close: p-value of the audit's test.
        train_distance: Median distance of the samples to their nearest training point.
        heldout_distance: Median distance to their nearest held-out point.
        fresh_distance: Median distance of held-out points to their nearest training point.
        seconds: Wall time.
        samples: The samples with shape ``(num, *S)``, on the CPU; None after loading.
    """

    step: int
    levels: tuple[Level, ...]
    fraction: float
    interval: tuple[float, float]
    null_fraction: float
    p_fraction: float
    closer_to_train: float
    null_closer: float
    p_close: float
    train_distance: float
    heldout_distance: float
    fresh_distance: float
    seconds: float
    samples: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def train_loss(self) -> float:
        """Training loss, mean over the levels."""
        return sum(level.train_loss for level in self.levels) / len(self.levels)

    @property
    def heldout_loss(self) -> float:
        """Held-out loss, mean over the levels."""
        return sum(level.heldout_loss for level in self.levels) / len(self.levels)

    @property
    def excess_risk(self) -> float:
        """Excess empirical risk, mean over the levels."""
        return sum(level.excess_risk for level in self.levels) / len(self.levels)

    @property
    def reading(self) -> Reading:
        """The values that the rules of the onset need."""
        return Reading(self.step, self.heldout_loss, self.p_fraction, self.p_close)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the samples, in plain JSON types."""
        fields = {name: value for name, value in vars(self).items() if name != "samples"}
        return {
            **fields,
            "levels": [asdict(level) for level in self.levels],
            "interval": list(self.interval),
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Observation:
        """Return the observation that :meth:`to_dict` described, without its samples."""
        levels = tuple(Level(**level) for level in entry["levels"])
        low, high = entry["interval"]
        return cls(**{**entry, "levels": levels, "interval": (low, high)})
