"""Files that are whole or absent.

Every file that memdiff writes goes through :func:`replace_file`: a reader never sees half a file,
and a crash leaves the old one in place.
"""

from __future__ import annotations

import json
import os
import secrets
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["replace_file", "save_arrays", "write_json"]


@contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Write a file under a temporary name and rename it when the block ends well.

    The temporary file lies in the folder of ``path`` (so that the rename is atomic) and keeps its
    suffix (so that libraries which look at it behave). It is flushed to disk before the rename,
    and removed when the block raises.

    Args:
        path: The file to create or replace. Missing parent folders are created.

    Yields:
        The temporary path, which does not exist yet. The block must create it.

    Raises:
        ValueError: If ``path`` is a folder.
        FileNotFoundError: If the block ends without having written the file.
        OSError: If it cannot be written (a full disk, no permission); it names ``path``, and the
            temporary name never shows.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with replace_file(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text(), len(list(target.parent.iterdir()))
        ('whole', 1)
    """
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"path {str(target)!r} is a folder; give the name of a file in it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem[:100]}.{secrets.token_hex(6)}{target.suffix}")
    try:
        yield temporary
        if not temporary.is_file():
            raise FileNotFoundError(
                f"nothing was written for {str(target)!r}: write to the path that replace_file "
                f"yields."
            )
        _flush(temporary)
        os.replace(temporary, target)
        _flush(target.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary), temporary):
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error
    except Exception as error:
        if temporary.name not in str(error):
            raise
        # A library that wraps what the system says, with the name that nobody knows.
        words = (
            str(error).replace(str(temporary), str(target)).replace(temporary.name, target.name)
        )
        raise OSError(f"cannot write {str(target)!r}: {words}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Force a file, or the entries of a folder, to disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_arrays(path: str | Path, /, **arrays: Tensor | np.ndarray | str | float) -> Path:
    """Save named arrays as one uncompressed ``.npz``, whole or not at all.

    Args:
        path: Name of the file; ``.npz`` is appended when it does not end so.
        **arrays: The arrays by name: tensors (any device; bfloat16 becomes float32), arrays, or
            scalars and strings. At least one.

    Returns:
        The path written, which always ends in ``.npz``.

    Raises:
        ValueError: If there is no array, or one would need pickling (dtype object).
    """
    if not arrays:
        raise ValueError("arrays is empty; give at least one array by name, as in x=samples.")
    target = Path(path)
    if target.suffix != ".npz":
        target = target.with_name(target.name + ".npz")
    plain = {name: _plain(name, value) for name, value in arrays.items()}
    # Not numpy.savez: it has a parameter `file`, so no array could have that name.
    with replace_file(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in plain.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return target


def _plain(name: str, value: Tensor | np.ndarray | str | float) -> np.ndarray:
    if isinstance(value, Tensor):
        tensor = value.detach().cpu().resolve_conj().resolve_neg()
        return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise ValueError(
            f"array {name!r} has dtype {array.dtype}, which would need pickle; give numbers or "
            f"fixed-width strings."
        )
    return array


def write_json(path: str | Path, obj: Any) -> Path:  # noqa: ANN401
    """Write ``obj`` as readable JSON (UTF-8, two spaces, final newline), whole or not at all.

    Args:
        path: Name of the file.
        obj: Dictionaries, sequences, strings, numbers, booleans and None; numpy scalars and
            arrays, tensors and paths are converted.

    Returns:
        The path written.

    Raises:
        ValueError: If a number is NaN or infinite, which JSON cannot hold: write None or a string.
        TypeError: If a value has no JSON form.
    """
    try:
        text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False, default=_jsonable)
    except ValueError as error:
        raise ValueError(
            f"cannot write {str(path)!r}: {error}; JSON has no NaN or infinity, use None."
        ) from error
    with replace_file(path) as temporary:
        # A path that is no UTF-8 holds surrogates: escaped, they are JSON, and read as they were.
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    return Path(path)


def _jsonable(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Tensor):
        return value.detach().cpu().tolist()
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form; give numbers, strings or lists.")
