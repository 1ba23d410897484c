r"""The data-copying test C_T: are samples closer to train than held-out points of their region?

Space is cut into cells. In each, with :math:`n` held-out points and :math:`m` samples, :math:`U`
counts the pairs whose sample is *farther* from train than the held-out point (ties 1/2), and

.. math::
    Z = \frac{U - (nm/2 - 1/2)}{\sqrt{nm(n + m + 1)/12}}, \qquad
    C_T = \frac{\sum_\pi H(\pi) Z_\pi}{\sum_\pi H(\pi)},

with the held-out mass :math:`H(\pi)` and the cells whose share of the samples exceeds
:math:`\tau`. Far below 0 is copying, far above 0 underfitting. Rare copying hardly moves it: a
share :math:`\pi` of copies shifts a cell by :math:`-\pi \sqrt{3nm/(n + m + 1)}`, which for 5 % of
1000 samples against 1000 is -1.9 where the standard deviation is 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from typing_extensions import override

from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import Interval, check_level
from memdiff.metrics.metric_result import Detail, MetricResult, Null
from memdiff.neighbors import RowData, Rows

if TYPE_CHECKING:
    import numpy as np

__all__ = ["CellStatistic", "DataCopying", "data_copying"]

_PCA_ROWS = 10_000  # principal axes of a k-means partition need no more


@dataclass(frozen=True)
class CellStatistic:
    """One cell of the partition.

    Attributes:
        z: Standardised U statistic, or None where a set has no point in the cell.
        train: Number of training points in the cell.
        heldout: Number of held-out points.
        generated: Number of samples.
        used: Whether the cell enters ``C_T``.
    """

    z: float | None
    train: int
    heldout: int
    generated: int
    used: bool


@dataclass(frozen=True)
class DataCopying(MetricResult):
    """Result of :func:`data_copying`.

    ``value`` is ``C_T`` and ``interval`` its bootstrap interval over samples and held-out points
    within their cells. ``scores`` are the shares of the held-out points of a sample's cell that
    are closer to train than the sample (ties 1/2; all held-out points where the cell has none);
    0 is suspicious. ``null`` is the band of relabelled cells.

    Attributes:
        p_value: One-sided permutation p-value of copying (``C_T`` this low).
        p_value_underfit: One-sided permutation p-value of underfitting (``C_T`` this high).
        cells: The cells.
        min_share: The threshold ``tau``.
        dropped_generated: Share of the samples that lie in cells left out.
        dropped_heldout: Share of the held-out points that lie in cells left out.
    """

    p_value: float
    p_value_underfit: float
    cells: tuple[CellStatistic, ...]
    min_share: float
    dropped_generated: float
    dropped_heldout: float

    @override
    def details(self) -> tuple[Detail, ...]:
        found = (Detail("p", self.p_value, "p-value"),)
        if self.dropped_generated <= 0.0:
            return found
        return (*found, Detail("samples in cells left out", self.dropped_generated, "share"))


def data_copying(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    cells: int = 3,
    min_share: float | None = None,
    components: int = 64,
    permutations: int = 999,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> DataCopying:
    r"""Three-sample test of data copying.

    Cells are those of k-means fitted on train, in the first principal components of train where
    ``d`` is above ``components``. Distances to train are those of the full space (the authors'
    code takes them in the components too). For the cosine distance, cells are of unit vectors.

    The normal law of :math:`Z` ignores that all samples share one training set and that the cells
    may be small, so the p-values come from permuting the labels "generated" and "held-out" within
    the cells: a different share of samples per cell is not counted as copying.

    Args:
        generated: Samples ``(M, *S)``.
        train: Training points ``(N, *S)``.
        heldout: Held-out points ``(H, *S)``, required.
        distances: Ready distances, in place of the three sets.
        cells: Number of cells, from 1 to the number of distinct training points.
        min_share: The threshold ``tau`` in [0, 1); by default ``20 / M``. Cells need a larger
            share of the samples, and a held-out point.
        components: Number of principal components for the partition.
        permutations: Number of relabellings.
        draws: Number of bootstrap resamples.
        level: Coverage of the interval and of the null band.
        seed: Seed of k-means, principal components, permutations and bootstrap.

    Returns:
        DataCopying.

    Raises:
        ValueError: If there are no held-out points, an argument is out of range, or no cell is
            left.

    References:
        Meehan, Chaudhuri, Dasgupta, *A Non-Parametric Test to Detect Data-Copying in Generative
        Models*, AISTATS 2020, sections 3 and 4, and the released code for ``cells``, ``tau`` and
        the continuity correction. Reconstructed: the permutation test.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> train, heldout = torch.randn(2, 100, 8, generator=generator)
        >>> result = data_copying(generated=train, train=train, heldout=heldout, cells=1)
        >>> round(result.value, 1), result.p_value
        (-12.2, 0.001)
    """
    check_level(level)
    if permutations < 1 or draws < 1 or components < 1:
        raise ValueError(
            f"permutations, draws and components must be at least 1, got {permutations}, {draws} "
            f"and {components}."
        )
    found = Distances.resolve(distances, generated, train, heldout)
    found.require_heldout("C_T")
    m = found.size("generated")
    share = 20.0 / m if min_share is None else min_share
    if min_share is not None and not 0.0 <= min_share < 1.0:
        raise ValueError(f"min_share must lie in [0, 1), got {min_share}.")
    import numpy as np

    labels = _partition(found, cells, components, seed)
    near = {
        name: found.to_train(name).distances[:, 0].cpu().numpy()
        for name in ("generated", "heldout")
    }
    statistics, used = [], []
    scores = _placements(near["generated"], near["heldout"])
    for cell in range(cells):
        inside = labels["generated"] == cell
        ours, fresh = near["generated"][inside], near["heldout"][labels["heldout"] == cell]
        sample = _CellSample(ours, fresh)
        keep = len(fresh) > 0 and len(ours) > share * m * (1.0 + 1e-12)
        if len(fresh):
            scores[inside] = _placements(ours, fresh)
        if keep:
            used.append(sample)
        statistics.append(
            CellStatistic(
                z=float(sample.z(sample.u())) if len(ours) and len(fresh) else None,
                train=int((labels["train"] == cell).sum()),
                heldout=len(fresh),
                generated=len(ours),
                used=keep,
            )
        )
    if not used:
        raise ValueError(
            f"generated must have more than {share * m:g} samples in a cell that holds a held-out "
            f"point, got {m} samples over {cells} cells: generate more, or lower cells or "
            f"min_share."
        )
    mass = sum(len(sample.fresh) for sample in used)
    rng = np.random.default_rng(seed)
    value, relabelled, resampled = 0.0, np.zeros(permutations), np.zeros(draws)
    for sample in used:
        weight = len(sample.fresh) / mass
        value += weight * float(sample.z(sample.u()))
        relabelled += weight * sample.z(sample.permuted(rng, permutations))
        resampled += weight * sample.z(sample.resampled(rng, draws))
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(resampled, [tail, 1.0 - tail])
    band = np.quantile(relabelled, [tail, 1.0 - tail])
    tie = 1e-9 * (1.0 + abs(value))
    return DataCopying(
        value=value,
        scores=torch.from_numpy(scores).to(found.to_train("generated").distances.device),
        interval=Interval(float(low), float(high), level, f"bootstrap in cells, {draws} draws"),
        null=Null(
            0.0,
            Interval(float(band[0]), float(band[1]), level, f"{permutations} permutations"),
            "exchangeable with held-out points within cells",
        ),
        p_value=float((1 + (relabelled <= value + tie).sum()) / (1 + permutations)),
        p_value_underfit=float((1 + (relabelled >= value - tie).sum()) / (1 + permutations)),
        cells=tuple(statistics),
        min_share=share,
        dropped_generated=1.0 - sum(len(sample.ours) for sample in used) / m,
        dropped_heldout=1.0 - mass / found.size("heldout"),
    )


class _CellSample:
    """The distances to train of the samples and held-out points of a cell."""

    def __init__(self, ours: np.ndarray, fresh: np.ndarray) -> None:
        import numpy as np

        self.ours, self.fresh = ours, fresh
        values, place = np.unique(np.concatenate([ours, fresh]), return_inverse=True)
        self._num = len(values)
        self._ours, self._fresh = place[: len(ours)], place[len(ours) :]

    def z(self, u: float | np.ndarray) -> float | np.ndarray:
        n, m = len(self.fresh), len(self.ours)
        return (u - (n * m / 2.0 - 0.5)) / math.sqrt(n * m * (n + m + 1) / 12.0)

    def u(self) -> float:
        return self._u(self._ours, self._fresh)

    def _u(self, ours: np.ndarray, fresh: np.ndarray) -> float:
        import numpy as np

        samples = np.bincount(ours, minlength=self._num)
        others = np.bincount(fresh, minlength=self._num)
        return float(samples @ (np.cumsum(others) - 0.5 * others))

    def permuted(self, rng: np.random.Generator, times: int) -> np.ndarray:
        """U under random relabellings: the rank sum of ``m`` of the pooled midranks."""
        import numpy as np
        from scipy.stats import rankdata

        m = len(self.ours)
        ranks = rankdata(np.concatenate([self._ours, self._fresh]))
        sums = np.empty(times)
        step = max(1, 4_000_000 // len(ranks))
        for start in range(0, times, step):
            tiled = np.tile(ranks, (min(step, times - start), 1))
            sums[start : start + step] = rng.permuted(tiled, axis=1)[:, :m].sum(1)
        return sums - m * (m + 1) / 2.0

    def resampled(self, rng: np.random.Generator, times: int) -> np.ndarray:
        import numpy as np

        n, m = len(self.fresh), len(self.ours)
        return np.array(
            [
                self._u(self._ours[rng.integers(m, size=m)], self._fresh[rng.integers(n, size=n)])
                for _ in range(times)
            ]
        )


def _placements(ours: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    """Share of ``fresh`` below each of ``ours``, ties 1/2."""
    import numpy as np

    ordered = np.sort(fresh)
    below = np.searchsorted(ordered, ours, side="left")
    upto = np.searchsorted(ordered, ours, side="right")
    return (below + upto) / (2.0 * len(fresh))


def _partition(found: Distances, cells: int, components: int, seed: int) -> dict[str, np.ndarray]:
    """The cell of every point of the three sets."""
    import numpy as np

    names = ("generated", "train", "heldout")
    if cells == 1:
        return {name: np.zeros(found.size(name), dtype=np.int64) for name in names}
    if not 1 <= cells <= found.duplicates.num_groups:
        raise ValueError(
            f"cells must lie between 1 and the number of distinct training points "
            f"{found.duplicates.num_groups}, got {cells}."
        )
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    rows = found.coordinates("train")
    axes = None
    if rows.features > components:
        chosen = np.arange(len(rows))
        if len(rows) > _PCA_ROWS:
            chosen = np.random.default_rng(seed).choice(len(rows), _PCA_ROWS, replace=False)
        fitted = rows.gather(torch.from_numpy(np.sort(chosen))).to("cpu", torch.float64).numpy()
        axes = PCA(min(components, len(fitted)), random_state=seed).fit(fitted)
    partition = KMeans(cells, n_init=10, random_state=seed)
    partition.fit(_coordinates(rows, axes))
    return {name: partition.predict(_coordinates(found.coordinates(name), axes)) for name in names}


def _coordinates(rows: Rows, axes: object) -> np.ndarray:
    import numpy as np
    from sklearn.decomposition import PCA

    step = max(1, 4_000_000 // rows.features)
    parts = []
    for start in range(0, len(rows), step):
        block = rows.read(start, min(start + step, len(rows))).to("cpu", torch.float64).numpy()
        parts.append(axes.transform(block) if isinstance(axes, PCA) else block)
    return np.concatenate(parts)
