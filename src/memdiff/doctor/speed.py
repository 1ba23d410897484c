r"""How fast this machine is, and what to expect of it at a given number of points and dimension.

The floor of an exact score is the time of its two matrix products, :math:`4 B N d` operations, by
the fastest path that the machine has. :func:`measure_speed` measures the paths, then evaluations
and a sampling run on synthetic data of the dimension asked for, at the largest number of points
that the time allows, and carries them to the number asked for.

What the times are *not*: those of your data. Certified pruning costs less on data of few effective
dimensions and more on data without structure; the synthetic data have the spectrum of images.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from memdiff.kernel.integers import IntegerRows, ProductBuffer, integers_pay
from memdiff.kernel.products import available_paths, gemm_path
from memdiff.processes import EDM
from memdiff.samplers import Heun, sample
from memdiff.scores import EmpiricalScore

__all__ = ["Expectation", "MatrixProduct", "Speed", "measure_speed"]

STEPS = 18
EVALUATIONS = 2 * STEPS - 1
LEVELS = (0.01, 0.1, 1.0, 10.0)
"""Noise levels at which single evaluations are timed, in standard deviations of the data."""
# Points of the block that a product takes, as in the engine.
_BLOCK = 2048
# Queries that are evaluated together; more of them take proportionally longer.
_BATCH = 256
# What timing on a machine that others use is off by, at least.
_LEAST_ERROR = 0.1

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class MatrixProduct:
    """One way to the product of the logits, ``(B, d) x (d, 2048)``.

    Attributes:
        name: The call and the dtype.
        gflops: Rate of the fastest run, in 1e9 operations a second.
        typical: Rate of the median run.
    """

    name: str
    gflops: float
    typical: float


@dataclass(frozen=True)
class Expectation:
    """An expected time in seconds.

    Attributes:
        seconds: The expectation.
        low: Lower end of the range.
        high: Upper end.
    """

    seconds: float
    low: float
    high: float


@dataclass(frozen=True)
class Speed:
    """Result of :func:`measure_speed`.

    Attributes:
        points: Number of training points asked for.
        dimension: Their dimension.
        queries: Number of queries, or of samples.
        threads: Threads that torch uses.
        paths: The matrix products, fastest first within each dtype.
        chosen: Name of the path that the engine takes here for float32 points: the first word
            of a product's name (see ``MEMDIFF_GEMM``).
        integers: Whether screens take products of 8-bit integers here (see ``MEMDIFF_INTEGERS``).
        floor_seconds: Both products at the sizes asked for, by the fastest in float32.
        evaluations: Expected time of one evaluation by noise level (in standard deviations of
            the data).
        sampling: Expected time of a run of 18 Heun steps, 35 evaluations, for all queries.
        measured_points: Number of points that was measured.
        fixed_share: Share of the sampling time at that number that does not grow with it, by a
            straight line through two sizes.
        data_mb: Memory of the points and of the copies that the engine keeps (one centred and,
            with ``integers``, one of a quarter of that), in MB.
        seconds: Time that this measurement took.
        note: How far the numbers are to be trusted.
    """

    points: int
    dimension: int
    queries: int
    threads: int
    paths: tuple[MatrixProduct, ...]
    chosen: str
    integers: bool
    floor_seconds: float
    evaluations: dict[str, Expectation]
    sampling: Expectation
    measured_points: int
    fixed_share: float
    data_mb: float
    seconds: float
    note: str

    def to_dict(self) -> dict[str, Any]:
        """The same in plain types, for JSON."""
        return asdict(self)


def measure_speed(
    points: int = 60_000,
    dimension: int = 784,
    queries: int = 256,
    *,
    budget: float = 40.0,
    progress: Progress | None = None,
) -> Speed:
    """Measure the machine and say what to expect, in about ``budget`` seconds.

    Args:
        points: Number of training points N.
        dimension: Their dimension d.
        queries: Number of queries (of one evaluation) and of samples.
        budget: Seconds that the measurement may take; less gives wider ranges.
        progress: Receives (stage, done, total).

    Returns:
        The measurements and expectations, for float32 points on the CPU.

    Raises:
        ValueError: If an argument is out of range, or one query does not fit the memory.
    """
    started = time.perf_counter()
    for name, value in (("points", points), ("dimension", dimension), ("queries", queries)):
        if value < 1:
            raise ValueError(
                f"{name} must be at least 1, got {value}: give the size of your data."
            )
    if not 1.0 <= budget < math.inf:
        raise ValueError(f"budget must be at least 1 second, got {budget:g}.")
    if dimension > 2**24:
        raise ValueError(
            f"dimension must be at most {2**24:,}, got {dimension:,}: describe your data by "
            "features of fewer dimensions."
        )
    batch = min(queries, _BATCH)
    report = progress or (lambda stage, done, total: None)
    report("matrix products", 0, 1)
    paths = _paths(batch, dimension, 0.1 * budget)
    report("matrix products", 1, 1)
    single = [path for path in paths if "float32" in path.name]
    rate = single[0].gflops * 1e9
    floor = 4.0 * batch * dimension / rate  # seconds a training point
    measured = _affordable(points, dimension, floor, budget)
    sizes = [measured] if measured < 64 else [measured // 8, measured]
    runs: dict[int, list[float]] = {}
    levels: dict[float, list[float]] = {}
    for size in sizes:
        data = _image_like(size, dimension)
        score = _score(data)
        if size == measured:
            levels = _evaluations(score, data, batch, 0.25 * budget, report)
        report("sampling", sizes.index(size), len(sizes))
        left = budget - (time.perf_counter() - started)
        runs[size] = _runs(score, batch, 0.2 * left if size != measured else 0.8 * left)
        report("sampling", sizes.index(size) + 1, len(sizes))
    fixed = _fixed_share({size: min(times) for size, times in runs.items()})
    grow = points / measured
    integers = integers_pay(dimension, torch.device("cpu"))
    whole = queries / batch
    return Speed(
        points=points,
        dimension=dimension,
        queries=queries,
        threads=torch.get_num_threads(),
        paths=tuple(paths),
        chosen=gemm_path(dimension, torch.float32, torch.device("cpu")).name,
        integers=integers,
        floor_seconds=floor * points * whole,
        evaluations={
            f"{level:g}": _expect(times, grow, 0.0, whole) for level, times in levels.items()
        },
        sampling=_expect(runs[measured], grow, fixed, whole),
        measured_points=measured,
        fixed_share=fixed,
        data_mb=(9e-6 if integers else 8e-6) * points * dimension,
        seconds=time.perf_counter() - started,
        note=_note(points, measured, fixed),
    )


def _paths(batch: int, dimension: int, budget: float) -> list[MatrixProduct]:
    """Rates of the forms of the product that this machine offers, in turns."""
    width = max(1, min(_BLOCK, 2**26 // dimension))
    forms: dict[str, Callable[[], Tensor]] = {}
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        a = torch.ones(batch, dimension, dtype=dtype)
        b = torch.ones(width, dimension, dtype=dtype)
        bias = torch.zeros(width, dtype=dtype)
        name = str(dtype).removeprefix("torch.")
        forms[f"torch mm {name}"] = partial(torch.mm, a, b.T)
        forms[f"torch addmm {name}"] = partial(torch.addmm, bias, a, b.T)
        if dtype == torch.float32:
            others = {key: path for key, path in available_paths().items() if key != "torch"}
            for key, path in others.items():
                forms[f"{key} {name}"] = partial(path.logits, a, b, None)
    if integers_pay(dimension, torch.device("cpu")):
        rows = IntegerRows.of(torch.ones(width, dimension))
        forms["torch int8"] = partial(rows[:batch].products, rows, ProductBuffer())
    for form in forms.values():
        form()
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    end = time.perf_counter() + budget
    while True:
        for name, form in forms.items():
            seconds[name].append(_timed(form))
        if time.perf_counter() > end or len(seconds[name]) >= 50:
            break
    work = 2e-9 * batch * dimension * width
    paths = [
        MatrixProduct(n, work / min(times), work / max(times)) for n, times in seconds.items()
    ]
    order = ["float32", "float64", "bfloat16", "int8"]
    return sorted(paths, key=lambda path: (order.index(path.name.split()[-1]), -path.gflops))


def _affordable(points: int, dimension: int, floor: float, budget: float) -> int:
    """Points whose sampling run takes about a quarter of the budget at twice the floor."""
    by_time = 0.25 * budget / (2 * EVALUATIONS * floor)
    by_memory = _memory() / 8 / (16 * dimension)  # data, centred copy and what pruning keeps
    return max(1, min(points, int(by_time), int(by_memory)))


def _memory() -> float:
    """Bytes of memory of the machine, 4 GiB where it does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return 2.0**32


