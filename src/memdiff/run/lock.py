"""Who is writing here: one process at a time in an output, and its name for all others.

A lock is a file beside or in the output. It is held by the operating system for as long as the
process lives (``flock``), so that a lock of a process that was killed is never in the way; what
is written in it says who holds it. A file that nobody holds is of a run that did not end.
"""

from __future__ import annotations

import errno
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from memdiff.run.provenance import command_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Holder", "locked"]


@dataclass(frozen=True)
class Holder:
    """A process that writes.

    Attributes:
        pid: Its number.
        host: The machine.
        started: When it was started (UTC, ISO 8601); with ``pid`` and ``host`` its identity.
        command: Its command line.
    """

    pid: int
    host: str
    started: str
    command: str

    @classmethod
    def this(cls) -> Holder:
        """This process."""
        pid = os.getpid()
        started = _started(pid) or datetime.now(UTC).isoformat(timespec="seconds")
        return cls(pid, platform.node(), started, command_line())

    def lives(self) -> bool:
        """Whether this process of this machine is still there, as far as the system tells."""
        return self.host == platform.node() and _started(self.pid) == self.started

    def __str__(self) -> str:
        return (
            f"process {self.pid} on {self.host}, started {self.started[:19].replace('T', ' ')} "
            f"UTC as {self.command!r}"
        )


@contextmanager
def locked(path: str | Path, output: str | Path) -> Iterator[Holder | None]:
    """Hold a lock for the length of the block.

    Missing folders are made; those that are still empty at the end go again, and so does the
    lock.

    Args:
        path: The file that is the lock.
        output: What is locked, for the message.

    Yields:
        An earlier holder that ended without releasing the lock, or None.

    Raises:
        ValueError: If another process holds it; the message says which.
        OSError: If the folder cannot be written to.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with locked(folder / "lock", folder):
        ...     with locked(folder / "lock", folder):  # doctest: +ELLIPSIS
        ...         pass
        Traceback (most recent call last):
        ValueError: ... is being written by process ...
    """
    path = Path(path)
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, earlier = _take(path, output)
        try:
            yield earlier
        finally:
            with suppress(OSError):
                path.unlink()  # before it is released: the next holder makes a file of its own
            os.close(handle)
    finally:
        for folder in made:
            with suppress(OSError):  # it holds something now
                folder.rmdir()


def _take(path: Path, output: str | Path) -> tuple[int, Holder | None]:
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        except OSError as error:
            if error.errno in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
                raise ValueError(f"{str(path)!r} is no lock: remove it.") from error
            raise OSError(error.errno, error.strerror, str(path.parent)) from error
        try:
            free = _flock(handle)
            earlier = _read(handle)
            if not free or (earlier is not None and _other(earlier)):
                whom = "another process" if earlier is None else str(earlier)
                raise ValueError(
                    f"{str(output)!r} is being written by {whom}: wait for it to end, or choose "
                    "another output."
                )
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    _write(handle, path)
                    return handle, earlier
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder has ended meanwhile, and has taken the file away


def _other(holder: Holder) -> bool:
    """Whether a lock that the system gives to us is another's: where it keeps no such locks."""
    return holder.pid != os.getpid() and holder.lives()


def _flock(handle: int) -> bool:
    """Whether the system gives us the lock; True where it has none to give."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _read(handle: int) -> Holder | None:
    with suppress(ValueError, TypeError):
        return Holder(**json.loads(os.pread(handle, 1 << 16, 0)))
    return None


def _write(handle: int, path: Path) -> None:
    text = json.dumps(asdict(Holder.this()))
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode()[: 1 << 16], 0)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path.parent)) from error


def _started(pid: int) -> str | None:
    """When a process of this machine was started, or None where there is none, or no telling."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = next(
            int(line.split()[1])
            for line in Path("/proc/stat").read_text().splitlines()
            if line.startswith("btime")
        )
    except (OSError, StopIteration, ValueError):
        return None
    seconds = boot + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
