"""The audit: data + features + metrics -> verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memdiff.audit.advice import advise
from memdiff.audit.evidence import Evidence, measure
from memdiff.audit.inputs import (
    AuditInputs,
    Source,
    distinct_points,
    duplicate_distance,
    prepare,
)
from memdiff.audit.result import AuditResult, CopiedPoint, Pair
from memdiff.audit.settings import AuditSettings
from memdiff.audit.verdict import decide
from memdiff.features import (
    Descriptor,
    FeatureCache,
    Invariance,
    TableColumns,
    parse_descriptor,
    parse_invariance,
)
from memdiff.metrics import closeness, extraction
from memdiff.neighbors import duplicate_groups
from memdiff.provenance import provenance
from memdiff.ranks import Ranks
from memdiff.sources import Rows

__all__ = ["audit"]

Progress = Callable[[str, int, int], None]


def audit(
    *,
    generated: Source,
    train: Source,
    heldout: Source | None = None,
    features: str | Descriptor | Sequence[str | Descriptor] = "pixels",
    invariance: str | None = None,
    level: float = 0.05,
    resolution: float = 0.01,
    false_discovery_rate: float = 0.1,
    duplicate_tolerance: float = 0.01,
    ratio_threshold: float = 1.0 / 3.0,
    pairs: int = 48,
    fail_above: float | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
    device: torch.device | str | None = None,
    sampler_settings: dict[str, Any] | None = None,
    progress: Progress | None = None,
    ranks: Ranks | None = None,
) -> AuditResult:
    """Do the samples memorise the training data? A verdict with its uncertainty.

    The rule is that of :mod:`memdiff.audit.verdict`; its measured error rates are in
    ``docs/calibration.md``. Memory: the three sets and their features, times the number of
    transforms of an invariance, and what a neighbour search takes. Sets and features on disk
    (:class:`~memdiff.data.StreamedDataset`) stay there: they take a few hundred bytes a point.

    Args:
        generated: Samples of the model: a data set, an array ``(M, *S)``, a path, or a built-in.
        train: What it was trained on.
        heldout: Data of the same source that it has not seen. Strongly recommended; without it
            the training data, among themselves, are the null.
        features: One or several descriptors: objects, or texts as
            ``memdiff.features.parse_descriptor`` takes them. A table is described by its
            standardised columns where ``"pixels"`` is asked for.
        invariance: Transforms under which a copy is still a copy, e.g. ``"flip,shift"``.
        level: Stated false-positive rate of the verdict.
        resolution: Copied fraction that should not go unseen.
        false_discovery_rate: Level of the list of flagged samples.
        duplicate_tolerance: See :class:`AuditSettings`.
        ratio_threshold: Threshold of the ratio test.
        pairs: Number of suspicious pairs to list, besides the flagged ones.
        fail_above: Gate on the copied fraction.
        seed: Seed of everything random.
        cache: Folder for computed features; None for no cache.
        device: Where learned descriptors compute.
        sampler_settings: How the samples were made, for the record.
        progress: Receives (stage, done, total).
        ranks: Processes that share features and searches; each makes the same call, and gets the
            whole result, which is that of one process. By default this process does it all.

    Returns:
        The result.

    Raises:
        ValueError: If an argument is out of range or the sets cannot be compared.
        FileNotFoundError: If a path does not exist.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> train, heldout, fresh = torch.randn(3, 400, 8, generator=generator)
        >>> audit(generated=train, train=train, heldout=heldout).verdict
        'memorizing'
        >>> audit(generated=fresh, train=train, heldout=heldout, resolution=0.05).verdict
        'not detected'
    """
    asked = (features,) if isinstance(features, (str, Descriptor)) else tuple(features)
    descriptors = [_descriptor(one) for one in asked]
    settings = AuditSettings(
        features=tuple(one.name for one in descriptors),
        invariance=invariance,
        level=level,
        resolution=resolution,
        false_discovery_rate=false_discovery_rate,
        duplicate_tolerance=duplicate_tolerance,
        ratio_threshold=ratio_threshold,
        pairs=pairs,
        seed=seed,
        fail_above=fail_above,
    )
    transforms = None if invariance is None else parse_invariance(invariance)
    store = None if cache is None else FeatureCache(cache)

    def note(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(stage, done, total)

    note("loading", 0, 1)
    inputs = prepare(generated, train, heldout, duplicate_tolerance, ranks=ranks)
    note("loading", 1, 1)
    evidence = []
    for position, descriptor in enumerate(descriptors):
        note("descriptors", position, len(descriptors))
        evidence.append(
            _examine(
                _suited(descriptor, inputs),
                inputs,
                transforms,
                store,
                device,
                settings,
                note,
                ranks,
            )
        )
    note("descriptors", len(descriptors), len(descriptors))
    reference = inputs.train if inputs.heldout is None else inputs.heldout
    decision = decide(
        {entry.name: entry.test for entry in evidence},
        samples=len(inputs.generated),
        reference=len(reference),
        has_heldout=inputs.heldout is not None,
        level=level,
        resolution=resolution,
    )
    decisive = next(entry for entry in evidence if entry.name == decision.descriptor)
    suspicious = _suspicious(decisive)
    names = transforms.names if transforms is not None else ("identity",)
    return AuditResult(
        verdict=decision.name,
        decision=decision,
        gate_failed=fail_above is not None
        and decision.name == "memorizing"
        and decision.copied > fail_above,
        advice=tuple(advise(decision, evidence, inputs)),
        pairs=tuple(_pairs(decisive, inputs, names, settings)),
        copied_points=tuple(_copied_points(decisive, inputs, suspicious)),
        extraction=extraction(distances=decisive.distances, flagged=suspicious)
        if decision.name == "memorizing" and bool(suspicious.any())
        else None,
        evidence=tuple(evidence),
        inputs=inputs,
        settings=settings,
        provenance={**provenance(seed=seed), "sampler": sampler_settings},
    )


def _descriptor(asked: str | Descriptor) -> Descriptor:
    return asked if isinstance(asked, Descriptor) else parse_descriptor(asked)


def _suited(descriptor: Descriptor, inputs: AuditInputs) -> Descriptor:
    """Columns of a table have units of their own: raw distances would be of the largest one."""
    if inputs.train.kind == "table" and descriptor.name == "pixels":
        return TableColumns()
    return descriptor


def _examine(
    descriptor: Descriptor,
    inputs: AuditInputs,
    transforms: Invariance | None,
    store: FeatureCache | None,
    device: torch.device | str | None,
    settings: AuditSettings,
    note: Progress,
    ranks: Ranks | None,
) -> Evidence:
    fitted = descriptor.fit(inputs.train)
    rows: dict[str, Tensor | Rows] = {}
    versions: dict[str, list[Tensor | Rows]] = {}
    for name, data in inputs.sets.items():
        sets = [(name, data)] if transforms is None else list(transforms.variants(data))
        for position, (_, version) in enumerate(sets):
            found = _features(
                fitted, version, store, device, lambda i, n: note("features", i, n), ranks
            )
            if position == 0:
                rows[name] = found
            else:
                versions.setdefault(name, []).append(found)
    return measure(
        descriptor.name,
        rows,
        versions,
        metric=fitted.metric,
        tolerance=_tolerance(rows["train"], inputs, settings, ranks),
        descriptor_settings={**fitted.settings, "fingerprint": fitted.fingerprint},
        settings=settings,
        progress=lambda stage: note(f"{descriptor.name}: {stage}", 0, 1),
        ranks=ranks,
    )


def _features(
    fitted: Descriptor,
    data: Any,  # noqa: ANN401
    store: FeatureCache | None,
    device: torch.device | str | None,
    progress: Callable[[int, int], None],
    ranks: Ranks | None,
) -> Tensor | Rows:
    if store is not None:
        return store.features(fitted, data, device=device, progress=progress, ranks=ranks)
    return fitted.features(data, device=device, progress=progress, ranks=ranks)


def _tolerance(
    rows: Tensor | Rows, inputs: AuditInputs, settings: AuditSettings, ranks: Ranks | None
) -> float:
    """The duplicate tolerance in the units of the features, by the same rule as in the data's."""
    distinct = distinct_points(rows, duplicate_groups(rows))
    if len(distinct) < 2:
        raise ValueError(
            f"the features of all {len(rows)} training points are equal: use another descriptor."
        )
    heldout = 0 if inputs.heldout is None else len(inputs.heldout)
    most = max(len(rows), heldout)
    return duplicate_distance(distinct, settings.duplicate_tolerance, most, ranks=ranks)


