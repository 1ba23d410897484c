"""Runner of the experiments: run them in order, keep what is finished, write the report.

An experiment that raises does not take the others with it: they run, the report is written with
its error in it, and then :class:`ReproductionError` names it. An interruption (Ctrl-C, a killed
job) stops at once; the same call again takes up every experiment that had finished.

Several processes share a run: each takes the next experiment that nobody has, and the first writes
the report.
"""

from __future__ import annotations

import importlib
import json
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch

from memdiff.experiments import registry
from memdiff.experiments.experiment import (
    Context,
    Experiment,
    Outcome,
    Preset,
    check_preset,
)
from memdiff.experiments.reproduction import reproduction_document
from memdiff.experiments.store import Finished, Store, settings_key
from memdiff.report.html import write_html
from memdiff.run.provenance import provenance
from memdiff.run.ranks import Ranks
from memdiff.run.writing import write_json

__all__ = ["Progress", "ReproductionError", "load", "reproduce"]

SCHEMA = 1

Status: TypeAlias = Literal["started", "running", "finished", "resumed", "failed"]


class ReproductionError(RuntimeError):
    """One or more experiments raised; the others are in the report."""


@dataclass(frozen=True)
class _Failure:
    """An experiment that raised, in whichever process."""

    name: str
    reason: str
    traceback: str

    @classmethod
    def of(cls, name: str, error: Exception) -> _Failure:
        trace = "".join(traceback.format_exception(error)).rstrip()
        return cls(name, f"{type(error).__name__}: {error}", trace)


@dataclass(frozen=True)
class Progress:
    """One message of a run, for a progress display.

    Attributes:
        experiment: Name of the experiment.
        index: Its place in the run, from 0.
        total: Number of experiments in the run.
        status: ``"started"``, ``"running"``, ``"finished"``, ``"resumed"`` (read back instead of
            run) or ``"failed"``.
        message: What is being done, what was found, or the error.
        fraction: Share of the experiment that is done, where it says so.
        seconds: Time since it started; for ``"resumed"`` the time that it took when it ran.
    """

    experiment: str
    index: int
    total: int
    status: Status
    message: str
    fraction: float | None
    seconds: float


def load(name: str) -> Experiment:
    """Import an experiment.

    Args:
        name: One of :data:`memdiff.experiments.NAMES`.

    Returns:
        The experiment.

    Raises:
        ValueError: If the name is unknown.
        ImportError: If its module cannot be imported, or does not export it.
    """
    modules = dict(registry.REGISTRY)
    if name not in modules:
        raise ValueError(
            f"only names the unknown experiment {name!r}; choose from {', '.join(modules)}."
        )
    module = importlib.import_module(f"memdiff.experiments.{modules[name]}")
    for experiment in module.EXPERIMENTS:
        if experiment.name == name:
            return cast(Experiment, experiment)
    raise ImportError(
        f"{module.__name__} does not export the experiment {name!r}; add it to its EXPERIMENTS."
    )


