"""Write ``docs/calibration.md`` and its figure from the result of the audit's self-check.

memdiff audit --self-check --preset full --out check
python -m benchmarks.calibration check/self_check.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memdiff.audit.planted.table import TITLES
from memdiff.report.figures import PALETTE, figure_png, new_panels
from memdiff.run.writing import replace_file

DOCS = Path("docs")
VERDICTS = ("memorizing", "overfitting", "not detected", "inconclusive")
EXACT = "exact copies "

Row = dict[str, Any]


def main() -> None:
    """Read the result, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    result = json.loads(parser.parse_args().result.read_text("utf-8"))
    with replace_file(DOCS / "calibration.png") as temporary:
        temporary.write_bytes(figure(result["rows"]))
    with replace_file(DOCS / "calibration.md") as temporary:
        temporary.write_text(page(result, result["rows"]), encoding="utf-8")


def figure(rows: list[Row]) -> bytes:
    """Power against the copied share, and the verdicts of a kernel density against its width."""
    drawing, axes = new_panels(1, 2, width=11.0, height=4.2)
    left, right = axes[0]
    curves = [row for row in rows if row["case"].startswith(EXACT) and row["law"] == "Gaussian"]
    sizes = sorted({row["sizes"][0] for row in curves})
    dimensions = sorted({row["dimension"] for row in curves})
    for color, dimension in zip(PALETTE, dimensions, strict=False):
        for style, size in zip((":", "--", "-"), sizes, strict=False):
            some = [r for r in curves if (r["dimension"], r["sizes"][0]) == (dimension, size)]
            some.sort(key=_share)
            left.plot(
                [_share(row) for row in some],
                [_percent(row, "memorizing") for row in some],
                style,
                color=color,
                marker="o",
                markersize=4,
                label=f"d = {dimension}, size {size}",
            )
    left.set_xscale("log")
    left.set_xlabel("copied share of the samples (%)")
    left.set_ylabel('verdict "memorizing" (% of draws)')
    left.legend(fontsize=7, loc="lower right")
    ladder = [row for row in rows if row["ladder"]]
    largest = max((row["sizes"][0] for row in ladder), default=0)
    for size in sorted({row["sizes"][0] for row in ladder}):
        some = sorted((r for r in ladder if r["sizes"][0] == size), key=lambda r: r["width"])
        for color, name in zip(PALETTE, ("memorizing", "overfitting", "neither"), strict=False):
            rates = [
                100 - _percent(row, *VERDICTS[:2]) if name == "neither" else _percent(row, name)
                for row in some
            ]
            right.plot(
                [row["width"] for row in some],
                rates,
                "-" if size == largest else ":",
                color=color,
                marker="o",
                markersize=4,
                label=f"{name}, size {size}",
            )
    right.set_xscale("log")
    right.set_xlabel("width of the kernel (distances between neighbours)")
    right.set_ylabel("verdict (% of draws)")
    right.legend(fontsize=7, loc="center left")
    return figure_png(drawing)


def _share(row: Row) -> float:
    return float(row["case"].removeprefix(EXACT).removesuffix(" %"))


def _hits(row: Row, *names: str) -> int:
    return sum(row["verdicts"][name]["hits"] for name in names)


def _percent(row: Row, *names: str) -> float:
    return 100 * _hits(row, *names) / row["repetitions"]


def page(result: dict[str, Any], rows: list[Row]) -> str:
    """The page in Markdown."""
    settings = result["settings"]
    fresh = [row for row in rows if row["truth"] == "fresh"]
    trials = sum(row["repetitions"] for row in fresh)
    wrong = sum(_hits(row, *VERDICTS[:2]) for row in fresh)
    accused = sum(_hits(row, "memorizing") for row in fresh)
    worst = max(fresh, key=lambda row: _percent(row, *VERDICTS[:2]))
    problems = "\n".join(f"- {problem}" for problem in result["problems"]) or (
        "None: no rate is above what is claimed, and none of what is demanded is missed, beyond "
        "chance (99 %, corrected over the rates)."
    )
    edits = [row for row in rows if " copies, " in row["case"] and row["law"] == "patches"]
    parts = [
        f"## {title}\n\n{table(some)}"
        for truth, title in TITLES.items()
        if (some := [r for r in rows if r["truth"] == truth and r not in edits])
    ]
    return f"""# How often the audit is wrong

The rule of the verdict stands in [`memdiff.audit.verdict`](../src/memdiff/audit/verdict.py).
This page measures it on planted truth: sets in which it is known what was copied, put through what `memdiff audit` runs, at its default settings (level {settings["level"]:g}, flagged list at {settings["false_discovery_rate"]:g}, resolution {settings["resolution"]:g}).
It is written by `python -m benchmarks.calibration` from `memdiff audit --self-check --preset {result["preset"]} --seed {result["seed"]}`; no number is typed.

There are four verdicts. **Memorizing**: some samples are copies of training points. **Overfitting**: the samples are nearer to the training points than chance allows, and none stands out as a copy. **Not detected**: no sign of either, and copies above the resolution would have been seen. **Inconclusive**: no sign of either, and copies could have gone unseen; or the sets allow no verdict (no held-out data, or train and held-out differ).

The cases are of four kinds. *No copies*: no sample depends on the training points, so "memorizing" and "overfitting" are errors. *No fair comparison*: held-out data are missing or of another source, or rows that belong together were not given as groups; "memorizing" and "overfitting" are errors here too. *Copies*: "memorizing" is right. *Made of training points, and no copies*: interpolation between neighbours (SMOTE) and kernel densities; either of the two may be said.

![Power, and verdicts of a kernel density](calibration.png)

Left: how often exact copies are found, by their share, dimension and size (as many samples, training points and held-out points). Right: a kernel density of the training points, from a tenth of the distance between neighbours to twice Silverman's width: copies first, then samples that follow the training points, then samples that are as good as fresh.

## Errors

Without copies, {wrong} of {trials} draws ({100 * wrong / trials:.2f} %) were called memorizing or overfitting, {accused} of them memorizing, over {len(fresh)} rows. The highest rate of one row is {_percent(worst, *VERDICTS[:2]):.1f} % of {worst["repetitions"]} draws: {worst["case"]}, {worst["law"]}, d = {worst["dimension"]}, {_sizes(worst)}. The rates of the single tests over all these draws:

{test_table(fresh)}

The tail and share tests are exact where train and held-out are exchangeable. The local exceedance and the repeated cell suppose in addition that fresh samples lie to train as held-out points do, which collapsed, shrunk or one-class samples need not.

## Problems found

{problems}

## Coverage

How often the 95 % interval of the copied fraction holds the true share, and the upper bound is not below it. Near copies have noise of at most 0.3 distances between neighbours; a copy that is farther from its point than a third of the distance to the next one (some are in few dimensions, and some samples of a kernel density in all) is not counted in the fraction, and the interval is then about fewer copies than there are.

{coverage_table(rows)}

{edited_section(edits)}

{chr(10).join(part + chr(10) for part in parts)}"""


