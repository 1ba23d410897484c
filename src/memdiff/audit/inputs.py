"""The three sets of an audit, made comparable, and what was found wrong with them on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from memdiff.audit.belonging import GroupsSource, take_groups
from memdiff.audit.cleaning import compared_points, first_of_each
from memdiff.data import Dataset, align_categories, check_comparable, from_array, from_rows, load
from memdiff.neighbors import DuplicateGroups, duplicate_groups, nearest
from memdiff.run.memory import STREAM_ABOVE
from memdiff.run.ranks import Ranks
from memdiff.sources import Rows

__all__ = ["AuditInputs", "Overlap", "Source", "duplicate_distance", "prepare"]

_ASKED = 20_000

Source = Dataset | Tensor | np.ndarray | Rows | str | Path


@dataclass(frozen=True)
class Overlap:
    """Values that training and held-out data share.

    Attributes:
        heldout: Index of the held-out points that equal a training point, in the data as given.
        samples: Number of samples on such values.
        expected: Number of samples on them if samples repeated them as often as training points
            repeat each other.
        p_value: Probability of so many samples by chance: small where a split has leaked and the
            leaked points were copied.
        dropped: Whether they were left out, with the samples on them.
    """

    heldout: tuple[int, ...]
    samples: int
    expected: float
    p_value: float
    dropped: bool


@dataclass(frozen=True)
class AuditInputs:
    """Comparable sets.

    Attributes:
        generated: The samples.
        train: The training data.
        heldout: Held-out data, or None.
        groups: Labels of points that belong together, of ``train`` and ``heldout``; empty where
            none were given.
        duplicates: Groups of duplicated training points.
        kin: Labels of duplicates in training and held-out data together, shared between them.
        tolerance: Distance up to which points count as duplicates, in units of the data; 0 for
            tables, whose columns have units of their own.
        overlap: Values that training and held-out data share.
        repeated_samples: Number of samples that equal an earlier sample exactly.
        samples_on_train: Number of samples that equal a training point exactly.
        compared: Index of the points that the tests compare, of ``train`` and ``heldout``: all,
            or the first of each value where one set was cleaned of duplicates and the other not.
        problems: Reasons why no verdict is possible, as sentences.
        notes: What a reader should know, as sentences.
    """

    generated: Dataset
    train: Dataset
    heldout: Dataset | None
    groups: Mapping[str, Tensor]
    duplicates: DuplicateGroups
    kin: Mapping[str, Tensor]
    tolerance: float
    overlap: Overlap
    repeated_samples: int
    samples_on_train: int
    compared: Mapping[str, Tensor]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

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
    groups: GroupsSource | None = None,
    drop_overlap: bool = False,
    ranks: Ranks | None = None,
) -> AuditInputs:
    """Load the sets, make them comparable, and look for what would mislead a test.

    Args:
        generated: Samples: a data set, an array ``(M, *S)``, rows on disk, or what
            ``memdiff.data.load`` takes; large array files stay on disk.
        train: Training data.
        heldout: Data of the same law that the model has not seen, or None.
        duplicate_tolerance: See :class:`~memdiff.audit.AuditSettings`.
        groups: See :func:`memdiff.audit.belonging.take_groups`.
        drop_overlap: Whether to leave out values that train and held-out share.
        ranks: Processes that share the searches; each makes the same call.

    Returns:
        The inputs.

    Raises:
        ValueError: If a set is unreadable, empty, not finite, or not comparable with the others,
            or if there are fewer than two distinct training points.
    """
    given = {"generated": generated, "train": train, "heldout": heldout}
    sets = {name: _dataset(name, source) for name, source in given.items() if source is not None}
    labels: dict[str, Tensor] = {}
    if groups is not None:
        sets, labels = take_groups(sets, groups)
    sets = dict(zip(sets, align_categories(*sets.values()), strict=True))
    check_comparable(*sets.values())
    sets["train"].require_at_least(
        2, "because an audit compares distances to different training points"
    )
    if "heldout" in sets:
        sets["heldout"].require_at_least(2, "because one held-out point is no null: leave it out")
    values = _values(sets, ranks)
    if len(values["train"].unique()) < 2:
        raise ValueError(
            f"{sets['train'].title} holds {len(sets['train'])} copies of one point; an audit "
            "needs at least two different training points."
        )
    overlap, keep = _overlap(values, drop_overlap)
    if keep:
        for name, index in keep.items():
            _require_left(sets[name], index)
            if name in labels:
                labels[name] = labels[name][index]
            sets[name] = sets[name].subset(index)
            values[name] = values[name][index]
    compared, notes, problems = compared_points(values, labels)
    tolerance = _tolerance(sets, values["train"], duplicate_tolerance, ranks)
    flat: Tensor | Rows = sets["train"].x.flatten(1)
    duplicates = duplicate_groups(flat, tolerance, ranks=ranks)
    seen = torch.isin(values["generated"], values["train"])
    return AuditInputs(
        generated=sets["generated"],
        train=sets["train"],
        heldout=sets.get("heldout"),
        groups=labels,
        duplicates=duplicates,
        kin=_kin(sets, values, duplicates, tolerance, ranks),
        tolerance=tolerance,
        overlap=overlap,
        repeated_samples=len(values["generated"]) - len(values["generated"].unique()),
        samples_on_train=int(seen.sum()),
        compared=compared,
        problems=_problems(values) or problems,
        notes=(*notes, *_notes(values)),
    )


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


def _values(sets: Mapping[str, Dataset], ranks: Ranks | None) -> dict[str, Tensor]:
    """Labels of identical points, shared by all sets."""
    joined = Rows.joined([data.x for data in sets.values()], "the points")
    labels = duplicate_groups(joined, ranks=ranks).labels.cpu()
    parts = labels.split([len(data) for data in sets.values()])
    return dict(zip(sets, parts, strict=True))


def _overlap(values: Mapping[str, Tensor], drop: bool) -> tuple[Overlap, dict[str, Tensor]]:
    """The overlap, and what is kept of each set where it is dropped (nothing to do: empty)."""
    if "heldout" not in values:
        return Overlap((), 0, 0.0, 1.0, False), {}
    from scipy.stats import binom

    shared = values["train"][torch.isin(values["train"], values["heldout"])].unique()
    inside = {name: torch.isin(labels, shared) for name, labels in values.items()}
    samples, m = int(inside["generated"].sum()), len(values["generated"])
    # How often a point has the value of another one, among training points.
    counts = torch.bincount(values["train"])
    natural = float((counts[values["train"]] > 1).to(torch.float64).mean())
    p_value = float(binom.sf(samples - 1, m, natural)) if samples else 1.0
    index = tuple(inside["heldout"].nonzero()[:, 0].tolist())
    dropped = drop and bool(index)
    overlap = Overlap(index, samples, m * natural, p_value, dropped)
    if not dropped:
        return overlap, {}
    return overlap, {name: (~mask).nonzero()[:, 0] for name, mask in inside.items()}


def _require_left(data: Dataset, index: Tensor) -> None:
    least = 1 if data.name == "generated" else 2
    if len(index) < least:
        raise ValueError(
            f"without the values that train and heldout share, {data.title} has {len(index)} of "
            f"its {len(data)} points left; at least {least} are needed: leave drop_overlap out, "
            "or give held-out data that are not in the training data."
        )


def _kin(
    sets: Mapping[str, Dataset],
    values: Mapping[str, Tensor],
    duplicates: DuplicateGroups,
    tolerance: float,
    ranks: Ranks | None,
) -> dict[str, Tensor]:
    """Labels of duplicates, by the pool: by one set they would depend on how it was divided."""
    if "heldout" not in sets:
        return {"train": duplicates.labels.cpu()}
    names = ("train", "heldout")
    if tolerance == 0.0:
        return {name: values[name] for name in names}
    pool = Rows.joined([sets[name].x for name in names], "the pool")
    labels = duplicate_groups(pool, tolerance, ranks=ranks).labels.cpu()
    parts = labels.split([len(sets[name]) for name in names])
    return dict(zip(names, parts, strict=True))


def _problems(values: Mapping[str, Tensor]) -> tuple[str, ...]:
    if "heldout" in values and _same(values["train"], values["heldout"]):
        return (
            "The held-out data are the training data: give data of the same source that the model "
            "has not seen.",
        )
    if "heldout" in values and _same(values["generated"], values["heldout"]):
        return ("The samples are the held-out data: give samples of the model.",)
    return ()


def _notes(values: Mapping[str, Tensor]) -> tuple[str, ...]:
    if _same(values["generated"], values["train"]):
        return (
            "The samples are the training data, point by point: make sure that the right file was "
            "given.",
        )
    return ()


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two sets hold the same points, in any order."""
    return len(one) == len(other) and bool((one.sort().values == other.sort().values).all())


def _tolerance(
    sets: Mapping[str, Dataset], values: Tensor, share: float, ranks: Ranks | None
) -> float:
    if sets["train"].kind == "table" or share == 0.0:
        return 0.0
    first = first_of_each(values)
    flat: Tensor | Rows = sets["train"].x.flatten(1)
    if len(first) < len(values):
        flat = flat.select(first) if isinstance(flat, Rows) else flat[first]
    most = max(len(data) for name, data in sets.items() if name != "generated")
    return duplicate_distance(flat, share, most, ranks=ranks)


def duplicate_distance(
    distinct: Tensor | Rows, share: float, points: int, *, ranks: Ranks | None = None
) -> float:
    r"""The distance up to which points count as duplicates, and chance pairs do not.

    ``share`` of the median distance :math:`d_1` of points to their nearest other one; less where
    so many different points are that close anyway. In :math:`r` intrinsic dimensions
    :math:`P(d_1 \le t)` grows as :math:`t^r`: on a curve 0.7 % of fresh points fall within 1 % of
    the median.

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
