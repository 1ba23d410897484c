"""The boundary to decoders: whatever they raise on a damaged file becomes one sentence."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["files_in", "natural_order", "reading"]

_OF_THE_SYSTEM = (errno.EIO, errno.EISDIR, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENOSPC)
"""Errors that say nothing of the content of a file."""


@contextmanager
def reading(title: str) -> Iterator[None]:
    """Turn an error of a decoder into a ValueError that names the file, in one line.

    Decoders raise anything from ``struct.error`` to ``SyntaxError`` on damaged bytes, so all of
    ``Exception`` is caught here, and nowhere else. Sentences of our own, missing files, missing
    packages and lack of memory pass unchanged.

    Args:
        title: The set's name and the file, as the message begins.

    Raises:
        ValueError: If the block raises.
    """
    try:
        yield
    except (ImportError, MemoryError, FileNotFoundError):
        raise
    except PermissionError as error:
        raise ValueError(
            f"{title} may not be read: permission denied; ask its owner, or change its mode."
        ) from error
    except UnicodeDecodeError as error:
        if error.object[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError(
                f"{title} is UTF-16: save it as UTF-8, as iconv -f utf-16 -t utf-8 does."
            ) from error
        raise ValueError(
            f"{title} is no UTF-8, or is damaged: byte {error.object[error.start]:#04x} at "
            f"{error.start:,}; save it as UTF-8, as iconv -f latin1 -t utf-8 does for text of "
            f"Western Europe."
        ) from error
    except Exception as error:
        if isinstance(error, ValueError) and title in str(error):
            raise
        if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM:
            raise ValueError(f"{title} cannot be read: {error.strerror}.") from error
        if type(error).__name__ == "DecompressionBombError":
            raise ValueError(
                f"{title} has more pixels than are opened ({error}); give it smaller."
            ) from error
        detail = re.split(r"\.\s|\n", str(error).strip())[0].rstrip(".")[:120]
        raise ValueError(
            f"{title} cannot be read: it is damaged, truncated or of another format "
            f"({detail or type(error).__name__}); "
            f"remove it or replace it by a whole file."
        ) from error


def natural_order(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that puts ``img2`` before ``img10``, whatever the case; ties by the exact name."""
    parts = re.split(r"(\d+)", path.as_posix().casefold())
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts], path.as_posix()


def files_in(folder: Path) -> list[Path]:
    """All files below a folder, relative to it, in natural order; hidden ones are left out.

    Links to folders are followed, each folder once.

    Args:
        folder: An existing folder.
    """
    return sorted(_walk(folder), key=natural_order)


def _refuse(error: OSError) -> None:
    """A folder that cannot be looked into is not an empty one."""
    raise error


def _walk(folder: Path) -> Iterable[Path]:
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in files:
            if not file.startswith(".") and file.lower() != "thumbs.db":
                yield Path(root, file).relative_to(folder)
