"""Audit: samples and training data in, a calibrated verdict out."""

from memdiff.audit.advice import Advice
from memdiff.audit.auditing import audit, judge
from memdiff.audit.evidence import Evidence, Measurement
from memdiff.audit.inputs import AuditInputs
from memdiff.audit.pairing import CopiedPoint, Pair
from memdiff.audit.result import AuditResult
from memdiff.audit.settings import AuditSettings
from memdiff.audit.verdict import DescriptorTest, Verdict, decide

__all__ = [
    "Advice",
    "AuditInputs",
    "AuditResult",
    "AuditSettings",
    "CopiedPoint",
    "DescriptorTest",
    "Evidence",
    "Measurement",
    "Pair",
    "Verdict",
    "audit",
    "decide",
    "judge",
]
