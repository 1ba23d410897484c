"""The audit audited: its error rates and its power, measured on planted truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from memdiff.audit.evidence import Tests, run_tests
from memdiff.audit.inputs import prepare
from memdiff.audit.planted import PlantedSets, generator_of
from memdiff.audit.settings import AuditSettings
from memdiff.audit.suite import Preset, Round, rounds
from memdiff.audit.verdict import Verdict, decide
from memdiff.data import from_array
from memdiff.features import parse_invariance
from memdiff.metrics import Distances, clopper_pearson, data_copying

__all__ = ["LEVELS", "Rate", "SelfCheck", "SelfCheckRow", "examine", "self_check"]

LEVELS = (0.01, 0.05, 0.1)
# k-means makes C_T three times as slow as all tests together, and no verdict rests on it.
_C_T_REPETITIONS = 10
_C_T_SIZE = 200
_C_T_DIMENSIONS = (2, 32, 64)

Progress = Callable[[str, int, int], None]


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
    """What was measured of one case at one dimension and size.

    Attributes:
        case: Name of the case.
        law: Name of the law of the data.
        memorizes: Whether "memorizing" is the truth.
        copied: Share of the samples that are copies.
        demanded: How often the verdict must be "memorizing", at the least.
        heldout: Whether there were held-out points.
        dimension: Dimension.
        size: Number of samples, of different training points and of held-out points.
        repetitions: Number of draws.
        verdicts: Rate of each verdict.
        rejections: Rate of rejection of each test at each of ``LEVELS``; the tests are
            ``"exceedance"`` and ``"exceedance, local"`` (corrected over ranks), ``"copy"`` (both),
            ``"exchange"``, ``"verdict"`` (the p-value that decides) and ``"C_T"``.
        conformal: Share of the samples that are no copies with a conformal p-value up to each of
            ``LEVELS``, averaged over draws; None where all are copies.
        false_discoveries: Average share of the flagged list that are no copies (the false
            discovery rate; 0 for an empty list).
        false_discoveries_error: Its standard error.
        found: Average share of the copies that are flagged; None where there are none.
        covered: Rate at which the true copied share is at most the upper bound of the verdict.
    """

    case: str
    law: str
    memorizes: bool
    copied: float
    demanded: float
    heldout: bool
    dimension: int
    size: int
    repetitions: int
    verdicts: Mapping[str, Rate]
    rejections: Mapping[str, tuple[Rate, ...]]
    conformal: tuple[float, ...] | None
    false_discoveries: float
    false_discoveries_error: float
    found: float | None
    covered: Rate

    @property
    def memorizing(self) -> Rate:
        """Rate of the verdict "memorizing": power, or the false-positive rate."""
        return self.verdicts["memorizing"]


@dataclass(frozen=True)
class Examined:
    """One draw, examined as an audit does.

    Attributes:
        verdict: The verdict.
        tests: The tests behind it.
        distances: The searches behind those.
    """

    verdict: Verdict
    tests: Tests
    distances: Distances


def examine(sets: PlantedSets, settings: AuditSettings) -> Examined:
    """Examine points as :func:`memdiff.audit.audit` does, without metrics beside the verdict.

    Args:
        sets: The sets.
        settings: Settings; the features are ``"pixels"``.

    Returns:
        The verdict and the tests behind it.
    """
    inputs = prepare(
        from_array(sets.generated, name="generated"),
        from_array(sets.train, name="train"),
        None if sets.heldout is None else from_array(sets.heldout, name="heldout"),
        settings.duplicate_tolerance,
    )
    rows = {name: data.x.flatten(1) for name, data in inputs.sets.items()}
    variants: dict[str, list[Tensor]] = {}
    if settings.invariance is not None:
        for name, data in inputs.sets.items():
            versions = parse_invariance(settings.invariance).variants(data)
            variants[name] = [version.x.flatten(1) for _, version in versions][1:]
    found = Distances(
        generated=rows["generated"],
        train=rows["train"],
        heldout=rows.get("heldout"),
        tolerance=inputs.tolerance,
        variants=variants,
    )
    tests = run_tests(found, settings)
    reference = inputs.train if inputs.heldout is None else inputs.heldout
    verdict = decide(
        {"pixels": tests.summary},
        samples=len(inputs.generated),
        reference=len(reference),
        has_heldout=inputs.heldout is not None,
        level=settings.level,
        resolution=settings.resolution,
    )
    return Examined(verdict, tests, found)


@dataclass(frozen=True)
class SelfCheck:
    """Result of :func:`self_check`.

    Attributes:
        preset: What was drawn.
        seed: Seed of all of it.
        settings: Settings of the audits.
        rows: What was measured.
    """

    preset: str
    seed: int
    settings: AuditSettings
    rows: tuple[SelfCheckRow, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """Where the audit is not as good as its word, one sentence each.

        A rate counts as too high if its 99 % Clopper-Pearson limit, corrected over the rows, is
        above what is claimed: chance alone raises an alarm in fewer than 1 % of self-checks.
        """
        found = []
        confidence = 1.0 - 2.0 * 0.01 / max(1, len(self.rows))
        for row in self.rows:
            where = f"{row.case} ({row.law}, d = {row.dimension}, size {row.size})"
            rate = row.memorizing
            sure = clopper_pearson(rate.hits, rate.trials, confidence)
            if not row.memorizes and sure.low > self.settings.level:
                found.append(
                    f"{where}: called memorizing in {rate.value:.1%} of {rate.trials} draws, "
                    f"claimed at most {self.settings.level:.0%}."
                )
            if sure.high < row.demanded:
                found.append(
                    f"{where}: called memorizing in {rate.value:.1%} of {rate.trials} draws, "
                    f"expected at least {row.demanded:.0%}."
                )
            claimed = self.settings.false_discovery_rate
            if row.heldout and row.false_discoveries - 4.0 * row.false_discoveries_error > claimed:
                found.append(
                    f"{where}: {row.false_discoveries:.1%} of the flagged samples are no copies, "
                    f"claimed at most {claimed:.0%}."
                )
        return tuple(found)

    @property
    def passed(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The result in plain types."""
        from memdiff.audit.result import plain

        return {
            "schema": 1,
            "preset": self.preset,
            "seed": self.seed,
            "settings": plain(self.settings),
            "levels": list(LEVELS),
            "passed": self.passed,
            "problems": list(self.problems),
            "rows": plain(self.rows),
        }

    def table(self) -> str:
        """The result as tables in Markdown: what is no copying, and what is."""
        return "\n\n".join(
            f"**{title}**\n\n" + _markdown([row for row in self.rows if row.memorizes is copies])
            for title, copies in (("No copies", False), ("Copies", True))
        )


