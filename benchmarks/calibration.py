"""Write ``docs/calibration.md`` and its figure from the result of the audit's self-check.

memdiff audit --self-check --preset full --out check
python -m benchmarks.calibration check/self_check.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from memdiff.data import replace_file
from memdiff.report.figures import PALETTE, figure_png, new_panels

DOCS = Path("docs")
SHARES = {"0.5 %": 0.5, "1 %": 1.0, "2 %": 2.0, "5 %": 5.0, "20 %": 20.0, "100 %": 100.0}


def main() -> None:
    """Read the result, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    result = json.loads(parser.parse_args().result.read_text("utf-8"))
    rows = result["rows"]
    with replace_file(DOCS / "calibration.png") as temporary:
        temporary.write_bytes(figure(rows))
    with replace_file(DOCS / "calibration.md") as temporary:
        temporary.write_text(page(result, rows), encoding="utf-8")


def figure(rows: list[dict[str, Any]]) -> bytes:
    """Power against the copied share, and rejection without copying against the level."""
    drawing, axes = new_panels(1, 2, width=11.0, height=4.2)
    left, right = axes[0]
    sizes = sorted({row["size"] for row in rows})
    styles = {size: style for size, style in zip(sizes, (":", "--", "-"), strict=False)}
    for color, dimension in zip(PALETTE, (2, 8, 32, 128), strict=False):
        for size in sizes:
            points = [
                (SHARES[row["case"].removeprefix("exact copies ")], row)
                for row in rows
                if row["case"].startswith("exact copies")
                and (row["dimension"], row["size"]) == (dimension, size)
            ]
            points.sort(key=lambda point: point[0])
            if points:
                left.plot(
                    [share for share, _ in points],
                    [100 * row["verdicts"]["memorizing"]["value"] for _, row in points],
                    styles[size],
                    color=color,
                    marker="o",
                    markersize=4,
                    label=f"d = {dimension}, size {size}",
                )
    left.set_xscale("log")
    left.set_xlabel("copied share of the samples (%)")
    left.set_ylabel('verdict "memorizing" (% of draws)')
    left.legend(fontsize=7, loc="lower right")
    fresh = [row for row in rows if not row["memorizes"]]
    levels = (1, 5, 10)
    names = ("verdict", "copy", "exchange")
    for color, name in zip(PALETTE, names, strict=False):
        for row in fresh:
            if name in row["rejections"]:
                rates = [100 * rate["value"] for rate in row["rejections"][name]]
                right.plot(levels, rates, color=color, alpha=0.12, linewidth=1)
        pooled = [pooled_rate(fresh, name, index) for index in range(3)]
        right.plot(levels, pooled, color=color, marker="o", label=f"{name}, all draws together")
    right.plot((0, 10), (0, 10), color="black", linestyle=(0, (4, 3)), label="rate = level")
    right.set_xlabel("level (%)")
    right.set_ylabel("rejections without copying (% of draws)")
    right.set_ylim(0, 16)
    right.legend(fontsize=7, loc="upper left")
    return figure_png(drawing)


def pooled_rate(rows: list[dict[str, Any]], name: str, index: int) -> float:
    """Share of all draws that a test rejects, in percent."""
    found = [row["rejections"][name][index] for row in rows if name in row["rejections"]]
    return 100 * sum(one["hits"] for one in found) / sum(one["trials"] for one in found)


def page(result: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The page in Markdown."""
    fresh = [row for row in rows if not row["memorizes"]]
    hits = sum(row["verdicts"]["memorizing"]["hits"] for row in fresh)
    trials = sum(row["repetitions"] for row in fresh)
    worst = max(fresh, key=lambda row: row["verdicts"]["memorizing"]["value"])
    rate = worst["verdicts"]["memorizing"]
    problems = "\n".join(f"- {problem}" for problem in result["problems"]) or (
        "None: no rate is above what is claimed, and none of the demanded powers is missed, "
        "beyond chance (99 %, corrected over the rows)."
    )
    return f"""# How often the audit is wrong

The rule of the verdict stands in [`memdiff.audit.verdict`](../src/memdiff/audit/verdict.py).
This page measures it on planted truth: data of known laws, with and without copies, put through what `memdiff audit` runs, at its default settings (level {result["settings"]["level"]:g}, flagged list at {result["settings"]["false_discovery_rate"]:g}).
It is written by `python -m benchmarks.calibration` from `memdiff audit --self-check --preset {result["preset"]} --seed {result["seed"]}`; no number is typed.

![Power and false positives](calibration.png)

Left: how often exact copies are found, by their share, dimension and size (numbers of samples, training points and held-out points are equal). Right: how often the tests reject where nothing is copied; thin lines are single cases, `copy` is the larger of the two exceedance p-values.

Without copying, {hits} of {trials} draws ({100 * hits / trials:.2f} %) were called memorizing, over {len(fresh)} cases of fresh data, wrong variance, collapse, doubled training sets and overlap. The highest rate of one case is {100 * rate["value"]:.1f} % ({100 * rate["low"]:.1f} to {100 * rate["high"]:.1f} %): {worst["case"]}, {worst["law"]}, d = {worst["dimension"]}, size {worst["size"]}.

## What it does not see

Copies that plain distances hide: a mirrored or shifted copy with the invariance off, and near copies whose noise is as large as the distance between neighbours. Half a percent of copies among 200 samples is one sample.

## Problems found

{problems}

## No copies

{table(fresh)}

## Copies

{table([row for row in rows if row["memorizes"]])}
"""


def table(rows: list[dict[str, Any]]) -> str:
    """One line a case, dimension and size; rates in percent."""
    lines = [
        "| case | law | d | size | draws | memorizing | not detected | inconclusive "
        "| copies flagged | false among flagged |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        verdicts = row["verdicts"]
        one = verdicts["memorizing"]
        rates = [
            f"{100 * one['value']:.0f} ({100 * one['low']:.0f} to {100 * one['high']:.0f})",
            f"{100 * verdicts['not detected']['value']:.0f}",
            f"{100 * verdicts['inconclusive']['value']:.0f}",
            "-" if row["found"] is None else f"{100 * row['found']:.0f}",
            f"{100 * row['false_discoveries']:.1f}",
        ]
        head = [row["case"], row["law"], row["dimension"], row["size"], row["repetitions"]]
        lines.append("| " + " | ".join(map(str, [*head, *rates])) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
