"""``memdiff train --seeds``: the same run with several seeds, and a table of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace

from memdiff.cli.consent import consent
from memdiff.cli.parser import Parser
from memdiff.cli.terminal import shown

__all__ = ["add_sweep_options", "parse_seeds", "run_seeds"]

MANY = 1000
"""Runs from which on it is asked for."""

_COLUMNS = ("seed", "ending", "step", "kept_step", "onset", "tau_gen", "verdict")


def add_sweep_options(parser: Parser) -> None:
    """Declare the options of a sweep."""
    parser.add_argument(
        "--seeds",
        type=str | None,
        default=None,
        metavar="S",
        help="A run for each of these seeds instead of --seed, as 0:4 or 0,1,5: each in a folder "
        "seed-0 ... of its own, with summary.json beside them. A seed decides the weights, the "
        "noise, and which points are held out.",
    )
    parser.add_argument(
        "--launcher",
        type=Literal["here", "local", "slurm"],
        default="here",
        help="Where they run: one after the other, in processes of this machine, or as jobs.",
    )
    parser.add_argument(
        "--jobs", type=int | None, default=None, help="Most runs at a time, for a launcher."
    )
    parser.add_argument(
        "--launcher-options",
        type=str,
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="For submitit: timeout_min=600 gpus_per_node=1 slurm_partition=NAME ...",
    )


def run_seeds(options: Namespace, train: Callable[[Namespace], dict[str, Any]]) -> int:
    """Run the sweep that the options ask for, print its table, write its summary.

    Args:
        options: Options of ``memdiff train``.
        train: Does one run; returns the content of its ``report.json``.

    Returns:
        The exit code.

    Raises:
        ValueError: If an option does not fit, or a run failed; the others are finished first.
    """
    from memdiff.run.launching import launch
    from memdiff.run.memory import require_memory
    from memdiff.run.ranks import joined
    from memdiff.run.writing import write_json

    seeds = parse_seeds(options.seeds)
    if len(seeds) > MANY:
        consent(options, f"--seeds {options.seeds} are {len(seeds):,} runs, each in its folder")
    require_memory(1000 * len(seeds), f"--seeds {options.seeds}", "give fewer seeds at a time")
    ranks = joined()
    if ranks.count > 1 and options.launcher != "here":
        raise ValueError(
            f"--launcher {options.launcher} starts processes of its own: start it without a "
            "launcher of processes, or use --launcher here."
        )
    out = Path(options.out)
    runs = []
    for seed in seeds:
        one = options.clone()
        one.seed, one.seeds, one.out = seed, None, str(out / f"seed-{seed}")
        one.runs = 1 if options.yes else len(seeds)
        one.quiet = options.quiet or options.launcher != "here"
        runs.append(one)
    outcomes = launch(
        train,
        runs,
        out / "jobs",
        options.launcher,
        jobs=options.jobs,
        parameters=_parameters(options.launcher_options),
    )
    reports: dict[int, dict[str, Any]] = {}
    errors: dict[int, str] = {}
    for outcome in outcomes:
        if outcome.error is not None:
            errors[seeds[outcome.index]] = outcome.error
        else:
            reports[seeds[outcome.index]] = outcome.value
        if ranks.is_first and reports:
            rows = [_row(seed, reports[seed]) for seed in sorted(reports)]
            write_json(out / "summary.json", {"schema": 1, "runs": rows})
    if errors:
        seed = min(errors)
        others = "" if len(errors) == 1 else f" (and {len(errors) - 1} more of {len(seeds)})"
        raise ValueError(f"seed {seed} failed{others}: {errors[seed]}")
    rows = [_row(seed, reports[seed]) for seed in seeds]
    if options.json:
        print(json.dumps({"schema": 1, "out": str(out), "runs": rows}))
    else:
        _print_table(rows)
        print(shown(f"summary: {out / 'summary.json'}"))
    return 0


def parse_seeds(text: str) -> Sequence[int]:
    """Read ``0:4`` (0, 1, 2, 3) or ``0,1,5``.

    Raises:
        ValueError: If it is neither, or names no seed, or one twice.
    """
    seeds: Sequence[int] = ()
    with suppress(ValueError, OverflowError):
        if ":" in text:
            first, last = text.split(":")
            found = range(_whole(first), _whole(last))  # not a list: it may be as long as it likes
            seeds = found if len(found) and found[0] >= 0 else ()
        else:
            listed = [_whole(part) for part in text.split(",")]
            seeds = listed if len(set(listed)) == len(listed) and min(listed) >= 0 else ()
    if not seeds:
        raise ValueError(
            f"--seeds must be a range such as 0:4, or different seeds such as 0,1,5, got {text!r}."
        )
    return seeds


def _whole(text: str) -> int:
    """A whole number, also as 1e8."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        return int(number)


def _parameters(given: list[str]) -> dict[str, int | str]:
    parameters: dict[str, int | str] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not (name and sign and value):
            raise ValueError(f"--launcher-options must be KEY=VALUE, got {text!r}.")
        parameters[name] = int(value) if value.isdigit() else value
    return parameters


def _row(seed: int, report: dict[str, Any]) -> dict[str, Any]:
    onset = report["onset"] or {}
    named = {name: report[name] for name in ("ending", "step", "kept_step", "verdict")}
    found = {name: onset.get(name) for name in ("onset", "tau_mem", "tau_close", "tau_gen")}
    return {"seed": seed, **named, **found, "seconds": report["seconds"]}


def _print_table(rows: list[dict[str, Any]]) -> None:
    cells = [list(_COLUMNS)] + [
        ["-" if row[name] is None else str(row[name]) for name in _COLUMNS] for row in rows
    ]
    widths = [max(len(line[place]) for line in cells) for place in range(len(_COLUMNS))]
    for line in cells:
        print("  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip())
