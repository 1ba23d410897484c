"""The options that say how data are read."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import Namespace

from memdiff.cli.parser import Parser
from memdiff.cli.wording import as_options
from memdiff.run.memory import STREAM_ABOVE

if TYPE_CHECKING:
    from memdiff.data import Dataset

__all__ = ["DATA", "add_data_options", "add_stream_option", "load_sets"]

DATA = (
    "a folder of images, videos or array shards, a .npz, .npy, .pt, .safetensors, .csv or "
    ".parquet file, a pattern such as 'shards/*.npy', or a built-in: digits, mnist5k, rectangles, "
    "points20"
)
"""What a path to data may be, for a help text."""


_RANGES = {"unit": (0.0, 1.0), "byte": (0.0, 255.0), "signed": (-1.0, 1.0)}
_OF_TABLES = ("header", "categorical", "missing")


def add_data_options(parser: Parser) -> None:
    """Declare the options that say how data are read."""
    parser.add_argument(
        "--limit", type=int | None, default=None, help="Use the first LIMIT points."
    )
    parser.add_argument(
        "--size",
        type=int | str | None,
        default=None,
        metavar="SIDE|HxW",
        help="Resize images to SIDE x SIDE pixels, or to height x width.",
    )
    parser.add_argument(
        "--mode",
        type=Literal["L", "RGB", "RGBA"] | None,
        default=None,
        help="Convert images to grey, RGB or RGBA.",
    )
    parser.add_argument(
        "--frames", type=int | None, default=None, help="Use the first FRAMES frames of videos."
    )
    parser.add_argument(
        "--key", type=str | None, default=None, help="The array to take from a file of several."
    )
    parser.add_argument(
        "--value-range",
        nargs="+",
        type=str,
        default=[],
        metavar="RANGE",
        help="The range that pixels in array files span: unit (0 to 1), byte (0 to 255), signed "
        "(-1 to 1) or LOW:HIGH; for one set, as in generated=unit.",
    )
    parser.add_argument(
        "--layout",
        type=Literal["channels_first", "channels_last"] | None,
        default=None,
        help="Where the channels of images in array files are.",
    )
    parser.add_argument(
        "--no-header", action="store_true", help="The .csv files have no line of column names."
    )
    parser.add_argument(
        "--categorical",
        nargs="+",
        type=str,
        default=[],
        metavar="COLUMN",
        help="Columns of tables to treat as categories although they hold numbers or dates.",
    )
    parser.add_argument(
        "--missing",
        type=Literal["drop", "mean", "category"] | None,
        default=None,
        help="Missing values of tables: drop their rows; put the mean of the column, or its most "
        "frequent category; or make them a category, and put means with a column that says so.",
    )


def add_stream_option(parser: Parser) -> None:
    """Declare the option that says what stays on disk."""
    parser.add_argument(
        "--stream-above",
        type=int,
        default=STREAM_ABOVE,
        metavar="BYTES",
        help="Leave .npy and .safetensors data that would take more memory than this on disk, and "
        "read them in blocks.",
    )


def load_sets(options: Namespace, sources: Mapping[str, str]) -> dict[str, Dataset]:
    """Load several sets with the options of :func:`add_data_options`.

    Sets stay on disk as :func:`add_stream_option` says, where a command has that option.

    An option is applied to the sets that it can apply to: samples in an array file may be compared
    with a folder of images that is resized to them. Missing values of all tables are filled in
    with what stands for them in the training set. What a reader should know of a set is printed on
    standard error.

    Args:
        options: Parsed options.
        sources: A path or built-in for each name, among them ``"train"``.

    Raises:
        ValueError: If an option applies to none of the sets, or a set cannot be loaded.
    """
    from memdiff.data import load

    given = _given(options)
    taken: dict[str, dict[str, Any]] = {
        name: {option: value for option, value in given.items() if _applies(option, source)}
        for name, source in sources.items()
    }
    for option, value in given.items():
        if not any(option in found for found in taken.values()):
            next(iter(taken.values()))[option] = value  # loading refuses it and says why
    for name, value_range in _ranges(options.get("value_range") or [], sources).items():
        for one in [name] if name else _ranged(sources):
            taken[one]["value_range"] = value_range
    above = options.get("stream_above")
    sets: dict[str, Dataset] = {}
    for name in sorted(sources, key=lambda name: name != "train"):
        if "missing" in taken[name] and name != "train" and sets["train"].completion is not None:
            taken[name]["like"] = sets["train"]
        sets[name] = load(sources[name], name=name, stream_above=above, **taken[name])
        for note in sets[name].notes if not options.get("quiet") else ():
            print(f"memdiff: note: {sets[name].title}: {as_options(note)}", file=sys.stderr)
    return {name: sets[name] for name in sources}


def _given(options: Namespace) -> dict[str, Any]:
    """The options that were given, as the library takes them."""
    given = {
        name: options[name]
        for name in ("limit", "size", "mode", "frames", "key", "layout", "missing")
        if options.get(name) is not None
    }
    if "size" in given:
        given["size"] = _size(given["size"])
    if options.get("no_header"):
        given["header"] = False
    if options.get("categorical"):
        given["categorical"] = options.categorical
    return given


def _size(size: int | str) -> int | tuple[int, int]:
    if isinstance(size, int):
        return size
    sides = re.fullmatch(r"(\d+)[x:](\d+)", size)
    if sides is None:
        raise ValueError(f"--size must be a number of pixels or HxW, as in 48x64, got {size!r}.")
    return int(sides[1]), int(sides[2])


def _ranges(given: Sequence[str], sources: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """Value ranges by the name of the set; that of all sets under the empty name."""
    ranges: dict[str, tuple[float, float]] = {}
    for text in given:
        name, _, value = text.rpartition("=")
        if name and name not in sources:
            raise ValueError(
                f"--value-range {text} names no set: here they are {', '.join(sources)}."
            )
        if name in ranges:
            raise ValueError(f"--value-range has two ranges for {name or 'all sets'}: give one.")
        try:
            low, high = _RANGES.get(value) or (float(bound) for bound in value.split(":"))
            if not -math.inf < low < high < math.inf:
                raise ValueError
        except ValueError as error:
            raise ValueError(
                f"--value-range must be unit, byte, signed or LOW:HIGH, or one of these for a "
                f"set, as in {next(iter(sources))}=unit, got {text!r}."
            ) from error
        ranges[name] = low, high
    return ranges


def _ranged(sources: Mapping[str, str]) -> list[str]:
    """The sets to which a range for all of them applies, or the first one, which refuses it."""
    from memdiff.data.saved import is_saved_dataset

    found = [name for name, source in sources.items() if _applies("value_range", source)]
    # A saved dataset may hold images, whose range is known.
    arrays = [name for name in found if not is_saved_dataset(Path(sources[name]).expanduser())]
    return arrays or found or list(sources)[:1]


def _applies(option: str, source: str) -> bool:
    from memdiff.data.archives import ARRAY_SUFFIXES
    from memdiff.data.saved import is_saved_dataset
    from memdiff.data.tables import TABLE_SUFFIXES

    path = Path(source).expanduser()
    of_arrays = option in ("key", "value_range", "layout")
    if option == "limit":
        return True
    if path.is_dir():
        if is_saved_dataset(path):
            return option not in ("frames", "header")
        return option not in _OF_TABLES and of_arrays == _holds_shards(path)
    suffix = path.suffix.lower()
    if suffix in TABLE_SUFFIXES:
        return option in _OF_TABLES and (option != "header" or suffix == ".csv")
    return of_arrays and suffix in ARRAY_SUFFIXES


def _holds_shards(folder: Path) -> bool:
    from memdiff.data.images import IMAGE_SUFFIXES
    from memdiff.data.reading import files_in
    from memdiff.sources import STREAMED_SUFFIXES

    suffixes = {file.suffix.lower() for file in files_in(folder)}
    return bool(suffixes & set(STREAMED_SUFFIXES)) and not suffixes & set(IMAGE_SUFFIXES)
