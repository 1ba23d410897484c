"""Progress bars on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from memdiff.cli.terminal import shown

if TYPE_CHECKING:
    from rich.progress import Task

    from memdiff.experiments import Progress

__all__ = ["bar", "experiment_progress", "paused"]

_shown: list[Any] = []  # the display that is on the screen


@contextmanager
def bar(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress bar a stage on standard error; None where nobody looks.

    A row says how long its stage may yet take, then that it is done, or that it stopped early.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}", markup=False),
    )
    with Progress(*columns, console=console) as progress, _on_screen(progress):
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(shown(stage), total=total, state="")
            progress.update(tasks[stage], completed=done, total=total)
            task = progress.tasks[tasks[stage]]
            progress.update(task.id, state=_state(task))

        yield report
        for task in progress.tasks:
            if not task.finished:
                progress.update(task.id, state=f"stopped after {_clock(task.elapsed)}")


@contextmanager
def _on_screen(progress: Any) -> Iterator[None]:  # noqa: ANN401
    _shown.append(progress)
    try:
        yield
    finally:
        _shown.remove(progress)


@contextmanager
def paused() -> Iterator[None]:
    """Take the display off the screen for the length of the block, for a question."""
    for progress in _shown:
        progress.stop()
    try:
        yield
    finally:
        for progress in _shown:
            progress.start()


def _state(task: Task) -> str:
    if task.finished:
        return f"done in {_clock(task.finished_time)}"
    return "" if task.time_remaining is None else f"{_clock(task.time_remaining)} left"


def _clock(seconds: float | None) -> str:
    minutes, rest = divmod(round(seconds or 0.0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


@contextmanager
def experiment_progress(quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """Bars for the experiments: all of them, and the running one."""
    with bar(quiet) as show:
        if show is None:
            yield None
            return

        def report(event: Progress) -> None:
            show(
                "experiments", event.index + (event.status in ("finished", "resumed")), event.total
            )
            if event.fraction is not None:
                show(event.experiment, round(100 * event.fraction), 100)

        yield report