def _suspicious(evidence: Evidence) -> Tensor:
    """Flagged samples; where the list is empty, those below the threshold of the headline."""
    flagged = evidence.flags.flagged
    if bool(flagged.any()):
        return flagged
    return evidence.copies.scores < evidence.copies.threshold


def _pairs(
    evidence: Evidence, inputs: AuditInputs, variants: Sequence[str], settings: AuditSettings
) -> list[Pair]:
    found = evidence.distances
    near = found.to_train("generated")
    ratios = closeness(found, "generated", "ratio")
    fresh = found.to_heldout("generated") if found.has_heldout else None
    order = evidence.flags.scores.argsort(stable=True)
    listed = int(max(settings.pairs, int(evidence.flags.flagged.sum())))
    pairs = []
    for i in order[:listed].tolist():
        n = int(near.indices[i, 0])
        h = None if fresh is None else int(fresh.indices[i, 0])
        pairs.append(
            Pair(
                sample=i,
                sample_name=inputs.generated.names[i],
                train=n,
                train_name=inputs.train.names[n],
                heldout=h,
                heldout_name=None
                if h is None or inputs.heldout is None
                else inputs.heldout.names[h],
                distance=float(near.distances[i, 0]),
                heldout_distance=None if fresh is None else float(fresh.distances[i, 0]),
                ratio=float(ratios[i]),
                p_value=float(evidence.flags.p_values[i]),
                flagged=bool(evidence.flags.flagged[i]),
                variant=variants[int(evidence.variant[i])],
                descriptor=evidence.name,
            )
        )
    return pairs


def _copied_points(
    evidence: Evidence, inputs: AuditInputs, suspicious: Tensor, most: int = 200
) -> list[CopiedPoint]:
    groups = inputs.duplicates
    labels = groups.labels[evidence.flags.indices]
    points = []
    for label in labels[suspicious].unique().tolist():
        members = (suspicious & (labels == label)).nonzero()[:, 0]
        best = int(members[evidence.flags.scores[members].argmin()])
        train = int(evidence.flags.indices[best])
        points.append(
            CopiedPoint(
                train=train,
                name=inputs.train.names[train],
                copies=len(members),
                duplicates=int(groups.sizes[label]),
                best=best,
                distance=float(evidence.flags.scores[best]),
            )
        )
    points.sort(key=lambda point: (-point.copies, point.distance))
    return points[:most]
