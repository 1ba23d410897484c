"""How much memory there is, asked before it is taken.

A file says how large it is in its first bytes, and an option is a number: both can ask for more
than the machine has, by mistake or by malice. What is too large is refused with one sentence.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["STREAM_ABOVE", "array_bytes", "available_memory", "require_memory", "size_text"]

STREAM_ABOVE = 2**27
"""Bytes from which on array files stay on disk, where nothing else is asked for."""

_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes that this process can still take, or None where the system does not tell.

    The least of what the machine has free, what the control group of a container or job leaves,
    and what the limit on the address space leaves.
    """
    found = [_free(), _left_of_group(), _left_of_limit()]
    known = [size for size in found if size is not None]
    return max(0, min(known)) if known else None


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Refuse what does not fit.

    Args:
        needed: Bytes that it takes, at least.
        what: What takes them, as the sentence begins.
        remedy: What to do instead.

    Raises:
        ValueError: If fewer bytes are available.

    Example:
        >>> require_memory(10**15, "width=10000000", "give a smaller width")
        Traceback (most recent call last):
        ValueError: width=10000000 takes 1 PB of memory, and ... available: give a smaller width.
    """
    available = available_memory() if needed > 1 << 20 else None
    if available is not None and needed > available:
        raise ValueError(
            f"{what} takes {size_text(needed)} of memory, and {size_text(available)} are "
            f"available: {remedy}."
        )


def array_bytes(shape: Sequence[int], itemsize: int) -> int:
    """Bytes of an array."""
    return math.prod(int(length) for length in shape) * itemsize


def size_text(size: float) -> str:
    """A number of bytes in words.

    >>> size_text(1.2e9), size_text(512)
    ('1.2 GB', '512 bytes')
    """
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB", "GB", "TB", "PB", "EB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.3g} {unit}"
    return f"{size:.3g} EB"


def _free() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _left_of_group() -> int | None:
    """What the control group leaves (version 2, then 1)."""
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # "max" is no number
            return int((_CGROUP / most).read_text()) - int((_CGROUP / used).read_text())
    return None


def _left_of_limit() -> int | None:
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most == resource.RLIM_INFINITY:
            return None
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return most - pages * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError, ValueError):
        return None
