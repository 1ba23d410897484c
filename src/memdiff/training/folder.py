"""Whose folder it is: that of the same run, a new one, or one of something else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from memdiff.training.checkpoints import read_header

__all__ = ["remove_run", "require_free", "require_same"]

_OPTIONS = {
    "settings.training.learning_rate": "learning rate (--lr)",
    "settings.training.seed": "seed",
    "settings.monitor.seed": "seed",
    "settings.monitor.samples": "number of monitor samples (--monitor-samples)",
    "settings.monitor.sampler": "sampler of the monitor (--sampler-steps)",
    "model.seed": "seed",
    "data.train": "set of training data",
    "data.heldout": "set of held-out data",
}
"""What the entries of a run are called, where their own names do not say it."""


def require_free(folder: Path, config: str, state: str, names: Sequence[str]) -> None:
    """Refuse a folder in which a run would overwrite what no run has written.

    Args:
        folder: The folder; it need not exist.
        config: Name of the file that a run writes before all others; it has a ``"run"``.
        state: Name of the checkpoint, which also says that there is a run.
        names: Names of all files of a run.

    Raises:
        ValueError: If it is no folder, or holds a file of such a name but no run.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out {str(folder)!r} is a file: give the name of a folder.")
    found = [name for name in names if (folder / name).exists()]
    if not found or _describes_a_run(folder / config) or _is_state(folder / state):
        return
    if _is_damaged(folder / config):
        raise ValueError(
            f"{str(folder / config)!r} is damaged, it is no whole JSON, or it is of something "
            "else: choose another folder, or remove this one if it is that of a run."
        )
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
                f"out {str(folder)!r} holds a run with another {_called(name)} "
                f"({_short(other.get(name))}, now {_short(mine.get(name))}): choose another "
                "folder, the options of that run, or --overwrite to start anew."
            )


def remove_run(folder: Path, files: Sequence[str], folders: Sequence[str]) -> None:
    """Remove what a run has written, and nothing else.

    Args:
        folder: The folder of the run.
        files: Names of its files.
        folders: Names of its folders, whose files are called ``step-...`` or are event files.
    """
    for name in files:
        (folder / name).unlink(missing_ok=True)
    for name in folders:
        for pattern in ("step-*", "events.out.tfevents.*"):
            for path in (folder / name).glob(pattern):
                path.unlink()
        with suppress(OSError):  # it holds something else, or is not there
            (folder / name).rmdir()


def _called(name: str) -> str:
    return _OPTIONS.get(name, name.rpartition(".")[2].replace("_", " "))


def _depends(name: str) -> int:
    if name in ("model.shape", "model.sigma_data"):
        return 3
    if name == "data.train":  # what is held out may be a part of it
        return 1
    return 2 if name.startswith("data.") else 0


def _short(value: object) -> object:
    """A value of an entry; the hash of a set by its first digits."""
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else value


def _describes_a_run(path: Path) -> bool:
    try:
        content = json.loads(path.read_text("utf-8"))
    except PermissionError:  # it is not of something else, as far as anyone can tell
        raise
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and isinstance(content.get("run"), dict)


def _is_state(path: Path) -> bool:
    try:
        return "key" in read_header(path)["facts"]
    except (OSError, ValueError, KeyError):
        return False


def _is_damaged(path: Path) -> bool:
    try:
        json.loads(path.read_text("utf-8"))
    except ValueError:
        return True
    except OSError:
        return False
    return False


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat.update(_flat(value, f"{path}.") if isinstance(value, Mapping) else {path: value})
    return flat
