"""The processes of one run, as ``torchrun`` or ``accelerate launch`` starts them.

A process that was started alone is the first of one, and every operation is then local: code that
takes a :class:`Ranks` needs no second branch.

>>> ranks = Ranks()
>>> ranks.count, ranks.is_first, ranks.part(10)
(1, True, range(0, 10))

Ranks that are slow are waited for; ranks that are dead are not. Each rank notes a sign of life in
the store of the launcher, and one whose sign has not changed for ``timeout`` seconds is dead. A
rank whose connection closes is found dead at once by whoever waits for it.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from torch import Tensor

from memdiff.run.watch import Watch

__all__ = ["DEAD_RANK_EXIT", "RankError", "Ranks", "join", "joined", "launched"]

DEAD_RANK_EXIT = 3
"""Exit code of a process that ended because another one of its run did."""

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PATIENCE = timedelta(days=7)  # for ranks that are alive; dead ones are found by their silence


class RankError(RuntimeError):
    """Another process of the run has ended, or does not answer."""


class Ranks:
    """The place of this process among those of the run.

    Args:
        rank: Its number.
        count: Number of processes.
        timeout: Seconds of silence after which a rank counts as dead.

    Every rank must make the same collective calls (:meth:`barrier`, :meth:`gather`,
    :meth:`concatenate`, :meth:`sum`, :meth:`broadcast`, :meth:`texts`) in the same order; they
    raise :class:`RankError` when another rank has ended.
    """

    def __init__(self, rank: int = 0, count: int = 1, timeout: float = 60.0) -> None:
        if not 0 <= rank < count:
            raise ValueError(f"rank must lie in 0 .. {count - 1}, got {rank}.")
        self.rank = rank
        self.count = count
        self.timeout = timeout
        self._watch: Watch | None = None
        self._store: Any = None

    def __deepcopy__(self, memo: object) -> Ranks:
        return self  # a connection, not data: a copied score goes on with the same ranks

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that prints and writes."""
        return self.rank == 0

    def part(self, total: int) -> range:
        """The contiguous part of ``range(total)`` that is this rank's; sizes differ by at most 1.

        The parts of all ranks, in their order, are ``range(total)``.
        """
        return range(self.rank * total // self.count, (self.rank + 1) * total // self.count)

    def barrier(self) -> None:
        """Wait for all ranks."""
        import torch

        self.gather(torch.zeros(1, dtype=torch.uint8))

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all ranks, of the same shape and dtype, in the order of the ranks."""
        if self.count == 1:
            return [tensor]
        import torch
        import torch.distributed as dist

        parts = [torch.empty_like(tensor).contiguous() for _ in range(self.count)]
        with _dead_rank():
            dist.all_gather(parts, tensor.contiguous())
        return parts

    def concatenate(self, tensor: Tensor) -> Tensor:
        """The rows of all ranks in the order of the ranks; each may bring another number."""
        if self.count == 1:
            return tensor
        import torch

        sizes = [int(n) for n in self.gather(torch.tensor([len(tensor)], device=tensor.device))]
        padded = tensor.new_zeros((max(sizes), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        parts = self.gather(padded)
        return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, the same to the last bit on each."""
        if self.count == 1:
            return tensor
        import torch
        import torch.distributed as dist

        total = tensor.clone(memory_format=torch.contiguous_format)
        with _dead_rank():
            dist.all_reduce(total)
        return total

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The tensor of the first rank; the others give one of the same shape and dtype."""
        if self.count == 1:
            return tensor
        import torch
        import torch.distributed as dist

        copy = tensor.clone(memory_format=torch.contiguous_format)
        with _dead_rank():
            dist.broadcast(copy, src=0)
        return copy

    def texts(self, text: str) -> list[str]:
        """The texts of all ranks."""
        if self.count == 1:
            return [text]
        import torch

        code = torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)
        code = code[: len(text.encode())]
        sizes = [int(n) for n in self.gather(torch.tensor([len(code)]))]
        whole = bytes(self.concatenate(code).tolist())
        ends = [sum(sizes[: i + 1]) for i in range(self.count)]
        return [whole[end - n : end].decode() for end, n in zip(ends, sizes, strict=True)]

    @contextmanager
    def one_fate(self) -> Iterator[None]:
        """What one rank cannot do is refused by all: every rank leaves this block or none does.

        Collective at its end.

        Raises:
            ValueError: On every rank, with the sentence of the first one that raised a
                ``ValueError``, ``OSError`` or ``ImportError``; that rank raises its own.
        """
        own: ValueError | OSError | ImportError | None = None
        try:
            yield
        except (ValueError, OSError, ImportError) as error:
            if self.count == 1:
                raise
            own = error
        found = self.texts("" if own is None else str(own) or type(own).__name__)
        if own is not None:
            raise own
        for rank, sentence in enumerate(found):
            if sentence:
                raise ValueError(sentence if rank == 0 else f"{sentence} (process {rank})")

    def take(self, total: int, queue: str) -> Iterator[int]:
        """Numbers below ``total``, each to one rank: the next one to whoever asks first.

        Not collective. For work in pieces of unequal length.

        Args:
            total: How many there are.
            queue: A name that all ranks give, another one for each queue of a run.
        """
        if self._store is None:
            yield from range(self.rank, total, self.count)
            return
        while True:
            with _dead_rank():
                number = self._store.add(f"queue/{queue}", 1) - 1
            if number >= total:
                return
            yield number

    def speaks(self, sentence: str, *, wait: float = 5.0) -> bool:
        """Whether this rank is the one to say what several may have found; not collective.

        The first of those who found it says it. A rank waits for those before it, and speaks if
        none of them has found the same within ``wait`` seconds.
        """
        if self.count == 1 or self._store is None:
            return True
        with suppress(RuntimeError):  # the store went with the first rank
            self._store.set(f"said/{self.rank}", sentence)
            end = time.monotonic() + wait
            while not self.is_first:
                for name in (f"said/{rank}" for rank in range(self.rank)):
                    if self._store.check([name]) and self._store.get(name).decode() == sentence:
                        return False
                if time.monotonic() > end:
                    break
                time.sleep(0.02)
        return True

    def settle(self, *, wait: float = 5.0) -> None:
        """Wait, ``wait`` seconds at most, until all ranks have said something; not collective.

        A launcher ends all processes as soon as one fails: those that are to fail together do it
        at one time.
        """
        if self.count == 1 or self._store is None:
            return
        names = [f"said/{rank}" for rank in range(self.count)]
        end = time.monotonic() + wait
        with suppress(RuntimeError):  # the store went with the first rank
            while not self._store.check(names) and time.monotonic() < end:
                time.sleep(0.02)

    def abandon(self, reason: str) -> NoReturn:
        """End the process at once because another rank has ended.

        Args:
            reason: What was found, for the one sentence on standard error, which the first rank
                that is alive prints.
        """
        if self.speaks("a rank has ended", wait=min(0.3 * self.rank, 5.0)):
            stream = sys.__stderr__ or sys.stderr  # another rank than the first may be silenced
            print(
                f"memdiff: {' '.join(reason.split()).rstrip('.')}; what was finished is kept, the "
                "same command goes on.",
                file=stream,
                flush=True,
            )
        os._exit(DEAD_RANK_EXIT)

    def leave(self) -> None:
        """Wait for all ranks, then leave the group; the process goes on alone."""
        if self._watch is None:
            return
        import torch.distributed as dist

        self._watch.leaving.set()
        try:
            self.barrier()
        finally:
            self.close()
        dist.destroy_process_group()

    def close(self) -> None:
        """Give no more signs of life: for a process that ends, and is not waited for."""
        global _joined
        if self._watch is not None:
            self._watch.stop()
            self._watch, _joined = None, None


_joined: Ranks | None = None


def launched(environment: Mapping[str, str] | None = None) -> bool:
    """Whether a launcher started this process as one of several.

    Args:
        environment: Where to look for ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and
            ``MASTER_PORT``; ``os.environ`` by default.
    """
    environment = os.environ if environment is None else environment
    return all(name in environment for name in _VARIABLES) and int(environment["WORLD_SIZE"]) > 1


def joined() -> Ranks:
    """The ranks that this process is one of: those of :func:`join`, or of the default group.

    A group that another library has initialised (``accelerate.Accelerator()``) is used as it is,
    with its own timeout. Without a group, the process is alone.
    """
    if _joined is not None:
        return _joined
    if "torch.distributed" not in sys.modules:  # who has initialised a group has imported it
        return Ranks()
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()


def join(*, timeout: float = 60.0, on_death: Callable[[str], None] | None = None) -> Ranks:
    """Join the processes that the launcher started.

    CPU tensors go over gloo, CUDA tensors over NCCL, each rank on the GPU of its local number.

    Args:
        timeout: Seconds of silence after which another rank counts as dead; also the time that
            the ranks have to find each other.
        on_death: Called with one sentence, from another thread, when a rank is found dead. By
            default the sentence is printed by the first rank that is alive and the process ends
            with :data:`DEAD_RANK_EXIT`, because a thread that waits for a dead rank cannot be
            woken.

    Returns:
        The place of this process; alone if it was started alone.

    Raises:
        RankError: If the others are not there within ``timeout``.
    """
    global _joined
    if _joined is not None or not launched():
        return joined()
    import torch
    import torch.distributed as dist

    if not dist.is_available() or dist.is_initialized():
        return joined()
    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    wait = timedelta(seconds=timeout)
    try:
        store, rank, count = next(dist.rendezvous("env://", timeout=wait))
        store.set_timeout(wait)
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("group", store),
            rank=rank,
            world_size=count,
            timeout=_PATIENCE,
        )
    except RuntimeError as error:
        raise RankError(
            f"the processes of the run did not find each other within {timeout:g} s: "
            f"{_first_line(error)}."
        ) from error
    ranks = Ranks(rank, count, timeout)
    ranks._store = dist.PrefixStore("memdiff", store)
    ranks._watch = Watch(rank, count, timeout, ranks._store, on_death or ranks.abandon)
    ranks._watch.start()
    atexit.register(ranks.close)  # a thread inside the store would abort an interpreter that ends
    _joined = ranks
    return ranks


@contextmanager
def _dead_rank() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RankError(f"another process of the run has ended ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    """What a message of torch says, without the place in its source and its advice."""
    line = re.sub(r"^\[[^]]*:\d+\]\s*", "", str(error).strip().splitlines()[0])
    return line.split(". ")[0].rstrip(".")
