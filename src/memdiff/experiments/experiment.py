"""Contract of an experiment: its context and its outcome.

An experiment is a question with a published or theoretical answer. A module of this package holds
one or a few of them and exports them as ``EXPERIMENTS``:

    def run(context: Context) -> Outcome:
        latents = context.pick(quick=200, paper=1000)
        ...
        return Outcome(measured={"fraction": 0.99}, published={"fraction": 0.985}, within=True,
                       tolerance="...", finding="...")

    EXPERIMENTS = (Experiment(name="tikhonov-sweep", title="...", question="...",
                              reference="[B25]", run=run),)

and :mod:`memdiff.experiments` lists it. The runner does the rest: order, resuming, files, report.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args

import numpy as np
import torch

from memdiff.experiments.partial import (
    read_arrays,
    read_partial,
    write_arrays,
    write_partial,
)
from memdiff.report.document import Figure, Table

__all__ = ["Context", "Experiment", "Figure", "Outcome", "Preset", "Table", "jsonable"]

Preset: TypeAlias = Literal["quick", "paper"]
PRESETS: tuple[str, ...] = get_args(Preset)

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

Value = TypeVar("Value")


def jsonable(value: object, where: str = "value") -> Json:
    """Bring a value to plain JSON types.

    Tensors and arrays become nested lists, their scalars numbers, tuples lists.

    Args:
        value: None, bool, number, string, array, tensor, sequence or mapping with string keys.
        where: Name of the value in an error.

    Returns:
        None, bool, int, float, str, list or dict.

    Raises:
        ValueError: If the value has no plain JSON form; NaN and infinity have none.

    >>> jsonable({"fraction": torch.tensor([0.5, 1.0]), "count": np.int64(3)})
    {'fraction': [0.5, 1.0], 'count': 3}
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(
                f"{where} is {value}, which JSON cannot hold; store None and say why in the "
                "finding."
            )
        return float(value)
    if isinstance(value, torch.Tensor):
        return jsonable(value.detach().cpu().tolist(), where)
    if isinstance(value, (np.ndarray, np.generic)):
        return jsonable(value.tolist(), where)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(
                    f"{where} has the key {key!r}; JSON keys are strings, write them as text."
                )
        return {key: jsonable(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [jsonable(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise ValueError(
        f"{where} is a {type(value).__name__}, which has no JSON form; "
        "use numbers, strings, lists, dicts, arrays or tensors."
    )


@dataclass(frozen=True)
class Context:
    """Preset, seed and folder that an experiment is run with.

    Attributes:
        preset: ``"quick"`` (all experiments in under three minutes on two cores) or ``"paper"``
            (the paper's sizes).
        seed: The one source of randomness; make generators from it.
        directory: Where partial results of this experiment are kept. It is private to the
            experiment and to its settings, so what is found in it may be trusted.
        report: Receives ``(message, fraction done or None)``; use :meth:`progress`.
    """

    preset: Preset
    seed: int
    directory: Path
    report: Callable[[str, float | None], None] | None = None

    def pick(self, *, quick: Value, paper: Value) -> Value:
        """Return the value for the preset at hand."""
        return quick if self.preset == "quick" else paper

    def generator(self, offset: int = 0) -> torch.Generator:
        """Return a CPU generator seeded with ``seed + offset``."""
        return torch.Generator().manual_seed(self.seed + offset)

    def progress(self, message: str, fraction: float | None = None) -> None:
        """Say what is being done.

        Args:
            message: A few words, such as ``"c = 1e-3"``.
            fraction: Share of the experiment that is done, in [0, 1].
        """
        if self.report is not None:
            self.report(message, fraction)

    def cached(self, name: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Read a partial result back, or compute and keep it, so that it survives an interruption.

        Both ways give the same plain JSON types (see :func:`jsonable`).

        Args:
            name: File name without extension, one for each distinct computation.
            compute: Computes the result; called only where none is kept.

        Returns:
            The result of ``compute``.
        """
        path = self.directory / f"{name}.json"
        found = read_partial(path)
        if found is None:
            found = cast(dict[str, Any], jsonable(compute(), name))
            write_partial(path, found)
        return found

    def cached_arrays(
        self, name: str, compute: Callable[[], Mapping[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Do the same as :meth:`cached` for named arrays, such as samples; kept as ``.npz``."""
        path = self.directory / f"{name}.npz"
        found = read_arrays(path)
        if found is None:
            found = {key: np.asarray(value) for key, value in compute().items()}
            write_arrays(path, found)
        return found


@dataclass(frozen=True)
class Outcome:
    """Outcome of an experiment: values, figures, tables and a verdict.

    Attributes:
        measured: Measured values under stable names; tensors and arrays become lists.
        published: Published (or theoretical) values under the same names, or None.
        within: Whether measured and published agree within ``tolerance``; None where there is
            nothing to agree with.
        tolerance: A sentence that states the tolerance and where it comes from.
        finding: One to three sentences with the numbers that answer the question.
        figures: Figures; names are unique in the outcome.
        tables: Tables.
        measured_text: The measured cell of the summary table, at most about 90 characters;
            ``finding`` where empty.
        published_text: The published cell of the summary table; an en dash where empty.

    Raises:
        ValueError: If a value has no JSON form, two figures share a name, ``within`` is given with
            no tolerance, or the finding is empty.
    """

    measured: Mapping[str, Any]
    published: Mapping[str, Any] | None
    within: bool | None
    tolerance: str
    finding: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    measured_text: str = ""
    published_text: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "measured", jsonable(self.measured, "measured"))
        object.__setattr__(self, "published", jsonable(self.published, "published"))
        object.__setattr__(self, "figures", tuple(self.figures))
        object.__setattr__(self, "tables", tuple(self.tables))
        if isinstance(self.within, np.bool_) or (
            isinstance(self.within, torch.Tensor) and self.within.ndim == 0
        ):
            object.__setattr__(self, "within", bool(self.within))
        if self.within is not None and not isinstance(self.within, bool):
            raise ValueError(f"within must be True, False or None, got {self.within!r}.")
        if self.within is not None and not self.tolerance.strip():
            raise ValueError("within is given without a tolerance; state it in a sentence.")
        if not self.finding.strip():
            raise ValueError("finding is empty; say in a sentence what was found.")
        names = [figure.name for figure in self.figures]
        if len(set(names)) != len(names):
            raise ValueError(f"figures must have distinct names, got {names}.")


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes:
        name: Name on the command line and in ``results.json``: lower-case words and hyphens.
        title: Heading of its section in the report.
        question: What was asked, in one to three sentences that need no paper.
        reference: Where it was published, with keys such as ``[B25]``: section, figure, table.
        run: Does the work.
        needs: Keys of further references that the report lists.
        threads: Number of torch threads while it runs; None leaves the setting of the process.
            Problems of a few points lose far more time in waiting for a second thread than they
            win, and on a busy machine come to a crawl.
    """

    name: str
    title: str
    question: str
    reference: str
    run: Callable[[Context], Outcome] = field(repr=False)
    needs: Sequence[str] = ()
    threads: int | None = 1

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            raise ValueError(
                f"Experiment name must be lower-case words joined by hyphens, got {self.name!r}."
            )


def check_preset(preset: str) -> None:
    """Refuse an unknown preset.

    Raises:
        ValueError: If ``preset`` is not one of ``quick`` and ``paper``.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}.")


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
