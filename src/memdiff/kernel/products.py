"""Matrix products by the fastest path of this machine, found by a short measurement."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from memdiff.run.provenance import cpu_model

__all__ = [
    "BLOCK",
    "GemmPath",
    "available_paths",
    "dimension_class",
    "gemm_path",
    "gemm_paths",
    "remembered",
]

BLOCK = 2048
"""Training points that a product takes at a time."""

_QUERIES = 256
# A path other than torch's own must win by this factor: a tie must not depend on the weather.
_MARGIN = 0.95
# Up to this dimension MKL is faster at the transpose of a weighted sum, up to four times.
_NARROW = {torch.float32: 8, torch.float64: 128}
_CLASSES = (8, 64, 512, 4096)

_chosen: dict[str, str] = {}


@dataclass(frozen=True)
class GemmPath:
    """One way to the two products of the posterior.

    Attributes:
        name: What ``MEMDIFF_GEMM`` selects it by.
        logits: ``(query (B, d), points (K, d), bias (K,) or None) -> (B, K)``.
        weighted: ``(weights (B, K), points (K, d)) -> (B, d)``.
    """

    name: str
    logits: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    weighted: Callable[[Tensor, Tensor], Tensor]


def _torch_logits(query: Tensor, points: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(query, points.T) if bias is None else torch.addmm(bias, query, points.T)


def _torch_weighted(weights: Tensor, points: Tensor) -> Tensor:
    if points.shape[1] > _NARROW[points.dtype]:
        return torch.mm(weights, points)
    return torch.mm(points.T.contiguous(), weights.T).T


_TORCH = GemmPath("torch", _torch_logits, _torch_weighted)


def _onednn() -> GemmPath | None:
    """The products of oneDNN, which torch offers for compiled networks only; None without it."""
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if linear is None or not torch.backends.mkldnn.is_available():
        return None

    def logits(query: Tensor, points: Tensor, bias: Tensor | None) -> Tensor:
        product: Tensor = linear(query, points, bias, "none", [], "")
        return product

    def weighted(weights: Tensor, points: Tensor) -> Tensor:
        product: Tensor = linear(weights, points.T, None, "none", [], "")
        return product

    path = GemmPath("onednn", logits, weighted)
    probe, points = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    # A private function may change under our feet: it must still do what it did.
    with suppress(RuntimeError, TypeError, NotImplementedError):
        first = path.logits(probe, points, torch.tensor([1.0, 0.0]))
        second = path.weighted(probe, points)
        if first.tolist() == [[12.0, 17.0]] and second.tolist() == [[13.0, 16.0]]:
            return path
    return None


def available_paths() -> dict[str, GemmPath]:
    """The paths for float32 on the CPU, by name; ``"torch"`` is always there."""
    other = _onednn()
    return {"torch": _TORCH} if other is None else {"torch": _TORCH, other.name: other}


def gemm_paths(
    queries: int = _QUERIES, dimension: int = 784, *, points: int = BLOCK, repeats: int = 5
) -> dict[str, float]:
    """Seconds that each path takes for both products of one block, in turns, shortest counted.

    Args:
        queries: Number of queries B.
        dimension: Dimension d.
        points: Points of the block.
        repeats: Runs of each path after one that warms up.

    Returns:
        Seconds by name, for float32 on the CPU with the current number of threads.
    """
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(queries, dimension, generator=generator)
    block = torch.randn(points, dimension, generator=generator)
    bias = torch.randn(points, generator=generator)
    paths = available_paths()
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(repeats + 1):
        for name, path in paths.items():
            start = time.perf_counter()
            path.weighted(path.logits(query, block, bias), block)
            seconds[name].append(time.perf_counter() - start)
    return {name: min(times[1:]) for name, times in seconds.items()}


def gemm_path(dimension: int, dtype: torch.dtype, device: torch.device) -> GemmPath:
    """The path for products of this dimension, dtype and device.

    ``MEMDIFF_GEMM`` chooses it by name. Otherwise it is measured once a machine (processor, torch,
    threads, class of dimensions) in some hundredths of a second, and remembered in ``gemm.json``
    below ``MEMDIFF_CACHE``, or ``~/.cache/memdiff``; where that cannot be written, for this
    process only. Paths differ by rounding.

    Raises:
        ValueError: If ``MEMDIFF_GEMM`` names no path of this machine.
    """
    if dtype != torch.float32 or device.type != "cpu":
        return _TORCH
    wish = os.environ.get("MEMDIFF_GEMM", "")
    size = dimension_class(dimension)

    def fastest() -> str:
        seconds = gemm_paths(dimension=size)
        best = min(seconds, key=lambda name: seconds[name])
        return best if seconds[best] < _MARGIN * seconds["torch"] else "torch"

    name = wish or remembered(f"d <= {size}", fastest)
    if name not in _paths:
        _paths.update(available_paths())
    if name not in _paths:
        if not wish:  # remembered from an installation that had it
            return _TORCH
        raise ValueError(
            f"MEMDIFF_GEMM must name a path of this machine ({', '.join(_paths)}), got {wish!r}."
        )
    return _paths[name]


_paths: dict[str, GemmPath] = {}


def dimension_class(dimension: int) -> int:
    """The dimension that stands for its class: dimensions of a class share their choices."""
    return next((size for size in _CLASSES if dimension <= size), _CLASSES[-1])


def remembered(what: str, measure: Callable[[], str]) -> str:
    """A choice for this processor, torch and number of threads, measured where none is known.

    Args:
        what: What is chosen.
        measure: Makes the choice.
    """
    key = (
        f"{_processor()} | torch {torch.__version__} | {torch.get_num_threads()} threads | {what}"
    )
    if key not in _chosen:
        known = _remembered()
        if key not in known:
            known[key] = measure()
            _remember(known)
        _chosen[key] = known[key]
    return _chosen[key]


_processor = cache(cpu_model)


def _cache_file() -> Path:
    folder = os.environ.get("MEMDIFF_CACHE")
    return (Path(folder) if folder else Path.home() / ".cache" / "memdiff") / "gemm.json"


def _remembered() -> dict[str, str]:
    """Earlier choices; none where the file is missing or is not what is written here."""
    with suppress(OSError, ValueError, RuntimeError):
        found = json.loads(_cache_file().read_text("utf-8"))
        if isinstance(found, dict):
            return {str(key): str(value) for key, value in found.items()}
    return {}


def _remember(choices: dict[str, str]) -> None:
    """Keep the choices on disk; without a place to write, they hold for this process."""
    with suppress(OSError, RuntimeError):
        file = _cache_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".gemm", suffix=".json")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(choices, stream, indent=1, sort_keys=True)
        Path(name).replace(file)
