"""``memdiff reproduce``."""

from __future__ import annotations

import json
import sys
from typing import Literal

from jsonargparse import Namespace

from memdiff.cli.parser import Parser
from memdiff.cli.progress import experiment_progress
from memdiff.ranks import joined

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
    parser.add_argument("--seed", type=int, default=0, help="The one source of randomness.")
    parser.add_argument(
        "--device", type=Literal["auto", "cpu"], default="auto", help="Experiments run on the CPU."
    )


def run(options: Namespace) -> int:
    """Run the command; returns its exit code."""
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
            print(f"memdiff reproduce: {' '.join(str(error).split())}", file=sys.stderr)
            return 1
    if options.json:
        print(json.dumps(results, indent=1))
        return code
    for name, entry in results["experiments"].items():
        agreement = {True: "agrees", False: "DIFFERS", None: "-"}[entry["within"]]
        print(f"{name:24} {agreement:8} {entry['seconds']:6.1f} s  {entry['finding']}")
    print(f"report: {options.out}/report.html")
    return code
