"""The result of an audit: verdict, pairs, evidence; as JSON and as a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from memdiff.audit.advice import Advice
from memdiff.audit.evidence import Evidence
from memdiff.audit.inputs import AuditInputs
from memdiff.audit.settings import AuditSettings
from memdiff.audit.verdict import Verdict
from memdiff.metrics import Extraction, MetricResult

__all__ = ["SCHEMA", "AuditResult", "CopiedPoint", "Pair"]

SCHEMA = 1


@dataclass(frozen=True)
class Pair:
    """A sample and what it resembles.

    Attributes:
        sample: Index of the sample.
        sample_name: Its name (file or row).
        train: Index of the nearest training point.
        train_name: Its name.
        heldout: Index of the nearest held-out point (after removal of overlap), or None.
        heldout_name: Its name, or None.
        distance: Distance to the training point, in the descriptor's units.
        heldout_distance: Distance to the held-out point, or None.
        ratio: Distance over that of the second training point (of another group of duplicates).
        p_value: Conformal p-value: the larger of those by distance and on the local scale.
        flagged: Whether the sample is on the list with controlled false-discovery rate.
        variant: Transform under which it is closest.
        descriptor: Descriptor that the distances belong to.
    """

    sample: int
    sample_name: str
    train: int
    train_name: str
    heldout: int | None
    heldout_name: str | None
    distance: float
    heldout_distance: float | None
    ratio: float
    p_value: float
    flagged: bool
    variant: str
    descriptor: str


@dataclass(frozen=True)
class CopiedPoint:
    """A training point and how often it was copied.

    Attributes:
        train: Index of the training point.
        name: Its name.
        copies: Number of suspicious samples that are nearest to it.
        duplicates: Number of training points in its group of duplicates.
        best: Index of its closest sample.
        distance: Distance of that sample.
    """

    train: int
    name: str
    copies: int
    duplicates: int
    best: int
    distance: float


@dataclass(frozen=True)
class AuditResult:
    """Result of :func:`memdiff.audit.audit`.

    Attributes:
        verdict: ``"memorizing"``, ``"not detected"`` or ``"inconclusive"``.
        decision: The verdict with its numbers.
        gate_failed: Whether the gate of ``settings.fail_above`` failed.
        advice: What to do.
        pairs: The most suspicious pairs and all flagged ones, the closest first.
        copied_points: Training points with suspicious samples, the most copied first.
        extraction: Extracted share and its extrapolation, or None where nothing was copied.
        evidence: One entry a descriptor.
        inputs: The sets.
        settings: What was asked.
        provenance: Versions, machine, date, hashes of the data.
    """

    verdict: str
    decision: Verdict
    gate_failed: bool
    advice: Sequence[Advice]
    pairs: Sequence[Pair]
    copied_points: Sequence[CopiedPoint]
    extraction: Extraction | None
    evidence: Sequence[Evidence]
    inputs: AuditInputs
    settings: AuditSettings
    provenance: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"AuditResult({self.verdict!r}: {self.decision.sentence})"

    def to_dict(self) -> dict[str, Any]:
        """Everything but the data, in plain types; ``"schema"`` is the version of the form."""
        inputs = self.inputs
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "decision": plain(self.decision),
            "gate": {"fail_above": self.settings.fail_above, "failed": self.gate_failed},
            "advice": plain(self.advice),
            "pairs": plain(self.pairs),
            "copied_points": plain(self.copied_points),
            "extraction": plain(self.extraction),
            "duplicates": {
                "groups": int((inputs.duplicates.sizes > 1).sum()),
                "redundant": inputs.duplicates.num_redundant,
                "largest": int(inputs.duplicates.sizes.max()),
                "tolerance": inputs.tolerance,
            },
            "overlap": {
                "removed": list(inputs.overlap),
                "kept": inputs.overlap_kept,
            },
            "repeated_samples": inputs.repeated_samples,
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
    return {
        "descriptor": entry.name,
        "settings": plain(entry.settings),
        "metric": entry.metric,
        "p_value": entry.test.p_value,
        "test": plain(asdict(entry.test)),
        "clumping": plain(entry.clumping),
        "exceedance_distance": summary(entry.by_distance),
        "exceedance_local": summary(entry.by_scale),
        "exchange": None if entry.shares is None else summary(entry.shares),
        "excess_copies": summary(entry.copies),
        "closer_than_all": summary(entry.closest),
        "conformal": summary(entry.flags),
        "conformal_local": None if entry.local_flags is None else summary(entry.local_flags),
        "measurements": [
            {
                "title": one.title,
                "meaning": one.meaning,
                "problem": one.problem,
                "result": None if one.result is None else summary(one.result),
            }
            for one in entry.measurements
        ],
    }


def summary(result: MetricResult) -> dict[str, Any]:
    """The fields of a result that are not one number a sample."""
    return {
        field.name: plain(getattr(result, field.name))
        for field in fields(result)
        if not isinstance(getattr(result, field.name), Tensor)
    }
