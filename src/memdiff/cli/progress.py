"""Progress bars on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memdiff.experiments import Progress

__all__ = ["bar", "experiment_progress"]


@contextmanager
def bar(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress bar a stage on standard error; None where nobody looks."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield report


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