def self_check(
    *,
    preset: Preset = "quick",
    seed: int = 0,
    repetitions: int | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> SelfCheck:
    """Measure how often the verdict of an audit is wrong, on planted truth.

    Every draw is independent of the others and of their order. The tests are those that an audit
    runs, with its default settings.

    Args:
        preset: ``"quick"`` (a minute or two) or ``"full"`` (about ten minutes).
        seed: Seed.
        repetitions: Draws of every case, dimension and size; those of the preset by default.
        workers: Number of processes; the result does not depend on it.
        progress: Receives (stage, done, total).

    Returns:
        The self-check.

    Raises:
        ValueError: If ``preset`` is unknown or ``repetitions`` or ``workers`` is below 1.
    """
    if preset not in ("quick", "full"):
        raise ValueError(f"preset must be 'quick' or 'full', got {preset!r}.")
    if (repetitions is not None and repetitions < 1) or workers < 1:
        raise ValueError(
            f"repetitions and workers must be at least 1, got {repetitions} and {workers}."
        )
    plan = list(rounds(preset, repetitions))
    rows = []
    for row in _rows(plan, seed, workers):
        rows.append(row)
        if progress is not None:
            progress(f"{row.case}, d = {row.dimension}, size {row.size}", len(rows), len(plan))
    return SelfCheck(preset, seed, AuditSettings(), tuple(rows))


def _rows(plan: Sequence[Round], seed: int, workers: int) -> Iterator[SelfCheckRow]:
    if workers == 1:
        yield from (_measure(one, seed) for one in plan)
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, get_context("spawn"), _one_thread) as pool:
        yield from pool.map(_measure, plan, [seed] * len(plan))


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _measure(one: Round, seed: int) -> SelfCheckRow:
    import torch

    case = one.case
    with_c_t = one.size <= _C_T_SIZE and one.dimension in _C_T_DIMENSIONS
    verdicts: list[str] = []
    p_values: dict[str, list[float]] = {}
    conformal: list[list[float]] = []
    false_discoveries: list[float] = []
    found: list[float] = []
    covered: list[bool] = []
    for repetition in range(one.repetitions):
        key = (seed, case.name, case.law.name, one.dimension, one.size, repetition)
        sets = case.draw(one.size, one.dimension, generator_of(*key))
        settings = AuditSettings(invariance=case.invariance, seed=repetition)
        result = examine(sets, settings)
        summary, flags = result.tests.summary, result.tests.flags
        verdicts.append(result.verdict.name)
        drawn = {
            "exceedance": summary.p_distance,
            "exceedance, local": summary.p_local,
            "copy": summary.p_copy,
            "verdict": result.verdict.p_value,
        }
        if summary.p_share is not None:
            drawn["exchange"] = summary.p_share
            if with_c_t and repetition < _C_T_REPETITIONS:
                drawn["C_T"] = _c_t(result.distances, repetition)
        for name, p_value in drawn.items():
            if not math.isnan(p_value):
                p_values.setdefault(name, []).append(p_value)
        fresh = ~sets.copied
        if bool(fresh.any()):
            share = flags.p_values[fresh, None] <= torch.tensor(LEVELS) + 1e-9
            conformal.append(share.to(torch.float64).mean(0).tolist())
        listed = int(flags.flagged.sum())
        false_discoveries.append(int((flags.flagged & fresh).sum()) / max(1, listed))
        if case.memorizes:
            found.append(float(flags.flagged[sets.copied].to(torch.float64).mean()))
        covered.append(float(sets.copied.to(torch.float64).mean()) <= result.verdict.upper_bound)
    rates = torch.tensor(false_discoveries, dtype=torch.float64)
    return SelfCheckRow(
        case=case.name,
        law=case.law.name,
        memorizes=case.memorizes,
        copied=case.copied,
        demanded=case.demanded,
        heldout=case.heldout,
        dimension=one.dimension,
        size=one.size,
        repetitions=one.repetitions,
        verdicts={
            name: Rate.of([verdict == name for verdict in verdicts])
            for name in ("memorizing", "not detected", "inconclusive")
        },
        rejections={
            name: tuple(Rate.of([p <= level for p in values]) for level in LEVELS)
            for name, values in p_values.items()
        },
        conformal=tuple(torch.tensor(conformal).mean(0).tolist()) if conformal else None,
        false_discoveries=float(rates.mean()),
        false_discoveries_error=float(rates.std()) / len(rates) ** 0.5 if len(rates) > 1 else 0.0,
        found=sum(found) / len(found) if found else None,
        covered=Rate.of(covered),
    )


