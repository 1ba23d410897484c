"""A command in several processes: one voice, one end.

``torchrun`` and ``accelerate launch`` start the same command line several times. The first process
prints and shows progress; the others compute, and are silent unless they alone have something to
say.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import NoReturn, TextIO

from memdiff.run.ranks import RankError, Ranks, join

__all__ = ["TIMEOUT_VARIABLE", "Voice", "processes"]

TIMEOUT_VARIABLE = "MEMDIFF_RANK_TIMEOUT"
"""Environment variable: seconds of silence after which a process of the run counts as dead."""


class Voice:
    """What a process has to say about how its command ended.

    Args:
        ranks: The processes.
        stream: Standard error.
    """

    def __init__(self, ranks: Ranks, stream: TextIO) -> None:
        self.ranks = ranks
        self._stream = stream

    def say(self, sentence: str) -> None:
        """Print a sentence, once for all the processes that have come to it."""
        self._ends()
        if self.ranks.speaks(sentence):
            print(sentence, file=self._stream, flush=True)
        self.ranks.settle()

    def silent(self) -> None:
        """Wait for the processes that have come to the same end, and print nothing."""
        self._ends()
        self.ranks.speaks("")
        self.ranks.settle()

    def _ends(self) -> None:
        """From here on the process ends by itself: what a launcher adds to that is no news."""
        if self.ranks.count > 1:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


def rank_timeout() -> float:
    """The timeout that the environment asks for, or 60 seconds.

    Raises:
        ValueError: If it is no positive number.
    """
    asked = os.environ.get(TIMEOUT_VARIABLE, "60")
    try:
        seconds = float(asked)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise ValueError(
            f"{TIMEOUT_VARIABLE} must be a positive number of seconds, got {asked!r}."
        )
    return seconds


def _end(code: int) -> NoReturn:
    """End the process at once.

    An interpreter that takes its time to end meets the threads of the group, whose other
    processes have failed as well and are gone, and aborts.
    """
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
    os._exit(code)


@contextmanager
def processes() -> Iterator[Voice]:
    """Join the processes that the launcher started; all but the first are silent inside.

    Raises:
        RankError: If the processes do not find each other.
        ValueError: If the timeout is no number.
    """
    ranks = join(timeout=rank_timeout())
    voice = Voice(ranks, sys.stderr)
    if ranks.count == 1:
        yield voice
        return

    def stopped(number: int, frame: object) -> None:
        # Not an exception: what is running might take it for a failure of its own.
        ranks.abandon("the launcher ends this run, as it does when one of its processes has ended")

    signal.signal(signal.SIGTERM, stopped)
    try:
        with ExitStack() as stack:
            if not ranks.is_first:
                silence = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(redirect_stdout(silence))
                stack.enter_context(redirect_stderr(silence))
            yield voice
        ranks.leave()
    except RankError as error:
        ranks.abandon(str(error))
    except SystemExit as end:
        ranks.close()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)
    finally:
        ranks.close()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # all that there is to say has been said
