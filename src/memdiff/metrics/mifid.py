r"""MiFID: the Frechet distance, divided by how close samples are to train in angle.

.. math::
    MiFID = \frac{FID(G, train)}{\mu'}, \quad
    \mu = \frac1M \sum_{g} \min_n (1 - |\cos(g, x_n)|), \quad
    \mu' = \begin{cases} \mu & \mu < \mathrm{cut} \\ 1 & \mathrm{otherwise} \end{cases}

Here :math:`\mu` averages over *generated* samples; an average over training points, found in
released code, is far from 0 for a model that only copies. Even so the number is unstable: it jumps
at the cut (tenfold between 0.099 and 0.101 at the usual 0.1), takes opposite vectors for copies,
FID grows as the samples become fewer, and copies lower the numerator that they should raise.
Prefer the other metrics; this one is for comparison with published values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.metrics.distances import Distances
from memdiff.metrics.intervals import Interval, bootstrap
from memdiff.metrics.metric_result import MetricResult, Null
from memdiff.metrics.pairwise import blocks, moments, rows_of
from memdiff.neighbors import RowData, Rows, nearest

__all__ = ["MiFID", "frechet_distance", "mifid"]


@dataclass(frozen=True)
class MiFID(MetricResult):
    r"""Result of :func:`mifid`.

    ``value`` is MiFID, infinite where all samples are copies (:math:`\mu = 0`), whatever the FID.
    ``interval`` is None: neither the step nor the bias of FID allows one. ``scores`` are the
    :math:`\min_n (1 - |\cos|)`, small is suspicious. ``null`` is the MiFID of held-out points.

    Attributes:
        fid: Frechet distance of samples and train.
        distance: :math:`\mu`.
        distance_interval: Bootstrap interval of :math:`\mu` over samples.
        null_fid: Frechet distance of held-out points and train, or None.
        null_distance: :math:`\mu` of held-out points, or None.
        cut: The cut.
        penalised: Whether :math:`\mu` is below the cut.
    """

    fid: float
    distance: float
    distance_interval: Interval
    null_fid: float | None
    null_distance: float | None
    cut: float
    penalised: bool


def mifid(
    *,
    generated: RowData | None = None,
    train: RowData | None = None,
    heldout: RowData | None = None,
    distances: Distances | None = None,
    cut: float = 0.1,
    level: float = 0.95,
    seed: int = 0,
) -> MiFID:
    r"""Memorisation-informed Frechet distance of features.

    Args:
        generated: Features of the samples ``(M, *S)``, at least 2, none of them zero. The
            published numbers are for Inception features and 0.1.
        train: Features of the training points ``(N, *S)``.
        heldout: Features of the held-out points ``(H, *S)``, for the null; of more than ``M``,
            ``M`` are chosen at random. With fewer the FID of the null is biased upwards.
        distances: Ready distances with ``metric="cosine"``, in place of the three sets.
        cut: Cut on :math:`\mu`, in (0, 1].
        level: Coverage of the interval of :math:`\mu`.
        seed: Seed of the bootstrap and of the choice of held-out points.

    Returns:
        MiFID. Needs ``O(d^2)`` memory and ``O(d^3)`` time for the covariances.

    Raises:
        ValueError: If the cut is out of range, there is a single sample, a vector is zero, or as
            :class:`memdiff.metrics.Distances`.

    References:
        Bai, Lin, Raffel, Kan, *On Training Sample Memorization: Lessons from Benchmarking
        Generative Modeling with a Large-scale Competition*, KDD 2021, section 3.
        Heusel et al., *GANs Trained by a Two Time-Scale Update Rule*, NeurIPS 2017: FID.
        Reconstructed: the value infinity at :math:`\mu = 0`.

    Example:
        >>> train, fresh = torch.randn(2, 100, 8, generator=torch.Generator().manual_seed(0))
        >>> mifid(generated=train, train=train).value
        inf
        >>> result = mifid(generated=fresh, train=train)
        >>> result.value == result.fid, result.penalised
        (True, False)
    """
    if not 0.0 < cut <= 1.0:
        raise ValueError(f"cut must lie in (0, 1], got {cut}.")
    found = Distances.resolve(distances, generated, train, heldout, metric="cosine")
    m = found.size("generated")
    if m < 2:
        raise ValueError("generated must hold at least 2 samples for a covariance, got 1.")
    limit = found.memory_limit

    def moments_of(rows: Rows, name: str) -> tuple[Tensor, Tensor]:
        return moments(rows, name, covariance=True, memory_limit=limit)

    real = moments_of(rows_of(found, "train"), "train")
    rows = rows_of(found, "generated")
    scores = _closest(found, "generated")
    fid = frechet_distance(*moments_of(rows, "generated"), *real)
    distance = float(scores.mean())
    null, null_fid, null_distance = None, None, None
    if found.size("heldout") >= 2:
        fresh, fresh_scores = rows_of(found, "heldout"), _closest(found, "heldout")
        if len(fresh) > m:
            order = torch.randperm(len(fresh), generator=torch.Generator().manual_seed(seed))
            order = order[:m].sort()[0]
            fresh, fresh_scores = Rows(fresh.gather(order), "heldout"), fresh_scores[order]
        null_fid = frechet_distance(*moments_of(fresh, "heldout"), *real)
        null_distance = float(fresh_scores.mean())
        null = Null(
            _penalised(null_fid, null_distance, cut), None, f"{len(fresh)} held-out points"
        )
    return MiFID(
        value=_penalised(fid, distance, cut),
        scores=scores,
        interval=None,
        null=null,
        fid=fid,
        distance=distance,
        distance_interval=bootstrap(torch.mean, scores, level=level, seed=seed),
        null_fid=null_fid,
        null_distance=null_distance,
        cut=cut,
        penalised=distance < cut,
    )


def frechet_distance(mean_1: Tensor, cov_1: Tensor, mean_2: Tensor, cov_2: Tensor) -> float:
    r"""Squared Frechet (Wasserstein-2) distance of two Gaussians, in float64.

    :math:`|\mu_1 - \mu_2|^2 + \mathrm{tr}(C_1 + C_2 - 2 (C_1^{1/2} C_2 C_1^{1/2})^{1/2})`, from
    symmetric eigenvalue problems: it stays real and accurate for singular covariances, where the
    square root of the product :math:`C_1 C_2` does not.

    Args:
        mean_1: ``(d,)``.
        cov_1: ``(d, d)``, symmetric and positive semi-definite.
        mean_2: ``(d,)``.
        cov_2: ``(d, d)``, likewise.

    Returns:
        The distance, at least 0.

    References:
        Dowson, Landau, *The Frechet distance between multivariate normal distributions* (1982).

    Example:
        >>> one = torch.eye(2, dtype=torch.float64)
        >>> frechet_distance(torch.zeros(2), one, torch.tensor([3.0, 4.0]), 4 * one)
        27.0
    """
    mean_1, cov_1, mean_2, cov_2 = (a.to(torch.float64) for a in (mean_1, cov_1, mean_2, cov_2))
    values, vectors = torch.linalg.eigh(cov_1)
    root = vectors * values.clamp(min=0.0).sqrt()  # root root^T = C_1
    # |root^T C_2^{1/2}|_* has the same singular values as C_1^{1/2} C_2^{1/2}, and squaring them
    # away is what would lose half the digits of the small ones.
    values, vectors = torch.linalg.eigh(cov_2)
    other = vectors * values.clamp(min=0.0).sqrt()
    overlap = torch.linalg.svdvals(root.T @ other).sum()
    shift = (mean_1 - mean_2).square().sum()
    return max(float(shift + cov_1.trace() + cov_2.trace() - 2.0 * overlap), 0.0)


def _closest(found: Distances, name: str) -> Tensor:
    """``min_n (1 - abs(cos))`` of each row: the nearer of the row and of its opposite."""
    ahead = found.to_train(name).distances[:, 0]
    rows, train = rows_of(found, name), rows_of(found, "train")
    limit = found.memory_limit
    if all(
        bool((block >= 0).all())
        for some, label in ((rows, name), (train, "train"))
        for block in blocks(some, label, limit)
    ):
        return ahead  # no cosine is negative
    step = max(1, limit // (64 * rows.features))
    behind = [
        nearest(
            -rows.read(at, min(at + step, len(rows))).reshape(-1, *rows.row_shape),
            found.data("train"),
            metric="cosine",
            memory_limit=limit // 2,
        ).distances[:, 0]
        for at in range(0, len(rows), step)
    ]
    return torch.minimum(ahead, torch.cat(behind))


def _penalised(fid: float, distance: float, cut: float) -> float:
    if distance >= cut:
        return fid
    return math.inf if distance == 0.0 else fid / distance
