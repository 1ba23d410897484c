"""Tables of a self-check in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memdiff.audit.planted.row import Rate, SelfCheckRow

__all__ = ["TITLES", "markdown"]

TITLES = {
    "fresh": "No copies",
    "unfair": "No fair comparison",
    "copies": "Copies",
    "follows": "Made of training points, and no copies",
}
"""Heading for each truth."""

_HEAD = (
    "case",
    "data",
    "d",
    "M : N : H",
    "draws",
    "memorizing",
    "overfitting",
    "not detected",
    "inconclusive",
    "tail / share / local / cell",
    "exchangeability",
    "interval holds",
    "bound holds",
    "copies flagged",
    "false among flagged",
)


def markdown(rows: Sequence[SelfCheckRow]) -> str:
    """One table for each truth, with rates in percent.

    Args:
        rows: What was measured.
    """
    parts = []
    for truth, title in TITLES.items():
        some = [row for row in rows if row.truth == truth]
        if some:
            lines = [_HEAD, tuple("---" for _ in _HEAD), *(_line(row) for row in some)]
            body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
            parts.append(f"**{title}**\n\n{body}")
    return "\n\n".join(parts)


def _line(row: SelfCheckRow) -> tuple[str, ...]:
    rejected = [
        " / ".join(
            _percent(tests[name]) if name in tests else "-"
            for name in ("tail", "share", "local", "cell")
        )
        for tests in row.rejections.values()
    ]
    return (
        row.case,
        row.law,
        str(row.dimension),
        " : ".join(str(size) for size in row.sizes),
        str(row.repetitions),
        _interval(row.verdicts["memorizing"]),
        _interval(row.verdicts["overfitting"]),
        _percent(row.verdicts["not detected"]),
        _percent(row.verdicts["inconclusive"]),
        "; ".join(rejected),
        "; ".join(_percent(tests["exchangeability"]) for tests in row.rejections.values()),
        "" if row.covered is None else _percent(row.covered),
        "" if row.bounded is None else _percent(row.bounded),
        "" if row.found is None else f"{100 * row.found:.0f}",
        f"{100 * row.false_discoveries:.1f}",
    )


def _percent(rate: Rate) -> str:
    return f"{100 * rate.value:.0f}"


def _interval(rate: Rate) -> str:
    return f"{100 * rate.value:.0f} ({100 * rate.low:.0f} to {100 * rate.high:.0f})"
