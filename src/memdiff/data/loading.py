"""One call for everything that can be a data set."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from memdiff.data.archives import ARRAY_SUFFIXES, load_arrays
from memdiff.data.arrays import Layout, in_range
from memdiff.data.builtin import BUILTINS
from memdiff.data.dataset import Dataset
from memdiff.data.images import IMAGE_SUFFIXES, Mode, Size, load_images
from memdiff.data.missing import MissingRule
from memdiff.data.reading import files_in, natural_order, reading
from memdiff.data.saved import is_saved_dataset, load_saved_dataset
from memdiff.data.streamed import load_shards
from memdiff.data.tables import TABLE_SUFFIXES, load_table
from memdiff.data.videos import ANIMATION_SUFFIXES, VIDEO_SUFFIXES, is_animated, load_videos
from memdiff.sources import STREAMED_SUFFIXES, ArrayFile

__all__ = ["load"]

_ARRAY_OPTIONS = {"limit", "key", "value_range", "layout"}
_SAVED_OPTIONS = {"size", "mode", "categorical", "missing", "like", *_ARRAY_OPTIONS}
_TABLE_OPTIONS = {"limit", "header", "categorical", "missing", "like"}

_FILES = (
    "a folder of images, videos or array shards, .npz, .npy, .pt, .safetensors, .csv or .parquet"
)


def load(
    source: str | Path,
    *,
    name: str = "data",
    limit: int | None = None,
    size: Size | None = None,
    mode: Mode | None = None,
    frames: int | None = None,
    key: str | None = None,
    value_range: tuple[float, float] | None = None,
    layout: Layout | None = None,
    header: bool = True,
    categorical: Sequence[str] = (),
    missing: MissingRule | None = None,
    like: Dataset | None = None,
    stream_above: int | None = None,
) -> Dataset:
    """Load a data set: a folder, a file, or a built-in by name.

    - A folder of images, or of videos and animations: all files below it, in natural order
      (``img2`` before ``img10``); first-level folders are the labels. Other files are passed
      over, and noted. See :func:`~memdiff.data.images.load_images` and
      :func:`~memdiff.data.videos.load_videos`.
    - ``.npz``, ``.npy``, ``.pt``, ``.safetensors``: see
      :func:`~memdiff.data.archives.load_arrays`; never unpickled.
    - A folder of ``.npy`` and ``.safetensors`` shards, or a pattern such as ``"shards/*.npy"``:
      one set, in natural order of the names.
    - ``.csv``, ``.parquet``: see :func:`~memdiff.data.tables.load_table`.
    - A folder that Hugging Face ``datasets`` saved: see
      :func:`~memdiff.data.saved.load_saved_dataset`.
    - A built-in: ``digits``, ``mnist5k``, ``rectangles``, ``points20``. A path that exists goes
      first.

    8- and 16-bit pixels come as float32 in [-1, 1] whatever the format, so that the same image
    has the same values; floats keep their values, see :func:`~memdiff.data.arrays.from_array`.
    An option that does not apply to the source is refused, not ignored.

    Args:
        source: Path or name.
        name: What to call the set in messages, e.g. ``"train"``.
        limit: Keep the first ``limit`` points, at least 1.
        size: Resize images and frames to ``(H, W)`` or a square.
        mode: Convert images and frames to ``"L"``, ``"RGB"`` or ``"RGBA"``.
        frames: Keep the first so many frames of every clip.
        key: The array in a file of several, or the split of a saved dataset.
        value_range: Range that stored pixels span; they are mapped to [-1, 1].
        layout: ``"channels_first"`` or ``"channels_last"`` of an ambiguous array.
        header: Whether a ``.csv`` begins with a line of column names.
        categorical: Columns of a table to treat as categories although they hold numbers or
            dates.
        missing: What to do about missing values of a table: ``"drop"``, ``"mean"`` or
            ``"category"``; see :func:`~memdiff.data.from_frame`. None refuses them.
        like: A table whose stand-ins for missing values this one takes: the training set.
        stream_above: Leave ``.npy`` and ``.safetensors`` sets that would take more bytes than
            this in memory on disk: the result is then a
            :class:`~memdiff.data.streamed.StreamedDataset`. None loads everything.

    Returns:
        The data set.

    Raises:
        FileNotFoundError: If there is no such path and no such built-in.
        ValueError: If the content is damaged, empty, inconsistent, not finite or of an unknown
            format, or an option does not apply. The message is one sentence that names the file.
        ImportError: If an extra is needed; the message has the pip command.

    Example:
        >>> load("points20", name="train")
        Dataset(train (points20): 20 vectors of shape (2,), float64)
    """
    options = _given(
        limit=limit,
        size=size,
        mode=mode,
        frames=frames,
        key=key,
        value_range=value_range,
        layout=layout,
        header=None if header else False,
        categorical=tuple(categorical) or None,
        missing=missing,
        like=like,
    )
    _check_options(options, name)
    if stream_above is not None and stream_above < 0:
        raise ValueError(f"{name}: stream_above must be 0 bytes or more, got {stream_above}.")
    path = Path(source).expanduser()
    if path.is_dir():
        return _load_folder(path, name, options, stream_above)
    if path.is_file():
        return _load_file(path, name, options, stream_above)
    if not path.exists() and glob.has_magic(str(source)):
        return _load_pattern(path, name, options, stream_above)
    if str(source) in BUILTINS:
        _refuse(options, {"limit", "value_range"}, f"{name} ({source})", "a built-in data set")
        data = BUILTINS[str(source)]().renamed(name)
        data = data if value_range is None else in_range(data, value_range)
        return data if limit is None else data.subset(slice(limit))
    if path.exists():
        raise ValueError(f"{name} ({source}) is neither a file nor a folder; give {_FILES}.")
    raise FileNotFoundError(
        f"{name}: no file, folder or built-in data set is called {str(source)!r}; give {_FILES}, "
        f"or one of {', '.join(BUILTINS)}."
    )


def _given(**options: Any) -> dict[str, Any]:  # noqa: ANN401
    return {option: value for option, value in options.items() if value is not None}


def _check_options(options: dict[str, Any], name: str) -> None:
    for option in ("limit", "frames"):
        value = options.get(option, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{option} must be an integer of at least 1, got {value!r} ({name}).")
    if options.get("mode", "L") not in ("L", "RGB", "RGBA"):
        raise ValueError(f"mode must be 'L', 'RGB' or 'RGBA', got {options['mode']!r} ({name}).")
    size = options.get("size", 1)
    sides = (size,) if isinstance(size, int) else size
    if (
        not isinstance(sides, Sequence)
        or len(sides) not in (1, 2)
        or not all(isinstance(s, int) and s >= 1 for s in sides)
    ):
        raise ValueError(
            f"size must be a number of pixels or (height, width), at least 1, got {size!r} "
            f"({name})."
        )
    if "size" in options:
        options["size"] = (sides[0], sides[-1])


def _refuse(options: dict[str, Any], allowed: set[str], title: str, what: str) -> None:
    for option in options:
        if option not in allowed:
            raise ValueError(
                f"{option}= does not apply to {title}, which is {what}; leave it out."
            )


def _load_file(
    path: Path, name: str, options: dict[str, Any], stream_above: int | None
) -> Dataset:
    title, suffix = f"{name} ({path})", path.suffix.lower()
    if suffix in ARRAY_SUFFIXES:
        _refuse(options, _ARRAY_OPTIONS, title, "an array file")
        if stream_above is not None and _size_in_memory(path, name) > stream_above:
            return load_shards([path], name=name, stream_above=stream_above, **options)
        return load_arrays(path, name=name, **options)
    if suffix in TABLE_SUFFIXES:
        _refuse(options, _TABLE_OPTIONS, title, "a table")
        return load_table(path, name=name, **options)
    if suffix in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
        raise ValueError(f"{title} is a single image or video; give the folder that holds it.")
    raise ValueError(
        f"{title} has the unknown suffix {suffix!r}; give {_FILES}."
        if suffix
        else f"{title} has no suffix that tells its format; give {_FILES}."
    )


def _size_in_memory(path: Path, name: str) -> int:
    """Bytes of a decoded file, from its header alone; 0 for formats that cannot be streamed."""
    if path.suffix.lower() == ".npy":
        with reading(f"{name} ({path})"):
            try:
                header = np.load(path, mmap_mode="r", allow_pickle=False)
            except ValueError as error:
                if "Python objects" in str(error):
                    return 0  # for load_arrays to refuse
                raise
        return int(header.size) * (8 if header.dtype.itemsize == 8 else 4)
    if path.suffix.lower() == ".safetensors":
        arrays = ArrayFile.open_all(path, name).values()
        return sum(len(one) * one.row_bytes * 4 // min(one.dtype.itemsize, 4) for one in arrays)
    return 0


def _load_pattern(
    pattern: Path, name: str, options: dict[str, Any], stream_above: int | None
) -> Dataset:
    title = f"{name} ({pattern})"
    paths = sorted((Path(path) for path in glob.glob(str(pattern))), key=natural_order)
    if not paths:
        raise FileNotFoundError(f"{title} matches no file; give {_FILES}.")
    others = [path for path in paths if path.suffix.lower() not in STREAMED_SUFFIXES]
    if others:
        raise ValueError(
            f"{title} matches {str(others[0])!r}, which cannot be a shard; give a pattern of "
            f"{' or '.join(STREAMED_SUFFIXES)} files."
        )
    _refuse(options, _ARRAY_OPTIONS, title, "a pattern of shards")
    return load_shards(paths, name=name, source=str(pattern), stream_above=stream_above, **options)


def _load_folder(
    folder: Path, name: str, options: dict[str, Any], stream_above: int | None
) -> Dataset:
    title = f"{name} ({folder})"
    if is_saved_dataset(folder):
        _refuse(options, _SAVED_OPTIONS, title, "a saved dataset")
        return load_saved_dataset(folder, name=name, **options)
    everything = files_in(folder)
    if not everything:
        raise ValueError(f"{title} is an empty folder; give {_FILES}.")
    pictures = [file for file in everything if file.suffix.lower() in IMAGE_SUFFIXES]
    videos = [file for file in everything if file.suffix.lower() in VIDEO_SUFFIXES]
    shards = [folder / file for file in everything if file.suffix.lower() in STREAMED_SUFFIXES]
    if shards and not pictures and not videos:
        _refuse(options, _ARRAY_OPTIONS, title, "a folder of shards")
        data = load_shards(
            shards, name=name, source=str(folder), stream_above=stream_above, **options
        )
        return _noted(data, len(everything) - len(shards))
    if not pictures and not videos:
        found = sorted({file.suffix.lower() or file.name for file in everything})
        raise ValueError(
            f"{title} holds no images, videos or array shards among {len(everything)} files "
            f"(found {', '.join(found[:5])}); give {_FILES}."
        )
    stills, clips = _sort_out(folder, pictures, videos, name)
    if stills and clips:
        raise ValueError(
            f"{title} mixes images and videos, such as {str(stills[0])!r} and {str(clips[0])!r}; "
            f"give a folder of one kind."
        )
    limit = options.pop("limit", None)
    if clips:
        _refuse(options, {"size", "mode", "frames"}, title, "a folder of videos")
        data = load_videos(folder, clips[:limit], name=name, **options)
    else:
        _refuse(options, {"size", "mode", "value_range"}, title, "a folder of images")
        data = load_images(folder, stills[:limit], name=name, **options)
    return _noted(data, len(everything) - len(stills) - len(clips))


def _noted(data: Dataset, passed_over: int) -> Dataset:
    if passed_over:
        return replace(data, notes=(f"{passed_over} other files passed over",))
    return data


def _sort_out(
    folder: Path, pictures: list[Path], videos: list[Path], name: str
) -> tuple[list[Path], list[Path]]:
    """Still images and clips. Only formats that can be either are opened.

    Reading a pipe would wait for ever, so what is no file is refused.
    """
    for file in (*pictures, *videos):
        if not (folder / file).is_file():
            what = (
                "neither a file nor a folder" if (folder / file).exists() else "a link to nothing"
            )
            raise ValueError(f"{name} ({folder / file}) is {what}; remove it from the folder.")
    stills: list[Path] = []
    clips = list(videos)
    for file in pictures:
        either = file.suffix.lower() in ANIMATION_SUFFIXES
        moving = either and is_animated(folder / file, f"{name} ({folder / file})")
        (clips if moving else stills).append(file)
    return stills, sorted(clips, key=natural_order)
