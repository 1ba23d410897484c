"""What an audit has found: verdict, flagged samples, pairs, evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memdiff.audit.advice import Advice
from memdiff.audit.evidence import Evidence
from memdiff.audit.inputs import AuditInputs
from memdiff.audit.pairing import CopiedPoint, Pair
from memdiff.audit.settings import AuditSettings
from memdiff.audit.verdict import Verdict
from memdiff.metrics import Extraction

__all__ = ["Findings"]


@dataclass(frozen=True)
class Findings:
    """Findings of an audit.

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
