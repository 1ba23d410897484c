r"""Specification of a sweep over small trained networks: what varies, next to what is published.

Setting ([B25]; the authors' public notebooks): 20 points in the plane, VP process, the MLP of
:mod:`memdiff.training.networks.mlp`, Adam, averaged weights; 1000 latents, the probability-flow
ODE by RK45 with tolerances 1e-5, and the fraction of samples within 0.01, 0.05, 0.1 and 0.5 of a
training point.

A :class:`NetworkSweep` varies one of the training steps, the width and the Tikhonov strength, for
one or more arms (such as the score predicted and the noise predicted), over training seeds.
:meth:`NetworkSweep.measure` trains and samples; the result draws the figure and the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from memdiff.data import load
from memdiff.experiments.experiment import Context, Figure, Table
from memdiff.experiments.network_spread import (
    Comparison,
    PublishedRows,
    Spread,
    compare,
    spread,
)
from memdiff.experiments.network_training import train_and_look
from memdiff.experiments.network_views import fraction_panels
from memdiff.experiments.published import published
from memdiff.metrics import tolerance_fraction
from memdiff.processes import VP
from memdiff.report.document import Cell, CellValue
from memdiff.samplers import RK45, sample
from memdiff.scores import Score
from memdiff.training.ensemble import Ensemble, Member
from memdiff.training.networks import MLP
from memdiff.training.quadratic_losses import FullBatchScoreMatching

__all__ = ["PROCESS", "TOLERANCES", "Arm", "Network", "NetworkSweep", "NetworkSweepResult"]

PROCESS = VP()

TOLERANCES = published().network.tolerances
"""Distances within which a sample counts as a copy, in units of the data."""

LAST_TIME = 1e-6
"""Where sampling ends for a score that is infinite at 0; there sigma is 3e-5."""

Extra = Callable[[Sequence["Network"], Sequence[Score]], Mapping[str, Any]]


def training_points() -> Tensor:
    """Return the 20 training points with shape ``(20, 2)``."""
    return load("points20").x


@dataclass(frozen=True)
class Network:
    """One network of a sweep.

    Attributes:
        seed: Seed of the initial weights and of the noise.
        width: Units of a hidden layer.
        parametrization: ``"score"`` or ``"noise"``.
        strength: Tikhonov strength of the training loss.
    """

    seed: int = 0
    width: int = 256
    parametrization: Literal["score", "noise"] = "score"
    strength: float = 0.0

    def untrained(self) -> MLP:
        """Return the network with its initial weights."""
        return MLP((2,), width=self.width, depth=2, seed=self.seed)

    def member(self) -> Member:
        """Return the network, its data and its loss."""
        loss = FullBatchScoreMatching(PROCESS, self.parametrization, self.strength)
        return Member(self.untrained(), training_points(), loss, self.seed)


@dataclass(frozen=True)
class Arm:
    """One curve of a sweep.

    Attributes:
        key: Name in the results.
        label: Name in the figure and the tables.
        network: What the networks of the curve share.
        published: Published fractions ``[tolerance][value]`` to compare with, or None.
    """

    key: str
    label: str
    network: Network = field(default_factory=Network)
    published: PublishedRows | None = None


@dataclass(frozen=True)
class NetworkSweep:
    """Specification of a sweep.

    Attributes:
        varied: What varies: ``"steps"`` of training, or a field of :class:`Network`.
        values: Its values.
        latents: Samples for each network.
        arms: The curves; one of networks of the default kind by default.
        steps: Training steps where they do not vary.
        seeds: Number of training seeds.
        together: Networks with the same value of this field train in one ensemble; None for all.
        name: Name of what varies in tables.
        xlabel: Its name in the figure.
        xscale: Scale of its axis.
        reading_error: Error of published values that were read off a plot.
    """

    varied: Literal["steps", "width", "strength"]
    values: Sequence[float]
    latents: int
    arms: tuple[Arm, ...] = (Arm("networks", "mean over seeds"),)
    steps: int | None = None
    seeds: int = 4
    together: Literal["width", "seed"] | None = None
    name: str = "Steps"
    xlabel: str = "training steps"
    xscale: Literal["linear", "log", "symlog"] = "log"
    reading_error: float = 0.0

    @property
    def looks(self) -> list[int]:
        """Steps at which networks are sampled."""
        return [int(v) for v in self.values] if self.steps is None else [self.steps]

    def cell(self, arm: Arm, value: float, seed: int) -> tuple[Network, int]:
        """Return the network, and the step of its training, that a value of a curve stands for."""
        if self.steps is None:
            return replace(arm.network, seed=seed), int(value)
        changed: dict[str, Any] = {"seed": seed, self.varied: value}
        return replace(arm.network, **changed), self.steps

    def ensembles(self) -> dict[str, list[Network]]:
        """Return the networks that train together, by the name of their files."""
        found: dict[str, dict[Network, None]] = {}
        for arm in self.arms:
            for value in self.values:
                for seed in range(self.seeds):
                    network, _ = self.cell(arm, value, seed)
                    name = f"{self.together}-{getattr(network, self.together or 'seed')}"
                    found.setdefault(name if self.together else "networks", {})[network] = None
        return {name: list(networks) for name, networks in found.items()}

    def measure(self, context: Context, extra: Extra | None = None) -> NetworkSweepResult:
        """Train all networks and count copies among their samples; both are kept on disk.

        Args:
            context: Seed of the latents, folder and progress.
            extra: Further measurements of the networks of an ensemble at each look, in plain JSON
                types.
        """
        rows: dict[tuple[Network, int], list[float]] = {}
        kept: dict[str, Any] = {}
        for name, networks in self.ensembles().items():
            for step, look in measure_ensemble(context, self, name, networks, extra).items():
                rows.update(
                    {(n, step): row for n, row in zip(networks, look["fractions"], strict=True)}
                )
                kept[f"{name}-{step}"] = look["extra"]
        spreads = {
            arm.key: [
                [
                    spread(
                        [rows[self.cell(arm, value, s)][index] for s in range(self.seeds)],
                        self.latents,
                    )
                    for value in self.values
                ]
                for index in range(len(TOLERANCES))
            ]
            for arm in self.arms
        }
        return NetworkSweepResult(self, spreads, kept)


def measure_ensemble(
    context: Context,
    sweep: NetworkSweep,
    name: str,
    networks: Sequence[Network],
    extra: Extra | None,
) -> dict[int, dict[str, Any]]:
    """Train networks together; return ``fractions`` and ``extra`` at each look.

    Args:
        context: Seed of the latents, folder and progress.
        sweep: The sweep.
        name: Start of the names of the files.
        networks: The networks.
        extra: Further measurements, or None.
    """
    ensemble = Ensemble([network.member() for network in networks])
    found: dict[int, dict[str, Any]] = {}

    def compute(step: int) -> dict[str, Any]:
        ensemble.require_step(step)
        context.progress(f"{name}: sampling at step {step}")
        scores = [ensemble.score(index) for index in range(len(networks))]
        fractions = [
            memorised_fractions(
                score,
                seed_latents(context, network.seed, sweep.latents),
                t_end=0.0 if network.parametrization == "score" else LAST_TIME,
            )
            for network, score in zip(networks, scores, strict=True)
        ]
        more = None if extra is None else extra(networks, scores)
        return {"fractions": fractions, "extra": more}

    def look(step: int) -> None:
        found[step] = context.cached(f"{name}-{step}", lambda: compute(step))

    last = sweep.looks[-1]
    train_and_look(
        ensemble,
        sweep.looks,
        context.directory / f"{name}.safetensors",
        look,
        lambda step: context.progress(f"{name}: step {step} of {last}", step / last),
    )
    return found


def seed_latents(context: Context, seed: int, num: int) -> Tensor:
    """Draw standard normal latents ``(num, 2)`` of one training seed, float64.

    Seeds have latents of their own, so that the spread over seeds includes the sampling error.
    """
    return torch.randn(num, 2, generator=context.generator(1000 + seed), dtype=torch.float64)


def memorised_fractions(score: Score, z: Tensor, *, t_end: float = 0.0) -> list[float]:
    """Return the memorised fraction at each of :data:`TOLERANCES`, of samples from latents."""
    x = sample(score, z, sampler=RK45(), t_end=t_end).x
    found = tolerance_fraction(generated=x, train=training_points(), tolerances=TOLERANCES)
    return list(found.values)


@dataclass(frozen=True)
class NetworkSweepResult:
    """Measured fractions of a sweep, and how they are shown.

    Attributes:
        sweep: The specification.
        spreads: Measured fractions ``[tolerance][value]`` by the key of the arm.
        extra: Further measurements by ensemble and step.
    """

    sweep: NetworkSweep
    spreads: Mapping[str, list[list[Spread]]]
    extra: Mapping[str, Any]

    def mean(self, tolerance: int, value: int, arm: int = 0) -> float:
        """Return the mean fraction at places of tolerance, value and arm."""
        return self.spreads[self.sweep.arms[arm].key][tolerance][value].mean

    def measured(self) -> dict[str, Any]:
        """Return tolerances, seeds, and mean and deviation ``[tolerance][value]`` of each arm.

        Those of several arms lie under the key of the arm.
        """
        arms = {
            key: {
                name: [[getattr(one, name) for one in row] for row in spreads]
                for name in ("mean", "deviation")
            }
            for key, spreads in self.spreads.items()
        }
        values = arms if len(arms) > 1 else next(iter(arms.values()))
        return {"tolerances": TOLERANCES, "seeds": self.sweep.seeds, **values}

    def comparisons(self) -> dict[str, Comparison]:
        """Return the comparisons with published values, by the key of the arm."""
        return {
            arm.key: compare(self.spreads[arm.key], arm.published, self.sweep.reading_error)
            for arm in self.sweep.arms
            if arm.published is not None
        }

    @property
    def within(self) -> bool | None:
        """Whether all arms agree with the published values; None where there are none."""
        found = self.comparisons().values()
        return all(one.within for one in found) if found else None

    def agreement(self) -> str:
        """Say how many published values are within the allowed difference; empty for none."""
        found = self.comparisons().values()
        if not found:
            return ""
        count, outside = sum(one.count for one in found), sum(one.outside for one in found)
        return (
            f" Of {count} published values {count - outside} are within the allowed difference; "
            f"the largest difference is {max(one.largest for one in found):.3f}."
        )

    def figure(
        self, caption: str, alt: str, lines: Sequence[tuple[str, list[list[float]]]] = ()
    ) -> Figure:
        """Draw the fractions against what varies.

        Args:
            caption: Caption; what bars and marks are is added.
            alt: Description for readers who do not see it.
            lines: Label and values ``[tolerance][value]`` of predictions.
        """
        arms = self.sweep.arms
        points = [(f"published, {a.label}", a.published) for a in arms if a.published is not None]
        plot = fraction_panels(
            TOLERANCES,
            self.sweep.values,
            [(arm.label, self.spreads[arm.key]) for arm in arms],
            points,
            xlabel=self.sweep.xlabel,
            xscale=self.sweep.xscale,
            lines=lines,
        )
        caption += " Bars: standard deviation of one run."
        if points:
            caption += " Open marks: published values."
        return Figure("fraction", plot, caption, alt)

    def tables(self) -> list[Table]:
        """Return one table for each arm, one row for each value."""
        sweep, comparisons = self.sweep, self.comparisons()
        after = "" if sweep.steps is None else f" after {sweep.steps} steps"
        tables = []
        for arm in sweep.arms:
            published = arm.published
            header = [sweep.name]
            for tolerance in TOLERANCES:
                header += [f"Within {tolerance:g}", *(["Published"] if published else [])]
            rows: list[list[CellValue]] = [[f"{value:g}"] for value in sweep.values]
            for place, row in enumerate(rows):
                for index, spreads in enumerate(self.spreads[arm.key]):
                    row.append(f"{spreads[place].mean:.3f} ± {spreads[place].deviation:.3f}")
                    if published:
                        good = comparisons[arm.key].good[index][place]
                        row.append(_mark(published[index][place], good))
            prefix = f"{arm.label.capitalize()}: f" if len(sweep.arms) > 1 else "F"
            tables.append(
                Table(
                    f"{prefix}raction of samples within each tolerance{after}.",
                    header,
                    rows,
                    note=f"Mean ± standard deviation of one run over {sweep.seeds} training "
                    f"seeds, {sweep.latents} samples each.",
                    stacked=True,
                )
            )
        return tables


def _mark(known: float | None, good: bool | None) -> Cell | None:
    if known is None:
        return None
    return Cell(f"{known:.3f} {'✓' if good else '✗'}", tone="good" if good else "bad")
