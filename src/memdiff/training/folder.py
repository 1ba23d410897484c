"""Whose folder it is: that of the same run, a new one, or one of something else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["require_free", "require_same"]


def require_free(folder: Path, config: str, names: Sequence[str]) -> None:
    """Refuse a folder in which a run would overwrite what no run has written.

    Args:
        folder: The folder; it need not exist.
        config: Name of the file that a run writes before all others; it has a ``"run"``.
        names: Names of all files of a run.

    Raises:
        ValueError: If it is no folder, or holds a file of such a name but no run.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out {str(folder)!r} is a file: give the name of a folder.")
    found = [name for name in names if (folder / name).exists()]
    if found and not _describes_a_run(folder / config):
        raise ValueError(
            f"out {str(folder)!r} holds a {found[0]} of something else: choose another folder."
        )


def require_same(folder: Path, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Refuse to go on with a run of other options.

    Args:
        folder: The folder.
        ours: What must be equal, of the run that is asked for.
        theirs: The same of the run in the folder.

    Raises:
        ValueError: If they differ. It names an option that does; data only where all options
            agree, since the seed decides which points are held out; never what follows from data.
    """
    mine, other = _flat(ours), _flat(theirs)
    for name in sorted(mine.keys() | other.keys(), key=lambda name: (_depends(name), name)):
        if mine.get(name) != other.get(name):
            raise ValueError(
                f"out {str(folder)!r} holds a run with another {name} ({other.get(name)}, now "
                f"{mine.get(name)}): choose another folder, or the options of that run."
            )


def _depends(name: str) -> int:
    if name in ("model.shape", "model.sigma_data"):
        return 2
    return 1 if name.startswith("data.") else 0


def _describes_a_run(path: Path) -> bool:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and isinstance(content.get("run"), dict)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat.update(_flat(value, f"{path}.") if isinstance(value, Mapping) else {path: value})
    return flat
