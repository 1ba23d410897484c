"""The options that say how data are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import Namespace

from memdiff.cli.choices import STREAM_ABOVE
from memdiff.cli.parser import Parser

if TYPE_CHECKING:
    from memdiff.data import Dataset

__all__ = ["DATA", "add_data_options", "add_stream_option", "load_sets"]

DATA = (
    "a folder of images, videos or array shards, a .npz, .npy, .pt, .safetensors, .csv or "
    ".parquet file, a pattern such as 'shards/*.npy', or a built-in: digits, mnist5k, rectangles, "
    "points20"
)
"""What a path to data may be, for a help text."""


def add_data_options(parser: Parser) -> None:
    """Declare the options that say how data are read."""
    parser.add_argument(
        "--limit", type=int | None, default=None, help="Use the first LIMIT points."
    )
    parser.add_argument(
        "--size", type=int | None, default=None, help="Resize images to SIZE x SIZE pixels."
    )
    parser.add_argument(
        "--mode",
        type=Literal["L", "RGB", "RGBA"] | None,
        default=None,
        help="Convert images to grey, RGB or RGBA.",
    )
    parser.add_argument(
        "--key", type=str | None, default=None, help="The array to take from a file of several."
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
    with a folder of images that is resized to them.

    Args:
        options: Parsed options.
        sources: A path or built-in for each name.

    Raises:
        ValueError: If an option applies to none of the sets, or a set cannot be loaded.
    """
    from memdiff.data import load

    given = {
        name: options[name]
        for name in ("limit", "size", "mode", "key")
        if options[name] is not None
    }
    taken = {
        name: {option: value for option, value in given.items() if _applies(option, source)}
        for name, source in sources.items()
    }
    for option, value in given.items():
        if not any(option in found for found in taken.values()):
            next(iter(taken.values()))[option] = value  # loading refuses it and says why
    above = options.get("stream_above")
    return {
        name: load(source, name=name, stream_above=above, **taken[name])
        for name, source in sources.items()
    }


def _applies(option: str, source: str) -> bool:
    from memdiff.data.archives import ARRAY_SUFFIXES
    from memdiff.data.saved import is_saved_dataset

    path = Path(source).expanduser()
    if option == "limit":
        return True
    if path.is_dir():
        if is_saved_dataset(path):
            return True
        return (option == "key") == _holds_shards(path)
    return option == "key" and path.suffix.lower() in ARRAY_SUFFIXES


def _holds_shards(folder: Path) -> bool:
    from memdiff.data.images import IMAGE_SUFFIXES
    from memdiff.data.reading import files_in
    from memdiff.sources import STREAMED_SUFFIXES

    suffixes = {file.suffix.lower() for file in files_in(folder)}
    return bool(suffixes & set(STREAMED_SUFFIXES)) and not suffixes & set(IMAGE_SUFFIXES)
