"""The one notion of this package: a descriptor turns a data set into rows for neighbour search."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from memdiff.data import Dataset, StreamedDataset
from memdiff.data.dataset import Kind
from memdiff.run.ranks import Ranks
from memdiff.sources import Rows, Spool

__all__ = ["Descriptor", "Metric", "Progress", "find_device", "signed_pixels"]

Metric = Literal["euclidean", "cosine"]
Progress = Callable[[int, int], None]

# Part of every fingerprint: raise it when a descriptor's numbers change, so that caches miss.
_VERSION = 1
# Features of a set on disk are kept in memory up to this size.
_IN_MEMORY_BYTES = 2**26


def signed_pixels(x: Tensor, data: Dataset) -> Tensor:
    r"""Pixels of any known range as [-1, 1]; vectors, tables and free pixels as they are.

    The mapping is :math:`2 (v - low) / (high - low) - 1`, as when pixels are loaded, so that equal
    bytes give equal floats. Values are not clamped.

    Args:
        x: Some points of ``data``, ``(B, *S)``.
        data: The set they come from, for its kind and encoding.

    Returns:
        Tensor of the shape and dtype of ``x``; ``x`` itself where nothing changes.
    """
    if data.kind not in ("images", "video") or data.encoding in ("signed", "free"):
        return x
    low, high = data.value_range or (-1.0, 1.0)
    return (x - low).div_((high - low) / 2).sub_(1)


def find_device(device: torch.device | str) -> torch.device:
    """The device of that name.

    Args:
        device: Such as ``"cpu"`` or ``"cuda:1"``.

    Raises:
        ValueError: If there is no such kind of device.
    """
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device {str(device)!r} is unknown; give 'cpu', 'cuda', 'cuda:1' or 'mps'."
        ) from error


class Descriptor(ABC):
    """Base class of every descriptor. A subclass writes ``name``, ``parameters``, ``_describe``.

    What is learned from data (axes, means) is learned by :meth:`fit` from the *training* set only;
    a descriptor that learns nothing is its own fit. A descriptor is not changed by use: ``fit``
    returns a new one.

    Images are described as they are in [-1, 1], whatever range they are stored in, so that
    distances of two sets have one unit.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("images", "video", "vectors", "table")
    """The kinds of data that can be described."""

    metric: Metric = "euclidean"
    """The distance that suits the features, as :func:`memdiff.neighbors.nearest` takes it."""

    invariance: ClassVar[str | None] = None
    """Transforms that the search applies to the queries of this descriptor, beside those that the
    user asks for, as :func:`~memdiff.features.invariance.parse_invariance` takes them."""

    registers: ClassVar[bool] = False
    """Whether the nearest images by this descriptor are to be registered to the sample, so that
    the residual decides (:func:`~memdiff.features.alignment.registered_residual`)."""

    worth_caching: ClassVar[bool] = True
    """False where computing the features costs no more than reading them from disk."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What reports call it, e.g. ``"pca:64"``; equal descriptors may have other names."""

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, Any]:
        """Everything that decides the features, as JSON can hold it: the fitted state by hash.

        No path, device or batch size is among it.
        """

    @abstractmethod
    def _describe(self, x: Tensor) -> Tensor:
        """Features ``(B, e)`` of the points ``(B, *S)``, pixels in [-1, 1]."""

    def fit(self, train: Dataset) -> Descriptor:
        """The descriptor, fitted to a training set where it has something to fit.

        Args:
            train: The training set; never held-out or generated data, whose features would then
                depend on each other.

        Returns:
            A fitted descriptor; this one where nothing is fitted.
        """
        self.check(train)
        return self

    @property
    def fingerprint(self) -> str:
        """SHA-256 over kind, parameters, metric, weights, preprocessing and fitted state.

        Two descriptors with one fingerprint give the same features. It does not depend on where
        files lie.
        """
        content = {
            "descriptor": type(self).__name__,
            "version": _VERSION,
            "metric": self.metric,
            **self.parameters,
        }
        text = json.dumps(content, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def settings(self) -> dict[str, Any]:
        """Name, metric, parameters and fingerprint for a report, as JSON can hold it."""
        return {
            "name": self.name,
            "descriptor": type(self).__name__,
            "metric": self.metric,
            **self.parameters,
            "fingerprint": self.fingerprint,
        }

    def check(self, data: Dataset) -> None:
        """Raise unless ``data`` can be described.

        Args:
            data: The data set.

        Raises:
            ValueError: If its kind, shape or encoding does not fit.
        """
        if data.kind not in self.kinds:
            noun = {"video": "video clips", "table": "a table"}.get(data.kind, data.kind)
            able = [
                form
                for form, kinds in (
                    ("pixels", Descriptor.kinds),
                    ("pca:COMPONENTS", ("images", "video", "vectors")),
                    ("table", ("vectors", "table")),
                )
                if data.kind in kinds
            ]
            raise ValueError(
                f"features {self.name!r} describe {' and '.join(self.kinds)}, but {data.title} "
                f"holds {noun}; use {' or '.join(able)}."
            )

    def features(
        self,
        data: Dataset,
        *,
        batch_size: int = 128,
        device: torch.device | str | None = None,
        progress: Progress | None = None,
        ranks: Ranks | None = None,
    ) -> Tensor | Rows:
        """Describe every point.

        Takes the memory of the result and of one batch; the result of a set on disk is kept in a
        temporary file where it is above 64 MiB. The features do not depend on
        ``batch_size``, up to rounding of the last digit; when there are several batches the last
        is filled up, so that equal points get equal features wherever they stand.

        Args:
            data: The set, pixels of any encoding.
            batch_size: Points at a time, at least 1.
            device: Where to compute; by default where the network is, or the CPU.
            progress: Called with the number of points done and their total.
            ranks: Processes among which the batches are shared, where the result is kept in
                memory; each makes the same call, and gets the whole result.

        Returns:
            Rows with shape ``(N, e)`` on the CPU, finite; a tensor, but for a set on disk.
            float32 from networks; the dtype of the data from all else, so that float64 vectors
            keep their small distances.

        Raises:
            ValueError: If the data do not fit, the descriptor is not fitted, an argument is out of
                range, or a feature is not finite.
        """
        self.check(data)
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size!r}.")
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            where = stack.enter_context(self._computing_on(device))
            if ranks is None or ranks.count == 1 or isinstance(data, StreamedDataset):
                return self._all_features(data, batch_size, where, progress, stack)
            return self._shared_features(data, batch_size, where, progress, ranks)

    def _all_features(
        self,
        data: Dataset,
        batch_size: int,
        where: torch.device,
        progress: Progress | None,
        stack: ExitStack,
    ) -> Tensor | Rows:
        count = len(data)
        rows: Tensor | None = None
        spool: Spool | None = None
        for start in range(0, count, batch_size):
            described = self._batch(data, start, batch_size, where)
            size = len(described)
            if start == 0:
                width = described.shape[1]
                large = count * width * described.dtype.itemsize > _IN_MEMORY_BYTES
                if large and isinstance(data, StreamedDataset):
                    spool = Spool(count, width, described.dtype, f"features {self.name!r}")
                    stack.enter_context(spool)
                else:
                    rows = torch.empty(count, width, dtype=described.dtype)
            if spool is not None:
                spool.append(described)
            elif rows is not None:
                rows[start : start + size] = described
            if progress is not None:
                progress(start + size, count)
        if spool is not None:
            return spool.rows()
        assert rows is not None  # a Dataset has at least one point
        return rows

    def _batch(self, data: Dataset, start: int, batch_size: int, where: torch.device) -> Tensor:
        points = data.x[start : start + batch_size]
        size = len(points)
        if size < batch_size < len(data):
            filling = points[-1:].expand(batch_size - size, *data.shape)
            points = torch.cat([points, filling])
        described = self._describe(signed_pixels(points.to(where), data))[:size].cpu()
        self._check_finite(described, data, start)
        return described

    def _shared_features(
        self,
        data: Dataset,
        batch_size: int,
        where: torch.device,
        progress: Progress | None,
        ranks: Ranks,
    ) -> Tensor:
        """Whole batches dealt out, so that each has the rows that it has in one process."""
        starts = range(0, len(data), batch_size)
        mine = ranks.part(len(starts))
        parts = []
        with ranks.one_fate():
            # A rank without a batch needs the width and dtype of a row.
            for start in [starts[i] for i in mine] or [starts[0]]:
                parts.append(self._batch(data, start, batch_size, where))
                if progress is not None:
                    done = sum(map(len, parts)) * ranks.count
                    progress(min(done, len(data)), len(data))
        rows = torch.cat(parts)
        return ranks.concatenate(rows if len(mine) else rows[:0])

    @contextmanager
    def _computing_on(self, device: torch.device | str | None) -> Iterator[torch.device]:
        yield find_device("cpu" if device is None else device)

    def _check_finite(self, described: Tensor, data: Dataset, start: int) -> None:
        finite = described.isfinite().all(1)
        if not bool(finite.all()):
            row = start + int((~finite).nonzero()[0])
            raise ValueError(
                f"features {self.name!r} of {data.title} are NaN or infinite, first for "
                f"{data.names[row]!r} (row {row}); remove such points, or mend the network or its "
                f"preprocessing."
            )
