"""The page of an audit, from top to bottom."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memdiff.audit.evidence import Evidence
from memdiff.audit.page.duplicates import duplicate_blocks
from memdiff.audit.page.evidence_tables import (
    measurement_table,
    rule_table,
    sensitivity_table,
    test_table,
)
from memdiff.audit.page.figures import (
    closeness_plot,
    extraction_plot,
    reference_words,
    sensitivity_plot,
)
from memdiff.audit.page.limitations import limitations
from memdiff.audit.page.numbers import p_text, percent, percent_given, range_text
from memdiff.audit.page.pairs import copied_blocks, pair_blocks
from memdiff.audit.result import AuditResult, plain
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
from memdiff.report.document import Block, CellValue, Tone

__all__ = ["compose", "write_page"]

_TONES: dict[str, Tone] = {
    "memorizing": "bad",
    "not detected": "good",
    "inconclusive": "caution",
}
_TITLES = {
    "memorizing": "Memorizing",
    "not detected": "Memorisation not detected",
    "inconclusive": "Inconclusive",
}
_NOUNS = {"images": "images", "video": "clips", "table": "rows", "vectors": "vectors"}


def write_page(result: AuditResult, path: Path) -> Path:
    """Write the result as one HTML file that opens offline, by a temporary name that is renamed.

    Args:
        result: The result.
        path: The file.

    Returns:
        The path.
    """
    write_html(compose(result), path)
    return path


def compose(result: AuditResult) -> Document:
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


def _decisive(result: AuditResult) -> Evidence:
    return next(e for e in result.evidence if e.name == result.decision.descriptor)


def _subtitle(result: AuditResult) -> str:
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


def _banner(result: AuditResult) -> Banner:
    decision, settings = result.decision, result.settings
    facts = {
        f"p-value, at level {decision.level:g}": p_text(decision.p_value),
        "Copied fraction (95% interval)": f"{percent(decision.copied)} "
        f"({percent(decision.copied_low)} to {percent(decision.copied_high)})",
        "Closer than any reference, at most": percent(decision.upper_bound),
    }
    if settings.fail_above is not None:
        state = "failed" if result.gate_failed else "passed"
        facts[f"Gate at {percent_given(settings.fail_above)}"] = state
    return Banner(_TITLES[decision.name], decision.sentence, _TONES[decision.name], facts)


def _headline(entry: Evidence) -> list[Block]:
    plot = closeness_plot(entry)
    if plot is None:
        return [Paragraph("All samples and all reference points lie on training points.")]
    words = reference_words(entry)
    size = entry.distances.size("train" if entry.shares is None else "heldout")
    expected = percent(entry.copies.rank / (size + 1))
    share = percent(entry.copies.count / len(entry.copies.scores))
    own = "" if entry.shares is not None else " Each training point is seen by the others."
    return [
        Figure(
            "closeness",
            plot,
            f"How close the samples are to the training data, and how close {words} are. Top: "
            "distribution of the distance. Bottom: share of points at most this close; the grey "
            "band is where samples that copy nothing would lie. The dashed line is the threshold "
            f"below which {expected} of the {words} lie, and {share} of the samples.{own}",
            "Histogram and cumulative distribution of the distance to the nearest training "
            f"point, for samples and {words}. {share} of the samples lie below the threshold, "
            f"where {expected} would without copying.",
        )
    ]


def _advice(result: AuditResult) -> Block:
    if not result.advice:
        return Paragraph("Nothing was found that calls for action.")
    return Table(
        "Findings and what follows from them",
        ("Finding", "What to do"),
        [(one.finding, one.action) for one in result.advice],
        stacked=True,
    )


def _tests(result: AuditResult) -> list[Block]:
    heldout = _decisive(result).shares is not None
    rule = (
        "The verdict is `memorizing` if the combined p-value is at most "
        f"{result.settings.level:g}. Copies have to show twice: more samples than chance allows "
        "are close to train by distance, and on the local scale, which a model with too little "
        "variance does not move; the larger p-value of the two counts. Samples that repeat each "
        "other count as fewer, so that collapse to a few points does not pass for copying."
    )
    if heldout:
        rule += (
            " Or the exchange test has to see it: samples are nearer to training points than to "
            "held-out ones. Twice the smaller of both p-values is the combined one."
        )
    if len(result.evidence) > 1:
        rule += f" It is multiplied by the {len(result.evidence)} descriptors."
    rule += (
        f" Otherwise it is `not detected` if the upper bound is at most the resolution of "
        f"{percent_given(result.settings.resolution)}, else `inconclusive`."
    )
    return [
        Paragraph(rule),
        rule_table(result.evidence, result.decision),
        *(test_table(entry, 0.95) for entry in result.evidence),
    ]


def _measurements(result: AuditResult) -> list[Block]:
    intro = (
        "Published measures of memorisation, fidelity and diversity, each beside its value "
        "without memorisation. None has a value that is good in itself: compare the columns."
    )
    return [Paragraph(intro), *(measurement_table(entry) for entry in result.evidence)]


def _extraction(result: AuditResult) -> list[Block]:
    found = result.extraction
    if found is None:
        return [
            Paragraph(
                "Copying was not shown, so nothing counts as extracted."
                if result.verdict != "memorizing"
                else "No single sample is suspicious enough to count as a copy."
            )
        ]
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


def _sensitivity(result: AuditResult) -> list[Block]:
    seed = result.settings.seed
    decisive = _decisive(result)
    words = reference_words(decisive)
    names = " and ".join(entry.name for entry in result.evidence[:4])
    return [
        Paragraph(
            "Does the finding depend on the threshold or on the features? Copies stay above the "
            "band at small quantiles; a distribution that is shifted as a whole leaves it slowly, "
            "at large ones. How each descriptor decides stands in the first table of the tests."
        ),
        Figure(
            "sensitivity",
            sensitivity_plot(result.evidence[:4], seed),
            f"Estimated copied fraction against the quantile of the {words} that is the "
            "threshold. Bars are intervals of 95%, the band is where the estimate by distance "
            "lies without copying.",
            f"Excess copies by {names} at quantiles from the smallest that the {words} resolve "
            "to 10%, with intervals.",
        ),
        sensitivity_table(decisive, seed),
    ]


def _provenance(result: AuditResult) -> list[Block]:
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
                (entry.name, entry.metric, _settings_text(entry.settings))
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