def _image_like(points: int, dimension: int) -> Tensor:
    """Gaussian points with variance ``1/k`` along coordinate ``k``, of unit mean variance."""
    spectrum = 1.0 / torch.arange(1.0, dimension + 1)
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(points, dimension, generator=generator)
    return data.mul_((spectrum / spectrum.mean()).sqrt())


def _score(data: Tensor) -> EmpiricalScore:
    return EmpiricalScore(data, EDM(sigma_min=0.004, sigma_max=160.0))


def _evaluations(
    score: EmpiricalScore, data: Tensor, batch: int, budget: float, report: Progress
) -> dict[float, list[float]]:
    """Times of single evaluations at each noise level, at noised training points."""
    generator = torch.Generator().manual_seed(1)
    found: dict[float, list[float]] = {}
    for index, level in enumerate(LEVELS):
        report("evaluations", index, len(LEVELS))
        chosen = torch.randint(0, len(data), (batch,), generator=generator)
        x = data[chosen] + level * torch.randn(batch, data.shape[1], generator=generator)
        t = score.process.time_at_ratio(torch.tensor(level, dtype=torch.float64))
        score.residual(x, t)
        end = time.perf_counter() + budget / len(LEVELS)
        evaluate = partial(score.residual, x, t)
        found[level] = [_timed(evaluate)]
        while time.perf_counter() < end and len(found[level]) < 10:
            found[level].append(_timed(evaluate))
    report("evaluations", len(LEVELS), len(LEVELS))
    return found


