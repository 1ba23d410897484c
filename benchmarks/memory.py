"""Memory that a call takes, measured by the kernel in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["extra_memory", "in_own_process"]


def in_own_process(module: str, *arguments: str) -> dict[str, Any]:
    """What ``python -m module arguments`` prints as JSON on its last line.

    The high-water mark of a process never falls, so what an earlier measurement took would hide
    what this one takes.
    """
    command = [sys.executable, "-m", module, *arguments]
    folder = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return json.loads(done.stdout.splitlines()[-1])


def extra_memory(call: Callable[[], object]) -> float:
    """Resident memory at the highest point of a call above that before it, in MB; Linux only.

    Resident are the pages of the process, also those of files that it has mapped; the system's
    cache of files that it has read is not among them. What earlier calls have freed goes back to
    the system first: taken again it would not be seen.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the mark starts anew from here
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 1000


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1.024 * int(line.split()[1])  # kB of 1024 bytes
    raise OSError(f"{field} is not in /proc/self/status: memory is measured on Linux only.")
