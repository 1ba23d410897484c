"""What may be written: never an input, and nothing that exists unless it is asked for."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

__all__ = ["require_absent", "require_apart"]


def require_apart(
    outputs: Iterable[str | Path],
    inputs: Mapping[str, str | Path | None],
    *,
    folders: Iterable[str | Path] = (),
) -> None:
    """Refuse outputs that would replace an input, or end among the files of one.

    Files are compared as the system knows them: under another name, through links, in another
    case where that makes no difference.

    Args:
        outputs: Files to write, or folders to write into.
        inputs: Paths or patterns by what they are, ``"train"``; built-in data, None and what does
            not exist are passed over.
        folders: Folders that will be the output's own, with all that is in them: no input may lie
            in one either.

    Raises:
        ValueError: Naming the output and the input.
    """
    folders = tuple(folders)
    for name, source in inputs.items():
        for path in _existing(source):
            for output in (*outputs, *folders):
                what = _relation(Path(output), path)
                if what is None and output in folders and _within(path, Path(output)):
                    what = "holds"
                if what is not None:
                    raise ValueError(
                        f"out {str(output)!r} {what} {name} ({path}), which is an input: no "
                        "output replaces an input; give another name."
                    )


def _existing(source: str | Path | None) -> list[Path]:
    if source is None:
        return []
    path = Path(source).expanduser()
    if os.path.lexists(path):
        return [path]
    return [Path(found) for found in glob.glob(str(path))] if glob.has_magic(str(path)) else []


def _relation(output: Path, source: Path) -> str | None:
    if _same(output, source):
        return "is"
    return "lies in" if source.is_dir() and _within(output, source) else None


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist, or is a link to nothing
        return os.path.realpath(one) == os.path.realpath(other)


def _within(inner: Path, outer: Path) -> bool:
    """Whether a path, which need not exist, is beneath a folder."""
    return any(_same(parent, outer) for parent in Path(os.path.realpath(inner)).parents)


def require_absent(paths: Sequence[str | Path], option: str = "--overwrite") -> None:
    """Refuse to replace what exists.

    Args:
        paths: Files to write.
        option: What to give to replace them.

    Raises:
        ValueError: Naming the first one that exists.
    """
    for path in paths:
        if os.path.lexists(path):
            raise ValueError(
                f"{str(path)!r} exists: choose another output, or give {option} to replace it."
            )
