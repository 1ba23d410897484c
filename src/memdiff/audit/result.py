"""The result of an audit: its findings, as JSON and as a page."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from memdiff.audit.findings import Findings
from memdiff.audit.page import write_page
from memdiff.audit.record import record
from memdiff.run.writing import replace_file

__all__ = ["AuditResult"]


class AuditResult(Findings):
    """Result of :func:`memdiff.audit.audit`: its :class:`Findings`, and ways to keep them."""

    def __repr__(self) -> str:
        return f"AuditResult({self.verdict!r}: {self.decision.sentence})"

    def _repr_html_(self) -> str:
        sentence = html.escape(self.decision.sentence)
        return f"<p><strong>{html.escape(self.verdict)}</strong> {sentence}</p>"

    def to_dict(self) -> dict[str, Any]:
        """Everything but the data, in plain types; ``"schema"`` is the version of the form."""
        return record(self)

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the result as JSON text, written to ``path`` as well if one is given."""
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
        return write_page(self, Path(path))
