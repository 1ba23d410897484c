"""How long an answer takes that needs no computation, against an empty Python."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from benchmarks.floor import interleaved

__all__ = ["run"]

_CALLS = {
    "python -c pass": ("-c", "pass"),
    "memdiff --help": ("-m", "memdiff", "--help"),
    "memdiff --version": ("-m", "memdiff", "--version"),
    "memdiff sample --help": ("-m", "memdiff", "sample", "--help"),
    "memdiff train (bad usage)": ("-m", "memdiff", "train"),
    "import memdiff": ("-c", "import memdiff"),
    "import torch": ("-c", "import torch"),
    "import memdiff, one score": ("-c", "from memdiff import EmpiricalScore"),
}


def run(size: str, repeats: int) -> list[dict[str, object]]:
    """Start each process in turns."""
    calls = {name: partial(_start, arguments) for name, arguments in _CALLS.items()}
    seconds = interleaved(calls, 2 if size == "small" else 5 * repeats)
    empty = seconds["python -c pass"]
    return [
        {"call": name, "milliseconds": 1000 * taken, "of python": taken / empty}
        for name, taken in seconds.items()
    ]


def _start(arguments: tuple[str, ...]) -> None:
    subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
