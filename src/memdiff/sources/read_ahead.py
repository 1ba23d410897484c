"""Reading the next block while the caller works on this one."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

import torch
from torch import Tensor

__all__ = ["ReadAhead"]

Fill = Callable[[int, Tensor], None]


class ReadAhead:
    """Rows in spans, of which the next one is read in a background thread.

    A pass from the first row to the last, in blocks of any size, finds each span already there;
    after the last span the first one is read, for the next pass. Other orders give the same rows,
    without the gain. Two spans are held, and used again and again.

    The thread only reads: what is to be computed from the rows stays with the caller, whose
    matrix products want the processors. It starts with the first span that it reads, and ends
    with the object; a process that is forked starts its own.

    Args:
        fill: Writes rows from a start on into a tensor ``(n, *S)``.
        length: Number of rows.
        shape: Shape ``(n, *S)`` of a span.
        dtype: Its dtype.

    Example:
        >>> rows = torch.arange(10)
        >>> def fill(start, out):
        ...     out.copy_(rows[start : start + len(out)])
        >>> ReadAhead(fill, 10, (4,), torch.int64)(2, 7).tolist()
        [2, 3, 4, 5, 6]
    """

    def __init__(
        self, fill: Fill, length: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        self._fill = fill
        self._length = length
        self._span = shape[0]
        self._count = -(-length // self._span)
        self._buffers = [torch.empty(shape, dtype=dtype) for _ in range(min(2, self._count))]
        self._held: _Reading | None = None
        self._coming: _Reading | None = None
        self._jobs: SimpleQueue[_Reading | None] | None = None
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __call__(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``, a new tensor."""
        first = self._buffers[0]
        out = torch.empty(stop - start, *first.shape[1:], dtype=first.dtype)
        self.copy(start, stop, lambda begin, rows: out[begin : begin + len(rows)].copy_(rows))
        return out

    def copy(self, start: int, stop: int, take: Callable[[int, Tensor], object]) -> None:
        """Hand rows ``start`` to ``stop`` to ``take``, a span or less at a time.

        Args:
            start: The first row.
            stop: One past the last.
            take: Called with a position, counted from ``start``, and the rows there, which are
                written over after the call.
        """
        if self._process != os.getpid():  # forked: neither the thread nor its lock came along
            self._held, self._coming, self._jobs = None, None, None
            self._lock, self._process = threading.Lock(), os.getpid()
        with self._lock:
            for number in range(start // self._span, -(-stop // self._span)):
                begin = number * self._span
                rows = self._fetch(number)[max(start - begin, 0) : stop - begin]
                take(max(begin - start, 0), rows)

    def _fetch(self, number: int) -> Tensor:
        before, coming = self._held, self._coming
        if before is not None and before.number == number:
            return before.result()
        if coming is not None:
            coming.wait()  # its buffer is wanted, for what it brings or for something else
        if coming is not None and coming.number == number:
            held = coming
        else:
            held = self._reading(number, 1)
        self._held, self._coming = None, None
        span = held.result()
        self._held = held
        following = (number + 1) % self._count
        sequential = number == 0 or (before is not None and before.number == number - 1)
        if sequential and following != number:
            self._coming = self._reading(following, 1 - held.slot)
            self._send(self._coming)
        return span

    def _send(self, job: _Reading) -> None:
        if self._jobs is None:
            self._jobs = SimpleQueue()
            threading.Thread(
                target=_work, args=(self._jobs,), name="memdiff read-ahead", daemon=True
            ).start()
            weakref.finalize(self, self._jobs.put, None)
        job.arrived = threading.Event()
        self._jobs.put(job)

    def _reading(self, number: int, slot: int) -> _Reading:
        slot = slot % len(self._buffers)
        begin = number * self._span
        out = self._buffers[slot][: min(self._span, self._length - begin)]
        return _Reading(self._fill, number, begin, slot, out)


class _Reading:
    """One span, on its way if it was sent, else read when it is wanted."""

    def __init__(self, fill: Fill, number: int, begin: int, slot: int, out: Tensor) -> None:
        self.number, self.slot = number, slot
        self._fill, self._begin, self._out = fill, begin, out
        self.arrived: threading.Event | None = None
        self._error: Exception | None = None
        self._done = False

    def run(self) -> None:
        try:
            self._fill(self._begin, self._out)
            self._done = True
        except Exception as error:  # raised again where the span is wanted
            self._error = error

    def wait(self) -> None:
        if self.arrived is not None:
            self.arrived.wait()

    def result(self) -> Tensor:
        self.wait()
        if self._error is None and not self._done:
            self.run()
        if self._error is not None:
            raise self._error
        return self._out


def _work(jobs: SimpleQueue[_Reading | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()
        if job.arrived is not None:
            job.arrived.set()
        del job  # an idle thread must not keep the spans
