"""One call for everything that can be a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from memdiff.data.archives import ARRAY_SUFFIXES, load_arrays
from memdiff.data.arrays import Layout
from memdiff.data.builtin import BUILTINS
from memdiff.data.dataset import Dataset
from memdiff.data.images import IMAGE_SUFFIXES, Mode, Size, load_images
from memdiff.data.reading import files_in, natural_order
from memdiff.data.saved import is_saved_dataset, load_saved_dataset
from memdiff.data.tables import TABLE_SUFFIXES, load_table
from memdiff.data.videos import ANIMATION_SUFFIXES, VIDEO_SUFFIXES, is_animated, load_videos

__all__ = ["load"]

_FILES = "a folder of images or videos, .npz, .npy, .pt, .safetensors, .csv or .parquet"


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
) -> Dataset:
    """Load a data set: a folder, a file, or a built-in by name.

    - A folder of images, or of videos and animations: all files below it, in natural order
      (``img2`` before ``img10``); first-level folders are the labels. Other files are passed
      over, and noted. See :func:`~memdiff.data.images.load_images` and
      :func:`~memdiff.data.videos.load_videos`.
    - ``.npz``, ``.npy``, ``.pt``, ``.safetensors``: see
      :func:`~memdiff.data.archives.load_arrays`; never unpickled.
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
        categorical: Columns of a table to treat as categories although they hold numbers.

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
    )
    _check_options(options, name)
    path = Path(source).expanduser()
    if path.is_dir():
        return _load_folder(path, name, options)
    if path.is_file():
        return _load_file(path, name, options)
    if str(source) in BUILTINS:
        _refuse(options, {"limit"}, f"{name} ({source})", "a built-in data set")
        data = BUILTINS[str(source)]().renamed(name)
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


def _load_file(path: Path, name: str, options: dict[str, Any]) -> Dataset:
    title, suffix = f"{name} ({path})", path.suffix.lower()
    if suffix in ARRAY_SUFFIXES:
        _refuse(options, {"limit", "key", "value_range", "layout"}, title, "an array file")
        return load_arrays(path, name=name, **options)
    if suffix in TABLE_SUFFIXES:
        _refuse(options, {"limit", "header", "categorical"}, title, "a table")
        return load_table(path, name=name, **options)
    if suffix in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
        raise ValueError(f"{title} is a single image or video; give the folder that holds it.")
    raise ValueError(
        f"{title} has the unknown suffix {suffix!r}; give {_FILES}."
        if suffix
        else f"{title} has no suffix that tells its format; give {_FILES}."
    )


def _load_folder(folder: Path, name: str, options: dict[str, Any]) -> Dataset:
    title = f"{name} ({folder})"
    if is_saved_dataset(folder):
        _refuse(options, {"limit", "key", "size", "mode", "categorical"}, title, "a saved dataset")
        return load_saved_dataset(folder, name=name, **options)
    everything = files_in(folder)
    if not everything:
        raise ValueError(f"{title} is an empty folder; give {_FILES}.")
    pictures = [file for file in everything if file.suffix.lower() in IMAGE_SUFFIXES]
    videos = [file for file in everything if file.suffix.lower() in VIDEO_SUFFIXES]
    if not pictures and not videos:
        found = sorted({file.suffix.lower() or file.name for file in everything})
        raise ValueError(
            f"{title} holds no images or videos among {len(everything)} files (found "
            f"{', '.join(found[:5])}); give {_FILES}."
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
        _refuse(options, {"size", "mode"}, title, "a folder of images")
        data = load_images(folder, stills[:limit], name=name, **options)
    passed_over = len(everything) - len(stills) - len(clips)
    if passed_over:
        return replace(data, notes=(f"{passed_over} other files passed over",))
    return data


def _sort_out(
    folder: Path, pictures: list[Path], videos: list[Path], name: str
) -> tuple[list[Path], list[Path]]:
    """Still images and clips. Only formats that can be either are opened."""
    stills: list[Path] = []
    clips = list(videos)
    for file in pictures:
        either = file.suffix.lower() in ANIMATION_SUFFIXES
        moving = either and is_animated(folder / file, f"{name} ({folder / file})")
        (clips if moving else stills).append(file)
    return stills, sorted(clips, key=natural_order)
