"""Store of finished experiments in the output folder, so that an interruption loses nothing.

Beneath the output folder:

- ``figures/NAME-FIGURE.png``: the figures of experiment ``NAME``;
- ``.partial/NAME/outcome.json``: its outcome, with the SHA-256 of each figure and the settings key
  under which it was computed;
- ``.partial/NAME/KEY/``: what it keeps for itself while it runs.

The settings key is a hash of the preset, the seed, the source of the package and the versions of
what it computes with: a result is taken up again only where computing it anew would give the same.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from memdiff.experiments.experiment import Outcome, canonical_json
from memdiff.experiments.partial import read_partial, write_partial
from memdiff.report.document import Cell, Figure, Table
from memdiff.run.provenance import package_fingerprint, versions
from memdiff.run.writing import replace_file

__all__ = ["Finished", "Store", "settings_key"]

FORMAT = 1


def settings_key(name: str, preset: str, seed: int) -> str:
    """Return a hash of everything that decides the outcome of an experiment.

    Args:
        name: Name of the experiment.
        preset: Preset.
        seed: Seed.

    Returns:
        Sixteen hexadecimal digits.
    """
    settings = {
        "format": FORMAT,
        "name": name,
        "preset": preset,
        "seed": seed,
        "versions": versions(),
        "source": package_fingerprint(),
    }
    return hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:16]


def _write(path: Path, content: bytes) -> None:
    with replace_file(path) as temporary:
        temporary.write_bytes(content)


@dataclass(frozen=True)
class Finished:
    """A finished experiment.

    Attributes:
        outcome: What it found.
        seconds: Wall-clock time that it took, on the run that computed it.
        resumed: Whether it was read back instead of run.
    """

    outcome: Outcome
    seconds: float
    resumed: bool


class Store:
    """Reads and writes the results of one output folder.

    Args:
        out: Output folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.figures = out / "figures"

    def _folder(self, name: str) -> Path:
        return self.out / ".partial" / name

    def working_directory(self, name: str, key: str, *, fresh: bool = False) -> Path:
        """Return the folder for partial results under a settings key; it is made if missing.

        Folders of other keys are removed: their results can no longer be used. With ``fresh`` that
        of this key is emptied too.
        """
        folder = self._folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        for other in folder.iterdir():
            if other.is_dir() and (fresh or other.name != key):
                shutil.rmtree(other)
        (folder / key).mkdir(exist_ok=True)
        return folder / key

    def figure_path(self, name: str, figure: Figure) -> Path:
        """Return the path of a figure of an experiment."""
        return self.figures / f"{name}-{figure.name}.png"

    def save(self, name: str, key: str, outcome: Outcome, seconds: float) -> None:
        """Write a finished experiment: the figures first, then the outcome that vouches for them.

        Figures of its earlier outcome that the new one does not have are removed.
        """
        earlier = read_partial(self._folder(name) / "outcome.json") or {"outcome": {}}
        figures = []
        for figure in outcome.figures:
            path = self.figure_path(name, figure)
            _write(path, figure.png)
            described = {key: getattr(figure, key) for key in ("name", "caption", "alt", "width")}
            sha256 = hashlib.sha256(figure.png).hexdigest()
            figures.append({**described, "file": path.name, "sha256": sha256})
        kept = {figure["file"] for figure in figures}
        for figure in earlier["outcome"].get("figures", []):
            if figure["file"] not in kept:
                (self.figures / Path(figure["file"]).name).unlink(missing_ok=True)
        content = {one.name: getattr(outcome, one.name) for one in fields(outcome)}
        content |= {"figures": figures, "tables": [asdict(table) for table in outcome.tables]}
        path = self._folder(name) / "outcome.json"
        write_partial(path, {"key": key, "seconds": seconds, "outcome": content})
        shutil.rmtree(self._folder(name) / key, ignore_errors=True)

    def load(self, name: str, key: str) -> Finished | None:
        """Read a finished experiment back.

        Returns:
            None where there is none under ``key``, or a figure is missing or was changed.
        """
        kept = read_partial(self._folder(name) / "outcome.json")
        if kept is None or kept.get("key") != key:
            return None
        content, figures = kept["outcome"], []
        for described in content["figures"]:
            try:
                png = (self.figures / described.pop("file")).read_bytes()
            except FileNotFoundError:
                return None
            if hashlib.sha256(png).hexdigest() != described.pop("sha256"):
                return None
            figures.append(Figure(image=png, **described))
        tables = [_table_from_json(table) for table in content["tables"]]
        outcome = Outcome(**{**content, "figures": figures, "tables": tables})
        return Finished(outcome, float(kept["seconds"]), resumed=True)


def _table_from_json(kept: dict[str, Any]) -> Table:
    rows = [
        [Cell(**value) if isinstance(value, dict) else value for value in row]
        for row in kept["rows"]
    ]
    return Table(**{**kept, "rows": rows})
