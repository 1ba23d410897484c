"""Partial results on disk: plain JSON and named arrays, each whole or not there."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from memdiff.run.writing import save_arrays, write_json

__all__ = ["read_arrays", "read_partial", "write_arrays", "write_partial"]


def read_partial(path: Path) -> dict[str, Any] | None:
    """Read a partial result; None where there is none or it is not whole."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def write_partial(path: Path, value: Mapping[str, Any]) -> None:
    """Keep a partial result, whole or not at all."""
    write_json(path, dict(value))


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Read partial arrays; None where there are none or the file is not whole."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (FileNotFoundError, ValueError, zipfile.BadZipFile):
        return None


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep partial arrays, whole or not at all."""
    save_arrays(path, **dict(arrays))
