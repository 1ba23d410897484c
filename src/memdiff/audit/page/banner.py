"""The banner of a page that has a verdict: its title and tone."""

from __future__ import annotations

from collections.abc import Mapping

from memdiff.audit.verdict import Verdict, VerdictName
from memdiff.report import Banner
from memdiff.report.document import Tone

__all__ = ["verdict_banner"]

_WORDS: dict[VerdictName, tuple[str, Tone]] = {
    "memorizing": ("Memorizing", "bad"),
    "overfitting": ("Overfitting, no copies", "bad"),
    "not detected": ("Memorisation not detected", "good"),
    "inconclusive": ("Inconclusive", "caution"),
}


def verdict_banner(verdict: Verdict, facts: Mapping[str, str], *, of: str = "") -> Banner:
    """Return the banner of a verdict.

    Args:
        verdict: The verdict.
        facts: Numbers beside it.
        of: What it is of, where the page is about more, as in ``"The kept model"``.
    """
    title, tone = _WORDS[verdict.name]
    return Banner(f"{of}: {title.lower()}" if of else title, verdict.sentence, tone, facts)
