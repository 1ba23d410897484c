"""Everything that one descriptor has to say: the tests, and measurements beside the verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memdiff.audit.panel import PANEL, Measurement
from memdiff.audit.settings import AuditSettings
from memdiff.features import Invariance
from memdiff.metrics import (
    Competition,
    CopyingTests,
    Distances,
    Exchangeability,
    compete,
    copying_tests,
    exchangeability,
    ratio,
)
from memdiff.sources import Rows

__all__ = ["Evidence", "Features", "measure", "test"]

_BESIDE = 1000
"""Points of each set that the measurements beside the verdict use, unless all are asked for."""


@dataclass(frozen=True, eq=False)
class Features:
    """The sets as one descriptor sees them.

    Attributes:
        name: The descriptor.
        metric: ``"euclidean"`` or ``"cosine"``.
        settings: How the features were made, with a fingerprint.
        rows: Features ``(N, e)`` of ``generated``, ``train`` and, if there is one, ``heldout``.
        variants: Features of transformed versions of each set, in the order of the transforms.
        transforms: The transforms, or None for none.
    """

    name: str
    metric: str
    settings: Mapping[str, Any]
    rows: Mapping[str, Tensor | Rows]
    variants: Mapping[str, Sequence[Tensor | Rows]]
    transforms: Invariance | None = None

    @property
    def versions(self) -> tuple[str, ...]:
        """Names of the transforms, the identity first."""
        return ("identity",) if self.transforms is None else self.transforms.names

    def select(self, index: Mapping[str, Tensor]) -> Features:
        """Some points of some sets, in the order of the index."""

        def chosen(name: str, rows: Tensor | Rows) -> Tensor | Rows:
            if name not in index:
                return rows
            return rows.select(index[name]) if isinstance(rows, Rows) else rows[index[name]]

        return Features(
            self.name,
            self.metric,
            self.settings,
            {name: chosen(name, rows) for name, rows in self.rows.items()},
            {
                name: [chosen(name, rows) for rows in versions]
                for name, versions in self.variants.items()
            },
            self.transforms,
        )

    def distances(self, **options: Any) -> Distances:  # noqa: ANN401
        """The distances between the sets."""
        return Distances(
            generated=self.rows["generated"],
            train=self.rows["train"],
            heldout=self.rows.get("heldout"),
            metric=self.metric,
            variants=self.variants,
            **options,
        )


@dataclass(frozen=True)
class Evidence:
    """What one descriptor says.

    Attributes:
        features: The sets as it sees them.
        distances: Distances between the points that the tests compare.
        compared: Index of those points in the sets, of ``train`` and ``heldout``.
        tests: The tests, or None without held-out data.
        exchangeability: Whether train and held-out are exchangeable, or None without the latter.
        measurements: Further metrics.
        measured: Number of points of each set that these used, at most.
    """

    features: Features
    distances: Distances
    compared: Mapping[str, Tensor]
    tests: CopyingTests | None
    exchangeability: Exchangeability | None
    measurements: Sequence[Measurement] = ()
    measured: int = 0

    @property
    def name(self) -> str:
        """The descriptor."""
        return self.features.name

    @property
    def metric(self) -> str:
        """Its distance."""
        return self.features.metric

    def nearest(self, name: str) -> tuple[Tensor, Tensor]:
        """Distance to and index of the nearest point of ``"train"`` or ``"heldout"``, ``(M,)``."""
        if self.tests is not None:
            distance, index = getattr(self.tests.competition, name)
            found, place = torch.from_numpy(distance), torch.from_numpy(index)
        else:
            near = self.distances.to_train("generated")
            found, place = near.distances[:, 0].cpu(), near.indices[:, 0].cpu()
        return found, self.compared[name][place]

    def ratios(self) -> Tensor:
        """How close each sample is on its own scale, ``(M,)``; small is suspicious.

        The ratios of the competition, above 1 for samples that fall on decoys. Without held-out
        data those of the two nearest training points.
        """
        if self.tests is not None:
            return self.tests.tail.scores
        return ratio(distances=self.distances).scores.cpu()

    def closest_variant(self, which: Tensor) -> Tensor:
        """Under which transform some samples are closest to their nearest training point."""
        versions = (
            self.features.rows["generated"],
            *self.features.variants.get("generated", ()),
        )
        if len(versions) == 1:
            return torch.zeros(len(which), dtype=torch.int64)
        target = self.features.rows["train"][self.nearest("train")[1][which]].to(torch.float64)
        apart = []
        for version in versions:
            rows = version[which].to(torch.float64)
            if self.metric == "cosine":
                apart.append(-torch.cosine_similarity(rows, target, dim=1))
            else:
                apart.append((rows - target).norm(dim=1))
        return torch.stack(apart).argmin(0).cpu()


def test(
    features: Features,
    compared: Mapping[str, Tensor],
    *,
    groups: Mapping[str, Tensor],
    kin: Mapping[str, Tensor],
    settings: AuditSettings,
    refine: Callable[[Distances, Competition], Competition] | None = None,
    **options: Any,  # noqa: ANN401
) -> Evidence:
    """Let training and held-out points compete in the features of one descriptor.

    Args:
        features: The features.
        compared: Index of the points to compare, of ``train`` and ``heldout``.
        groups: Labels of points that belong together, of the sets as they are; empty for none.
        kin: Labels of duplicates, shared between ``train`` and ``heldout``.
        settings: Settings of the audit.
        refine: Makes another competition of the first (alignment of images), without a look at
            labels.
        **options: Further options of :class:`~memdiff.metrics.Distances`.

    Returns:
        The evidence, without further measurements.

    Raises:
        ValueError: If the features of all training points are equal.
    """
    index = {name: some for name, some in compared.items() if len(some) < len(features.rows[name])}
    found = features.select(index).distances(
        groups={name: labels[compared[name]] for name, labels in groups.items()} or None,
        duplicates={name: labels[compared[name]] for name, labels in kin.items()},
        **options,
    )
    if len(found.values[: found.size("train")].unique()) < 2:
        raise ValueError(
            f"the features {features.name!r} of all {found.size('train')} training points are "
            "equal: use another descriptor."
        )
    if not found.has_heldout:
        return Evidence(features, found, compared, None, None)
    first = compete(found)
    competition = first if refine is None else refine(found, first)
    tests = copying_tests(
        found,
        competition=competition,
        also=() if refine is None else (first,),
        rate=settings.false_discovery_rate,
        resolution=settings.resolution,
        seed=settings.seed,
    )
    return Evidence(features, found, compared, tests, exchangeability(found, seed=settings.seed))


def measure(
    evidence: Evidence, settings: AuditSettings, progress: Callable[[str], None] | None = None
) -> Evidence:
    """Add the measurements beside the verdict.

    Args:
        evidence: The evidence so far.
        settings: Settings of the audit; ``full`` says whether all points are used.
        progress: Receives the name of each measurement before it is made.

    Returns:
        The evidence with them.
    """
    most = None if settings.full else _BESIDE
    some = {}
    for position, (name, rows) in enumerate(evidence.features.rows.items()):
        if most is not None and len(rows) > most:
            generator = torch.Generator().manual_seed(settings.seed * 10 + position)
            some[name] = torch.randperm(len(rows), generator=generator)[:most].sort().values
    features = evidence.features.select(some) if some else evidence.features
    found = features.distances(ranks=evidence.distances.ranks)
    measurements = []
    for entry in PANEL:
        if entry.only is not None and features.metric != entry.only:
            continue
        if progress is not None:
            progress(entry.title)
        measurements.append(entry.measure(found, features.rows, settings))
    return Evidence(
        evidence.features,
        evidence.distances,
        evidence.compared,
        evidence.tests,
        evidence.exchangeability,
        tuple(measurements),
        max(len(rows) for rows in features.rows.values()),
    )