def _runs(score: EmpiricalScore, batch: int, budget: float) -> list[float]:
    """Times of sampling runs; one at least, others while they fit the budget."""
    end = time.perf_counter() + budget
    seconds: list[float] = []
    while True:
        made = sample(score, num=batch, sampler=Heun(steps=STEPS), seed=len(seconds))
        seconds.append(made.stats.seconds)
        if time.perf_counter() + seconds[-1] > end or len(seconds) >= 5:
            return seconds


def _fixed_share(seconds: dict[int, float]) -> float:
    """Share of the time at the larger size that a straight line has at no points, in [0, 1]."""
    if len(seconds) < 2:
        return 0.0
    (few, fast), (many, slow) = sorted(seconds.items())
    return min(1.0, max(0.0, 1.0 - (slow - fast) / (many - few) * many / slow))


def _expect(times: list[float], grow: float, fixed: float, whole: float) -> Expectation:
    """Carry times to more points: the range spans the runs, with and without a fixed share."""
    laws = (fixed + (1.0 - fixed) * grow, grow)
    return Expectation(
        seconds=whole * statistics.median(times) * math.sqrt(laws[0] * laws[1]),
        low=whole * min(times) * min(laws) * (1 - _LEAST_ERROR),
        high=whole * max(times) * max(laws) * (1 + _LEAST_ERROR),
    )


def _note(points: int, measured: int, fixed: float) -> str:
    carried = (
        "measured at the size asked for"
        if measured == points
        else f"measured at {measured:,} points and carried to {points:,}, once in proportion and "
        f"once with the {fixed:.0%} of the time that did not grow from an eighth of the points"
    )
    return (
        f"times are {carried}; the data have the spectrum of images: certified pruning makes data "
        "of few effective dimensions faster and data without structure slower; other programs on "
        "the machine make all of it slower"
    )


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
