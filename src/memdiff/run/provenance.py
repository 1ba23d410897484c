"""Where a result comes from: versions, machine, command, time."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = [
    "command_line",
    "cpu_model",
    "git_commit",
    "package_fingerprint",
    "provenance",
    "versions",
]

PACKAGES = ("memdiff", "torch", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@functools.cache
def package_fingerprint() -> str:
    """SHA-256 over the package's own Python and JSON files, by relative path and content."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted((*root.rglob("*.py"), *root.rglob("*.json"))):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def command_line() -> str:
    """The command of this process, ``python -m memdiff`` by the name of the package."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join([name, *sys.argv[1:]])


def cpu_model() -> str:
    """Name of the processor, as far as the system tells."""
    with suppress(OSError):  # not every system has it
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown"


def git_commit() -> str | None:
    """Commit of the checkout that the package runs from, with ``+changes`` where files differ.

    Returns:
        None where the package is installed outside a git checkout of its own, or git is missing.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists() or not (root / "pyproject.toml").exists():
        return None

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ("git", "-C", str(root), *arguments),
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return f"{commit}+changes" if git("status", "--porcelain", "--", "src") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def provenance(*, seed: int, command: str | None = None) -> dict[str, Any]:
    """Describe the run.

    Args:
        seed: Seed of the run.
        command: Command line; that of the process by default.

    Returns:
        JSON-able dict with ``versions``, ``platform``, ``cpu``, ``cores``, ``threads``,
        ``processes``, ``seed``, ``command``, ``date`` (UTC, ISO 8601), ``commit`` and
        ``source_sha256``.
    """
    import torch

    from memdiff.run.ranks import joined

    return {
        "versions": versions(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": joined().count,
        "seed": seed,
        "command": command_line() if command is None else command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "source_sha256": package_fingerprint(),
    }
