"""The three sets of an audit, made comparable, and what was found wrong with them on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from memdiff.data import (
    STREAM_ABOVE,
    Dataset,
    align_categories,
    check_comparable,
    from_array,
    from_rows,
    load,
)
from memdiff.neighbors import DuplicateGroups, duplicate_groups, nearest
from memdiff.ranks import Ranks
from memdiff.sources import Rows

__all__ = ["AuditInputs", "Source", "distinct_points", "duplicate_distance", "prepare"]

_ASKED = 20_000

Source = Dataset | Tensor | np.ndarray | Rows | str | Path


@dataclass(frozen=True)
class AuditInputs:
    """Comparable sets.

    Attributes:
        generated: The samples.
        train: The training data.
        heldout: Held-out data without what overlaps with the training data, or None.
        duplicates: Groups of duplicated training points.
        tolerance: Distance up to which points count as duplicates, in units of the data.
        overlap: Index of the removed held-out points in the held-out data as given.
        overlap_kept: Number of held-out points that equal a training point and were kept, as the
            data repeat by nature (tables).
        repeated_samples: Number of samples that equal an earlier sample exactly.
    """

    generated: Dataset
    train: Dataset
    heldout: Dataset | None
    duplicates: DuplicateGroups
    tolerance: float
    overlap: tuple[int, ...]
    overlap_kept: int
    repeated_samples: int

    @property
    def sets(self) -> dict[str, Dataset]:
        """The sets by name, without an absent held-out set."""
        sets = {"generated": self.generated, "train": self.train}
        return sets if self.heldout is None else {**sets, "heldout": self.heldout}


def prepare(
    generated: Source,
    train: Source,
    heldout: Source | None,
    duplicate_tolerance: float,
    *,
    ranks: Ranks | None = None,
) -> AuditInputs:
    """Load, check and clean the sets.

    Args:
        generated: Samples: a data set, an array ``(M, *S)``, rows on disk, or what
            ``memdiff.data.load`` takes; large array files stay on disk.
        train: Training data.
        heldout: Data of the same law that the model has not seen, or None.
        duplicate_tolerance: See :class:`~memdiff.audit.AuditSettings`.
        ranks: Processes that share the searches; each makes the same call.

    Returns:
        The inputs.

    Raises:
        ValueError: If a set is unreadable, empty, not finite, or not comparable with the others,
            or if there are fewer than two distinct training points.
    """
    given = {"generated": generated, "train": train, "heldout": heldout}
    sets = [_dataset(name, source) for name, source in given.items() if source is not None]
    sets = list(align_categories(*sets))
    check_comparable(*sets)
    samples, training = sets[0], sets[1]
    training.require_at_least(
        2, "because an audit compares distances to different training points"
    )
    if len(sets) > 2:
        sets[2].require_at_least(2, "because one held-out point is no null: leave it out")
    flat: Tensor | Rows = training.x.flatten(1)
    exact = duplicate_groups(flat)
    if exact.num_groups < 2:
        raise ValueError(
            f"{training.title} holds {len(training)} copies of one point; an audit needs at least "
            "two different training points."
        )
    distinct = distinct_points(flat, exact)
    most = max(len(training), len(sets[2]) if len(sets) > 2 else 0)
    tolerance = duplicate_distance(distinct, duplicate_tolerance, most, ranks=ranks)
    groups = duplicate_groups(flat, tolerance, ranks=ranks) if tolerance > 0 else exact
    fresh, overlap, kept = (
        _without_overlap(sets[2], training, tolerance, exact, ranks)
        if len(sets) > 2
        else (None, (), 0)
    )
    return AuditInputs(
        generated=samples,
        train=training,
        heldout=fresh,
        duplicates=groups,
        tolerance=tolerance,
        overlap=overlap,
        overlap_kept=kept,
        repeated_samples=duplicate_groups(samples.x.flatten(1)).num_redundant,
    )


def distinct_points(points: Tensor | Rows, groups: DuplicateGroups) -> Tensor | Rows:
    """One point of each group ``(num_groups, e)``; rows on disk stay there."""
    if groups.num_redundant == 0:
        return points
    first = groups.representatives()
    return points.select(first) if isinstance(points, Rows) else points[first]


def duplicate_distance(
    distinct: Tensor | Rows, share: float, points: int, *, ranks: Ranks | None = None
) -> float:
    r"""The distance up to which points count as duplicates, and chance pairs do not.

    ``share`` of the median distance :math:`d_1` of points to their nearest other one; less where
    so many different points are that close anyway. In :math:`r` intrinsic dimensions
    :math:`P(d_1 \le t)` grows as :math:`t^r`: on a curve 0.7 % of fresh points fall within 1 % of
    the median. Were these taken out of the reference as duplicates, what is left would be farther
    from train than fresh data are, and fresh data would pass for copies.

    Args:
        distinct: Training points ``(N, e)`` without exact repetitions, at least 2. Of more than
            20,000, as many evenly spaced ones are asked for their neighbours.
        share: The tolerance as a share of the median.
        points: Number of points that are searched for duplicates.
        ranks: Processes that share the search; each makes the same call.

    Returns:
        The distance; at most 0.05 of ``points`` are expected within it by chance. The expectation
        extrapolates, by the power law, the number of points between once and ten times the
        tolerance, where there are no duplicates.
    """
    count = len(distinct)
    asked = torch.arange(min(count, _ASKED)) * count // min(count, _ASKED)
    queries = distinct if count <= _ASKED else distinct[asked]
    near = nearest(queries, distinct, min(2, count - 1), exclude=asked, ranks=ranks).distances
    tolerance = share * float(near[:, 0].median())
    if tolerance == 0.0 or near.shape[1] < 2:
        return tolerance
    slope = float((near[:, 1] / near[:, 0]).log().median())
    if slope == 0.0:
        return tolerance  # a lattice: neighbours are all equally far
    dimension = min(math.log(2.0) / slope, 100.0)  # (d_1 / d_2)^r is uniform
    between = (near[:, 0] > tolerance) & (near[:, 0] <= 10.0 * tolerance)
    chance = float(between.to(torch.float64).mean()) / (10.0**dimension - 1.0)
    expected = points * chance
    return tolerance * min(1.0, (0.05 / expected) ** (1.0 / dimension) if expected else 1.0)


def _dataset(name: str, source: Source) -> Dataset:
    if isinstance(source, Dataset):
        return source.renamed(name)
    if isinstance(source, np.memmap) and source.nbytes > STREAM_ABOVE:
        source = Rows(source, name)
    if isinstance(source, Rows):
        return from_rows(source, name=name)
    if isinstance(source, (Tensor, np.ndarray)):
        return from_array(source, name=name)
    return load(source, name=name, stream_above=STREAM_ABOVE)


def _without_overlap(
    heldout: Dataset,
    train: Dataset,
    tolerance: float,
    exact: DuplicateGroups,
    ranks: Ranks | None,
) -> tuple[Dataset | None, tuple[int, ...], int]:
    """Held-out points that are no training points; unless the data repeat by nature.

    Rows of a table may coincide because there are few possible rows. They do so between
    training and held-out data as often as within the training data, and are left alone then.
    """
    distances = nearest(heldout.x.flatten(1), train.x.flatten(1), ranks=ranks).distances[:, 0]
    same = distances <= tolerance
    share = float(same.to(torch.float64).mean())
    if heldout.kind in ("table", "vectors") and share > 0:
        repeated = exact.sizes[exact.labels] > 1
        natural = float(repeated.to(torch.float64).mean())
        if share <= 2 * natural:
            return heldout, (), int(same.sum())
    removed = tuple(same.nonzero()[:, 0].tolist())
    if not removed:
        return heldout, (), 0
    rest = (~same).nonzero()[:, 0]
    if len(rest) < 2:  # no null to compare with
        return None, removed, 0
    cleaned = heldout.subset(rest)
    note = f"{len(removed)} points that are also in the training data were removed"
    return replace(cleaned, notes=(*cleaned.notes, note)), removed, 0
