"""Messages of the library in the words of the command line: options for arguments."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

__all__ = ["as_options"]

_RANGES = {(0.0, 1.0): "unit", (0.0, 255.0): "byte", (-1.0, 1.0): "signed"}
_NAMES = {
    "header": "no-header",
    "learning_rate": "lr",
    **{name: f"augment-{name}" for name in ("degrees", "shift", "zoom")},
    "samples": "monitor-samples",
    "collapse": "strength",
}
_OF_TRAINING = {"strength": "tikhonov", "steps of Heun": "sampler-steps"}
"""What the library calls the same in training and in sampling, where it has the plain name."""

_DATA = (
    *("limit", "size", "mode", "frames", "key", "value_range", "layout"),
    *("header", "categorical", "missing", "stream_above"),
)
_NUMBER = r"-?[\d.]+(?:e[+-]?\d+)?"
_VALUE = r"\((?:[^()]*)\)|'[^']*'|\"[^\"]*\"|\w+(?:\.\w+)*"
_ARGUMENT = re.compile(rf"(?<![\w./])({'|'.join(_DATA)})=({_VALUE})?")
_LOAD = re.compile(r"load (generated|train|heldout) \((.*?)\) with value_range=(\([^()]*\))")
_BARE = re.compile(r"(?<![\w'\"./=-])([a-z]+(?:_[a-z]+)+)(?![\w'\"/=]|\.\w)")


def as_options(sentence: str, options: Iterable[str] = ()) -> str:
    """Name the options of the command line where a sentence names arguments of the library.

    Args:
        sentence: A message of the library. Arguments that say how data are read stand in it as
            ``mode='RGB'``; others begin it, as in ``steps must be at least 1``.
        options: Names of the options of the command, with underscores. Where a sentence names
            one that has an underscore, it is no other word.

    Example:
        >>> as_options("pixels in [0, 1]; load train (t.npz) with value_range=(0, 1).")
        'pixels in [0, 1]; pass --value-range train=unit.'
        >>> as_options("a.csv has no names; pass header=False.")
        'a.csv has no names; pass --no-header.'
        >>> as_options("batch_size must be at least 1, got 0.", ["batch_size"])
        '--batch-size must be at least 1, got 0.'
    """
    known = frozenset(options)
    sentence = _LOAD.sub(lambda m: f"pass --value-range {m[1]}={_range(m[3])}", sentence)
    sentence = _ARGUMENT.sub(lambda m: _option(m[1], m[2]), sentence)
    sentence = _BARE.sub(
        lambda m: f"--{m[1].replace('_', '-')}" if m[1] in known.union(_DATA) else m[1], sentence
    )
    first = re.match(r"(\w+(?: of Heun)?)(?= (?:must|needs) )", sentence)
    if first:
        name = first[1] if first[1] in known else _NAMES.get(first[1], first[1])
        if name not in known and "sampler_steps" in known:
            name = _OF_TRAINING.get(name, name)
        if first[1] in _DATA or name.replace("-", "_") in known:
            return f"--{name.replace('_', '-')}{sentence[first.end() :]}"
    return sentence


def _option(name: str, value: str | None) -> str:
    option = f"--{_NAMES.get(name, name).replace('_', '-')}"
    if value is None or name == "header":
        return option
    if name == "value_range":
        return f"{option} {_range(value)}"
    if name == "size":
        sides = re.findall(r"\w+", value)
        return f"{option} {'x'.join(sides)}"
    words = re.findall(r"'([^']*)'|\"([^\"]*)\"", value)
    if words:
        return " ".join([option, *(shlex.quote(one or other) for one, other in words)])
    return f"{option} {value.strip('()')}"


def _range(value: str) -> str:
    bounds = re.findall(_NUMBER, value)
    if len(bounds) != 2:
        return "LOW:HIGH"
    low, high = map(float, bounds)
    return _RANGES.get((low, high), f"{low:g}:{high:g}")
