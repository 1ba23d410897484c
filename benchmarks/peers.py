"""Other people's ways to the same answers, each in turns with the floor and with memdiff.

Slow peers get a part of the queries, or of the training points, and their time is scaled up to
all of them: the column ``scaled from`` says so. What cannot run here is a row with the reason.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.floor import interleaved, product, two_products
from memdiff.kernel import PosteriorEngine, Queries
from memdiff.neighbors import nearest
from memdiff.processes import VE
from memdiff.scores import EmpiricalScore

__all__ = ["attention", "one_shot", "run"]

# (queries, points, dimension, sigma) of one evaluation of the score.
SCORES = {
    "small": ((256, 4000, 784, 1.0), (256, 8000, 2, 0.1)),
    "full": ((256, 60000, 784, 1.0), (1024, 20000, 32, 0.3), (1024, 20000, 2, 0.1)),
}
# The same of log densities: few points, since trees are slow.
DENSITIES = {
    "small": ((64, 4000, 32, 0.3),),
    "full": ((256, 20000, 32, 0.3), (256, 20000, 2, 0.1)),
}
# (queries, points, features) of the search for 3 neighbours.
SEARCHES = {"small": ((1000, 8000, 512),), "full": ((2000, 50000, 512),)}
NEIGHBORS = 3
# Inner products that a slow peer may be asked for, at most.
WORK = 2_000_000
# Training points that the loop over them sees, at most.
LOOPED = 2000


@dataclass(frozen=True)
class Part:
    """A call that does ``done`` of the ``whole`` work, counted in ``unit``."""

    call: Callable[[], object]
    done: int
    whole: int
    unit: str

    @property
    def note(self) -> str | None:
        """What its time was scaled from."""
        whole = self.done >= self.whole
        return None if whole else f"{self.done:,} of {self.whole:,} {self.unit}"


def run(size: str, repeats: int) -> list[dict[str, Any]]:
    """Measure every peer on every case.

    Args:
        size: ``"small"`` or ``"full"``.
        repeats: Runs in turns of which the shortest counts.

    Returns:
        One dict a case and method: ratio to the floor, and to memdiff.
    """
    rows: list[dict[str, Any]] = []
    for case in SCORES[size]:
        rows += _scores(*case, repeats)
    for case in DENSITIES[size]:
        rows += _densities(*case, repeats)
    for search in SEARCHES[size]:
        rows += _searches(*search, repeats)
    return rows


def attention(x: Tensor, data: Tensor, sigma: float) -> Tensor:
    """Torch's fused attention with the norms as a bias; float32, no care for small distances."""
    bias = (-(data**2).sum(1) / (2 * sigma**2))[None, None, None]
    query, key = x[None, None], data[None, None]
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, key, attn_mask=bias.expand(1, 1, len(x), -1), scale=1 / sigma**2
    )[0, 0]


def one_shot(x: Tensor, data: Tensor, sigma: float) -> Tensor:
    """All logits at once, as most code writes it; float32, no care for small distances."""
    logits = (x @ data.T - 0.5 * (data**2).sum(1)) / sigma**2
    return logits.softmax(1) @ data


def paper_loop(x: Tensor, data: Tensor, sigma: float) -> Tensor:
    """One training point after another, all queries at once, by direct differences.

    Reconstructed: the sums of the paper as its formulas are written, with no shift of the
    exponent, so that all weights vanish where no point is near.
    """
    total = x.new_zeros(len(x), 1)
    weighted = torch.zeros_like(x)
    for point in data:
        weight = (-((x - point) ** 2).sum(1, keepdim=True) / (2 * sigma**2)).exp()
        total += weight
        weighted += weight * point
    return weighted / total


def keops(x: Tensor, data: Tensor, sigma: float) -> Tensor:
    """KeOps: a kernel compiled for this dimension, direct differences."""
    from pykeops.torch import LazyTensor

    queries, points = LazyTensor(x[:, None, :]), LazyTensor(data[None, :, :])
    logits = -((queries - points) ** 2).sum(-1) / (2 * sigma**2)
    return logits.sumsoftmaxweight(points, axis=1)


def _keops_missing() -> str | None:
    """Why KeOps cannot run here, or None."""
    if importlib.util.find_spec("pykeops") is None:
        return "not run: pykeops is not installed (pip install 'memdiff[peers]')"
    if shutil.which("g++") is None and shutil.which("c++") is None:
        return "not run: no C++ compiler, which KeOps needs"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            keops(torch.zeros(2, 2), torch.zeros(3, 2), 1.0)
    except Exception as error:  # whatever the compiler says is the reason
        return f"not run: KeOps does not compile here ({type(error).__name__})"
    return None


