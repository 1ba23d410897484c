"""Tests and measurements as tables: value, interval, null, p-value, and what it means."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memdiff.audit.evidence import Evidence, Measurement
from memdiff.audit.page.figures import excess_at, reference_of, reference_words
from memdiff.audit.page.numbers import number, p_cell, p_text, percent, percent_given, range_text
from memdiff.audit.verdict import Verdict
from memdiff.metrics import (
    FLD,
    Authenticity,
    CalibratedL2,
    Conformal,
    DataCopying,
    Exceedance,
    Fidelity,
    MaximalSimilarity,
    MetricResult,
    Ratio,
    Vendi,
)
from memdiff.report import Cell, Table
from memdiff.report.document import CellValue

__all__ = ["measurement_table", "rule_table", "sensitivity_table", "test_table"]

_SHARES = (Ratio, CalibratedL2, MaximalSimilarity, Authenticity, Fidelity)


def rule_table(evidence: Sequence[Evidence], verdict: Verdict) -> Table:
    """How the p-value of the verdict comes about, one row a descriptor."""
    rows: list[list[CellValue]] = []
    for entry in evidence:
        test = entry.test
        corrected = min(1.0, len(evidence) * test.p_value)
        rows.append(
            [
                Cell(entry.name, note="decides" if entry.name == verdict.descriptor else ""),
                p_cell(test.p_distance),
                p_cell(test.p_local),
                None if test.p_share is None else p_cell(test.p_share),
                Cell(p_text(corrected), "bad" if corrected <= verdict.level else "neutral"),
                Cell(
                    percent(max(0.0, test.copied)),
                    note=f"{percent(max(0.0, test.copied_low))} to "
                    f"{percent(max(0.0, test.copied_high))}",
                ),
                percent(max(0.0, test.upper_bound)),
            ]
        )
    return Table(
        "From the tests to the verdict",
        (
            "Descriptor",
            "p, distance",
            "p, local scale",
            "p, exchange",
            "p, combined",
            "Copied",
            "At most",
        ),
        rows,
        f"Combined p-values are corrected for tests and descriptors and compared with "
        f"{verdict.level:g}.",
        stacked=True,
    )


def test_table(entry: Evidence, level: float) -> Table:
    """The tests of one descriptor."""
    words = reference_words(entry)
    heldout = reference_of(entry) == "heldout"
    scale = (
        "distance to train over distance to held-out"
        if heldout
        else "distance to the nearest training point over that to the next"
    )
    copies, closest = entry.copies, entry.closest
    size = entry.distances.size(reference_of(entry))
    rows = [
        _row(
            "Exceedance, by distance",
            f"{_counts(entry.by_distance, words)} A small p says: more samples are close to train "
            "than fresh data would be, by copying or by too little variance.",
            entry.by_distance,
            entry.test.p_distance,
        ),
        _row(
            "Exceedance, on the local scale",
            f"The same for {scale}. {_counts(entry.by_scale, words)} A small p says: it is not "
            "too little variance alone.",
            entry.by_scale,
            entry.test.p_local,
        ),
    ]
    if entry.shares is not None:
        shares = entry.shares
        rows.append(
            _row(
                "Exchange test",
                "Share of samples nearer to train than to held-out data. A small p says: the "
                "model tells the two apart, which also many slight copies do. The samples share "
                f"neighbours and count as about {shares.effective_points:.0f} independent ones.",
                shares,
                shares.p_value,
            )
        )
    rows += [
        _row(
            "Excess copies",
            f"The estimate of the copied fraction: {copies.count} samples are closer than "
            f"{percent(copies.rank / (size + 1))} of the {words}, beyond what these show "
            "themselves.",
            copies,
            copies.p_value,
        ),
        _row(
            "Closer than all",
            f"The same below the closest of the {words}: {closest.count} samples. The upper end "
            "of the interval is the bound on what could go unseen.",
            closest,
            closest.p_value,
        ),
        _row(
            "Flagged samples",
            _flag_words(entry.flags, size),
            entry.flags,
            None,
        ),
    ]
    if entry.local_flags is not None:
        rows.append(
            _row(
                "Flagged, by the local scale alone",
                "The list that the local scale makes alone, without the distance.",
                entry.local_flags,
                None,
            )
        )
    return Table(
        f"Tests by {entry.name}",
        ("Test", "Value", f"{100 * level:.0f}% interval", "Without copying", "p"),
        rows,
        "Values are shares of the samples. Without copying: the expected value and the band of "
        "95%. p-values of the exceedance tests are corrected for the number of thresholds"
        f"{_clumped(entry)}.",
        stacked=True,
    )


def _row(title: str, meaning: str, result: MetricResult, p_value: float | None) -> list[CellValue]:
    null = result.null
    # The list of flagged samples has a guarantee in place of a band.
    band = (
        Cell(percent(null.value), note=range_text(null.interval, percent))
        if null is not None and null.interval is not None
        else (None if null is None else Cell(percent(null.value), note=null.source))
    )
    return [
        Cell(title, note=meaning),
        percent(result.value),
        range_text(result.interval, percent),
        band,
        None if p_value is None else p_cell(p_value),
    ]


def _clumped(entry: Evidence) -> str:
    """What repetition among the samples does to the p-values, if there is any."""
    clumping = entry.clumping
    if clumping.design_effect <= 1.0:
        return ""
    return (
        f", and for samples that repeat each other: the {clumping.samples} samples count as "
        f"{clumping.effective_samples:.0f} independent ones there"
    )


def _counts(test: Exceedance, words: str) -> str:
    ordinals = ", ".join(_ordinal(rank) for rank in test.ranks)
    counts = ", ".join(str(count) for count in test.counts)
    expected = ", ".join(f"{value:.3g}" for value in test.expected)
    return (
        f"Samples below the {ordinals} smallest value of the {words}: {counts}, where {expected} "
        "are expected."
    )


def _ordinal(rank: int) -> str:
    if rank % 100 in (11, 12, 13):
        return f"{rank}th"
    return f"{rank}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(rank % 10, 'th') }"


def _flag_words(flags: Conformal, size: int) -> str:
    text = (
        f"{int(flags.flagged.sum())} samples are close by distance and on the local scale, by the "
        "larger p-value of the two: the list of Benjamini and Hochberg, of which at "
        f"most {percent_given(flags.false_discovery_rate)} are expected to be wrong "
        "[Benjamini95][Ba23]."
    )
    if flags.least_flagged > len(flags.scores):
        return text + (
            f" With {size} reference points no list is possible: p-values cannot go below "
            f"1/{size + 1}."
        )
    if flags.least_flagged > 1:
        return text + f" A list holds {flags.least_flagged} samples or none, given {size} points."
    return text


def measurement_table(entry: Evidence) -> Table:
    """Metrics beside the verdict."""
    return Table(
        f"Further measurements by {entry.name}",
        ("Measurement", "Value", "Without memorisation"),
        [_measurement(one) for one in entry.measurements],
        "Intervals of 95% under the values. None of these enters the verdict.",
        stacked=True,
    )


def _measurement(one: Measurement) -> list[CellValue]:
    title = Cell(f"{_capital(one.title)} [{one.reference}]", note=_sentence(one.meaning))
    result = one.result
    if result is None:
        return [title, Cell("not computed", "neutral", note=_sentence(one.problem)), None]
    form = percent if isinstance(result, _SHARES) else number
    value = Cell(form(result.value), note=_with_details(result, form))
    null = result.null
    if null is None:
        return [title, value, None]
    band = "" if null.interval is None else f"{range_text(null.interval, form)}; "
    return [title, value, Cell(form(null.value), note=f"{band}{null.source}")]


def _with_details(result: MetricResult, form: Callable[[float], str]) -> str:
    parts = [] if result.interval is None else [range_text(result.interval, form)]
    if isinstance(result, Ratio):
        parts.append(f"threshold {number(result.threshold)}")
        if result.chance is not None and result.dimension is not None:
            parts.append(
                f"{percent(result.chance)} by chance in {result.dimension:.1f} intrinsic "
                "dimensions"
            )
    elif isinstance(result, CalibratedL2):
        parts.append(f"median {number(result.median)}, smallest {number(result.minimum)}")
    elif isinstance(result, MaximalSimilarity):
        parts.append(f"mean similarity {number(result.summary.mean)}")
        parts.append(f"among training data {number(result.background.mean)}")
    elif isinstance(result, DataCopying):
        parts.append(f"p = {p_text(result.p_value)}")
        if result.dropped_generated > 0:
            parts.append(f"{percent(result.dropped_generated)} of the samples in cells left out")
    elif isinstance(result, FLD):
        gap = result.gap
        parts.append(f"gap {number(gap.value)} ({range_text(gap.interval, number)})")
    elif isinstance(result, Fidelity):
        for name in ("precision", "recall", "density"):
            estimate = getattr(result, name)
            kind = number if name == "density" else percent
            expected = "" if estimate.null is None else f", expected {kind(estimate.null.value)}"
            parts.append(f"{name} {kind(estimate.value)}{expected}")
    elif isinstance(result, Vendi):
        parts.append(f"of {result.used} samples")
    return "; ".join(parts)


def _sentence(text: str) -> str:
    return _capital(text) + ("" if text.endswith(".") else ".") if text else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def sensitivity_table(entry: Evidence, seed: int) -> Table:
    """Excess copies of one descriptor at several thresholds."""
    rows: list[list[CellValue]] = []
    for quantile, result in excess_at(entry, seed):
        band = None if result.null is None else result.null.interval
        rows.append(
            [
                Cell(percent(quantile), note=f"rank {result.rank}"),
                number(result.threshold),
                Cell(
                    str(result.count),
                    note=f"{len(result.scores) * quantile:.3g} expected",
                    sort=result.count,
                ),
                percent(result.value),
                range_text(result.interval, percent),
                range_text(band, percent),
                p_cell(result.p_value),
            ]
        )
    return Table(
        f"Excess copies by {entry.name} at several thresholds",
        (
            "Quantile",
            "Threshold",
            "Samples below",
            "Excess copies",
            "95% interval",
            "Band without copying",
            "p-value",
        ),
        rows,
        "p-values of single thresholds, not corrected for looking at several.",
        stacked=True,
    )
