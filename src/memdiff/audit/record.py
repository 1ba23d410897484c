"""The findings of an audit in plain types: the content of ``report.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from memdiff.audit.evidence import Evidence
from memdiff.audit.findings import Findings
from memdiff.metrics import MetricResult

__all__ = ["SCHEMA", "plain", "record", "summary"]

SCHEMA = 2
"""Version of the form, described in ``docs/report.md``."""


def record(found: Findings) -> dict[str, Any]:
    """Everything but the data, in plain types; ``"schema"`` is the version of the form."""
    inputs = found.inputs
    return {
        "schema": SCHEMA,
        "verdict": found.verdict,
        "decision": plain(found.decision),
        "copied": dict(zip(("estimate", "low", "high"), found.copied, strict=True)),
        "flagged": list(found.flagged),
        "gate": {"fail_above": found.settings.fail_above, "failed": found.gate_failed},
        "advice": plain(found.advice),
        "pairs": plain(found.pairs),
        "copied_points": plain(found.copied_points),
        "extraction": None if found.extraction is None else summary(found.extraction),
        "duplicates": {
            "groups": int((inputs.duplicates.sizes > 1).sum()),
            "redundant": inputs.duplicates.num_redundant,
            "largest": int(inputs.duplicates.sizes.max()),
            "tolerance": inputs.tolerance,
        },
        "overlap": plain(inputs.overlap),
        "groups": {name: len(labels.unique()) for name, labels in inputs.groups.items()},
        "compared": {name: len(index) for name, index in inputs.compared.items()},
        "repeated_samples": inputs.repeated_samples,
        "samples_on_train": inputs.samples_on_train,
        "notes": list(inputs.notes),
        "evidence": [_evidence(entry) for entry in found.evidence],
        "data": {
            name: {
                "source": data.source,
                "points": len(data),
                "shape": list(data.shape),
                "kind": data.kind,
                "encoding": data.encoding,
                "sha256": data.sha256,
                "notes": list(data.notes),
            }
            for name, data in inputs.sets.items()
        },
        "settings": plain(found.settings),
        "provenance": dict(found.provenance),
    }


def plain(value: Any) -> Any:  # noqa: ANN401
    """Dataclasses, tensors and numbers as JSON holds them; infinities and NaN become None."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _evidence(entry: Evidence) -> dict[str, Any]:
    tests = entry.tests
    found: dict[str, Any] = {
        "descriptor": entry.name,
        "settings": plain(entry.features.settings),
        "metric": entry.metric,
        "exchangeability": plain(entry.exchangeability),
        "tests": None,
        "measurements": [
            {
                "title": one.title,
                "meaning": one.meaning,
                "problem": one.problem,
                "result": None if one.result is None else summary(one.result),
            }
            for one in entry.measurements
        ],
        "measured_points": entry.measured,
    }
    if tests is not None:
        found["tests"] = {
            "p_copy": tests.p_copy,
            "p_share": tests.p_share,
            "tail": summary(tests.tail),
            "share": summary(tests.share),
            "local_exceedance": None if tests.local is None else summary(tests.local),
            "repeated_cell": None if tests.cell is None else summary(tests.cell),
            "copied_fraction": summary(tests.fraction),
            "resolved": summary(tests.resolved),
            "list": summary(tests.list),
            "undecided": tests.competition.undecided,
        }
    return found


def summary(result: MetricResult) -> dict[str, Any]:
    """The fields of a result other than one number per sample."""
    return {
        field.name: plain(getattr(result, field.name))
        for field in fields(result)
        if not isinstance(getattr(result, field.name), Tensor)
    }