def _c_t(found: Distances, seed: int) -> float:
    try:
        return data_copying(distances=found, draws=1, permutations=199, seed=seed).p_value
    except ValueError:  # no cell holds enough samples
        return math.nan


def _markdown(rows: Sequence[SelfCheckRow]) -> str:
    head = (
        "case",
        "data",
        "d",
        "size",
        "draws",
        "memorizing",
        "95 % interval",
        "not detected",
        "inconclusive",
        "exceedance",
        "local",
        "exchange",
        "C_T",
        "false discoveries",
        "copies flagged",
    )
    lines = [head, tuple("---" for _ in head)]
    for row in rows:
        tests = [
            f"{row.rejections[name][1].value:.1%}" if name in row.rejections else ""
            for name in ("exceedance", "exceedance, local", "exchange", "C_T")
        ]
        rate = row.memorizing
        lines.append(
            (
                row.case,
                row.law,
                str(row.dimension),
                str(row.size),
                str(row.repetitions),
                f"{rate.value:.1%}",
                f"{rate.low:.1%} to {rate.high:.1%}",
                f"{row.verdicts['not detected'].value:.1%}",
                f"{row.verdicts['inconclusive'].value:.1%}",
                *tests,
                f"{row.false_discoveries:.1%}",
                "" if row.found is None else f"{row.found:.1%}",
            )
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
