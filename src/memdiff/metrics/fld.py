r"""Feature Likelihood Divergence: held-out points under a mixture on the samples, fitted to train.

In features standardised by the mean and deviation of the held-out points, the mixture
:math:`\frac1M \sum_j N(g_j, e^{s_j} I)` is centred on the samples, and its log-variances
:math:`s_j` are fitted to the maximum likelihood of train. A copy of :math:`x_n` lets its component
shrink onto it: high likelihood of train, low likelihood of anything else. With negative
log-likelihoods per dimension,

.. math::
    FLD = 100\,(nll_H(G) - nll_{base}), \qquad gap = 100\,(nll_{train} - nll_H), \qquad
    O_j = \max_n \log N(x_n; g_j, e^{s_j} I) / d,

where the base is a mixture on one half of train fitted to the other half. FLD is large for poor
samples and for copies; a gap far below 0 and a large :math:`O_j` say copying.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import Interval, bootstrap, check_level
from memdiff.metrics.metric_result import Detail, MetricResult, Null
from memdiff.metrics.pairwise import Pairwise, moments, rows_of
from memdiff.neighbors import RowData, Rows

__all__ = ["FLD", "LikelihoodGap", "fld"]

_LOG_2PI = math.log(2.0 * math.pi)
_CLAMP = (-40.0, 20.0)  # of log-variances: identical points would drive them to -infinity
_ORIGIN_SHRINK = 0.9**2  # of squared distances to the origin component, as released
_BOOTSTRAPS = 1000
_CACHED_NUMBERS = 2**16  # of a strip in one piece: what stays in the processor's cache


@dataclass(frozen=True)
class LikelihoodGap(MetricResult):
    """The gap ``100 (nll_train - nll_H)`` of :func:`fld`: far below 0 is copying.

    ``scores`` are the :math:`O_j`, large is suspicious. ``null`` is the gap of a mixture on one
    half of the held-out points, evaluated on the other half.
    """


@dataclass(frozen=True)
class FLD(MetricResult):
    """Result of :func:`fld`.

    ``value`` is FLD, ``scores`` are the :math:`O_j` (large is suspicious; NaN for samples beyond
    ``max_components``). The intervals bootstrap the evaluated points with the fits held fixed.

    Attributes:
        gap: The gap, the part that speaks of copying.
        nll_heldout: Mean negative log-likelihood per dimension of the held-out points.
        nll_train: The same of train.
        nll_base: The same of the held-out points under the base mixture.
        log_variances: float64 ``(M,)``, the fitted :math:`s_j` (NaN as in ``scores``).
        components: Number of mixture components.
        constant_features: Number of features left out because they are constant in held-out.
    """

    gap: LikelihoodGap
    nll_heldout: float
    nll_train: float
    nll_base: float
    log_variances: Tensor
    components: int
    constant_features: int

    @override
    def details(self) -> tuple[Detail, ...]:
        return (Detail("gap", self.gap.value, interval=self.gap.interval),)


def fld(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    epochs: int = 50,
    learning_rate: float = 0.5,
    max_components: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> FLD:
    """Feature Likelihood Divergence, its generalisation gap and the score of each sample.

    The log-variances start at the optimum for the nearest training point,
    ``log((min d^2 + 1e-3) / d)``, take ``epochs`` steps of Adam on all training points at once
    (the released code takes batches of 10,000), and stay in [-40, 20]. During the fit alone, a
    component at the mean of train with a free log-variance gives every point some likelihood.

    The likelihood of copies grows without bound, so large values depend on ``epochs``: compare
    with ``null``, which is what fresh data score.

    Args:
        generated: Features of the samples ``(M, *S)``, made for a learned descriptor (DINOv2).
        train: Features of the training points ``(N, *S)``, at least 4.
        heldout: Features of the held-out points ``(H, *S)``, at least 4, required. Points of
            train in their place hide overfitting.
        distances: Ready distances, in place of the three sets; their points alone matter,
            whatever their metric. Their ``memory_limit`` bounds the ``M x N`` distances: above it
            they are computed anew in every epoch.
        epochs: Number of steps of Adam, 1 to 50.
        learning_rate: Its step size.
        max_components: Most samples that become components, chosen at random; also of the base
            and of the null.
        level: Coverage of the intervals.
        seed: Seed of the splits, of the choice of components and of the bootstrap.

    Returns:
        FLD.

    Raises:
        ValueError: If there are no held-out points or too few, an argument is out of range, a
            feature is not finite, or all features are constant in the held-out points.

    Warns:
        UserWarning: If FLD is above 1000 or the gap below -1000: the samples are copies, or the
            held-out points of another law.

    References:
        Jiralerspong et al., *Feature Likelihood Divergence*, NeurIPS 2023, sections 3 and 4, and
        the released code for the origin component, the clamp and the starting values.
        Reconstructed: the null, and leaving out constant features (theirs turn to infinity).

    Example:
        >>> train, fresh, heldout = torch.randn(3, 200, 8, generator=torch.Generator())
        >>> honest = fld(generated=fresh, train=train, heldout=heldout)
        >>> copier = fld(generated=train + 0.2, train=train, heldout=heldout)
        >>> copier.gap.value < -50 < honest.gap.value
        True
    """
    check_level(level)
    if not 1 <= epochs <= 50:
        raise ValueError(f"epochs must lie between 1 and 50, got {epochs}.")
    if not 0.0 < learning_rate < math.inf or max_components < 1:
        raise ValueError(
            f"learning_rate must be positive and max_components at least 1, got {learning_rate} "
            f"and {max_components}."
        )
    found = Distances.resolve(distances, generated, train, heldout)
    found.require_heldout("FLD")
    if min(found.size("train"), found.size("heldout")) < 4:
        raise ValueError(
            f"train and heldout must hold at least 4 points each to be halved, got "
            f"{found.size('train')} and {found.size('heldout')}."
        )
    fit = _Fitting(found, epochs, learning_rate)
    generator = torch.Generator().manual_seed(seed)
    rows = {name: rows_of(found, name) for name in ("generated", "train", "heldout")}

    order = torch.randperm(len(rows["generated"]), generator=generator)
    chosen = order[:max_components].sort()[0]
    ours = fit(_pick(rows["generated"], chosen), rows["train"])
    nll_heldout, nll_train = ours.nll(rows["heldout"]), ours.nll(rows["train"])

    order = torch.randperm(len(rows["train"]), generator=generator)
    half = min(len(order) // 2, max_components, len(chosen))
    base = fit(_pick(rows["train"], order[:half]), _pick(rows["train"], order[half:]))
    nll_base = base.nll(rows["heldout"])

    order = torch.randperm(len(rows["heldout"]), generator=generator)
    half = min(len(order) // 2, max_components, len(chosen))
    fresh = fit(_pick(rows["heldout"], order[:half]), rows["train"])
    unseen = order[half:]
    nll_unseen = fresh.nll(_pick(rows["heldout"], unseen))

    value, interval = _difference(nll_heldout, nll_base, level, seed, paired=True)
    gap, gap_interval = _difference(nll_train, nll_heldout, level, seed, paired=False)
    source = "a mixture on half of the held-out points, at the other half"
    null = Null(*_difference(nll_unseen, nll_base[unseen], level, seed, paired=True), source)
    gap_null = Null(
        *_difference(fresh.nll(rows["train"]), nll_unseen, level, seed, paired=False), source
    )
    for name, number, extreme in (("FLD", value, value > 1000.0), ("gap", gap, gap < -1000.0)):
        if extreme:
            warnings.warn(
                f"{name} is {number:.0f}: the samples copy train, or heldout is of another law "
                f"than train.",
                stacklevel=2,
            )
    scores = torch.full((len(rows["generated"]),), math.nan, dtype=torch.float64)
    scores = scores.to(nll_base.device)
    log_variances = scores.clone()
    scores[chosen] = ours.closeness()
    log_variances[chosen] = ours.log_variances
    return FLD(
        value=value,
        scores=scores,
        interval=interval,
        null=null,
        gap=LikelihoodGap(gap, scores, gap_interval, gap_null),
        nll_heldout=float(nll_heldout.mean()),
        nll_train=float(nll_train.mean()),
        nll_base=float(nll_base.mean()),
        log_variances=log_variances,
        components=len(chosen),
        constant_features=fit.constant_features,
    )


class _Fitting:
    """How mixtures are fitted: the features, and the settings of the optimiser."""

    def __init__(self, found: Distances, epochs: int, learning_rate: float) -> None:
        self.memory_limit = found.memory_limit
        self.mean, variance = moments(
            rows_of(found, "heldout"), "heldout", memory_limit=self.memory_limit
        )
        varies = variance > 0.0
        if not bool(varies.any()):
            raise ValueError(
                "heldout must vary in at least one feature, got identical points: FLD has no "
                "scale to standardise with."
            )
        self.weights = torch.where(varies, variance, 1.0).rsqrt() * varies
        self.dimension = int(varies.sum())
        self.constant_features = len(varies) - self.dimension
        self.epochs = epochs
        self.learning_rate = learning_rate

    def pairs(self, points: Rows, centres: Rows) -> Pairwise:
        return Pairwise(
            points,
            centres,
            centre=self.mean,
            weights=self.weights,
            memory_limit=self.memory_limit // 2,  # the other half is the memory of a fit
        )

    def __call__(self, centres: Rows, points: Rows) -> _Mixture:
        """The mixture on ``centres`` fitted to ``points``."""
        strips = _Strips(self.pairs(points, centres), self.memory_limit // 2)
        smallest = strips.smallest
        origin = self._to_origin(points)
        dim = self.dimension
        start = torch.cat([((smallest + 1e-3) / dim).log(), torch.zeros_like(smallest[:1])])
        s = start.requires_grad_()
        adam = torch.optim.Adam([s], lr=self.learning_rate)
        norm = math.log(len(centres))
        for _ in range(self.epochs):
            with torch.no_grad():
                s.grad = torch.zeros_like(s)
                inverse = (-s).exp()
                offset = -0.5 * dim * s
                offset[:-1] -= norm
                for begin, end, strip in strips:
                    squares = torch.cat([strip, origin[begin:end, None]], 1)
                    share = torch.softmax(torch.addcmul(offset, squares, inverse, value=-0.5), 1)
                    s.grad += 0.5 * dim * share.sum(0)
                    s.grad -= 0.5 * share.mul_(squares).sum(0) * inverse
                s.grad /= len(points) * dim
            adam.step()
            with torch.no_grad():
                s[:-1].clamp_(*_CLAMP)
        return _Mixture(self, centres, s.detach()[:-1], smallest)

    def _to_origin(self, points: Rows) -> Tensor:
        """Shrunken squared distances to the mean of the points, in standardised features."""
        mean = moments(points, "train", memory_limit=self.memory_limit)[0]
        step = max(1, self.memory_limit // (32 * points.features))
        parts = []
        for start in range(0, len(points), step):
            block = points.read(start, min(start + step, len(points))).to(torch.float64)
            parts.append(((block - mean) * self.weights).square().sum(1))
        return _ORIGIN_SHRINK * torch.cat(parts)


class _Strips:
    """Strips of squared distances for several passes, kept if they fit into memory.

    Kept or not, they are rounded to float32: they are accurate before, and the passes agree.
    """

    def __init__(self, pairs: Pairwise, memory_limit: int) -> None:
        self._pairs = pairs
        n, m = pairs.shape
        self._kept: list[tuple[int, int, Tensor]] | None = None
        if 4 * n * m <= memory_limit:
            self._kept = [(a, b, strip.to(torch.float32)) for a, b, strip in pairs.strips()]
        smallest: Tensor | None = None
        for _, _, strip in self:
            least = strip.amin(0)
            smallest = least if smallest is None else torch.minimum(smallest, least)
        assert smallest is not None  # Rows are never empty
        self.smallest = smallest  # (m,), float64

    def __iter__(self) -> Iterator[tuple[int, int, Tensor]]:
        step = max(1, _CACHED_NUMBERS // self._pairs.shape[1])
        for begin, end, strip in self._kept if self._kept is not None else self._pairs.strips():
            for start in range(begin, end, step):
                stop = min(start + step, end)
                piece = strip[start - begin : stop - begin]
                yield start, stop, piece.to(torch.float32).to(torch.float64)


class _Mixture:
    """A fitted mixture, without the origin component, which serves the fit alone."""

    def __init__(
        self, fitting: _Fitting, centres: Rows, log_variances: Tensor, smallest: Tensor
    ) -> None:
        self._fitting = fitting
        self._centres = centres
        self.log_variances = log_variances
        self._smallest = smallest

    def nll(self, points: Rows) -> Tensor:
        """Negative log-likelihood per dimension of each point, float64 ``(n,)``."""
        dim = self._fitting.dimension
        inverse = (-self.log_variances).exp()
        offset = -0.5 * dim * (self.log_variances + _LOG_2PI) - math.log(len(self._centres))
        parts = [
            torch.logsumexp(offset - 0.5 * strip * inverse, 1)
            for _, _, strip in self._fitting.pairs(points, self._centres).strips()
        ]
        return -torch.cat(parts) / dim

    def closeness(self) -> Tensor:
        """:math:`O_j` against the points of the fit, float64 ``(m,)``."""
        s, dim = self.log_variances, self._fitting.dimension
        return -0.5 * (self._smallest * (-s).exp() / dim + s + _LOG_2PI)


def _pick(rows: Rows, index: Tensor) -> Rows:
    if torch.equal(index, torch.arange(len(rows))):
        return rows
    return Rows(rows.gather(index), "rows")


def _difference(
    first: Tensor, second: Tensor, level: float, seed: int, *, paired: bool
) -> tuple[float, Interval]:
    """100 times the difference of two means, with a bootstrap interval."""
    value = 100.0 * float(first.mean() - second.mean())
    if paired:
        return value, bootstrap(
            lambda d: 100.0 * d.mean(), first - second, level=level, draws=_BOOTSTRAPS, seed=seed
        )
    generator = torch.Generator().manual_seed(seed)
    means = []
    for values in (first.cpu(), second.cpu()):
        index = (
            torch.randint(len(values), (len(values),), generator=generator)
            for _ in range(_BOOTSTRAPS)
        )
        means.append(torch.stack([values[i].mean() for i in index]))
    tail = (1.0 - level) / 2.0
    levels = torch.tensor([tail, 1.0 - tail], dtype=torch.float64)
    low, high = (100.0 * torch.quantile(means[0] - means[1], levels)).tolist()
    return value, Interval(low, high, level, f"percentile bootstrap, {_BOOTSTRAPS} draws")
