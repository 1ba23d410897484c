"""Tables of measurements: the registry's entry, the merged file, the Markdown."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import scaling_figure
from memdiff.run.provenance import provenance
from memdiff.run.writing import replace_file, write_json

__all__ = ["Table", "markdown", "measure", "merge", "read"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """One table of the benchmark.

    Attributes:
        module: Module with ``run(size, repeats) -> list[dict]``, where ``size`` is ``"small"``
            (a minute) or ``"full"`` (the sizes of the targets). One dict is one row; numbers,
            text and None are shown as they are, a missing key as a dash. It is imported when the
            table is asked for.
        caption: What is measured, for the Markdown page: columns, units, the target.
    """

    module: str
    caption: str


def measure(name: str, table: Table, size: str, repeats: int) -> dict[str, Any]:
    """Run one table.

    Args:
        name: Its name.
        table: Its entry.
        size: ``"small"`` or ``"full"``.
        repeats: Runs in turns of which the shortest counts.

    Returns:
        ``rows``, ``caption``, ``size``, ``seconds`` and ``provenance`` of this table.
    """
    start = time.perf_counter()
    rows = importlib.import_module(table.module).run(size, repeats)
    return {
        "caption": table.caption,
        "size": size,
        "repeats": repeats,
        "seconds": round(time.perf_counter() - start, 1),
        "provenance": provenance(seed=0, command=f"python -m benchmarks --only {name}"),
        "rows": rows,
    }


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The tables kept in a folder, by name; empty where there are none."""
    path = folder / "results.json"
    return json.loads(path.read_text("utf-8"))["tables"] if path.is_file() else {}


def merge(folder: Path, name: str, found: Mapping[str, Any], order: list[str]) -> None:
    """Put one table into the files of a folder and leave the others as they are.

    Args:
        folder: Holds ``results.json`` and ``results.md``.
        name: Name of the table.
        found: What :func:`measure` gave; of the scans the figure is drawn too.
        order: Names in the order of the page.
    """
    tables = {**read(folder), name: dict(found)}
    tables = {key: tables[key] for key in (*order, *sorted(tables)) if key in tables}
    write_json(folder / "results.json", {"schema": 2, "tables": tables})
    if name == "scaling":
        scaling_figure(found["rows"], folder / "scaling.png")
    with replace_file(folder / "results.md") as temporary:
        temporary.write_text(markdown(tables), encoding="utf-8")


def markdown(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """The page: one section a table, each with the machine that it was measured on."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `python -m benchmarks`; how to read it: "
        "[docs/benchmarks.md](../../docs/benchmarks.md).",
        "Columns without a unit are ratios to the floor of their row: the bare matrix products, "
        "measured in turns in the same run.",
    ]
    for name, table in tables.items():
        lines += ["", f"## {name}", "", table["caption"], ""]
        if name == "scaling":
            lines += ["![Time and memory of one evaluation](scaling.png)", ""]
        lines += rows_markdown(table["rows"])
        lines += ["", f"{_machine(table)}"]
    return "\n".join(lines) + "\n"


def rows_markdown(rows: list[Row]) -> list[str]:
    """The lines of a Markdown table; columns in the order in which rows name them."""
    header = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        lines.append("| " + " | ".join(_cell(row.get(key)) for key in header) + " |")
    return lines


def _machine(table: Mapping[str, Any]) -> str:
    origin = table["provenance"]
    commit = (origin["commit"] or "unknown")[:12]
    return (
        f"Measured {origin['date'][:16].replace('T', ' ')} UTC at size {table['size']}, shortest "
        f"of {table['repeats']}: {origin['cpu']}, {origin['threads']} threads, torch "
        f"{origin['versions']['torch']}, commit {commit}."
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
