"""The page of an audit, from top to bottom."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memdiff.audit.evidence import Evidence
from memdiff.audit.findings import Findings
from memdiff.audit.page.banner import verdict_banner
from memdiff.audit.page.evidence_tables import (
    exchangeability_table,
    measurement_table,
    rule_table,
    sensitivity_table,
    test_table,
)
from memdiff.audit.page.limitations import limitations
from memdiff.audit.page.numbers import p_text, percent, percent_given, range_text
from memdiff.audit.page.pairs import copied_blocks, pair_blocks
from memdiff.audit.page.plots import (
    closeness_plot,
    extraction_plot,
    sensitivity_plot,
)
from memdiff.audit.page.repetition import duplicate_blocks
from memdiff.audit.record import plain
from memdiff.metrics.extraction import Extraction
from memdiff.report import (
    Banner,
    Document,
    Figure,
    KeyValues,
    Paragraph,
    Section,
    Table,
    write_html,
)
from memdiff.report.document import Block, CellValue

__all__ = ["compose", "write_page"]

_NOUNS = {"images": "images", "video": "clips", "table": "rows", "vectors": "vectors"}


def write_page(result: Findings, path: Path) -> Path:
    """Write the result as one HTML file that opens offline, by a temporary name that is renamed.

    Args:
        result: The result.
        path: The file.

    Returns:
        The path.
    """
    write_html(compose(result), path)
    return path


def compose(result: Findings) -> Document:
    """The page as a document: verdict, advice, evidence, pairs, limitations, provenance."""
    decisive = _decisive(result)
    sections = [
        Section("What to do", [_advice(result)], key="advice"),
        Section("Tests behind the verdict", _tests(result), key="tests"),
        Section("Further measurements", _measurements(result), key="measurements"),
        Section("Most suspicious pairs", pair_blocks(result), key="pairs"),
        Section("Most copied training points", copied_blocks(result), key="copied"),
        Section("Extraction", _extraction(result), key="extraction"),
        Section("Duplicates and overlap", duplicate_blocks(result), key="duplicates"),
        Section("Sensitivity", _sensitivity(result), key="sensitivity"),
        Section(
            "Limitations",
            [KeyValues(limitations(result), "Limitations", prose=True)],
            key="limitations",
        ),
        Section("Provenance", _provenance(result), key="provenance"),
    ]
    versions = result.provenance.get("versions", {})
    return Document(
        "Memorisation audit",
        _subtitle(result),
        lead=[_banner(result), *_headline(decisive)],
        sections=sections,
        footer=f"memdiff {versions.get('memdiff', '')}, {result.provenance.get('date', '')}. The "
        "numbers of this page, and all pairs, are in `report.json` beside it.",
    )


def _decisive(result: Findings) -> Evidence:
    name = result.decision.descriptor
    return next((e for e in result.evidence if e.name == name), result.evidence[0])


def _subtitle(result: Findings) -> str:
    inputs = result.inputs
    noun = _NOUNS[inputs.train.kind]
    heldout = (
        "without held-out data"
        if inputs.heldout is None
        else f"and {len(inputs.heldout)} held-out {noun}"
    )
    against = f"{len(inputs.generated)} samples against {len(inputs.train)} training {noun}"
    features = ", ".join(entry.name for entry in result.evidence)
    transforms = f", up to {result.settings.invariance}" if result.settings.invariance else ""
    return f"{against} {heldout}; features: {features}{transforms}."


def _banner(result: Findings) -> Banner:
    decision, settings = result.decision, result.settings
    facts = {}
    if not decision.reasons:
        facts = {
            f"p-value, at level {decision.level:g}": p_text(decision.p_value),
            "Copied fraction (95% interval)": f"{percent(decision.copied)} "
            f"({percent(decision.copied_low)} to {percent(decision.copied_high)})",
            "Flagged samples": str(len(result.flagged)),
        }
    if decision.name == "not detected":
        facts["Copies, at most"] = percent(decision.upper_bound)
    if settings.fail_above is not None:
        state = "failed" if result.gate_failed else "passed"
        facts[f"Gate at {percent_given(settings.fail_above)}"] = state
    return verdict_banner(decision, facts)


def _headline(entry: Evidence) -> list[Block]:
    if entry.tests is None:
        return []
    result = entry.tests.competition
    times = (
        ""
        if abs(result.odds - 1.0) < 0.005
        else (f", times the {result.odds:.3g} training points for each held-out one")
    )
    return [
        Figure(
            "closeness",
            closeness_plot(entry),
            "How close samples come to training points (blue), and to held-out points that the "
            f"model has not seen{times} (grey): what chance gives. r is the distance to the "
            "nearest point over that to the next; left of the dashed line, at a third, the "
            "literature speaks of copies. Top: distribution. Bottom: share up to each closeness. "
            "Without memorisation blue follows grey.",
            "Histogram and cumulative distribution of the distance ratio, for samples nearest to "
            "training points and for samples nearest to held-out points.",
        )
    ]


def _advice(result: Findings) -> Block:
    if not result.advice:
        return Paragraph("Nothing was found that calls for action.")
    return Table(
        "Findings and what follows from them",
        ("Finding", "What to do"),
        [(one.finding, one.action) for one in result.advice],
        stacked=True,
    )


def _tests(result: Findings) -> list[Block]:
    if result.inputs.heldout is None:
        return [Paragraph("Without held-out data there are no decoys, and no test.")]
    level = f"{result.settings.level:g}"
    rule = (
        "Training and held-out points compete for the samples. If the model knows nothing of "
        "which points it was trained on, their labels are exchangeable, whatever the samples are "
        "like: what falls on held-out points by chance tells what falls on training points by "
        "chance [Elias07]. Four tests look for copies (tail, local exceedance, repeated cell) and "
        "for nearness (share). The verdict is `memorizing` if the combined p-value is at most "
        f"{level} and copies stand out, `overfitting` if it is and none do; else `not detected` "
        f"if copies would have been seen down to {percent_given(result.settings.resolution)} of "
        "the samples, `inconclusive` if not. Where train and held-out are not exchangeable there "
        "is no verdict."
    )
    return [
        Paragraph(rule),
        rule_table(result.evidence, result.decision),
        exchangeability_table(result.evidence),
        *(test_table(entry) for entry in result.evidence),
    ]


def _measurements(result: Findings) -> list[Block]:
    intro = (
        "Published measures of memorisation, fidelity and diversity, each beside its value "
        "without memorisation. None has a value that is good in itself: compare the columns."
    )
    return [Paragraph(intro), *(measurement_table(entry) for entry in result.evidence)]


def _extraction(result: Findings) -> list[Block]:
    found = result.extraction
    if found is None:
        return [Paragraph("No sample is flagged as a copy, so nothing counts as extracted.")]
    blocks: list[Block] = [
        Paragraph(
            f"{found.extracted} of the {found.distinct} distinct training points have a copy "
            f"among the samples: {percent(found.value)} ({range_text(found.interval, percent)}) "
            "[Carlini23]. The share belongs to this number of samples; more samples extract more."
        )
    ]
    if found.extracted < found.distinct:
        blocks += [_extraction_figure(found), _extrapolation_table(found)]
    if len(found.by_multiplicity) > 1:
        blocks.append(
            Table(
                "Extraction by the number of occurrences in the training data",
                ("Occurrences", "Distinct training points", "Extracted", "Share"),
                [
                    (times, points, extracted, percent(extracted / points))
                    for times, points, extracted in found.by_multiplicity
                ],
                "What is repeated in training is memorised first.",
            )
        )
    return blocks


def _extraction_figure(found: Extraction) -> Figure:
    return Figure(
        "extraction",
        extraction_plot(found),
        "Distinct training points extracted with this and larger numbers of samples: "
        "extrapolation by Good and Toulmin [Good56], smoothed beyond twice the samples "
        "[Orlitsky16], and the lower bound on what can be extracted at all [Chao87]. Bars are "
        "intervals of 95%.",
        f"{found.extracted} of {found.distinct} training points were extracted with "
        f"{len(found.scores)} samples; estimates for larger numbers of samples rise from there.",
    )


def _extrapolation_table(found: Extraction) -> Table:
    rows: list[tuple[CellValue, ...]] = [
        (len(found.scores), str(found.extracted), percent(found.value), "–", "measured")
    ]
    rows += [
        (
            one.samples,
            f"{one.extracted:.0f}",
            percent(one.share),
            range_text(one.interval, lambda value: f"{value:.0f}"),
            "extrapolated" if one.reliable else "beyond what the theory covers",
        )
        for one in found.extrapolation
    ]
    return Table(
        "Extraction with more samples",
        ("Samples", "Training points", "Share", "95% interval", ""),
        rows,
        f"At least {found.extractable:.0f} training points can be extracted in all "
        f"({range_text(found.extractable_interval, lambda value: f'{value:.0f}')}).",
        stacked=True,
    )


def _sensitivity(result: Findings) -> list[Block]:
    if result.inputs.heldout is None:
        return [Paragraph("Without held-out data there is no estimate.")]
    names = " and ".join(entry.name for entry in result.evidence[:4])
    return [
        Paragraph(
            "Does the finding depend on how close a copy must be, or on the features? Copies "
            "show as a plateau from the left; samples that follow their training points without "
            "copying them, as a rise towards the right."
        ),
        Figure(
            "sensitivity",
            sensitivity_plot(result.evidence[:4]),
            "Estimated copied fraction against the closeness that counts as a copy, with its "
            "interval of 95%. The dashed line is at a third.",
            f"Copied fraction by {names} against the ratio of distances, with intervals.",
        ),
        sensitivity_table(_decisive(result)),
    ]


def _provenance(result: Findings) -> list[Block]:
    settings = plain(result.settings)
    blocks: list[Block] = [
        Table(
            "Data",
            ("Set", "Source", "Points", "Shape", "Range", "SHA-256 and notes"),
            [
                (
                    name,
                    data.source,
                    len(data),
                    " × ".join(map(str, data.shape)),
                    data.encoding,
                    "; ".join((data.sha256, *data.notes)),
                )
                for name, data in result.inputs.sets.items()
            ],
            stacked=True,
        ),
        Table(
            "Descriptors",
            ("Name", "Distance", "Fingerprint and settings"),
            [
                (entry.name, entry.metric, _settings_text(entry.features.settings))
                for entry in result.evidence
            ],
            stacked=True,
        ),
        KeyValues({name: _value(value) for name, value in settings.items()}, "Settings"),
    ]
    sampler = result.provenance.get("sampler")
    if sampler:
        blocks += [
            Paragraph("How the samples were made, as given:"),
            KeyValues({str(k): _value(v) for k, v in sampler.items()}, "Sampler"),
        ]
    run = {
        name: _value(value)
        for name, value in result.provenance.items()
        if name not in ("sampler", "versions")
    }
    versions = result.provenance.get("versions", {})
    return [
        *blocks,
        Paragraph("The run:"),
        KeyValues({**run, **{f"version of {k}": v for k, v in versions.items()}}, "Run"),
    ]


def _settings_text(settings: Mapping[str, Any]) -> str:
    first = [f"fingerprint {settings['fingerprint']}"] if "fingerprint" in settings else []
    rest = [f"{name} {_value(v)}" for name, v in settings.items() if name != "fingerprint"]
    return "; ".join(first + rest)


def _value(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return json.dumps(value, default=str)
