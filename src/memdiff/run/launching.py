"""Many calls of one function: here, in processes of this machine, or as jobs of Slurm.

>>> [outcome.value for outcome in launch(abs, [-1, 2], "jobs")]
[1, 2]

Jobs are started by submitit (the extra ``slurm``): the function must be importable, and its
arguments and results plain data.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["LAUNCHERS", "Launcher", "Outcome", "launch"]

Launcher = Literal["here", "local", "slurm"]
LAUNCHERS = ("here", "local", "slurm")


@dataclass(frozen=True)
class Outcome:
    """What became of one call.

    Attributes:
        index: Place of its argument.
        value: What it returned; None if it failed.
        error: One sentence if it failed, else None.
    """

    index: int
    value: Any = None
    error: str | None = None


def launch(
    function: Callable[[Any], Any],
    arguments: Sequence[Any],
    folder: str | Path,
    launcher: Launcher = "here",
    *,
    jobs: int | None = None,
    parameters: Mapping[str, int | str] | None = None,
    pause: float = 0.5,
) -> Iterator[Outcome]:
    """Call a function with each of the arguments.

    A call that fails does not end the others. Leaving the loop early cancels what runs.

    Args:
        function: The function, importable by its module and name.
        arguments: Its arguments, one per call.
        folder: For the scripts and the logs of jobs; not used ``"here"``.
        launcher: ``"here"`` one after the other, ``"local"`` processes of this machine,
            ``"slurm"`` jobs.
        jobs: Calls at a time; None for the number of processors (``"local"``) or all
            (``"slurm"``).
        parameters: Parameters of ``submitit.AutoExecutor``, such as ``timeout_min``,
            ``gpus_per_node``, ``slurm_partition``. A job has a day by default.
        pause: Seconds between looks at the jobs.

    Yields:
        The outcomes, as they come.

    Raises:
        ValueError: If an argument is out of range, a parameter unknown, or Slurm not there.
        ImportError: If submitit is not installed.
    """
    if launcher not in LAUNCHERS:
        raise ValueError(f"launcher must be one of {', '.join(LAUNCHERS)}, got {launcher!r}.")
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}.")
    if launcher == "here":
        if parameters:
            raise ValueError(
                f"parameters {', '.join(parameters)} are for jobs, and launcher is 'here'."
            )
        return _here(function, arguments)
    executor = _executor(Path(folder), launcher, parameters or {})
    most = jobs or ((os.cpu_count() or 1) if launcher == "local" else len(arguments))
    return _jobs(executor, function, arguments, most, pause)


def _here(function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[Outcome]:
    for index, argument in enumerate(arguments):
        try:
            yield Outcome(index, function(argument))
        except (ValueError, OSError, ImportError) as error:
            yield Outcome(index, error=" ".join(str(error).split()))


def _executor(folder: Path, launcher: str, parameters: Mapping[str, int | str]) -> Any:  # noqa: ANN401
    try:
        import submitit
    except ImportError as error:
        raise ImportError(
            f"launcher {launcher!r} needs submitit: pip install 'memdiff[slurm]'."
        ) from error
    try:
        executor = submitit.AutoExecutor(folder=str(folder), cluster=launcher)
        executor.update_parameters(**{"timeout_min": 24 * 60, "name": "memdiff", **parameters})
    except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as error:
        said = " ".join(str(error).split()).rstrip(".?")
        raise ValueError(f"launcher {launcher!r} cannot start jobs: {said}.") from error
    return executor


def _jobs(
    executor: Any,  # noqa: ANN401
    function: Callable[[Any], Any],
    arguments: Sequence[Any],
    most: int,
    pause: float,
) -> Iterator[Outcome]:
    waiting = list(enumerate(arguments))
    running: dict[int, Any] = {}
    try:
        while waiting or running:
            while waiting and len(running) < most:
                index, argument = waiting.pop(0)
                running[index] = executor.submit(_guarded, function, argument)
            for index, job in list(running.items()):
                if job.done():
                    del running[index]
                    yield _outcome(index, job)
            if running:
                time.sleep(pause)
    finally:
        for job in running.values():
            job.cancel()


def _guarded(function: Callable[[Any], Any], argument: Any) -> tuple[Any, str | None]:  # noqa: ANN401
    """What went wrong comes back as a sentence, not as a traceback."""
    for outcome in _here(function, [argument]):
        return outcome.value, outcome.error
    raise AssertionError("one argument has one outcome")


def _outcome(index: int, job: Any) -> Outcome:  # noqa: ANN401
    if job.exception() is not None:
        return Outcome(index, error=f"job {job.job_id} has died, see {job.paths.stderr}.")
    value, error = job.result()
    return Outcome(index, value, error)