def select(only: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the experiments to run, in registry order.

    Raises:
        ValueError: If ``only`` is empty or holds an unknown name.
    """
    names = tuple(name for name, _ in registry.REGISTRY)
    if only is None:
        return names
    if isinstance(only, str):
        only = (only,)
    unknown = [name for name in only if name not in names]
    if unknown or not only:
        got = ", ".join(repr(name) for name in unknown) or "no name"
        raise ValueError(f"only must name experiments among {', '.join(names)}; got {got}.")
    return tuple(name for name in names if name in only)


def reproduce(
    *,
    preset: Preset = "quick",
    only: Sequence[str] | None = None,
    out: str | Path,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    resume: bool = True,
    command: str | None = None,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Run the paper's experiments and write measured next to published.

    Writes ``report.html`` (one file, opens offline), ``results.json`` and ``figures/`` into
    ``out``, each to a temporary name first. A finished experiment is kept in ``out`` at once, and
    is read back by a later call with the same preset and seed and the same version of the code.

    Args:
        preset: ``"quick"`` (under three minutes on two cores) or ``"paper"`` (the paper's sizes).
        only: Names of the experiments to run; all by default. They run in the order of
            :data:`memdiff.experiments.REGISTRY`.
        out: Output folder; made if missing.
        seed: The one source of randomness.
        progress: Receives a :class:`Progress` for each event.
        resume: Whether to take up finished experiments found in ``out``.
        command: Command line to put into the provenance; that of the process by default.
        ranks: Processes that share the experiments; each makes the same call, ``out`` is one
            folder for all of them, and each gets the whole result. By default this process runs
            them all.

    Returns:
        The content of ``results.json``: ``schema``, ``preset``, ``experiments`` (by name:
        ``measured``, ``published``, ``within``, ``seconds``, ``tolerance``, ``finding``) and
        ``provenance``; where experiments failed, ``provenance["failed"]`` has their errors.

    Raises:
        ValueError: If the preset or a name in ``only`` is unknown, ``out`` is a file, or the ranks
            do not see one folder.
        ReproductionError: If an experiment raised, after the report of the others was written.
    """
    check_preset(preset)
    names = select(only)
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out must be a folder, got the file {str(out)!r}; name another place.")
    ranks = Ranks() if ranks is None else ranks
    with ranks.one_fate():
        out.mkdir(parents=True, exist_ok=True)
    _require_one_folder(out, ranks)
    store = Store(out)

    experiments: dict[str, Experiment] = {}
    finished: dict[str, Finished] = {}
    failures: list[_Failure] = []
    error: Exception | None = None
    for index in ranks.take(len(names), "experiments"):
        name = names[index]
        say = _speaker(progress, name, index, len(names))
        say("started", "", None)
        try:
            experiments[name] = load(name)
            finished[name] = _run(experiments[name], store, preset, seed, resume, say)
        except Exception as raised:
            failures.append(_Failure.of(name, raised))
            error = error or raised
            say("failed", f"{type(raised).__name__}: {raised}", None)
        else:
            outcome, seconds = finished[name].outcome, finished[name].seconds
            if finished[name].resumed:
                say("resumed", outcome.finding, 1.0, seconds)
            else:
                say("finished", outcome.finding, 1.0, seconds)
    if ranks.count > 1:
        _collect(names, store, preset, seed, ranks, experiments, finished, failures)

    failed = {one.name: one for one in sorted(failures, key=lambda one: names.index(one.name))}
    finished = {name: finished[name] for name in names if name in finished}
    origin = provenance(seed=seed, command=command)
    origin["resumed"] = [name for name, one in finished.items() if one.resumed]
    if failed:
        origin["failed"] = {name: one.reason for name, one in failed.items()}
    results = {
        "schema": SCHEMA,
        "preset": preset,
        "experiments": {name: _entry(one.outcome, one.seconds) for name, one in finished.items()},
        "provenance": origin,
    }
    if ranks.is_first:
        _write_report(out, results, experiments, finished, failed)
    if failed:
        raise ReproductionError(_failure(failed, out)) from error
    return results


def _require_one_folder(out: Path, ranks: Ranks) -> None:
    """Refuse folders of the same name on machines that do not share them."""
    if ranks.count == 1:
        return
    token = ranks.texts(uuid.uuid4().hex)[0]
    mark = out / f".processes-{token}"
    with ranks.one_fate():
        if ranks.is_first:
            mark.touch()
    try:
        with ranks.one_fate():
            if not mark.exists():
                raise ValueError(
                    f"out {str(out)!r} must be one folder for all processes, and not all of them "
                    "see what the first one writes: name a folder that the machines share."
                )
    finally:
        if ranks.is_first:
            mark.unlink(missing_ok=True)


def _collect(
    names: Sequence[str],
    store: Store,
    preset: Preset,
    seed: int,
    ranks: Ranks,
    experiments: dict[str, Experiment],
    finished: dict[str, Finished],
    failures: list[_Failure],
) -> None:
    """Complete what this process has found by what the others have."""
    mine = {
        "finished": {name: one.resumed for name, one in finished.items()},
        "failures": [asdict(one) for one in failures],
    }
    for rank, text in enumerate(ranks.texts(json.dumps(mine))):
        theirs = json.loads(text)
        if rank == ranks.rank:
            continue
        failures.extend(_Failure(**one) for one in theirs["failures"])
        for name, resumed in theirs["finished"].items():
            experiments[name] = load(name)
            kept = store.load(name, settings_key(name, preset, seed))
            if kept is None:
                raise ValueError(
                    f"the outcome of {name} is that of process {rank}, with other versions: start "
                    "all processes with one version of memdiff and of torch."
                )
            finished[name] = replace(kept, resumed=resumed)
    for name in (one.name for one in failures):
        if name not in experiments:
            with suppress(Exception):  # the failure may be that it cannot be imported
                experiments[name] = load(name)


def _speaker(
    progress: Callable[[Progress], None] | None, name: str, index: int, total: int
) -> Callable[..., None]:
    start = time.perf_counter()

    def say(
        status: Status, message: str, fraction: float | None, seconds: float | None = None
    ) -> None:
        if progress is not None:
            seconds = time.perf_counter() - start if seconds is None else seconds
            progress(Progress(name, index, total, status, message, fraction, seconds))

    return say


def _run(
    experiment: Experiment,
    store: Store,
    preset: Preset,
    seed: int,
    resume: bool,
    say: Callable[..., None],
) -> Finished:
    key = settings_key(experiment.name, preset, seed)
    if resume:
        kept = store.load(experiment.name, key)
        if kept is not None:
            return kept
    directory = store.working_directory(experiment.name, key, fresh=not resume)
    context = Context(preset, seed, directory, lambda message, done: say("running", message, done))
    start = time.perf_counter()
    with _threads(experiment.threads):
        outcome = experiment.run(context)
    seconds = time.perf_counter() - start
    store.save(experiment.name, key, outcome, seconds)
    return Finished(outcome, seconds, resumed=False)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(before if number is None else number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _entry(outcome: Outcome, seconds: float) -> dict[str, Any]:
    return {
        "measured": outcome.measured,
        "published": outcome.published,
        "within": outcome.within,
        "seconds": round(seconds, 3),
        "tolerance": outcome.tolerance,
        "finding": outcome.finding,
    }


def _write_report(
    out: Path,
    results: dict[str, Any],
    experiments: dict[str, Experiment],
    finished: dict[str, Finished],
    failed: dict[str, _Failure],
) -> None:
    failures = {name: one.traceback for name, one in failed.items()}
    document = reproduction_document(results, experiments, finished, failures)
    write_json(out / "results.json", results)
    write_html(document, out / "report.html")


def _failure(failed: dict[str, _Failure], out: Path) -> str:
    reasons = "; ".join(f"{name} ({one.reason})" for name, one in failed.items())
    return (
        f"{len(failed)} experiment(s) failed: {reasons}. The others are in "
        f"{str(out / 'report.html')!r}; the same command again runs only what failed."
    )
