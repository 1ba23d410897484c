"""Audit: samples and training data in, a calibrated verdict out.

The package is its function as well: ``memdiff.audit(generated=..., train=..., heldout=...)`` is
:func:`memdiff.audit.audit`.
"""

from memdiff.audit.advice import Advice
from memdiff.audit.auditing import Examination, audit, examine, judge
from memdiff.audit.evidence import Evidence
from memdiff.audit.inputs import AuditInputs
from memdiff.audit.pairing import CopiedPoint, Pair
from memdiff.audit.panel import Measurement
from memdiff.audit.result import AuditResult
from memdiff.audit.self_check import SelfCheck, self_check
from memdiff.audit.self_check_row import Rate, SelfCheckRow
from memdiff.audit.settings import AuditSettings
from memdiff.audit.verdict import DescriptorTest, Verdict, decide
from memdiff.public.callable_package import call_by

__all__ = [
    "Advice",
    "AuditInputs",
    "AuditResult",
    "AuditSettings",
    "CopiedPoint",
    "DescriptorTest",
    "Evidence",
    "Examination",
    "Measurement",
    "Pair",
    "Rate",
    "SelfCheck",
    "SelfCheckRow",
    "Verdict",
    "audit",
    "decide",
    "examine",
    "judge",
    "self_check",
]

call_by(__name__, audit)
