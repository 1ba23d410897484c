"""The neighbours that the metrics share: searched for when first asked, and once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from memdiff.neighbors import (
    MEMORY_LIMIT,
    DuplicateGroups,
    Neighbors,
    RowData,
    Rows,
    duplicate_groups,
    nearest,
    nearest_distinct,
)
from memdiff.neighbors.coordinates import unit_rows
from memdiff.run.ranks import Ranks

__all__ = ["Distances"]


class Distances:
    """Exact neighbours between generated, training and held-out points.

    Every metric takes either the three sets or one of these; passing one to several metrics
    spares the searches that they share.

    Args:
        generated: Generated samples ``(M, *S)``, in any storage that
            :func:`memdiff.neighbors.nearest` takes.
        train: Training points ``(N, *S)``, at least 2.
        heldout: Held-out points ``(H, *S)`` from the law of the training points, or None.
        metric: ``"euclidean"`` or ``"cosine"``.
        tolerance: Distance (always Euclidean) up to which training points count as duplicates of
            each other, and points of the pool as kin (:meth:`kin`); 0 for identical rows only.
        groups: For ``"train"`` and ``"heldout"`` one label per point, int64 ``(N,)`` and ``(H,)``:
            points that belong together (a patient's scans, the frames of a video). Labels are
            shared between the sets. :meth:`apart` and leave-one-out searches among held-out
            points then leave out the whole group.
        duplicates: Labels of points of a set that count as duplicates, int64, in place of those
            within ``tolerance``. Labels of both sets are shared between them, and those of kin.
        variants: Further versions of the points of a set (``"generated"``, ``"heldout"``,
            ``"train"``), such as mirrored images, each with the rows of the set. As a query, a
            point is as close as the closest of its versions; what is searched stays as given.
        memory_limit: Bytes that a search allocates, at most.
        ranks: Processes among which the queries of a search are shared; each makes the same calls.
            By default this process does it all.

    Raises:
        ValueError: If a set is empty or not finite, there are fewer than 2 training points,
            shapes differ, or a row is zero and the metric is cosine.

    Example:
        >>> train = torch.tensor([[0.0], [1.0], [4.0]])
        >>> distances = Distances(generated=torch.tensor([[0.9]]), train=train)
        >>> found = distances.to_train("generated", 2)
        >>> found.indices.tolist()
        [[1, 0]]
    """

    def __init__(
        self,
        *,
        generated: RowData,
        train: RowData,
        heldout: RowData | None = None,
        metric: str = "euclidean",
        tolerance: float = 0.0,
        groups: Mapping[str, Tensor] | None = None,
        duplicates: Mapping[str, Tensor] | None = None,
        variants: Mapping[str, Sequence[RowData]] | None = None,
        memory_limit: int = MEMORY_LIMIT,
        ranks: Ranks | None = None,
    ) -> None:
        self._sets: dict[str, RowData] = {"generated": generated, "train": train}
        if heldout is not None:
            self._sets["heldout"] = heldout
        self._rows = {name: Rows(data, name) for name, data in self._sets.items()}
        shape = self._rows["train"].row_shape
        for name, rows in self._rows.items():
            if rows.row_shape != shape:
                raise ValueError(
                    f"{name} must have rows of the shape of train {shape}, got {rows.row_shape}."
                )
        self._variants = {name: tuple(rows) for name, rows in (variants or {}).items()}
        for name, versions in self._variants.items():
            for version in versions:
                size = Rows(version, f"variants[{name!r}]")
                if name not in self._rows or len(size) != len(self._rows[name]):
                    raise ValueError(
                        f"variants[{name!r}] must have the rows of {name}, got {len(size)}."
                    )
        for name, rows in self._rows.items():
            _require_measurable(rows, name, metric, memory_limit)
        if len(self._rows["train"]) < 2:
            raise ValueError(
                "train must hold at least 2 points, got 1: no distance has a scale to compare "
                "with."
            )
        self.metric = metric
        self.tolerance = tolerance
        self.memory_limit = memory_limit
        self.ranks = Ranks() if ranks is None else ranks
        self.groups = self._checked_groups(groups)
        self._found: dict[tuple[str, str, bool], Neighbors] = {}
        self._duplicates = {
            name: DuplicateGroups.of(labels) for name, labels in (duplicates or {}).items()
        }
        self._given = {
            name: torch.as_tensor(labels).cpu() for name, labels in (duplicates or {}).items()
        }
        self._kin: dict[str, Tensor] = {}
        self._values: Tensor | None = None

    def _checked_groups(self, groups: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """The labels of groups on the CPU, for both sets or for none."""
        given = {name: torch.as_tensor(labels).cpu() for name, labels in (groups or {}).items()}
        wanted = {"train", "heldout"} if self.has_heldout else {"train"}
        if given and not wanted <= set(given):
            raise ValueError(
                f"groups must have labels for {' and '.join(sorted(wanted))}, got them for "
                f"{', '.join(sorted(given))}."
            )
        for name in wanted if given else ():
            labels = given[name]
            if labels.shape != (self.size(name),) or labels.dtype != torch.int64:
                raise ValueError(
                    f"groups[{name!r}] must be int64 with shape ({self.size(name)},), got "
                    f"{labels.dtype} with shape {tuple(labels.shape)}."
                )
        return {name: given[name] for name in wanted} if given else {}

    @classmethod
    def resolve(
        cls,
        distances: Distances | None,
        generated: RowData | None,
        train: RowData | None,
        heldout: RowData | None,
        *,
        metric: str | None = None,
    ) -> Distances:
        """What a measurement was given: ready distances, or the sets to search.

        Args:
            distances: Ready distances, of the metric they were built with.
            generated: As in :class:`Distances`; None with ready distances.
            train: Likewise.
            heldout: Likewise.
            metric: The only metric in which the measurement is defined; None where any will do,
                as for all that compares or ranks distances.

        Returns:
            ``distances``, or those of the sets: of ``metric``, Euclidean where any will do.

        Raises:
            ValueError: If both or neither were given, or ready distances are of a metric other
                than the one asked for.
        """
        if distances is None:
            if generated is None or train is None:
                raise ValueError(
                    "generated and train must both be given (or distances in their place), got "
                    f"generated={type(generated).__name__} and train={type(train).__name__}."
                )
            if metric is None:
                return cls(generated=generated, train=train, heldout=heldout)
            return cls(generated=generated, train=train, heldout=heldout, metric=metric)
        if any(data is not None for data in (generated, train, heldout)):
            raise ValueError(
                "distances must not be combined with generated, train or heldout: they hold "
                "their own."
            )
        if metric is not None and distances.metric != metric:
            raise ValueError(
                f"distances must have metric={metric!r} for this measurement, got "
                f"{distances.metric!r}: build Distances with that metric."
            )
        return distances

    def size(self, name: str) -> int:
        """Number of points of ``"generated"``, ``"train"`` or ``"heldout"`` (0 if not given)."""
        return len(self._rows[name]) if name in self._rows else 0

    def rows(self, name: str) -> Rows:
        """The points of a set, as blocks to read."""
        return self._rows[name]

    def coordinates(self, name: str) -> Rows:
        """The points of a set as coordinates whose Euclidean distances order as these do.

        For the cosine distance these are unit vectors, float64 ``(N, d)``:
        ``1 - cos = |x - y|^2 / 2``; otherwise the points as they are.
        """
        rows = self._rows[name]
        return rows.map(unit_rows) if self.metric == "cosine" else rows

    def data(self, name: str) -> RowData:
        """The points of a set, as they were given."""
        return self._sets[name]

    @property
    def has_heldout(self) -> bool:
        """Whether held-out points were given."""
        return "heldout" in self._sets

    def require_heldout(self, metric: str) -> None:
        """Refuse to go on without held-out points, in the name of ``metric``."""
        if not self.has_heldout:
            raise ValueError(
                f"heldout must be given for {metric}, got None: pass points of the law of train "
                f"that the model has not seen."
            )

    @property
    def duplicates(self) -> DuplicateGroups:
        """Duplicates among the training points, within ``tolerance``."""
        return self._duplicates_of("train")

    def _duplicates_of(self, name: str) -> DuplicateGroups:
        if name not in self._duplicates:
            self._duplicates[name] = duplicate_groups(
                self._sets[name],
                self.tolerance,
                memory_limit=self.memory_limit,
                ranks=self.ranks,
            )
        return self._duplicates[name]

    @property
    def values(self) -> Tensor:
        """Which pool points are identical: int64 ``(N + H,)``, one label per distinct value.

        The pool is the training points, then the held-out points.
        """
        if self._values is None:
            self._values = self._pool_duplicates(0.0)
        return self._values

    def _pool_duplicates(self, tolerance: float) -> Tensor:
        names = ("train", "heldout") if self.has_heldout else ("train",)
        pool = Rows.joined([self._sets[name] for name in names], "the pool")
        found = duplicate_groups(pool, tolerance, memory_limit=self.memory_limit, ranks=self.ranks)
        return found.labels.cpu()

    def kin(self, name: str) -> Tensor:
        """Labels of points that do not count as each other's next neighbour, int64.

        The groups that were given, else duplicates in the pool: labels of one set alone would
        depend on how the pool was divided.

        Args:
            name: ``"train"`` or ``"heldout"``; labels are shared between them.
        """
        if self.groups:
            return self.groups[name]
        if not self._kin:
            self._kin = self._duplicated_pool()
        return self._kin[name]

    def _duplicated_pool(self) -> dict[str, Tensor]:
        names = ("train", "heldout") if self.has_heldout else ("train",)
        if all(name in self._given for name in names):
            return {name: self._given[name] for name in names}
        labels = self.values if self.tolerance == 0.0 else self._pool_duplicates(self.tolerance)
        return dict(zip(names, labels.split([self.size(name) for name in names]), strict=True))

    def apart(self, name: str, target: str, k: int, which: Tensor | None = None) -> Neighbors:
        """The nearest point of each of the ``k`` nearest kins (:meth:`kin`) of a set.

        Args:
            name: The set whose points ask.
            target: ``"train"`` or ``"heldout"``; of its own set a point leaves out its kin.
            k: Number of kins, at most as many as there are.
            which: int64, the points that ask; all by default.

        Returns:
            Neighbors with ``k`` columns, on the CPU.
        """
        labels = self.kin(target)
        exclude = None
        if name == target:
            exclude = labels if which is None else labels[which]
        found = []
        for version in (self._sets[name], *self._variants.get(name, ())):
            rows = version if which is None else Rows(version, name).select(which)
            found.append(
                nearest_distinct(
                    rows,
                    self._sets[target],
                    labels,
                    k,
                    metric=self.metric,
                    exclude=exclude,
                    memory_limit=self.memory_limit,
                    ranks=self.ranks,
                )
            )
        best = found[0] if len(found) == 1 else _closest(found, k, labels)
        return Neighbors(best.distances.cpu(), best.indices.cpu())

    def to_train(self, name: str, k: int = 1, *, distinct: bool = False) -> Neighbors:
        """The ``k`` nearest training points of each point of a set.

        Args:
            name: ``"generated"``, ``"heldout"``, or ``"train"`` for leave-one-out neighbours.
            k: Number of neighbours.
            distinct: Whether the neighbours must come from different groups of duplicates; then
                a training point leaves out its own group.

        Returns:
            Neighbors with at least ``k`` columns cut to ``k``.
        """
        return self._neighbors(name, "train", k, distinct)

    def to_heldout(self, name: str, k: int = 1) -> Neighbors:
        """The ``k`` nearest held-out points; for ``"heldout"`` itself, leave-one-out."""
        return self._neighbors(name, "heldout", k, False)

    def _neighbors(self, name: str, target: str, k: int, distinct: bool) -> Neighbors:
        distinct = distinct and self.duplicates.num_redundant > 0
        key = (name, target, distinct)
        found = self._found.get(key)
        if found is None or found.distances.shape[1] < k:
            found = self._found[key] = self._search(name, target, k, distinct)
        return Neighbors(found.distances[:, :k], found.indices[:, :k])

    def _search(self, name: str, target: str, k: int, distinct: bool) -> Neighbors:
        versions = (self._sets[name], *self._variants.get(name, ()))
        found = [self._search_version(rows, name, target, k, distinct) for rows in versions]
        if len(found) == 1:
            return found[0]
        return _closest(found, k, self.duplicates.labels if distinct else None)

    def _search_version(
        self, queries: RowData, name: str, target: str, k: int, distinct: bool
    ) -> Neighbors:
        points = self._sets[target]
        if distinct:
            labels = self.duplicates.labels
            return nearest_distinct(
                queries,
                points,
                labels,
                k,
                metric=self.metric,
                exclude=labels if name == target else None,
                memory_limit=self.memory_limit,
                ranks=self.ranks,
            )
        exclude: Tensor | None = None
        if name == target and name in self.groups and target == "heldout":
            labels = self.groups[name]
            return nearest_distinct(
                queries,
                points,
                labels,
                k,
                metric=self.metric,
                exclude=labels,
                memory_limit=self.memory_limit,
                ranks=self.ranks,
            )
        if name == target:
            exclude = torch.arange(self.size(name))
        return nearest(
            queries,
            points,
            k,
            metric=self.metric,
            exclude=exclude,
            memory_limit=self.memory_limit,
            ranks=self.ranks,
        )


def _closest(found: Sequence[Neighbors], k: int, labels: Tensor | None) -> Neighbors:
    """The nearest ``k`` over versions of the queries, each point (or label) once."""
    distances = torch.cat([part.distances for part in found], 1)
    indices = torch.cat([part.indices for part in found], 1)
    distances, order = distances.sort(dim=1, stable=True)
    indices = indices.gather(1, order)
    same = indices if labels is None else labels.to(indices.device)[indices]
    # Column j repeats an earlier one; k versions hold at least k different points.
    repeats = (same[:, :, None] == same[:, None, :]).tril(-1).any(2)
    rank = repeats.to(torch.int64).argsort(dim=1, stable=True)[:, :k]
    return Neighbors(distances.gather(1, rank), indices.gather(1, rank))


def _require_measurable(rows: Rows, name: str, metric: str, memory_limit: int) -> None:
    """Refuse rows that have no distance, by the name of their set."""
    size = max(1, memory_limit // (32 * rows.features))
    for start in range(0, len(rows), size):
        block = rows.read(start, min(start + size, len(rows)))
        finite = torch.isfinite(block).all(1)
        if not bool(finite.all()):
            raise ValueError(
                f"{name} must be finite, got NaN or infinity in row "
                f"{start + int((~finite).nonzero()[0])}: remove or repair it."
            )
        zero = (block == 0).all(1)
        if metric == "cosine" and bool(zero.any()):
            raise ValueError(
                f"{name} has a zero vector in row {start + int(zero.nonzero()[0])}, which has no "
                f"direction for the cosine distance: remove it or use metric='euclidean'."
            )
