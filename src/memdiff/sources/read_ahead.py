"""Reading the next block while the caller works on this one."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["ReadAhead"]


class ReadAhead:
    """Rows in spans, of which the next one is read in a background thread.

    A pass from the first row to the last, in blocks of any size, finds each span already there;
    after the last span the first one is read, for the next pass. At most three spans are held.
    Other orders give the same rows, without the gain.

    The thread only reads: what is to be computed from the rows stays with the caller, whose
    matrix products want the processors. It does not outlive its span, and a process that was
    forked meanwhile reads the span itself.

    Args:
        read: Gives rows ``start`` to ``stop``.
        length: Number of rows.
        span: Rows in a span.

    Example:
        >>> rows = torch.arange(10)
        >>> ahead = ReadAhead(lambda start, stop: rows[start:stop], 10, 4)
        >>> ahead(2, 7).tolist()
        [2, 3, 4, 5, 6]
    """

    def __init__(self, read: Callable[[int, int], Tensor], length: int, span: int) -> None:
        self._read = read
        self._length = length
        self._span = span
        self._count = -(-length // span)
        self._held: tuple[int, Tensor] | None = None
        self._coming: _Reading | None = None

    def __call__(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``; a view of what is held where one span covers them."""
        pieces = []
        for number in range(start // self._span, -(-stop // self._span)):
            begin = number * self._span
            pieces.append(self._fetch(number)[max(start - begin, 0) : stop - begin])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _fetch(self, number: int) -> Tensor:
        before, coming = self._held, self._coming
        if before is not None and before[0] == number:
            return before[1]
        if coming is not None and coming.number == number:
            span = coming.result()
        else:
            span = self._load(number)
        self._held = (number, span)
        sequential = number == 0 or (before is not None and before[0] == number - 1)
        following = (number + 1) % self._count
        if sequential and following != number:
            self._coming = _Reading(self._load, following)
        return span

    def _load(self, number: int) -> Tensor:
        begin = number * self._span
        return self._read(begin, min(begin + self._span, self._length))


class _Reading:
    """One span on its way."""

    def __init__(self, load: Callable[[int], Tensor], number: int) -> None:
        self.number = number
        self._load = load
        self._span: Tensor | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="memdiff read-ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._span = self._load(self.number)
        except Exception as error:  # raised again where the span is wanted
            self._error = error

    def result(self) -> Tensor:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._load(self.number) if self._span is None else self._span
