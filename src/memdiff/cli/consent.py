"""Work that is long or large: said beforehand, and asked for where it is out of all proportion."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from jsonargparse import Namespace

from memdiff.cli.parser import Parser
from memdiff.cli.progress import paused

__all__ = ["add_consent_option", "consent", "duration", "expectation", "require_room"]

MINUTE, DAY = 60.0, 86400.0
SAID_ABOVE = 10 * MINUTE
"""Seconds from which on it is said how long the work will take."""

LARGE = 10**10
"""Bytes of output from which on it is asked for."""


def add_consent_option(parser: Parser) -> None:
    """Declare the option that answers the question."""
    parser.add_argument(
        "--yes",
        action="store_true",
        help="Do what takes more than a day, or more room than is usual, without asking.",
    )


def expectation(options: Namespace, command: str, runs: int = 1) -> Callable[[float], None]:
    """What to do once it is known how long the work takes.

    Args:
        options: Options of the command, with ``yes`` and ``quiet``.
        command: Its name.
        runs: How many times the work is done.
    """

    def heard(seconds: float) -> None:
        whole = seconds * runs
        if whole > DAY:
            consent(options, f"this takes about {duration(whole)}")
        elif whole > SAID_ABOVE and not options.quiet:
            print(f"memdiff {command}: this takes about {duration(whole)}", file=sys.stderr)

    return heard


def consent(options: Namespace, what: str) -> None:
    """Ask whether to go on; without a terminal the answer is ``--yes`` or no.

    Raises:
        ValueError: If the answer is no.
    """
    if options.yes:
        return
    if sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty():
        with paused():
            print(f"{what}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
            answer = sys.stdin.readline().strip().lower()
        if answer in ("y", "yes"):
            return
        raise ValueError("not done.")
    raise ValueError(f"{what}: give --yes to do it nevertheless, or ask for less.")


def require_room(options: Namespace, size: int, what: str) -> None:
    """Refuse files that the disk has no room for, and ask for large ones.

    Args:
        options: Options of the command, with ``out`` and ``yes``.
        size: Bytes to be written, about.
        what: What is written, as the sentence begins.

    Raises:
        ValueError: If they are refused.
    """
    from memdiff.run.memory import size_text

    folder = next((p for p in Path(options.out).absolute().parents if p.is_dir()), None)
    free = None if folder is None else shutil.disk_usage(folder).free
    if free is not None and size > free:
        raise ValueError(
            f"{what} take {size_text(size)}, and {size_text(free)} are free in {str(folder)!r}: "
            "ask for less, or choose another disk."
        )
    if size > LARGE:
        consent(options, f"{what} take {size_text(size)} of disk")


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(5400), duration(2e5), duration(1e10)
    ('90 minutes', '2.3 days', '317 years')
    """
    for unit, size in (("years", 365.25 * DAY), ("days", DAY), ("hours", 60 * MINUTE)):
        if seconds >= 2.0 * size:
            number = seconds / size
            return f"{number:.2g} {unit}" if number < 100 else f"{number:,.0f} {unit}"
    return f"{seconds / MINUTE:.0f} minutes"
