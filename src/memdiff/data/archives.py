"""Array files: ``.npz``, ``.npy``, ``.pt`` and ``.safetensors``.

Nothing here unpickles: ``allow_pickle`` is False and ``weights_only`` True, always. ``.npy`` and
``.safetensors`` are memory-mapped: float data are paged in as they are read, and the pages are
copied on write, so that the file never changes. (Pixels that have to be scaled, and half
precision, are converted to float32 in memory.)
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from memdiff.data.arrays import Layout, from_array
from memdiff.data.dataset import Dataset, Encoding
from memdiff.data.reading import reading
from memdiff.run.memory import array_bytes, require_memory

__all__ = ["ARRAY_SUFFIXES", "find_labels", "load_arrays", "points_key"]

ARRAY_SUFFIXES = (".npz", ".npy", ".pt", ".pth", ".safetensors")

_POINT_KEYS = ("x", "images", "samples", "data", "arr_0")
_LABEL_KEYS = ("y", "labels", "label", "targets")
_ENCODINGS = ("signed", "unit", "byte", "free")

Array = Tensor | np.ndarray
T = TypeVar("T")


def load_arrays(
    path: Path,
    *,
    name: str = "data",
    limit: int | None = None,
    key: str | None = None,
    value_range: tuple[float, float] | None = None,
    layout: Layout | None = None,
) -> Dataset:
    """Load an array file.

    In a file of several arrays the points are the array ``key``, or the only one that is called
    ``x``, ``images``, ``samples``, ``data`` or ``arr_0``, or the only one there is. Labels are
    ``y``, ``labels``, ``label`` or ``targets`` (or ``arr_1`` next to ``arr_0``) if present. A
    string ``encoding`` in an ``.npz`` (as ``memdiff sample`` writes it) states the range of the
    pixels.

    Args:
        path: The file.
        name: What to call the set in messages.
        limit: Keep the first ``limit`` points.
        key: Name of the array that holds the points.
        value_range: See :func:`~memdiff.data.arrays.from_array`.
        layout: See :func:`~memdiff.data.arrays.from_array`.

    Returns:
        The data set.

    Raises:
        ValueError: If the file is damaged, holds Python objects, does not say which array holds
            the points, or the array is refused by :func:`~memdiff.data.arrays.from_array`.
    """
    title = f"{name} ({path})"
    with reading(title):
        _require_memory(path, title)
        content = _READERS[path.suffix.lower()](path, title)
    if isinstance(content, dict):
        chosen = points_key(content, key, title)
        points, labels = content[chosen], find_labels(content, chosen)
        encoding = _find_encoding(content)
    elif key is not None:
        raise ValueError(f"key={key!r} was given, but {title} holds a single array; leave it out.")
    else:
        points, labels, encoding = content, None, None
    if limit is not None and points.ndim:
        labels = labels[:limit] if labels is not None and len(labels) == len(points) else labels
        points = points[:limit]
    return from_array(
        points,
        name=name,
        source=str(path),
        labels=labels,
        value_range=value_range,
        encoding=None if value_range is not None else encoding,
        layout=layout,
    )


def _require_memory(path: Path, title: str) -> None:
    """Refuse a file that would not fit into memory, by what its header says of itself."""
    suffix = path.suffix.lower()
    if suffix == ".npz":
        needed = _unpacked_npz(path)
    elif suffix in (".pt", ".pth"):
        needed = _unpacked(path)
    elif suffix == ".safetensors":
        needed = path.stat().st_size
    else:
        return  # mapped, not read
    require_memory(
        needed, title, "give a part of it, or .npy and .safetensors, which are streamed"
    )


def _unpacked(path: Path) -> int:
    if not zipfile.is_zipfile(path):
        return path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        return sum(member.file_size for member in archive.infolist())


def _unpacked_npz(path: Path) -> int:
    """Bytes of all arrays: what the archive says, and what the arrays say, whichever is more."""
    if not zipfile.is_zipfile(path):
        return 0  # for numpy to say what it is
    declared = 0
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename.endswith(".npy"):
                with archive.open(member) as stream:
                    declared += _declared(stream)
    return max(declared, _unpacked(path))


def _declared(stream: IO[bytes]) -> int:
    version = np.lib.format.read_magic(stream)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(stream)
    return array_bytes(shape, dtype.itemsize)


def _read_npz(path: Path, title: str) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as archive:
        if isinstance(archive, np.ndarray):
            raise ValueError(f"{title} is a .npy file with another suffix; rename it to .npy.")
        held = {key: _numeric(archive, key, title) for key in archive.files}
    return {key: array for key, array in held.items() if isinstance(array, np.ndarray)}


def _numeric(archive: Mapping[str, np.ndarray], key: str, title: str) -> np.ndarray:
    try:
        return archive[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise ValueError(
            f"array {key!r} of {title} holds pickled Python objects, which are never loaded; save "
            f"it as numbers of one dtype."
        ) from error


def _read_npy(path: Path, title: str) -> Array:
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except ValueError as error:
        if "Python objects" in str(error) or "allow_pickle" in str(error):
            raise ValueError(
                f"{title} holds pickled Python objects, which are never loaded; save numbers of "
                f"one dtype."
            ) from error
        raise


def _read_pt(path: Path, title: str) -> Array | dict[str, Array]:
    import pickle

    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{title} is damaged or holds Python objects, which are never unpickled; save a "
            f"tensor or a dictionary of tensors."
        ) from error
    if isinstance(content, Tensor):
        return content
    if isinstance(content, dict):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            return cast(dict[str, Array], tensors)
    raise ValueError(
        f"{title} holds a {type(content).__name__}; save a tensor or a dictionary of tensors."
    )


def _read_safetensors(path: Path, title: str) -> dict[str, Array]:
    from safetensors.torch import load_file

    return dict(load_file(path))


_READERS: dict[str, Callable[[Path, str], Array | dict[str, Array]]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".pt": _read_pt,
    ".pth": _read_pt,
    ".safetensors": _read_safetensors,
}


def points_key(content: Mapping[str, Any], key: str | None, title: str) -> str:
    """Which of several arrays holds the points; see :func:`load_arrays`.

    Args:
        content: Arrays by name.
        key: The one that was asked for, if any.
        title: The set's name and file in messages.

    Raises:
        ValueError: If there is no such array, or it is not clear which one.
    """
    held = ", ".join(repr(other) for other in list(content)[:8])
    if key is not None:
        if key in content:
            return key
        raise ValueError(f"{title} has no array {key!r}; it has {held or 'none'}.")
    if not content:
        raise ValueError(f"{title} holds no array; save the points under the name 'x'.")
    if len(content) == 1:
        return next(iter(content))
    known = [other for other in _POINT_KEYS if other in content]
    others = [other for other in content if other not in _LABEL_KEYS and other != "encoding"]
    for candidates in (known, others):
        if len(candidates) == 1:
            return candidates[0]
    raise ValueError(
        f"{title} holds the arrays {held}, and it is not clear which are the points; pass key= "
        f"with one of these names."
    )


def find_labels(content: Mapping[str, T], points: str) -> T | None:
    """The array of labels beside the array ``points``, or None."""
    keys = [*_LABEL_KEYS, "arr_1"] if points == "arr_0" else list(_LABEL_KEYS)
    found = [key for key in keys if key in content and key != points]
    return content[found[0]] if found else None


def _find_encoding(content: Mapping[str, Array]) -> Encoding | None:
    stated = content.get("encoding")
    if isinstance(stated, np.ndarray) and stated.ndim == 0 and str(stated) in _ENCODINGS:
        return cast(Encoding, str(stated))
    return None
