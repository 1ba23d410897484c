"""The audit audited: its error rates and its power, measured on planted truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch

from memdiff.audit.planted.rounds import Preset, Round, rounds
from memdiff.audit.planted.row import Rate, SelfCheckRow, measure_round
from memdiff.audit.settings import AuditSettings
from memdiff.audit.verdict import NOT_EXCHANGEABLE
from memdiff.metrics import clopper_pearson

__all__ = ["SelfCheck", "self_check"]

_FEW = 10  # draws, up to which a standard error says nothing

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Claim:
    """That a rate is at most, or at least, what is said."""

    row: SelfCheckRow
    what: str
    rate: Rate
    most: float = 1.0
    least: float = 0.0

    def broken(self, confidence: float) -> str:
        """What is wrong beyond chance, or nothing."""
        sure = clopper_pearson(self.rate.hits, self.rate.trials, confidence)
        share = f"{self.rate.value:.1%} of {self.rate.trials} draws"
        said = f"{self.row.where}: {self.what} in {share}"
        if sure.low > self.most:
            return f"{said}, claimed at most {self.most:.0%}."
        if sure.high < self.least:
            return f"{said}, expected at least {self.least:.0%}."
        return ""


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

        A rate counts as too high or too low if its 99 % Clopper-Pearson limit, corrected over all
        rates that something is claimed of, is beyond what is claimed: chance alone raises an
        alarm in fewer than 1 % of self-checks.
        """
        from scipy.stats import t

        claims = [claim for row in self.rows for claim in self._claims(row)]
        confidence = 1.0 - 2.0 * 0.01 / max(1, len(claims))
        found = [sentence for claim in claims if (sentence := claim.broken(confidence))]
        claimed = self.settings.false_discovery_rate
        for row in self.rows:
            if row.truth == "follows" or row.repetitions < _FEW:
                continue
            errors = float(t.ppf(confidence, row.repetitions - 1))
            if row.false_discoveries - errors * row.false_discoveries_error > claimed:
                found.append(
                    f"{row.where}: {row.false_discoveries:.1%} of the flagged samples are no "
                    f"copies, claimed at most {claimed:.0%}."
                )
        return (*found, *_not_monotone(self.rows, confidence))

    def _claims(self, row: SelfCheckRow) -> Iterator[_Claim]:
        level = self.settings.level
        if row.truth in ("fresh", "unfair"):
            wrong = row.rate("memorizing", "overfitting")
            yield _Claim(row, "called memorizing or overfitting", wrong, most=level)
        if row.truth == "fresh":
            for descriptor, tests in row.rejections.items():
                for name, most in (
                    ("tail", level),
                    ("share", level),
                    ("exchangeability", NOT_EXCHANGEABLE),
                ):
                    if name in tests:
                        what = f"the {name} test of {descriptor} rejects"
                        yield _Claim(row, what, tests[name], most=most)
        if row.demanded:
            what = f"called {' or '.join(row.right)}"
            yield _Claim(row, what, row.rate(*row.right), least=row.demanded)
        if row.estimated is not None:
            yield _Claim(row, "estimated within the limits", row.estimated, least=0.9)
        if row.exact and row.covered is not None:
            what = "the interval of the copied fraction holds the truth"
            yield _Claim(row, what, row.covered, least=0.95)

    @property
    def passed(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The result in plain types."""
        from memdiff.audit.record import plain

        return {
            "schema": 2,
            "preset": self.preset,
            "seed": self.seed,
            "settings": plain(self.settings),
            "passed": self.passed,
            "problems": list(self.problems),
            "rows": plain(self.rows),
        }

    def table(self) -> str:
        """The result as tables in Markdown, one for each truth."""
        from memdiff.audit.planted.table import markdown

        return markdown(self.rows)


def _not_monotone(rows: Sequence[SelfCheckRow], confidence: float) -> Iterator[str]:
    """Steps of a ladder on which more is found than on an earlier one, beyond chance."""
    steps: dict[tuple[Any, ...], list[SelfCheckRow]] = {}
    for row in rows:
        if row.ladder:
            steps.setdefault((row.ladder, row.dimension, row.sizes), []).append(row)
    for ladder in steps.values():
        for position, later in enumerate(ladder):
            for names in (("memorizing",), ("memorizing", "overfitting")):
                after = later.rate(*names)
                for earlier in ladder[:position]:
                    before = earlier.rate(*names)
                    low = clopper_pearson(after.hits, after.trials, confidence).low
                    if low > clopper_pearson(before.hits, before.trials, confidence).high:
                        yield (
                            f"{later.where}: called {' or '.join(names)} in {after.value:.1%} of "
                            f"the draws, more often than {earlier.case} ({before.value:.1%})."
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
        preset: ``"quick"`` (a few minutes) or ``"full"`` (about an hour on two cores).
        seed: Seed.
        repetitions: Draws of every case, dimension and size; those of the preset by default.
        workers: Number of processes; the result does not depend on it.
        progress: Receives (stage, done, total).

    Returns:
        The self-check.

    Raises:
        ValueError: If ``preset`` is unknown or ``repetitions`` or ``workers`` is below 1.
        ImportError: If scikit-image, whose photographs are used, is not installed.
    """
    if preset not in get_args(Preset):
        raise ValueError(f"preset must be 'quick' or 'full', got {preset!r}.")
    if (repetitions is not None and repetitions < 1) or workers < 1:
        raise ValueError(
            f"repetitions and workers must be at least 1, got {repetitions} and {workers}."
        )
    plan = list(rounds(preset, repetitions))
    rows: list[SelfCheckRow] = []
    for row in _rows(plan, seed, workers):
        rows.append(row)
        if progress is not None:
            progress(row.where, len(rows), len(plan))
    return SelfCheck(preset, seed, AuditSettings(), tuple(rows))


def _rows(plan: Sequence[Round], seed: int, workers: int) -> Iterator[SelfCheckRow]:
    if workers == 1:
        yield from (measure_round(one, seed) for one in plan)
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, get_context("spawn"), _one_thread) as pool:
        yield from pool.map(measure_round, plan, [seed] * len(plan))


def _one_thread() -> None:
    torch.set_num_threads(1)
