"""Folder of a training run: the files it writes, and taking up an interrupted run.

It holds ``config.json`` and ``model.safetensors`` (:func:`memdiff.training.load_model`),
``metrics.jsonl``, ``state.safetensors`` (what a resume needs), ``candidates/`` (models that may be
kept), ``samples/`` (what the monitor drew), and after the end ``best.safetensors``,
``report.html``, ``report.json``, ``samples.npz`` and ``audit.html``. Samples of a table are tables
in the format of the training data: ``samples.csv`` or ``samples.parquet``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from memdiff.data import Dataset, TableEncoding, save_table
from memdiff.run.writing import save_arrays, write_json
from memdiff.training.checkpoints import load_state, read_header, save_state
from memdiff.training.events import Events
from memdiff.training.journal import Journal, read_journal
from memdiff.training.loop import TrainingState
from memdiff.training.model import CONFIG, WEIGHTS
from memdiff.training.model_choice import Candidates

__all__ = ["FILES", "FOLDERS", "RunFolder", "save_samples"]

BEST, STATE, JOURNAL, SAMPLES, CANDIDATES, EVENTS = (
    "best.safetensors",
    "state.safetensors",
    "metrics.jsonl",
    "samples",
    "candidates",
    "tensorboard",
)
_ASSESSMENT = (
    *("report.html", "report.json", "audit.html", "audit.json"),
    *("samples.npz", "samples.csv", "samples.parquet"),
)
FILES = (CONFIG, STATE, JOURNAL, WEIGHTS, BEST, *_ASSESSMENT)
FOLDERS = (SAMPLES, CANDIDATES, EVENTS)
"""All that a run writes into its folder."""

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


class RunFolder:
    """The folder of one run.

    Args:
        path: The folder; it need not exist.

    Attributes:
        path: The folder.
        start: Last step that it holds when the run takes it up; negative for a new run.
        candidates: The stored models.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.start = path, -1
        self.candidates = Candidates(path / CANDIDATES)
        self._journal: Journal | None = None
        self._events: Events | None = None

    def read(
        self, key: Mapping[str, Any], state: TrainingState, *, overwrite: bool
    ) -> Mapping[str, Any] | None:
        """Bring a state to where the run in the folder was.

        Args:
            key: What must be equal, of the run that is asked for.
            state: A new state; changed in place.
            overwrite: Whether to start anew whatever is there.

        Returns:
            What was saved with the state; None for a new run.

        Raises:
            ValueError: If the folder holds another run or something else, or is damaged.
        """
        self._require_free()
        path = self.path / STATE
        if overwrite or not path.is_file():
            return None
        try:
            kept = read_header(path)["facts"].get("key", {})
        except (ValueError, KeyError) as error:
            raise ValueError(self._lost(error)) from error
        self._require_same(key, kept)
        try:
            facts = load_state(path, state)
        except ValueError as error:
            raise ValueError(self._lost(error)) from error
        self.start = state.step
        for _ in read_journal(self.path / JOURNAL):
            pass  # what is damaged in it is said before anything is written
        return facts

    def begin(self, description: Mapping[str, Any], *, overwrite: bool, tensorboard: bool) -> None:
        """Make the folder that of a run; the first file says whose it is.

        Args:
            description: Content of ``config.json``.
            overwrite: Whether to remove the files of an earlier run.
            tensorboard: Whether to write event files.
        """
        if overwrite:
            self.remove()
        write_json(self.path / CONFIG, dict(description))
        self._journal = Journal(self.path / JOURNAL, upto=self.start)
        if tensorboard:
            self._events = Events(self.path / EVENTS, upto=self.start)

    def record(self, record: Mapping[str, Any]) -> None:
        """Add a record to the journal and the event files."""
        assert self._journal is not None
        self._journal.append(record)
        if self._events is not None:
            self._events.append(record)

    def save(self, state: TrainingState, facts: Mapping[str, Any]) -> None:
        """Save a state, and what the run has to remember besides."""
        save_state(state, self.path / STATE, facts=facts)

    def close(self) -> None:
        """End the event files."""
        if self._events is not None:
            self._events.close()

    def remove(self) -> None:
        """Remove what a run has written, and nothing else."""
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        for name in FOLDERS:
            for pattern in ("step-*", "events.out.tfevents.*"):
                for path in (self.path / name).glob(pattern):
                    path.unlink()
            with suppress(OSError):  # it holds something else, or is not there
                (self.path / name).rmdir()

    @contextmanager
    def nothing_left(self) -> Iterator[None]:
        """Remove the files of a run that is given up where it has just begun."""
        try:
            yield
        except BaseException:
            if self.start < 0:
                self.close()
                self.remove()
            raise

    def _require_free(self) -> None:
        """Refuse a folder in which a run would overwrite what no run has written."""
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"out {str(self.path)!r} is a file: give the name of a folder.")
        config = self.path / CONFIG
        found = [name for name in (*FILES, *FOLDERS) if (self.path / name).exists()]
        if not found or _describes_a_run(config) or _is_state(self.path / STATE):
            return
        if _is_damaged(config):
            raise ValueError(
                f"{str(config)!r} is damaged, it is no whole JSON, or it is of something "
                "else: choose another folder, or remove this one if it is that of a run."
            )
        raise ValueError(
            f"out {str(self.path)!r} holds a {found[0]} of something else: choose another folder."
        )

    def _require_same(self, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
        """Refuse to go on with a run of other options, and name one that differs.

        It names data only where all options agree, since the seed decides which points are held
        out; never what follows from data.
        """
        mine, other = _flat(ours), _flat(theirs)
        for name in sorted(mine.keys() | other.keys(), key=lambda name: (_depends(name), name)):
            if mine.get(name) != other.get(name):
                raise ValueError(
                    f"out {str(self.path)!r} holds a run with another {_called(name)} "
                    f"({_short(other.get(name))}, now {_short(mine.get(name))}): choose another "
                    "folder, the options of that run, or --overwrite to start anew."
                )

    def _lost(self, error: Exception) -> str:
        """Say what a damaged state costs, and how to go on without it."""
        held = [name for name in (WEIGHTS, BEST) if (self.path / name).is_file()]
        held += [
            f"{CANDIDATES}/step-{step:08d}.safetensors" for step in self.candidates.steps[-1:]
        ]
        left = f" and replaces its models, so copy those first ({', '.join(held)})" if held else ""
        return (
            f"{str(self.path / STATE)!r} is damaged, and without it the run cannot go on from "
            f"where it was ({error}): move the file away, and the same command starts from "
            f"step 0{left}."
        )


def save_samples(
    path: Path, x: torch.Tensor, train: Dataset, encoding: TableEncoding | None
) -> Dataset:
    """Write samples in the format of the training data.

    Args:
        path: Where to write arrays; tables get the suffix of the training table, or ``.csv``.
        x: Samples as the model draws them.
        train: The training data.
        encoding: How a table is encoded for the model, or None.

    Returns:
        The samples in the units of the training data.
    """
    if encoding is None:
        path = save_arrays(path, x=x, encoding=train.encoding)
        return Dataset(x, train.kind, train.encoding, name="generated", source=str(path))
    parquet = train.source.lower().endswith(".parquet")
    path = path.with_suffix(".parquet" if parquet else ".csv")
    samples = encoding.decode(x, name="generated", source=str(path))
    save_table(path, samples)
    return samples


def _called(name: str) -> str:
    return _OPTIONS.get(name, name.rpartition(".")[2].replace("_", " "))


def _depends(name: str) -> int:
    if name in ("model.shape", "model.sigma_data"):
        return 3
    if name == "data.train":  # what is held out may be a part of it
        return 1
    return 2 if name.startswith("data.") else 0


def _short(value: object) -> object:
    """Return a value of an entry; the hash of a set by its first digits."""
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
