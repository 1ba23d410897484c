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