def test_table(rows: Sequence[Row]) -> str:
    """How often each test rejects, over all draws of some rows."""
    names = ("tail", "share", "local", "cell", "exchangeability")
    lines = ["| test | level | rejections | draws | rate |", "|---|--:|--:|--:|--:|"]
    for name in names:
        found = [
            tests[name] for row in rows for tests in row["rejections"].values() if name in tests
        ]
        hits, trials = (sum(one[key] for one in found) for key in ("hits", "trials"))
        level = 0.01 if name == "exchangeability" else 0.05
        if trials:
            lines.append(f"| {name} | {level} | {hits} | {trials} | {100 * hits / trials:.2f} % |")
    return "\n".join(lines)


def _near(row: Row) -> bool:
    return bool(row["truth"] == "copies" and not row["exact"])


def coverage_table(rows: Sequence[Row]) -> str:
    """Coverage of the interval and of the bound, over all draws of a kind."""
    kinds = {
        "no copies": lambda row: row["truth"] == "fresh",
        "exact copies": lambda row: row["truth"] == "copies" and row["exact"],
        "near copies": lambda row: _near(row) and not row["ladder"],
        "near copies, d >= 8": lambda row: (
            _near(row) and not row["ladder"] and row["dimension"] >= 8
        ),
        "narrow kernel densities: all are copies": lambda row: _near(row) and row["ladder"],
    }
    lines = ["| samples | draws | interval holds | bound holds |", "|---|--:|--:|--:|"]
    for kind, belongs in kinds.items():
        some = [row for row in rows if row["covered"] is not None and belongs(row)]
        trials = sum(row["repetitions"] for row in some)
        if trials:
            rates = [
                f"{100 * sum(row[key]['hits'] for row in some) / trials:.1f} %"
                for key in ("covered", "bounded")
            ]
            lines.append(f"| {kind} | {trials} | {rates[0]} | {rates[1]} |")
    return "\n".join(lines)


def edited_section(rows: Sequence[Row]) -> str:
    """Power against edited copies by descriptor."""
    if not rows:
        return ""
    descriptors = list(rows[0]["rejections"])
    head = ["copies", "M : N : H", "draws", "verdict memorizing", *descriptors, "copies flagged"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "--:|" * (len(head) - 2)]
    for row in rows:
        seen = [f"{100 * row['rejections'][name]['all']['value']:.0f}" for name in descriptors]
        flagged = "-" if row["found"] is None else f"{100 * row['found']:.0f}"
        cells = [row["case"], _sizes(row), row["repetitions"], _interval(row, "memorizing")]
        lines.append("| " + " | ".join(map(str, [*cells, *seen, flagged])) + " |")
    return f"""## Edited copies

Patches of 32 x 32 pixels at random places of five photographs, which overlap within and across the sets; some samples are edited copies of training patches. In percent of the draws: the verdict with the default descriptors, and each descriptor on its own at the level.

{chr(10).join(lines)}"""


def table(rows: Sequence[Row]) -> str:
    """One line for each row; rates in percent."""
    lines = [
        "| case | data | d | M : N : H | draws | memorizing | overfitting | not detected "
        "| inconclusive | interval holds | copies flagged | false among flagged |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        cells = [
            row["case"],
            row["law"],
            row["dimension"],
            _sizes(row),
            row["repetitions"],
            _interval(row, "memorizing"),
            _interval(row, "overfitting"),
            f"{_percent(row, 'not detected'):.0f}",
            f"{_percent(row, 'inconclusive'):.0f}",
            "-" if row["covered"] is None else f"{100 * row['covered']['value']:.0f}",
            "-" if row["found"] is None else f"{100 * row['found']:.0f}",
            f"{100 * row['false_discoveries']:.1f}",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _sizes(row: Row) -> str:
    return " : ".join(map(str, row["sizes"]))


def _interval(row: Row, name: str) -> str:
    rate = row["verdicts"][name]
    return f"{100 * rate['value']:.0f} ({100 * rate['low']:.0f} to {100 * rate['high']:.0f})"


if __name__ == "__main__":
    main()
