"""Audit: samples and training data in, a calibrated verdict out.

The package is its function as well: ``memdiff.audit(generated=..., train=..., heldout=...)`` is
:func:`memdiff.audit.audit`.
"""

from typing import TYPE_CHECKING

from memdiff.public.callable_package import call_by
from memdiff.public.lazy import lazily

if TYPE_CHECKING:
    from memdiff.audit.advice import Advice
    from memdiff.audit.auditing import audit
    from memdiff.audit.evidence import Evidence
    from memdiff.audit.examination import Examination, Means, examine, judge
    from memdiff.audit.inputs import AuditInputs
    from memdiff.audit.pairing import CopiedPoint, Pair
    from memdiff.audit.panel import Measurement
    from memdiff.audit.planted.checking import SelfCheck, self_check
    from memdiff.audit.planted.row import Rate, SelfCheckRow
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
    "Examination",
    "Means",
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

__getattr__, __dir__ = lazily(__name__)
call_by(__name__, "audit")
