"""The result of an audit: verdict, pairs, evidence; as JSON and as a page."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from memdiff.audit.advice import Advice
from memdiff.audit.evidence import Evidence
from memdiff.audit.inputs import AuditInputs
from memdiff.audit.pairing import CopiedPoint, Pair
from memdiff.audit.settings import AuditSettings
from memdiff.audit.verdict import Verdict
from memdiff.metrics import Extraction, MetricResult

__all__ = ["SCHEMA", "AuditResult"]

SCHEMA = 2


@dataclass(frozen=True)
class AuditResult:
    """Result of :func:`memdiff.audit.audit`.

    Attributes:
        verdict: ``"memorizing"``, ``"overfitting"``, ``"not detected"`` or ``"inconclusive"``.
        decision: The verdict with its numbers.
        gate_failed: Whether the gate of ``settings.fail_above`` failed.
        flagged: Index of the samples that count as copies; empty unless the verdict is
            ``"memorizing"``.
        advice: What to do.
        pairs: The most suspicious pairs and all flagged ones, the closest first.
        copied_points: Training points with flagged samples, the most copied first.
        extraction: Extracted share and its extrapolation, or None where nothing is flagged.
        evidence: One entry per descriptor.
        inputs: The sets.
        settings: What was asked.
        provenance: Versions, machine, date, hashes of the data.
    """

    verdict: str
    decision: Verdict
    gate_failed: bool
    flagged: Sequence[int]
    advice: Sequence[Advice]
    pairs: Sequence[Pair]
    copied_points: Sequence[CopiedPoint]
    extraction: Extraction | None
    evidence: Sequence[Evidence]
    inputs: AuditInputs
    settings: AuditSettings
    provenance: Mapping[str, Any]

    @property
    def copied(self) -> tuple[float, float, float]:
        """Estimated copied fraction with its lower and upper confidence limit."""
        return self.decision.copied, self.decision.copied_low, self.decision.copied_high

    def __repr__(self) -> str:
        return f"AuditResult({self.verdict!r}: {self.decision.sentence})"

    def _repr_html_(self) -> str:
        estimate, low, high = self.copied
        count = {name: len(data) for name, data in self.inputs.sets.items()}
        rows = {
            "copied fraction": f"{estimate:.1%} ({low:.1%} to {high:.1%})",
            "flagged samples": f"{len(self.flagged):,} of {count['generated']:,}",
            "training points": f"{count['train']:,}",
            "held-out points": f"{count['heldout']:,}" if "heldout" in count else "none",
        }
        cells = "".join(f"<tr><th>{name}</th><td>{text}</td></tr>" for name, text in rows.items())
        advice = "".join(
            f"<li>{html.escape(f'{one.finding} {one.action}')}</li>" for one in self.advice
        )
        return (
            f"<p><strong>{html.escape(self.verdict)}</strong>: "
            f"{html.escape(self.decision.sentence)}</p><table>{cells}</table><ul>{advice}</ul>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything but the data, in plain types; ``"schema"`` is the version of the form."""
        inputs = self.inputs
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "decision": plain(self.decision),
            "copied": dict(zip(("estimate", "low", "high"), self.copied, strict=True)),
            "flagged": list(self.flagged),
            "gate": {"fail_above": self.settings.fail_above, "failed": self.gate_failed},
            "advice": plain(self.advice),
            "pairs": plain(self.pairs),
            "copied_points": plain(self.copied_points),
            "extraction": None if self.extraction is None else summary(self.extraction),
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
            "evidence": [_evidence(entry) for entry in self.evidence],
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
            "settings": plain(self.settings),
            "provenance": dict(self.provenance),
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """The result as JSON text, written to ``path`` as well if one is given."""
        import json

        from memdiff.data import replace_file

        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        if path is not None:
            with replace_file(path) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        return text

    def to_html(self, path: str | Path) -> Path:
        """Write the result as one page that opens offline.

        Args:
            path: Where to write.

        Returns:
            The path.
        """
        from memdiff.audit.page import write_page

        return write_page(self, Path(path))


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
    """The fields of a result that are not one number a sample."""
    return {
        field.name: plain(getattr(result, field.name))
        for field in fields(result)
        if not isinstance(getattr(result, field.name), Tensor)
    }
