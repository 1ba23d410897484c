"""Report of a reproduction: summary, one section per experiment, limitations, provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from memdiff.experiments.experiment import Experiment, Outcome
from memdiff.experiments.store import Finished
from memdiff.report.document import (
    Block,
    Callout,
    Cell,
    CellValue,
    Document,
    KeyValues,
    Paragraph,
    Section,
    Table,
)
from memdiff.report.html import format_number

__all__ = ["reproduction_document"]

INTRODUCTION = (
    "A diffusion model is trained to follow the score of noised data. On a finite training set "
    "the loss has one exact minimiser, and sampling with it returns training points: the model "
    "memorises [B25]. That minimiser is known in closed form, so the effect, its dynamics and "
    "what prevents it can be computed without training a network. Each section below asks one "
    "question about it, answers it by computation and puts the published value next to the answer."
)

LIMITATIONS = (
    "Published values of figures were read off the plots, which limits how closely they can be "
    "compared; each tolerance says by how much. Published fractions and ours are both shares of "
    "finite samples: unless a section says that they start from the same random numbers, they can "
    "agree in distribution only.",
    "An agreement within a tolerance is not a proof of equality; at the quick preset samples are "
    "small and tolerances wide. Where the published column is a dash, or names a theoretical "
    "value, the publication prints no number to compare with.",
    "The report covers the experiments of its summary table and no others.",
)


def reproduction_document(
    results: Mapping[str, Any],
    experiments: Mapping[str, Experiment],
    finished: Mapping[str, Finished],
    failures: Mapping[str, str],
) -> Document:
    """Compose the report of a run.

    Args:
        results: Content of ``results.json``.
        experiments: The experiments that could be imported, by name.
        finished: The finished ones, by name, in the order of the run.
        failures: Tracebacks of the failed ones, by name.

    Returns:
        The document.
    """
    origin = results["provenance"]
    sections = [Section("Summary", (_summary(experiments, finished, failures),), key="summary")]
    for name, one in finished.items():
        sections.append(_section(experiments[name], one))
    for name, trace in failures.items():
        title = experiments[name].title if name in experiments else name
        last = trace.splitlines()[-1]
        sections.append(
            Section(
                title,
                (Callout(f"`{last}`", title="This experiment failed", tone="bad"),),
                key=name,
            )
        )
    sections.append(
        Section("Limitations", [Paragraph(text) for text in LIMITATIONS], key="limitations")
    )
    sections.append(Section("Provenance", (_provenance(origin),), key="provenance"))
    return Document(
        title="Memorisation in diffusion models: measured next to published",
        subtitle=(
            f"memdiff {origin['versions']['memdiff']} · preset {results['preset']} · "
            f"seed {origin['seed']} · {origin['date'][:10]}"
        ),
        lead=_lead(finished, failures),
        sections=sections,
        references=["B25", *(key for one in experiments.values() for key in one.needs)],
        footer=f"Made with `{origin['command']}`.",
    )


def _lead(finished: Mapping[str, Finished], failures: Mapping[str, str]) -> list[Block]:
    judged = [one.outcome.within for one in finished.values() if one.outcome.within is not None]
    seconds = sum(one.seconds for one in finished.values())
    if not judged:
        agree = "No experiment of this run has a published value to agree with."
    elif len(judged) == 1:
        verdict = "agrees" if judged[0] else "does not agree"
        agree = (
            "The one experiment that has a published or theoretical value "
            f"{verdict} with it within the stated tolerance."
        )
    else:
        agree = (
            f"{sum(judged)} of the {len(judged)} experiments that have a published or "
            "theoretical value agree with it within the stated tolerance."
        )
    plural = "" if len(finished) == 1 else "s"
    lead: list[Block] = [
        Paragraph(INTRODUCTION),
        Paragraph(f"{agree} The {len(finished)} experiment{plural} took {seconds:.0f} seconds."),
    ]
    if failures:
        lead.append(
            Callout(
                f"No result: {', '.join(failures)}. Their sections hold the errors.",
                title=f"{len(failures)} experiment(s) failed",
                tone="bad",
            )
        )
    return lead


def _agreement(within: bool | None) -> Cell:
    if within is None:
        return Cell("– no value", tone="neutral", sort=2)
    return Cell("✓ agrees", tone="good", sort=0) if within else Cell("✗ differs", "bad", sort=1)


def _summary(
    experiments: Mapping[str, Experiment],
    finished: Mapping[str, Finished],
    failures: Mapping[str, str],
) -> Table:
    rows: list[list[CellValue]] = []
    for name, one in finished.items():
        experiment, outcome = experiments[name], one.outcome
        rows.append(
            [
                Cell(experiment.title, link=name, note=experiment.question),
                outcome.measured_text or outcome.finding,
                outcome.published_text or None,
                _agreement(outcome.within),
                Cell(f"{one.seconds:.1f}", sort=one.seconds),
            ]
        )
    for name in failures:
        title = experiments[name].title if name in experiments else name
        note = experiments[name].question if name in experiments else ""
        rows.append(
            [Cell(title, link=name, note=note), None, None, Cell("✗ failed", "bad", sort=3), None]
        )
    return Table(
        "What was asked, measured and published.",
        ("Experiment and question", "Measured", "Published", "Agreement", "Seconds"),
        rows,
        note="Agreement: measured and published differ by no more than the tolerance stated in "
        "the section of the experiment.",
        stacked=True,
    )


def _section(experiment: Experiment, one: Finished) -> Section:
    outcome = one.outcome
    published = outcome.published_text or (
        "See the table below." if outcome.published is not None else "No value."
    )
    facts = {
        "Asked": experiment.question,
        "Measured": outcome.finding,
        "Published": published,
    }
    if outcome.within is not None:
        facts["Agreement"] = "✓ Agrees." if outcome.within else "✗ Differs by more than allowed."
    if outcome.tolerance:
        facts["Tolerance"] = outcome.tolerance
    facts["Reference"] = experiment.reference
    blocks: list[Block] = [KeyValues(facts, title="The experiment in brief", prose=True)]
    blocks.extend(outcome.figures)
    blocks.extend(outcome.tables or _plain_tables(outcome))
    return Section(experiment.title, blocks, key=experiment.name)


def _plain_tables(outcome: Outcome) -> list[Table]:
    """Measured next to published values for an outcome that brings no table of its own."""
    published = outcome.published or {}
    names = [*outcome.measured, *(name for name in published if name not in outcome.measured)]
    rows = [
        [name, _short(outcome.measured.get(name)), _short(published.get(name))] for name in names
    ]
    return [Table("Values.", ("Quantity", "Measured", "Published"), rows)] if rows else []


def _short(value: object, limit: int = 160) -> CellValue:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
        text = ", ".join(map(format_number, value)) if numbers else json.dumps(value)
    else:
        text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= limit else f"{text[:limit]}… (whole in `results.json`)"


def _provenance(origin: Mapping[str, Any]) -> KeyValues:
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    resumed = ", ".join(origin["resumed"])
    return KeyValues(
        {
            "Command": f"`{origin['command']}`",
            "Date (UTC)": origin["date"],
            "Seed": str(origin["seed"]),
            "Versions": versions,
            "Commit": origin["commit"],
            "Source (SHA-256)": f"`{origin['source_sha256']}`",
            "Platform": origin["platform"],
            "Processor": f"{origin['cpu']}, {origin['cores']} cores, {origin['threads']} threads",
            "Taken up from an earlier run": resumed or None,
        },
        title="Provenance",
    )
