r"""Monitor of memorisation for any training loop.

>>> from memdiff.processes import VE
>>> from memdiff.scores import EmpiricalScore
>>> train, heldout = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0))
>>> monitor = Monitor(train, heldout, VE())
>>> for step in (100, 200):
...     observation = monitor.observe(step, EmpiricalScore(train, VE()))
>>> observation.fraction, monitor.onset.tau_mem, monitor.onset.best
(1.0, 100, None)

At each observation, with the same noise and latents at all of them: the denoising loss on training
and on held-out points at fixed small noise levels, the excess empirical risk (no sampling needed),
and samples: their memorised fraction, and their distances to training and to held-out points.
The losses separate before samples are copies (Bonnaire et al., arXiv:2505.17638); the rules that
find the onset are in :mod:`memdiff.training.onset`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from memdiff.metrics import Distances, clopper_pearson, copying_tests, ratio
from memdiff.objectives import (
    Draws,
    denoising_score_matching,
    draw,
    excess_empirical_risk,
    sigma2,
)
from memdiff.processes import ForwardProcess
from memdiff.samplers import Heun, Sampler, sample
from memdiff.scores import EmpiricalScore
from memdiff.scores.base import Score
from memdiff.scores.empirical import negligible_mass
from memdiff.training.observation import Level, Observation
from memdiff.training.onset import Onset, find_onset

__all__ = ["Monitor", "MonitorSettings"]


@dataclass(frozen=True)
class MonitorSettings:
    r"""Settings of a :class:`Monitor`.

    Attributes:
        ratios: Noise-to-signal ratios :math:`\sigma/m` of the losses, in units of the data; None
            for 1/4, 1/2 and 1 times the median distance of training points to their nearest
            other one, over :math:`\sqrt d`: levels at which the memorising score still tells
            every training point from the others.
        draws: Noised points per set and level.
        samples: Number of samples at a look.
        confirm: Number of fresh samples by which a model to keep is confirmed; 0 for none.
        confirm_level: Smallest p-value of a confirmed model. Well above ``alpha``: a model at the
            edge of memorisation rejects at the next look with more samples.
        sampler: How they are drawn.
        batch_size: Points evaluated at a time.
        threshold: Threshold :math:`k` of the ratio test.
        alpha: Level of one look; see :mod:`memdiff.training.onset`.
        patience: Rejections in a row that make an onset.
        level: Coverage of the intervals.
        seed: Seed of the noise and of the latents.

    Raises:
        ValueError: If a value is out of range.
    """

    ratios: tuple[float, ...] | None = None
    draws: int = 256
    samples: int = 64
    confirm: int = 500
    confirm_level: float = 0.2
    sampler: Sampler = field(default_factory=lambda: Heun(steps=18))
    batch_size: int = 256
    threshold: float = 1.0 / 3.0
    alpha: float = 0.01
    patience: int = 2
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("draws", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.samples < 2:
            raise ValueError(f"samples must be at least 2, got {self.samples}.")
        if self.confirm < 0 or self.confirm == 1:
            raise ValueError(f"confirm must be 0 or at least 2, got {self.confirm}.")
        for name in ("alpha", "level", "confirm_level"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(f"{name} must lie in (0, 1), got {getattr(self, name)}.")
        if self.ratios is not None and not (
            self.ratios and all(0.0 < ratio < math.inf for ratio in self.ratios)
        ):
            raise ValueError(f"ratios must be positive and finite, got {self.ratios}.")


class Monitor:
    """Observes a score during training and finds the onset of memorisation.

    Args:
        train: Training points with shape ``(N, *S)``, at least 2 different ones.
        heldout: Points of the same source that are not trained on, ``(H, *S)``, at least 2.
        process: The forward process of the scores.
        settings: Settings; ``MonitorSettings()`` by default.

    Attributes:
        observations: The observations so far.

    Raises:
        ValueError: If the sets do not fit each other, or a level is out of range.
    """

    def __init__(
        self,
        train: Tensor,
        heldout: Tensor,
        process: ForwardProcess,
        settings: MonitorSettings | None = None,
    ) -> None:
        for name, data in (("train", train), ("heldout", heldout)):
            if data.ndim < 2 or len(data) < 2 or not data.is_floating_point():
                raise ValueError(
                    f"{name} must be floating-point with shape (n, *S) and n at least 2, got "
                    f"{data.dtype} with shape {tuple(data.shape)}."
                )
        if train.shape[1:] != heldout.shape[1:]:
            raise ValueError(
                f"heldout must have points of the shape of train, {tuple(train.shape[1:])}, got "
                f"{tuple(heldout.shape[1:])}."
            )
        self.settings = settings or MonitorSettings()
        self.observations: list[Observation] = []
        self._train, self._heldout, self._process = train, heldout, process
        mass = negligible_mass(train.dtype)
        self._empirical = EmpiricalScore(train, process, tolerance=mass)
        self._ratios = self.settings.ratios or _scaled_ratios(train)
        self._null: tuple[int, float] | None = None

    @property
    def ratios(self) -> tuple[float, ...]:
        r"""The noise levels :math:`\sigma/m`."""
        return self._ratios

    @property
    def onset(self) -> Onset:
        """Steps of generalisation and memorisation in the observations so far."""
        readings = [observation.reading for observation in self.observations]
        return find_onset(readings, alpha=self.settings.alpha, patience=self.settings.patience)

    @property
    def memorizing(self) -> bool:
        """Whether an onset is confirmed: time to stop."""
        return self.onset.onset is not None

    def is_best(self) -> bool:
        """Tell whether the last observation is the one to keep."""
        return bool(self.observations) and self.onset.best == self.observations[-1].step

    def observe(self, step: int, score: Score) -> Observation:
        """Measure losses of a score and samples drawn from it.

        Args:
            step: Number of the step, larger than that of the last observation.
            score: The score, of the process of the monitor; usually the averaged one. Its
                training mode is restored.

        Returns:
            The observation, which is added to ``observations``.

        Raises:
            ValueError: If the step is not larger than the last.
        """
        if self.observations and step <= self.observations[-1].step:
            raise ValueError(
                f"step must be larger than that of the last observation, "
                f"{self.observations[-1].step}, got {step}."
            )
        observation = self._look(step, score, self.settings.samples, 0)
        self.observations.append(observation)
        return observation

    def confirm(self, step: int, score: Score) -> Observation:
        """Measure a model to keep, with ``settings.confirm`` samples from latents of its own.

        Looks while training are short, and the model that passed them was chosen: what it is
        worth, fresh samples tell.

        Args:
            step: The step of the model.
            score: Its score.

        Returns:
            The observation, which is not added to ``observations``;
            :meth:`is_confirmed` reads it.

        Raises:
            ValueError: If ``settings.confirm`` is 0.
        """
        if not self.settings.confirm:
            raise ValueError("settings.confirm is 0: a confirmation needs samples.")
        return self._look(step, score, self.settings.confirm, self.settings.samples)

    def is_confirmed(self, observation: Observation) -> bool:
        """Tell whether neither test comes near a rejection."""
        return min(observation.p_fraction, observation.p_close) > self.settings.confirm_level

    def _look(self, step: int, score: Score, num: int, start: int) -> Observation:
        started = time.perf_counter()
        training = score.training
        score.eval()
        try:
            levels = tuple(self._level(score, ratio, i) for i, ratio in enumerate(self._ratios))
            drawn = sample(
                score,
                shape=self._train.shape[1:],
                num=num,
                start=start,
                sampler=self.settings.sampler,
                seed=self.settings.seed,
                batch_size=self.settings.batch_size,
            ).x
        finally:
            score.train(training)
        return self._compare(step, levels, drawn.to(self._train), started)

    def state_dict(self) -> dict[str, Any]:
        """Return the observations in plain JSON types."""
        return {"observations": [observation.to_dict() for observation in self.observations]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the observations of :meth:`state_dict`."""
        self.observations = [Observation.from_dict(entry) for entry in state["observations"]]

    def _level(self, score: Score, ratio: float, stream: int) -> Level:
        time_at = float(self._process.time_at_ratio(ratio))
        seen = self._draws(self._train, time_at, stream)
        fresh = self._draws(self._heldout, time_at, stream)
        size, values = self.settings.batch_size, self._train[0].numel()
        on_train, on_heldout = (
            denoising_score_matching(score, draws, weighting=sigma2, batch_size=size)
            for draws in (seen, fresh)
        )
        excess = excess_empirical_risk(score, self._empirical, seen, batch_size=size)
        return Level(
            ratio=ratio,
            train_loss=on_train.value / values,
            heldout_loss=on_heldout.value / values,
            gap_error=_gap_error(on_heldout.losses, fresh, on_train.losses, seen) / values,
            excess_risk=excess.value / values,
        )

    def _draws(self, data: Tensor, t: float, stream: int) -> Draws:
        """Draws that use every point equally often, with noise that all sets and steps share."""
        generator = torch.Generator().manual_seed(self.settings.seed * 1000 + stream)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        index = order[torch.arange(self.settings.draws) % len(data)]
        return draw(self._process, data, self.settings.draws, generator, times=t, index=index)

    def _compare(
        self, step: int, levels: tuple[Level, ...], drawn: Tensor, started: float
    ) -> Observation:
        from scipy.stats import fisher_exact

        settings = self.settings
        found = Distances(generated=drawn, train=self._train, heldout=self._heldout)
        copies = ratio(distances=found, threshold=settings.threshold, dimension=1.0)
        hits = round(copies.value * len(drawn))
        if self._null is None:
            fresh = found.to_train("heldout").distances[:, 0]
            assert copies.null is not None
            null_hits = round(copies.null.value * len(self._heldout))
            self._null = null_hits, float(fresh.median())
        null_hits, fresh_distance = self._null
        tests = copying_tests(found, seed=settings.seed)
        more = fisher_exact(
            [[hits, len(drawn) - hits], [null_hits, len(self._heldout) - null_hits]], "greater"
        )
        shares = tests.share
        assert shares.null is not None
        interval = clopper_pearson(hits, len(drawn), settings.level)
        return Observation(
            step=step,
            levels=levels,
            fraction=copies.value,
            interval=(interval.low, interval.high),
            null_fraction=null_hits / len(self._heldout),
            p_fraction=float(more.pvalue),
            closer_to_train=shares.value,
            null_closer=shares.null.value,
            p_close=tests.p_value,
            train_distance=float(found.to_train("generated").distances[:, 0].median()),
            heldout_distance=float(found.to_heldout("generated").distances[:, 0].median()),
            fresh_distance=fresh_distance,
            seconds=time.perf_counter() - started,
            samples=drawn.cpu(),
        )


def _scaled_ratios(train: Tensor) -> tuple[float, ...]:
    from memdiff.neighbors import duplicate_groups, self_nearest

    distinct = train[duplicate_groups(train).representatives()]
    if len(distinct) < 2:
        raise ValueError(
            f"train must hold at least 2 different points, got {len(train)} equal ones."
        )
    scale = float(self_nearest(distinct).distances[:, 0].median())
    return tuple(share * scale / math.sqrt(train[0].numel()) for share in (0.25, 0.5, 1.0))


def _gap_error(first: Tensor, one: Draws, second: Tensor, other: Draws) -> float:
    """Standard error of the difference of two means, each clustered by data point."""
    variance = 0.0
    for losses, draws in ((first, one), (second, other)):
        assert draws.index is not None
        _, label = draws.index.to(losses.device).unique(return_inverse=True)
        sums = losses.new_zeros(int(label.max()) + 1)
        sums = sums.index_add(0, label, losses - losses.mean())
        count = len(sums)
        if count > 1:
            variance += float((sums**2).sum()) * count / (count - 1) / len(losses) ** 2
    return math.sqrt(variance)
