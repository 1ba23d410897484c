"""The audit: an examination that reaches the verdict, then measurements, pairs and advice."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from memdiff.audit.advice import advise
from memdiff.audit.belonging import GroupsSource
from memdiff.audit.evidence import Evidence, measure
from memdiff.audit.examination import Means, Progress, examine
from memdiff.audit.inputs import AuditInputs, Source
from memdiff.audit.pairing import copied_points, suspicious_pairs
from memdiff.audit.result import AuditResult
from memdiff.audit.settings import AuditSettings
from memdiff.features import Descriptor, FeatureCache, parse_descriptor
from memdiff.metrics import extraction
from memdiff.run.provenance import provenance
from memdiff.run.ranks import Ranks

__all__ = ["audit"]


def audit(
    *,
    generated: Source,
    train: Source,
    heldout: Source | None = None,
    features: str | Descriptor | Sequence[str | Descriptor] = "auto",
    groups: GroupsSource | None = None,
    invariance: str | None = None,
    drop_overlap: bool = False,
    level: float = 0.05,
    resolution: float = 0.01,
    false_discovery_rate: float = 0.1,
    duplicate_tolerance: float = 0.01,
    ratio_threshold: float = 1.0 / 3.0,
    pairs: int = 48,
    full: bool = False,
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
    (:class:`~memdiff.data.StreamedDataset`) stay there: they take a few hundred bytes per point.

    Args:
        generated: Samples of the model: a data set, an array ``(M, *S)``, a path, or a built-in.
        train: What it was trained on.
        heldout: Data of the same source that it has not seen. Without it there is no verdict:
            the result lists the closest pairs.
        features: One or several descriptors: objects, or texts as
            ``memdiff.features.parse_descriptor`` takes them; ``"auto"`` for those that fit the
            kind of data (:func:`memdiff.audit.choosing.choose`).
        groups: Points that belong together (patients, videos, households), which a fair split
            keeps together: ``{"train": labels, "heldout": labels}``, or the name of a column of
            a table, ``"folder"``, or a regular expression for file names.
        invariance: Transforms under which a copy is still a copy, e.g. ``"flip,shift"``.
        drop_overlap: Whether to leave out values that train and held-out share, and the samples
            on them: for a split that is known to have leaked.
        level: Stated false-positive rate of the verdict.
        resolution: Copied fraction that should not go unseen.
        false_discovery_rate: Level of the list of flagged samples.
        duplicate_tolerance: See :class:`AuditSettings`.
        ratio_threshold: Threshold of the ratio test beside the verdict.
        pairs: Number of suspicious pairs to list, besides the flagged ones.
        full: Whether the measurements beside the verdict use all points, and not at most 1000 of
            each set.
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
    settings = AuditSettings(
        features=tuple(_name(one) for one in asked),
        invariance=invariance,
        groups=groups if groups is None or isinstance(groups, str) else "labels",
        drop_overlap=drop_overlap,
        level=level,
        resolution=resolution,
        false_discovery_rate=false_discovery_rate,
        duplicate_tolerance=duplicate_tolerance,
        ratio_threshold=ratio_threshold,
        pairs=pairs,
        full=full,
        seed=seed,
        fail_above=fail_above,
    )
    means = Means(None if cache is None else FeatureCache(cache), device, progress, ranks)
    found = examine(
        generated, train, heldout, settings, features=asked, groups=groups, means=means
    )
    inputs, settings, decision = found.inputs, found.settings, found.decision
    evidence = [
        measure(one, settings, partial(_measuring, means, one.name)) for one in found.evidence
    ]
    decisive = next((e for e in evidence if e.name == decision.descriptor), evidence[0])
    flagged = found.flagged
    return AuditResult(
        verdict=decision.name,
        decision=decision,
        gate_failed=found.gate_failed,
        flagged=tuple(flagged.tolist()),
        advice=tuple(advise(decision, evidence, inputs, flagged)),
        pairs=tuple(suspicious_pairs(decisive, inputs, flagged, settings)),
        copied_points=tuple(copied_points(decisive, inputs, flagged)),
        extraction=extraction(distances=_whole(decisive, inputs), flagged=flagged)
        if len(flagged)
        else None,
        evidence=tuple(evidence),
        inputs=inputs,
        settings=settings,
        provenance={**provenance(seed=seed), "sampler": sampler_settings},
    )


def _measuring(means: Means, name: str, title: str) -> None:
    means.note(f"{name}: {title}", 0, 1)


def _name(asked: str | Descriptor) -> str:
    if isinstance(asked, Descriptor):
        return asked.name
    return asked if asked == "auto" else parse_descriptor(asked).name


def _whole(evidence: Evidence, inputs: AuditInputs) -> Any:  # noqa: ANN401
    return evidence.features.distances(
        duplicates={"train": inputs.duplicates.labels}, ranks=evidence.distances.ranks
    )