def _scores(queries: int, points: int, dimension: int, sigma: float, repeats: int) -> list[Any]:
    x, data = _clouds(queries, points, dimension, sigma)
    engine = PosteriorEngine(data)
    ones, level = torch.ones(queries), torch.full((queries,), sigma)
    few, some = x[: max(4, min(queries, WORK // points))], data[:LOOPED]
    calls: dict[str, Callable[[], object]] = {
        "floor": two_products(x, data),
        "memdiff": lambda: engine(Queries.of(x, ones, level)),
        "memdiff, tolerance 1e-5": lambda: engine(Queries.of(x, ones, level), tolerance=1e-5),
        "SDPA with bias": lambda: attention(x, data, sigma),
    }
    if queries * points * 4 < 2**28:
        calls["one-shot softmax"] = lambda: one_shot(x, data, sigma)
    slow = {"paper's loop": Part(lambda: paper_loop(x, some, sigma), len(some), points, "points")}
    reason = _keops_missing()
    if reason is None:
        slow["pykeops"] = Part(lambda: keops(few, data, sigma), len(few), queries, "queries")
    case = {"task": "score", **_sizes(queries, points, dimension), "sigma": sigma}
    rows = _rows(case, calls, slow, repeats)
    return (
        rows if reason is None else [*rows, {**case, "method": "pykeops", "scaled from": reason}]
    )


def _densities(queries: int, points: int, dimension: int, sigma: float, repeats: int) -> list[Any]:
    from sklearn.neighbors import KernelDensity

    x, data = _clouds(queries, points, dimension, sigma)
    score = EmpiricalScore(data, VE())
    time = score.process.time_at_ratio(torch.tensor(sigma))
    tree = KernelDensity(bandwidth=sigma, rtol=1e-6).fit(data.numpy())
    few = x[: max(4, min(queries, WORK // points))]
    calls: dict[str, Callable[[], object]] = {
        "floor": two_products(x, data),
        "memdiff": lambda: score.log_density(x, time),
    }
    name = "scikit-learn KernelDensity"
    slow = {name: Part(lambda: tree.score_samples(few.numpy()), len(few), queries, "queries")}
    case = {"task": "log density", **_sizes(queries, points, dimension), "sigma": sigma}
    return _rows(case, calls, slow, repeats)


def _searches(queries: int, points: int, dimension: int, repeats: int) -> list[Any]:
    from sklearn.neighbors import NearestNeighbors

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(queries, dimension, generator=generator)
    data = torch.randn(points, dimension, generator=generator)
    brute = NearestNeighbors(n_neighbors=NEIGHBORS, algorithm="brute").fit(data.numpy())
    calls: dict[str, Callable[[], object]] = {
        "floor": product(x, data),
        "memdiff": lambda: nearest(x, data, NEIGHBORS),
        "scikit-learn NearestNeighbors": lambda: brute.kneighbors(x.numpy()),
    }
    reason = None
    if importlib.util.find_spec("faiss") is None:
        reason = "not run: faiss is not installed (pip install 'memdiff[peers]')"
    else:
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        flat = faiss.IndexFlatL2(dimension)
        flat.add(data.numpy())
        calls["faiss flat"] = lambda: flat.search(x.numpy(), NEIGHBORS)
    case = {"task": f"{NEIGHBORS} neighbours", **_sizes(queries, points, dimension)}
    rows = _rows(case, calls, {}, repeats)
    if reason is not None:
        rows.append({**case, "method": "faiss flat", "scaled from": reason})
    return rows


def _clouds(queries: int, points: int, dimension: int, sigma: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(points, dimension, generator=generator) * 2 - 1
    return data[:queries] + sigma * torch.randn(queries, dimension, generator=generator), data


def _sizes(queries: int, points: int, dimension: int) -> dict[str, int]:
    return {"queries": queries, "points": points, "dimension": dimension}


def _rows(
    case: dict[str, Any],
    calls: dict[str, Callable[[], object]],
    slow: dict[str, Part],
    repeats: int,
) -> list[dict[str, Any]]:
    with contextlib.redirect_stdout(io.StringIO()):  # KeOps tells of its compilation
        parts = {name: part.call for name, part in slow.items()}
        seconds = interleaved({**calls, **parts}, repeats)
    for name, part in slow.items():
        seconds[name] *= part.whole / part.done
    floor, ours = seconds.pop("floor"), seconds["memdiff"]
    return [
        {
            **case,
            "method": name,
            "of the floor": value / floor,
            "of memdiff": value / ours,
            "scaled from": slow[name].note if name in slow else None,
        }
        for name, value in seconds.items()
    ]
