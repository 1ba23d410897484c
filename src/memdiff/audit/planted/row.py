"""One row of a self-check: what was measured of a case at a dimension and at sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch

from memdiff.audit.evidence import Evidence
from memdiff.audit.examination import Examination, examine
from memdiff.audit.planted.rounds import Round
from memdiff.audit.planted.sets import PlantedSets, generator_of
from memdiff.audit.settings import AuditSettings
from memdiff.audit.verdict import NOT_EXCHANGEABLE, VerdictName
from memdiff.metrics import clopper_pearson

__all__ = ["NEAR", "Rate", "SelfCheckRow", "examine_planted", "measure_round"]

NEAR = 0.3
"""Largest noise of copies, in units of the neighbour distance, for which coverage is measured."""

_GATE = 0.01


@dataclass(frozen=True)
class Rate:
    """Hits in independent repetitions, with the 95 % Clopper-Pearson interval.

    Attributes:
        hits: Number of hits.
        trials: Number of repetitions.
        value: Their ratio.
        low: Lower confidence limit.
        high: Upper confidence limit.
    """

    hits: int
    trials: int
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, outcomes: Sequence[bool]) -> Rate:
        """The rate of true outcomes."""
        hits, trials = sum(outcomes), len(outcomes)
        interval = clopper_pearson(hits, trials)
        return cls(hits, trials, hits / trials, interval.low, interval.high)


@dataclass(frozen=True)
class SelfCheckRow:
    """What was measured of one case at one dimension and at sizes.

    Attributes:
        case: Name of the case.
        law: Name of the law of the data.
        truth: What is true: ``"fresh"``, ``"copies"``, ``"follows"`` or ``"unfair"``.
        demanded: How often the verdict must be one of ``right``, at the least.
        right: Verdicts that count.
        ladder: Name of the series that it is a step of, or empty.
        dimension: Dimension.
        sizes: Numbers of samples, of different training points and of held-out points.
        repetitions: Number of draws.
        copied: Average share of the samples that are copies.
        width: Average noise of copies or width of a kernel, in units of the distance between
            neighbours; None where there is none.
        verdicts: Rate of each verdict.
        rejections: For each descriptor, the rate at which each test rejects: ``"tail"``,
            ``"share"``, ``"local"`` and ``"cell"`` on their own at the level, ``"all"`` together
            and corrected at the level, ``"exchangeability"`` at 0.01.
        estimate: Average estimate of the copied fraction.
        estimated: Rate at which the estimate lies within the limits of the case; None for none.
        covered: Rate at which the interval of the copied fraction holds the true copied share;
            None for near copies with more noise than ``NEAR``, for edited or transformed ones and
            where nothing is tested.
        bounded: Rate at which that share is at most the upper bound of the verdict; likewise.
        exact: Whether all copies are exact.
        gate: Rate at which a gate of 1 % fails.
        false_discoveries: Average share of the flagged list that are no copies (the false
            discovery rate; 0 for an empty list).
        false_discoveries_error: Its standard error.
        found: Average share of the copies that are flagged; None where there are none.
    """

    case: str
    law: str
    truth: str
    demanded: float
    right: tuple[str, ...]
    ladder: str
    dimension: int
    sizes: tuple[int, int, int]
    repetitions: int
    copied: float
    width: float | None
    verdicts: Mapping[str, Rate]
    rejections: Mapping[str, Mapping[str, Rate]]
    estimate: float
    estimated: Rate | None
    covered: Rate | None
    bounded: Rate | None
    exact: bool
    gate: Rate
    false_discoveries: float
    false_discoveries_error: float
    found: float | None

    @property
    def where(self) -> str:
        """The row in words."""
        sizes = " : ".join(str(size) for size in self.sizes)
        return f"{self.case} ({self.law}, d = {self.dimension}, {sizes})"

    def rate(self, *names: str) -> Rate:
        """The rate of any of some verdicts."""
        hits = sum(self.verdicts[name].hits for name in names)
        return Rate.of([True] * hits + [False] * (self.repetitions - hits))


def examine_planted(one: Round, seed: int, repetition: int) -> tuple[PlantedSets, Examination]:
    """Draw the sets of a repetition, and examine them as an audit does.

    Args:
        one: The round.
        seed: Seed of the self-check.
        repetition: Number of the draw.

    Returns:
        The sets and the examination.
    """
    case = one.case
    key = (seed, case.name, case.law.name, one.dimension, *one.sizes, repetition)
    sets = case.draw(one.sizes, one.dimension, generator_of(*key))
    settings = AuditSettings(
        invariance=case.invariance,
        seed=repetition,
        fail_above=_GATE,
        groups=None if sets.groups is None else "labels",
    )
    found = examine(sets.generated, sets.train, sets.heldout, settings, groups=sets.groups)
    return sets, found


def measure_round(one: Round, seed: int) -> SelfCheckRow:
    """Measure one row.

    Args:
        one: What to draw.
        seed: Seed of the self-check.

    Returns:
        The row.
    """
    case = one.case
    draws = [_Draw.of(*examine_planted(one, seed, number)) for number in range(one.repetitions)]
    false = torch.tensor([draw.false_discoveries for draw in draws], dtype=torch.float64)
    found = [draw.found for draw in draws if not math.isnan(draw.found)]
    widths = [draw.width for draw in draws if draw.width is not None]
    width = sum(widths) / len(widths) if widths else None
    tested = case.heldout and case.truth in ("fresh", "copies")
    measured = tested and not case.model.disguises and (width or 0.0) <= NEAR
    limits = case.estimate
    return SelfCheckRow(
        case=case.name,
        law=case.law.name,
        truth=case.truth,
        demanded=case.demanded if one.sizes[0] >= case.least else 0.0,
        right=case.right,
        ladder=case.ladder,
        dimension=one.dimension,
        sizes=one.sizes,
        repetitions=one.repetitions,
        copied=sum(draw.copied for draw in draws) / len(draws),
        width=width,
        verdicts={
            name: Rate.of([draw.verdict == name for draw in draws])
            for name in get_args(VerdictName)
        },
        rejections=_rejections([draw.rejected for draw in draws]),
        estimate=sum(draw.estimate for draw in draws) / len(draws),
        estimated=None
        if limits is None
        else Rate.of([limits[0] <= draw.estimate <= limits[1] for draw in draws]),
        covered=Rate.of([draw.covered for draw in draws]) if measured else None,
        bounded=Rate.of([draw.bounded for draw in draws]) if measured else None,
        exact=measured and not width,
        gate=Rate.of([draw.gate for draw in draws]),
        false_discoveries=float(false.mean()),
        false_discoveries_error=float(false.std()) / len(false) ** 0.5 if len(false) > 1 else 0.0,
        found=sum(found) / len(found) if found else None,
    )


@dataclass(frozen=True)
class _Draw:
    """What is kept of one draw."""

    verdict: str
    rejected: Mapping[str, Mapping[str, bool]]
    copied: float
    width: float | None
    estimate: float
    covered: bool
    bounded: bool
    gate: bool
    false_discoveries: float
    found: float

    @classmethod
    def of(cls, sets: PlantedSets, result: Examination) -> _Draw:
        decision, copied = result.decision, sets.copied
        share = float(copied.to(torch.float64).mean())
        flagged = torch.zeros(len(copied), dtype=torch.bool)
        flagged[result.flagged] = True
        return cls(
            verdict=decision.name,
            rejected={
                one.name: _rejected(one, result.settings.level)
                for one in result.evidence
                if one.tests is not None
            },
            copied=share,
            width=sets.width,
            estimate=decision.copied,
            covered=decision.copied_low <= share <= decision.copied_high,
            bounded=share <= decision.upper_bound,
            gate=result.gate_failed,
            false_discoveries=int((flagged & ~copied).sum()) / max(1, int(flagged.sum())),
            found=float(flagged[copied].to(torch.float64).mean()),
        )


def _rejected(evidence: Evidence, level: float) -> dict[str, bool]:
    tests, exchangeability = evidence.tests, evidence.exchangeability
    assert tests is not None and exchangeability is not None
    single = {"tail": tests.tail, "share": tests.share, "local": tests.local, "cell": tests.cell}
    found = {name: one.p_value <= level for name, one in single.items() if one is not None}
    found["all"] = tests.p_value <= level
    found["exchangeability"] = exchangeability.p_value <= NOT_EXCHANGEABLE
    return found


def _rejections(
    draws: Sequence[Mapping[str, Mapping[str, bool]]],
) -> dict[str, dict[str, Rate]]:
    names: dict[str, dict[str, list[bool]]] = {}
    for draw in draws:
        for descriptor, tests in draw.items():
            for name, rejected in tests.items():
                names.setdefault(descriptor, {}).setdefault(name, []).append(rejected)
    return {
        descriptor: {name: Rate.of(outcomes) for name, outcomes in tests.items()}
        for descriptor, tests in names.items()
    }
