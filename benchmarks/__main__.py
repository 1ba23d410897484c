"""``python -m benchmarks``: measure everything in one run, write a table.

    python -m benchmarks --size full --out benchmarks/results

Ratios to the floor are what travels between machines; seconds do not.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks import neighbors, posterior
from memdiff.data import replace_file, write_json
from memdiff.provenance import provenance


def main() -> None:
    """Run and write ``results.json`` and ``results.md``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    origin = provenance(seed=0)
    results = {
        "posterior": posterior.run(options.size, options.repeats),
        "neighbors": neighbors.run(options.size, options.repeats),
    }
    write_json(options.out / "results.json", {"provenance": origin, **results})
    text = "\n".join(
        [
            "# Benchmarks",
            "",
            f"{origin['cpu']}, {origin['threads']} threads, torch "
            f"{origin['versions']['torch']}, {origin['date']}. Columns without a unit are ratios "
            "to the floor: the bare matrix products, measured in turns in the same run.",
            *(line for name, rows in results.items() for line in _table(name, rows)),
        ]
    )
    with replace_file(options.out / "results.md") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    print(text)


def _table(name: str, rows: list[dict[str, Any]]) -> list[str]:
    header = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["", f"## {name}", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        cells = (f"{row[key]:.3g}" if key in row else "-" for key in header)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
