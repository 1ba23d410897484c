"""Shared settings of the test suite."""

import threading
from contextlib import contextmanager

import pytest
import torch

from memdiff.run.ranks import Ranks

# One thread a worker: `make test` runs two workers on two cores.
torch.set_num_threads(1)


class ThreadRanks(Ranks):
    """Ranks that are threads of this process: the messages without the processes."""

    def __init__(self, rank, count, board, barrier):
        super().__init__(rank, count)
        self.board, self.meet = board, barrier

    def gather(self, tensor):
        self.board[self.rank] = tensor.clone()
        self.meet.wait()
        parts = [part.clone() for part in self.board]
        self.meet.wait()
        return parts

    def sum(self, tensor):
        return torch.stack(self.gather(tensor)).sum(0)

    def broadcast(self, tensor):
        return self.gather(tensor)[0]


@pytest.fixture(scope="session")
def in_ranks():
    """Call a function with each of ``count`` ranks at once; the results in their order."""

    def run(count, function):
        board, barrier = [None] * count, threading.Barrier(count, timeout=30)
        results, errors = [None] * count, []

        def one(rank):
            try:
                results[rank] = function(ThreadRanks(rank, count, board, barrier))
            except threading.BrokenBarrierError:
                pass  # another rank raised
            except BaseException as error:
                errors.append(error)
                barrier.abort()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results

    return run


@contextmanager
def _refusal(*words, error=ValueError):
    with pytest.raises(error) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 520
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"


@pytest.fixture
def refusal():
    """Context manager: the block raises one line that contains every word."""
    return _refusal
