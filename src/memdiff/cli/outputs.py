"""The output of a command: apart from its inputs, new or given up, and written by one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jsonargparse import Namespace

from memdiff.cli.parser import Parser
from memdiff.run.ranks import joined

__all__ = ["LOCK", "add_output_options", "writing"]

LOCK = ".memdiff.lock"
"""Name of the lock in a folder."""


def add_output_options(parser: Parser) -> None:
    """Declare the options that say what may be replaced."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="Replace what is in --out already; an input is never replaced.",
    )


@contextmanager
def writing(
    options: Namespace,
    *,
    inputs: Mapping[str, str | Path | None],
    files: Sequence[Path] = (),
    folders: Sequence[Path] = (),
    apart: Sequence[Path] = (),
    is_folder: bool = True,
    check: Callable[[Path], None] | None = None,
) -> Iterator[Path]:
    """Hold ``--out`` for the length of the block, if it may be written.

    All ranks make this call; the first one holds the lock.

    Args:
        options: Options of the command, with ``out``, ``overwrite`` and ``config``.
        inputs: What the command reads, by name.
        files: Files that may be replaced only with ``--overwrite``, or where an earlier run did
            not end.
        folders: Folders that are the command's own.
        apart: What else is written, and is to be apart from the inputs.
        is_folder: Whether ``out`` is a folder that files are written into.
        check: Refuses what else is in ``out``; not called with ``--overwrite``.

    Yields:
        ``out``.

    Raises:
        ValueError: If it is or holds an input, exists, or is held by another process.
    """
    from memdiff.run.lock import locked
    from memdiff.run.outputs import require_absent, require_apart

    out = Path(options.out)
    ranks = joined()
    with ExitStack() as stack:
        with ranks.one_fate():
            if ranks.is_first:
                if not options.out:
                    raise ValueError("--out is empty: give a name.")
                for name, path in inputs.items():
                    if path is not None and not str(path):
                        raise ValueError(f"--{name.replace(' ', '-')} is empty: give a path.")
                if is_folder and out.exists() and not out.is_dir():
                    raise ValueError(f"out {str(out)!r} is a file: give the name of a folder.")
                if not is_folder and out.is_dir():
                    raise ValueError(
                        f"out {str(out)!r} is a folder: give the name of a file in it."
                    )
                configured = {f"config {n}": path for n, path in enumerate(_configs(options), 1)}
                written = [*([out] if is_folder else []), *files, *apart]
                require_apart(written, {**inputs, **configured}, folders=folders)
                lock = out / LOCK if is_folder else out.with_name(f".{out.name}.lock")
                earlier = stack.enter_context(locked(lock, out))
                if earlier is None and not options.overwrite:
                    require_absent(files)
                if check is not None and not options.overwrite:
                    check(out)
        yield out


def _configs(options: Namespace) -> list[str]:
    """Files of options, as far as they are known."""
    found = options.get("config") or []
    return [str(path) for path in (found if isinstance(found, list) else [found])]
