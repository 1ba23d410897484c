"""``memdiff reproduce``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace

from memdiff.cli.outputs import add_output_options, writing
from memdiff.cli.parser import Parser
from memdiff.cli.progress import experiment_progress
from memdiff.cli.terminal import shown
from memdiff.run.ranks import joined

__all__ = ["add_arguments", "run"]


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    from memdiff.experiments import NAMES

    required = parser.required_group()
    required.add_argument(
        "--out",
        type=str,
        required=True,
        metavar="DIR",
        help="Folder for report.html, results.json, figures/; the same command goes on with a "
        "run that was interrupted.",
    )
    parser.add_argument(
        "--preset",
        type=Literal["quick", "paper"],
        default="quick",
        help="quick: all in about three minutes on two cores; paper: the paper's sizes.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        type=str,
        default=None,
        metavar="NAME",
        help=f"Run some of the experiments: {', '.join(NAMES)}.",
    )
    add_output_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="The one source of randomness.")
    parser.add_argument(
        "--device", type=Literal["auto", "cpu"], default="auto", help="Experiments run on the CPU."
    )


def run(options: Namespace) -> int:
    """Run the command; returns its exit code."""
    out = Path(options.out)
    with writing(
        options,
        inputs={},
        folders=[out / "figures", out / ".partial"],
        check=lambda out: _require_ours(out, options),
    ):
        return _run(options)


def _require_ours(out: Path, options: Namespace) -> None:
    """Refuse a folder whose results are of something else, or more than would be written."""
    from memdiff.experiments import NAMES

    remedy = "choose another folder, or give --overwrite to replace them"
    results = out / "results.json"
    found = _results(results)
    if found is None:
        if (out / ".partial").is_dir():
            return  # it has not come to an end
        for path in (results, out / "report.html"):
            if path.exists():
                raise ValueError(
                    f"{str(path)!r} is of something else: choose another folder, or give "
                    "--overwrite to replace it."
                )
        return
    for name, value, wanted in (
        ("preset", found["preset"], options.preset),
        ("seed", found["provenance"].get("seed"), options.seed),
    ):
        if value != wanted:
            raise ValueError(
                f"out {str(out)!r} holds results of {name} {value}, not {wanted}: {remedy}."
            )
    lost = sorted(found["experiments"].keys() - set(options.only or NAMES))
    if lost:
        raise ValueError(
            f"out {str(out)!r} holds results of {len(lost)} other experiments, such as "
            f"{lost[0]}: {remedy}."
        )


def _results(path: Path) -> dict[str, Any] | None:
    """Results of an earlier run; None where there are none."""
    try:
        found = json.loads(path.read_text("utf-8"))
        whole = {"preset", "experiments", "provenance"} <= found.keys()
    except (OSError, ValueError, AttributeError):
        return None
    return found if whole else None


def _run(options: Namespace) -> int:
    from memdiff.experiments import ReproductionError, reproduce

    code = 0
    with experiment_progress(options.quiet) as progress:
        try:
            results = reproduce(
                preset=options.preset,
                only=options.only,
                out=options.out,
                seed=options.seed,
                progress=progress,
                ranks=joined(),
            )
        except ReproductionError as error:
            print(shown(f"memdiff reproduce: {' '.join(str(error).split())}"), file=sys.stderr)
            return 2
    if options.json:
        print(json.dumps(results, indent=1))
        return code
    for name, entry in results["experiments"].items():
        agreement = {True: "agrees", False: "DIFFERS", None: "-"}[entry["within"]]
        print(f"{name:24} {agreement:8} {entry['seconds']:6.1f} s  {entry['finding']}")
    print(shown(f"report: {options.out}/report.html"))
    return code
