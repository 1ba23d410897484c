r"""Vendi score: the effective number of different samples.

With a kernel :math:`k(x, x) = 1` and the eigenvalues :math:`\lambda_i` of :math:`K/M`,

.. math::
    VS = \exp\Big(-\sum_i \lambda_i \log \lambda_i\Big),

1 for identical samples and :math:`M` for samples that have nothing in common. It needs no
reference and sees collapse at once; it does not see copies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import Interval, check_level
from memdiff.metrics.metric_result import Detail, MetricResult, Null
from memdiff.metrics.pairwise import blocks, rows_of
from memdiff.neighbors import RowData, Rows

__all__ = ["Vendi", "vendi"]

_GROUPS = 10  # of the delete-a-group jackknife


@dataclass(frozen=True)
class Vendi(MetricResult):
    """Result of :func:`vendi`.

    ``value`` is the Vendi score of ``used`` samples; ``interval`` comes from a jackknife of
    groups of samples. ``scores`` are the mean kernel values of each sample with the other used
    ones: 1 is a sample like all others. ``null`` is the score of as many held-out points (or
    training points without them).

    Attributes:
        kernel: ``"cosine"`` or ``"rbf"``.
        bandwidth: Bandwidth of the RBF kernel, or None.
        used: Number of samples that enter; the score cannot exceed it.
    """

    kernel: str
    bandwidth: float | None
    used: int

    @override
    def details(self) -> tuple[Detail, ...]:
        return (Detail("samples used", self.used),)


def vendi(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    kernel: str = "cosine",
    bandwidth: float | None = None,
    max_samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Vendi:
    r"""Diversity of the samples as an effective number.

    The cosine kernel uses the ``(d, d)`` Gram matrix of the features, which has the same non-zero
    eigenvalues, and all samples, where ``d < min(M, max_samples)``. Otherwise a random
    ``max_samples`` of the samples enter a dense kernel matrix. The score grows with the number of
    samples, so the null is computed at the same number where there are enough points for it.

    Args:
        generated: Features of the samples ``(M, *S)``.
        train: Features of the training points ``(N, *S)``: null without held-out points, and
            scale of the default bandwidth.
        heldout: Features of the held-out points ``(H, *S)``, for the null.
        distances: Ready distances, in place of the three sets; their points
            alone matter, whatever their metric.
        kernel: ``"cosine"``, or ``"rbf"`` for :math:`\exp(-|x - y|^2/(2 h^2))`.
        bandwidth: :math:`h` of the RBF kernel; by default the median distance between (at most
            1000 random) training points.
        max_samples: Most samples in a dense kernel matrix: eigenvalues take its cube in time.
        level: Coverage of the interval.
        seed: Seed of the choice of samples and of the groups of the jackknife.

    Returns:
        Vendi.

    Raises:
        ValueError: If an argument is out of range, a vector is zero and the kernel cosine, or
            all training points are equal and no bandwidth is given.

    References:
        Friedman, Dieng, *The Vendi Score: A Diversity Evaluation Metric for Machine Learning*,
        TMLR 2023, definition 3.1 and section 3 (the Gram matrix).
        Reconstructed: the delete-a-group jackknife on the entropy.

    Example:
        >>> train = torch.eye(4)
        >>> round(vendi(generated=torch.eye(4), train=train).value, 6)
        4.0
        >>> round(vendi(generated=torch.ones(9, 4), train=train).value, 6)
        1.0
    """
    check_level(level)
    if kernel not in ("cosine", "rbf"):
        raise ValueError(f"kernel must be 'cosine' or 'rbf', got {kernel!r}.")
    if kernel == "cosine" and bandwidth is not None:
        raise ValueError(
            f"bandwidth must be None for the cosine kernel, got {bandwidth}: use kernel='rbf'."
        )
    if bandwidth is not None and not 0.0 < bandwidth < math.inf:
        raise ValueError(f"bandwidth must be positive and finite, got {bandwidth}.")
    if max_samples < 1:
        raise ValueError(f"max_samples must be at least 1, got {max_samples}.")
    found = Distances.resolve(distances, generated, train, heldout)
    if kernel == "rbf" and bandwidth is None:
        bandwidth = _median_distance(rows_of(found, "train"), seed)
    rows = rows_of(found, "generated")
    reference = "heldout" if found.has_heldout else "train"
    m, count = len(rows), found.size(reference)
    gram = kernel == "cosine" and rows.features < min(m, max_samples)
    used = m if gram else min(m, max_samples)

    ours = _Spectrum(rows, "generated", used, gram, bandwidth, seed, found.memory_limit)
    value, low, high = ours.score(level)
    other = _Spectrum(
        rows_of(found, reference),
        reference,
        min(used, count),
        gram,
        bandwidth,
        seed,
        found.memory_limit,
    )
    expected, null_low, null_high = other.score(level)
    method = f"jackknife of {_GROUPS} groups"
    label = {"heldout": "held-out", "train": "training"}[reference]
    return Vendi(
        value=value,
        scores=ours.typicality(),
        interval=Interval(low, high, level, method),
        null=Null(
            expected,
            Interval(null_low, null_high, level, method),
            f"{min(used, count)} {label} points",
        ),
        kernel=kernel,
        bandwidth=bandwidth,
        used=used,
    )


class _Spectrum:
    """The kernel of a set, as a matrix with the eigenvalues that matter."""

    def __init__(
        self,
        rows: Rows,
        name: str,
        used: int,
        gram: bool,
        bandwidth: float | None,
        seed: int,
        memory_limit: int,
    ) -> None:
        self._rows, self._name, self._used, self._gram = rows, name, used, gram
        self._bandwidth, self._memory_limit = bandwidth, memory_limit
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(rows), generator=generator)
        self._chosen = order[:used].sort()[0]
        self._sample = rows if used == len(rows) else Rows(rows.gather(self._chosen), name)
        group = torch.arange(used) % min(_GROUPS, used)
        self._group = group[torch.randperm(used, generator=generator)]

    def score(self, level: float) -> tuple[float, float, float]:
        """Vendi score and the ends of its interval."""
        from scipy.stats import t

        whole, parts = self._entropies()
        if len(parts) < 2:
            return math.exp(whole), 1.0, float(self._used)
        mean = sum(parts) / len(parts)
        spread = (len(parts) - 1) / len(parts) * sum((part - mean) ** 2 for part in parts)
        half = float(t.isf((1.0 - level) / 2.0, len(parts) - 1)) * math.sqrt(spread)
        # The score lies between 1 and the number of samples, so its interval does.
        return (
            math.exp(whole),
            math.exp(max(whole - half, 0.0)),
            math.exp(min(whole + half, math.log(self._used))),
        )

    def _entropies(self) -> tuple[float, list[float]]:
        """Entropy of all used samples, and without each group."""
        groups = int(self._group.max()) + 1
        group = self._group.to(self._rows.device)
        rest = range(groups) if groups > 1 else range(0)
        if not self._gram:
            matrix = self._kernel(self._points(), self._points())
            keep = [group != g for g in rest]
            return _entropy(matrix), [_entropy(matrix[k][:, k]) for k in keep]
        d = self._rows.features
        sums = torch.zeros(groups, d, d, dtype=torch.float64, device=group.device)
        start = 0
        for block in self._blocks(self._sample):
            which = group[start : start + len(block)]
            for g in range(groups):
                part = block[which == g]
                sums[g] += part.T @ part
            start += len(block)
        total = sums.sum(0)
        return _entropy(total), [_entropy(total - sums[g]) for g in rest]

    def _points(self) -> Tensor:
        points = self._sample.read(0, self._used).to(torch.float64)
        return points if self._bandwidth is not None else _unit(points, self._name)

    def _blocks(self, rows: Rows) -> Iterator[Tensor]:
        for block in blocks(rows, self._name, self._memory_limit):
            yield block if self._bandwidth is not None else _unit(block, self._name)

    def _kernel(self, x: Tensor, y: Tensor) -> Tensor:
        if self._bandwidth is None:
            return x @ y.T
        scaled = (x - y.mean(0)) / self._bandwidth, (y - y.mean(0)) / self._bandwidth
        squares = torch.cdist(*scaled, compute_mode="donot_use_mm_for_euclid_dist").square()
        return (-0.5 * squares).exp()

    def typicality(self) -> Tensor:
        """Mean kernel value of each sample with the other used ones, float64 ``(M,)``."""
        used = self._points()
        is_used = torch.zeros(len(self._rows), dtype=torch.float64, device=used.device)
        is_used[self._chosen] = 1.0
        parts = []
        for block in self._blocks(self._rows):
            if self._bandwidth is None:
                parts.append(block @ used.sum(0))
            else:
                step = max(1, self._memory_limit // (32 * len(used)))
                parts.extend(
                    self._kernel(block[at : at + step], used).sum(1)
                    for at in range(0, len(block), step)
                )
        others = (self._used - is_used).clamp(min=1.0)
        return (torch.cat(parts) - is_used) / others


def _entropy(matrix: Tensor) -> float:
    """Entropy of the eigenvalues of a matrix, over their sum."""
    eigenvalues = torch.linalg.eigvalsh(matrix).clamp(min=0.0)
    eigenvalues = eigenvalues / eigenvalues.sum()
    return float(-torch.special.xlogy(eigenvalues, eigenvalues).sum())


def _unit(points: Tensor, name: str) -> Tensor:
    largest = points.abs().amax(1, keepdim=True)
    if bool((largest == 0).any()):
        raise ValueError(
            f"{name} has a zero vector, which has no direction: remove it or use kernel='rbf'."
        )
    points = points / largest
    return points / torch.linalg.vector_norm(points, dim=1, keepdim=True)


def _median_distance(rows: Rows, seed: int) -> float:
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    points = rows.gather(order[:1000]).to(torch.float64)
    value = float(torch.pdist(points).median())
    if not 0.0 < value < math.inf:
        raise ValueError(
            f"bandwidth must be given where train has no scale of its own, got a median distance "
            f"of {value}."
        )
    return value
