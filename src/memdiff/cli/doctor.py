"""``memdiff doctor``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from memdiff.cli.parser import Parser
from memdiff.cli.progress import bar

if TYPE_CHECKING:
    from memdiff.doctor.speed import Expectation, Speed

__all__ = ["add_arguments", "run"]

SIZES = ("points", "dimension", "queries")


def add_arguments(parser: Parser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--benchmark",
        action="store_true",
        help="Also measure this machine, in a minute at most: rates of its matrix products, and "
        "the expected time of an evaluation and of a sampling run at the sizes below.",
    )
    for name, what, default in (
        ("points", "Number of training points N", "60000"),
        ("dimension", "Dimension d of a point", "784"),
        ("queries", "Number of queries, or of samples", "256"),
    ):
        parser.add_argument(
            f"--{name}",
            type=int | None,
            default=None,
            metavar=name[0].upper(),
            help=f"{what} (default {default}); with --benchmark.",
        )


def run(options: Namespace) -> int:
    """Run the command; returns its exit code."""
    from memdiff.doctor.installation import examine

    sizes = {name: options[name] for name in SIZES if options[name] is not None}
    if sizes and not options.benchmark:
        raise ValueError(f"--{next(iter(sizes))} was given without --benchmark: add --benchmark.")
    speed = _measure(sizes, options.quiet) if options.benchmark else None
    found = examine()
    if options.json:
        print(json.dumps({**found, **({"speed": speed.to_dict()} if speed else {})}, indent=1))
        return 0
    _print_installation(found)
    if speed is not None:
        _print_speed(speed)
    return 0


def _measure(sizes: dict[str, int], quiet: bool) -> Speed:
    from memdiff.doctor.speed import measure_speed

    with bar(quiet) as progress:
        return measure_speed(**sizes, progress=progress)


def _print_installation(found: dict[str, Any]) -> None:
    print("versions  " + ", ".join(f"{name} {v}" for name, v in found["versions"].items()))
    print(f"machine   {found['platform']}")
    print(
        f"cpu       {found['cpu']}, {found['cores']} cores, {found['threads']} threads in use, "
        f"{found['memory_gib']} GiB"
    )
    print(f"devices   {', '.join(found['devices'])}")
    for name, extra in found["extras"].items():
        state = "installed" if extra["installed"] else f"missing: {extra['install']}"
        print(f"extra     {name}: {extra['for']} - {state}")
    print(f"weights   {found['weights']}")


def _print_speed(speed: Speed) -> None:
    print()
    single = [path.name for path in speed.paths if path.name.endswith("float32")]
    chosen = next(name for name in single if name.split()[0] == speed.chosen)
    for path in speed.paths:
        mark = "  <- chosen" if path.name == chosen else ""
        mark = "  <- for screens" if path.name.endswith("int8") else mark
        rates = f"{path.gflops:.3g} GFLOP/s at best, {path.typical:.3g} typical"
        print(f"product   {path.name:<20} {rates}{mark}")
    print(
        f"size      N = {speed.points:,}, d = {speed.dimension:,}, {speed.queries:,} queries, "
        f"{speed.threads} threads; points and their copies take {speed.data_mb:,.0f} MB"
    )
    print(f"floor     {_duration(speed.floor_seconds)} for the two products of one evaluation")
    for level, expected in speed.evaluations.items():
        print(f"evaluate  {_expected(expected)} at sigma = {level} deviations of the data")
    print(f"sample    {_expected(speed.sampling)} for 18 Heun steps, 35 evaluations")
    print(f"trust     {speed.note}")


def _expected(one: Expectation) -> str:
    return f"{_duration(one.seconds)} ({_duration(one.low)} to {_duration(one.high)})"


def _duration(seconds: float) -> str:
    if seconds < 1.0:
        return f"{1000 * seconds:.2g} ms" if seconds < 0.1 else f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:,.3g} h"
