"""Journal of a run, ``metrics.jsonl``: one JSON record per line, exact after a resume."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from memdiff.run.writing import replace_file

__all__ = ["Journal", "read_journal"]


class Journal:
    """Records of a run, each with the number of its step.

    A run that is killed has written records of steps after its last checkpoint, and perhaps half
    a line. It does those steps again; opened with ``upto`` the step of the checkpoint, the journal
    drops them, so that no step is recorded twice.

    Args:
        path: The file; it is created if it does not exist.
        upto: Last step to keep; a negative one starts anew.
    """

    def __init__(self, path: str | Path, *, upto: int = 0) -> None:
        self.path = Path(path)
        earlier = read_journal(self.path) if upto >= 0 else ()
        kept = [record for record in earlier if record["step"] <= upto]
        with replace_file(self.path) as temporary:
            temporary.write_text("".join(map(_line, kept)), encoding="utf-8")

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record, which must have a ``"step"``; it is with the system when this returns.

        Raises:
            ValueError: If the record has no step, or a number is not finite.
        """
        if "step" not in record:
            raise ValueError(f"record must have a 'step', got the keys {', '.join(record)}.")
        line = _line(record)
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(line)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error


def read_journal(path: str | Path) -> Iterator[dict[str, Any]]:
    """Read the records of a journal in order; a last line that was cut short is left out.

    Args:
        path: The file; none is the same as an empty one.

    Yields:
        The records.

    Raises:
        ValueError: If a line is no record; the message says which.
    """
    file = Path(path)
    if not file.is_file():
        return
    text = file.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if line.endswith("\n"):
            yield _record(line, f"line {number} of {str(file)!r}")


def _record(line: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise ValueError(
            f"{place} is damaged, it is no record of a step: remove that line, and the same "
            "command goes on."
        )
    return record


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"
