"""Tests and measurements as tables: value, interval, null, p-value, and what it means."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memdiff.audit.evidence import Evidence
from memdiff.audit.page.numbers import number, p_cell, p_text, percent, percent_given, range_text
from memdiff.audit.page.plots import fractions
from memdiff.audit.panel import Measurement
from memdiff.audit.verdict import Verdict
from memdiff.metrics import CopyingTests, Detail, MetricResult
from memdiff.report import Cell, Table
from memdiff.report.document import CellValue

__all__ = [
    "exchangeability_table",
    "measurement_table",
    "rule_table",
    "sensitivity_table",
    "test_table",
]

_FORMS: dict[str, Callable[[float], str]] = {
    "share": percent,
    "number": number,
    "p-value": p_text,
}


def rule_table(evidence: Sequence[Evidence], verdict: Verdict) -> Table:
    """How the p-value of the verdict comes about, one row per descriptor."""
    rows: list[list[CellValue]] = []
    for entry in evidence:
        tests = entry.tests
        assert tests is not None
        corrected = min(1.0, len(evidence) * tests.p_value)
        interval = tests.fraction.interval
        rows.append(
            [
                Cell(
                    entry.name,
                    note="decides"
                    if entry.name == verdict.descriptor and not verdict.reasons
                    else "",
                ),
                p_cell(tests.tail.p_value),
                None if tests.local is None else p_cell(tests.local.p_value),
                None if tests.cell is None else p_cell(tests.cell.p_value),
                p_cell(tests.share.p_value),
                Cell(p_text(corrected), "bad" if corrected <= verdict.level else "neutral"),
                Cell(
                    percent(max(0.0, tests.fraction.value)),
                    note=range_text(interval, percent),
                ),
            ]
        )
    return Table(
        "From the tests to the verdict",
        (
            "Descriptor",
            "p, tail",
            "p, local",
            "p, repeated",
            "p, share",
            "p, combined",
            "Copied",
        ),
        rows,
        "Combined: the smallest of 2.5 times the tail test's and 5 times each other p-value, "
        f"times the number of descriptors ({len(evidence)}); compared with {verdict.level:g}.",
        stacked=True,
    )


def test_table(entry: Evidence) -> Table:
    """The tests of one descriptor."""
    tests = entry.tests
    assert tests is not None
    fraction, listed = tests.fraction, tests.list
    rows = [
        _row("Tail test", _tail_words(tests), tests.tail, tests.tail.p_value),
        _row(
            "Share test",
            "Share of samples that fall on training points. A small p says: samples follow their "
            "training points, as copies in bulk do, and slight overfitting too. The samples share "
            f"neighbours and count as about {tests.share.effective_units:.0f}.",
            tests.share,
            tests.share.p_value,
        ),
    ]
    if tests.local is not None:
        local = tests.local
        rows.append(
            _row(
                "Local exceedance",
                f"{local.hits} distinct training points are hit closer, over the distance to "
                f"held-out points, than the {_ordinal(local.rank)} closest of about "
                f"{local.effective:.0f} weighted held-out points. It assumes that fresh samples "
                "lie to train as held-out points do.",
                local,
                local.p_value,
            )
        )
    if tests.cell is not None:
        rows.append(_row("Repeated cell", _cell_words(tests), tests.cell, tests.cell.p_value))
    rows += [
        _row(
            "Copied fraction",
            f"Of the samples with a ratio of at most a third, {fraction.targets:.4g} fall on "
            f"values of training points alone and {fraction.decoys:.4g} on values of held-out "
            f"points alone; chance explains {fraction.by_chance:.4g}. {fraction.both:.4g} lie on "
            "values that both hold.",
            fraction,
            None,
        ),
        _row(
            "Flagged list",
            f"{int(listed.flagged.sum())} samples on {listed.units} training points, of which at "
            f"most {percent_given(listed.rate)} are expected to be there by chance [Barber15]. A "
            f"list holds at least {listed.least_units} training points, given the sizes of the "
            "sets.",
            listed,
            None,
        ),
    ]
    unit = "groups" if entry.distances.groups else "points"
    undecided = tests.competition.undecided
    tied = f" {undecided} samples are tied with too many points to tell." if undecided else ""
    return Table(
        f"Tests by {entry.name}",
        ("Test", "Value", "95% interval", "By chance", "p"),
        rows,
        f"{tests.competition.train_units} training {unit} against "
        f"{tests.competition.heldout_units} held-out {unit}.{tied}",
        stacked=True,
    )


def exchangeability_table(evidence: Sequence[Evidence]) -> Table:
    """Whether train and held-out are exchangeable, one row per descriptor."""
    rows: list[list[CellValue]] = []
    for entry in evidence:
        found = entry.exchangeability
        assert found is not None
        rows.append(
            [
                entry.name,
                Cell(percent(found.agreement), note=f"{percent(found.expected)} by chance"),
                *(
                    Cell(number(within), note=f"{number(across)} to the other set")
                    for within, across in zip(found.within, found.across, strict=True)
                ),
                p_cell(found.p_value),
            ]
        )
    return Table(
        "Are train and held-out exchangeable?",
        (
            "Descriptor",
            "Neighbours of the same set",
            "Train, nearest of its own",
            "Held-out, nearest of its own",
            "p",
        ),
        rows,
        "Neighbours of the same set more often than chance would have them say: the sets are of "
        "different sources, or points that belong together were split together. Distances are "
        "medians.",
        stacked=True,
    )


def _tail_words(tests: CopyingTests) -> str:
    tail = tests.tail
    unit = "points"
    if not tail.cut:
        return "No sample is closer than two thirds of the distance to the next point."
    return (
        f"Share of training points among the {tail.cut} pool {unit} that samples come closest to "
        f"(ratio up to {number(tail.ratio)}). A small p says: copies."
    )


def _cell_words(tests: CopyingTests) -> str:
    cell = tests.cell
    assert cell is not None
    if cell.sample < 0:
        return "No sample is repeated beyond its surroundings."
    return (
        f"What samples repeat most, about sample {cell.sample}: {number(cell.u)} times as far "
        "from train as from held-out. A small p says: it is one training point, copied many times."
    )


def _row(title: str, meaning: str, result: MetricResult, p_value: float | None) -> list[CellValue]:
    null = result.null
    band = None
    if null is not None:
        note = null.source if null.interval is None else range_text(null.interval, percent)
        band = Cell(percent(null.value), note=note)
    return [
        Cell(title, note=meaning),
        percent(result.value),
        range_text(result.interval, percent),
        band,
        None if p_value is None else p_cell(p_value),
    ]


def _ordinal(rank: int) -> str:
    if rank % 100 in (11, 12, 13):
        return f"{rank}th"
    return f"{rank}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(rank % 10, 'th') }"


def measurement_table(entry: Evidence) -> Table:
    """Metrics beside the verdict."""
    return Table(
        f"Further measurements by {entry.name}",
        ("Measurement", "Value", "Without memorisation"),
        [_measurement(one) for one in entry.measurements],
        f"Intervals of 95% under the values. None of these enters the verdict. At most "
        f"{entry.measured} points of each set were used.",
        stacked=True,
    )


def _measurement(one: Measurement) -> list[CellValue]:
    cited = f" [{one.reference}]" if one.reference else ""
    title = Cell(_capital(one.title) + cited, note=_sentence(one.meaning))
    result = one.result
    if result is None:
        return [title, Cell("not computed", "neutral", note=_sentence(one.problem)), None]
    form = _FORMS[result.unit]
    value = Cell(form(result.value), note=_details(result))
    null = result.null
    if null is None:
        return [title, value, None]
    band = "" if null.interval is None else f"{range_text(null.interval, form)}; "
    return [title, value, Cell(form(null.value), note=f"{band}{null.source}")]


def _details(result: MetricResult) -> str:
    """The interval of the value, and the further numbers of the result."""
    interval = (
        [] if result.interval is None else [range_text(result.interval, _FORMS[result.unit])]
    )
    return "; ".join([*interval, *map(_detail, result.details())])


def _detail(one: Detail) -> str:
    form = _FORMS[one.unit]
    text = f"{one.name} {'= ' * (one.unit == 'p-value')}{form(one.value)}"
    if one.interval is not None:
        text += f" ({range_text(one.interval, form)})"
    if one.expected is not None:
        text += f", expected {form(one.expected)}"
    return f"{text} {one.remark}".rstrip()


def _sentence(text: str) -> str:
    return _capital(text) + ("" if text.endswith(".") else ".") if text else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def sensitivity_table(entry: Evidence) -> Table:
    """The copied fraction at several degrees of closeness."""
    assert entry.tests is not None
    rows: list[list[CellValue]] = [
        [
            number(one.ratio),
            number(one.targets),
            number(one.by_chance),
            percent(one.value),
            range_text(one.interval, percent),
        ]
        for one in fractions(entry.tests)
    ]
    return Table(
        f"Copied fraction by {entry.name} at several degrees of closeness",
        ("r at most", "Samples on train", "By chance", "Copied", "95% interval"),
        rows,
        "r is the distance to the nearest point over that to the next. Values that train and "
        "held-out share are left out.",
        stacked=True,
    )
