"""Run experiments in order, keep what is finished, write the report.

An experiment that raises does not take the others with it: they run, the report is written with
its error in it, and then :class:`ReproductionError` names it. An interruption (Ctrl-C, a killed
job) stops at once; the same call again takes up every experiment that had finished.
"""

from __future__ import annotations

import importlib
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch

from memdiff.data.files import write_json
from memdiff.experiments.experiment import (
    Context,
    Experiment,
    Outcome,
    Preset,
    check_preset,
)
from memdiff.experiments.store import Finished, Store, settings_key
from memdiff.provenance import provenance

__all__ = ["Progress", "ReproductionError", "load", "reproduce"]

SCHEMA = 1

Status: TypeAlias = Literal["started", "running", "finished", "resumed", "failed"]


class ReproductionError(RuntimeError):
    """One or more experiments raised; the others are in the report."""


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
    from memdiff import experiments

    modules = dict(experiments.REGISTRY)
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
    """Names of the experiments to run, in registry order.

    Raises:
        ValueError: If ``only`` is empty or holds an unknown name.
    """
    from memdiff import experiments

    names = tuple(name for name, _ in experiments.REGISTRY)
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

    Returns:
        The content of ``results.json``: ``schema``, ``preset``, ``experiments`` (by name:
        ``measured``, ``published``, ``within``, ``seconds``, ``tolerance``, ``finding``) and
        ``provenance``; where experiments failed, ``provenance["failed"]`` has their errors.

    Raises:
        ValueError: If the preset or a name in ``only`` is unknown, or ``out`` is a file.
        ReproductionError: If an experiment raised, after the report of the others was written.
    """
    check_preset(preset)
    names = select(only)
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out must be a folder, got the file {str(out)!r}; name another place.")
    out.mkdir(parents=True, exist_ok=True)
    store = Store(out)

    experiments: dict[str, Experiment] = {}
    finished: dict[str, Finished] = {}
    failed: dict[str, Exception] = {}
    for index, name in enumerate(names):
        say = _speaker(progress, name, index, len(names))
        say("started", "", None)
        try:
            experiments[name] = load(name)
            finished[name] = _run(experiments[name], store, preset, seed, resume, say)
        except Exception as error:
            failed[name] = error
            say("failed", f"{type(error).__name__}: {error}", None)
        else:
            outcome, seconds = finished[name].outcome, finished[name].seconds
            if finished[name].resumed:
                say("resumed", outcome.finding, 1.0, seconds)
            else:
                say("finished", outcome.finding, 1.0, seconds)

    origin = provenance(seed=seed, command=command)
    origin["resumed"] = [name for name, one in finished.items() if one.resumed]
    if failed:
        origin["failed"] = {name: f"{type(e).__name__}: {e}" for name, e in failed.items()}
    results = {
        "schema": SCHEMA,
        "preset": preset,
        "experiments": {name: _entry(one.outcome, one.seconds) for name, one in finished.items()},
        "provenance": origin,
    }
    _write_report(out, results, experiments, finished, failed)
    if failed:
        raise ReproductionError(_failure(failed, out)) from next(iter(failed.values()))
    return results


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
    failed: dict[str, Exception],
) -> None:
    from memdiff.experiments.reproduction import reproduction_document
    from memdiff.report.html import write_html

    failures = {
        name: "".join(traceback.format_exception(error)).rstrip() for name, error in failed.items()
    }
    document = reproduction_document(results, experiments, finished, failures)
    write_json(out / "results.json", results)
    write_html(document, out / "report.html")


def _failure(failed: dict[str, Exception], out: Path) -> str:
    reasons = "; ".join(f"{name} ({type(e).__name__}: {e})" for name, e in failed.items())
    return (
        f"{len(failed)} experiment(s) failed: {reasons}. The others are in "
        f"{str(out / 'report.html')!r}; the same command again runs only what failed."
    )
