"""The audit: data + features + competition -> verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memdiff.audit.advice import advise
from memdiff.audit.belonging import GroupsSource
from memdiff.audit.choosing import choose
from memdiff.audit.evidence import Evidence, Features, measure, test
from memdiff.audit.inputs import AuditInputs, Source, prepare
from memdiff.audit.pairing import copied_points, flagged_samples, suspicious_pairs
from memdiff.audit.registration import register
from memdiff.audit.result import AuditResult
from memdiff.audit.settings import AuditSettings
from memdiff.audit.verdict import DescriptorTest, Verdict, decide, undecidable
from memdiff.data import Dataset
from memdiff.features import Descriptor, FeatureCache, parse_descriptor, parse_invariance
from memdiff.metrics import extraction
from memdiff.run.provenance import provenance
from memdiff.run.ranks import Ranks
from memdiff.sources import Rows

__all__ = ["Examination", "audit", "examine", "judge"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Examination:
    """What decides an audit, before measurements, pairs and pages.

    Attributes:
        inputs: The sets.
        settings: What was asked, with the descriptors that were chosen.
        evidence: One entry per descriptor, without measurements.
        decision: The verdict.
        flagged: Index of the samples that count as copies.
    """

    inputs: AuditInputs
    settings: AuditSettings
    evidence: tuple[Evidence, ...]
    decision: Verdict
    flagged: Tensor

    @property
    def gate_failed(self) -> bool:
        """Whether the gate of ``settings.fail_above`` fails."""
        above = self.settings.fail_above
        if above is None or self.decision.name != "memorizing":
            return False
        share = len(self.flagged) / len(self.inputs.generated)
        return max(self.decision.copied_low, share) > above


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
    found = examine(
        generated,
        train,
        heldout,
        settings,
        features=asked,
        groups=groups,
        cache=cache,
        device=device,
        progress=progress,
        ranks=ranks,
    )
    inputs, settings, decision = found.inputs, found.settings, found.decision

    def note(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(stage, done, total)

    evidence = [
        measure(one, settings, partial(_measuring, note, one.name)) for one in found.evidence
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


def examine(
    generated: Source,
    train: Source,
    heldout: Source | None,
    settings: AuditSettings,
    *,
    features: Sequence[str | Descriptor] | None = None,
    groups: GroupsSource | None = None,
    cache: str | Path | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    ranks: Ranks | None = None,
) -> Examination:
    """Reach the verdict of an audit: all that decides, and nothing beside it.

    Args:
        generated: As for :func:`audit`.
        train: As for :func:`audit`.
        heldout: As for :func:`audit`.
        settings: Settings.
        features: Descriptors or their names; those of the settings by default.
        groups: As for :func:`audit`.
        cache: As for :func:`audit`.
        device: As for :func:`audit`.
        progress: As for :func:`audit`.
        ranks: As for :func:`audit`.

    Returns:
        The examination.

    Raises:
        ValueError: As :func:`audit`.
    """
    store = None if cache is None else FeatureCache(cache)

    def note(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(stage, done, total)

    note("loading", 0, 1)
    inputs = prepare(
        generated,
        train,
        heldout,
        settings.duplicate_tolerance,
        groups=groups,
        drop_overlap=settings.drop_overlap,
        ranks=ranks,
    )
    note("loading", 1, 1)
    descriptors = choose(settings.features if features is None else features, inputs.train)
    settings = replace(settings, features=tuple(one.name for one in descriptors))
    evidence = []
    for position, descriptor in enumerate(descriptors):
        note("tests", position, len(descriptors))
        seen = _describe(descriptor, inputs, settings, store, device, note, ranks)
        evidence.append(_compete(descriptor, seen, inputs, settings, ranks))
    note("tests", len(descriptors), len(descriptors))
    decision = judge(evidence, inputs, settings)
    decisive = next((e for e in evidence if e.name == decision.descriptor), evidence[0])
    return Examination(
        inputs, settings, tuple(evidence), decision, flagged_samples(decisive, decision)
    )


def judge(evidence: Sequence[Evidence], inputs: AuditInputs, settings: AuditSettings) -> Verdict:
    """Apply the rule to the evidence.

    Args:
        evidence: What the descriptors say.
        inputs: The sets.
        settings: Settings of the audit.

    Returns:
        The verdict.
    """
    samples = len(inputs.generated)
    if inputs.heldout is None:
        return undecidable(
            "There are no held-out data, so copies cannot be told from values that repeat by "
            "nature, nor from samples that are typical: give data of the same source that the "
            "model has not seen.",
            samples_on_train=inputs.samples_on_train,
            samples=samples,
            level=settings.level,
            resolution=settings.resolution,
        )
    tests = {}
    for one in evidence:
        assert one.tests is not None and one.exchangeability is not None
        tests[one.name] = DescriptorTest.of(one.tests, one.exchangeability)
    overlap = inputs.overlap
    doubts: tuple[str, ...] = ()
    if overlap.p_value <= 0.01 and not overlap.dropped:
        doubts = (
            f"{overlap.samples} samples equal values that train and held-out share, where about "
            f"{overlap.expected:.0f} would by chance: the split has leaked, and copies of these "
            "values cannot be told from fresh data. Drop the overlap, or split anew.",
        )
    return decide(
        tests,
        samples=samples,
        level=settings.level,
        resolution=settings.resolution,
        problems=inputs.problems,
        doubts=doubts,
    )


def _measuring(note: Progress, name: str, title: str) -> None:
    note(f"{name}: {title}", 0, 1)


def _name(asked: str | Descriptor) -> str:
    if isinstance(asked, Descriptor):
        return asked.name
    return asked if asked == "auto" else parse_descriptor(asked).name


def _describe(
    descriptor: Descriptor,
    inputs: AuditInputs,
    settings: AuditSettings,
    store: FeatureCache | None,
    device: torch.device | str | None,
    note: Progress,
    ranks: Ranks | None,
) -> Features:
    """The sets, and their transformed versions, as one descriptor sees them."""
    fitted = descriptor.fit(inputs.train)
    asked = [one for one in (settings.invariance, descriptor.invariance) if one is not None]
    transforms = (
        parse_invariance(",".join(dict.fromkeys(",".join(asked).split(",")))) if (asked) else None
    )
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
    return Features(
        descriptor.name,
        fitted.metric,
        {**fitted.settings, "fingerprint": fitted.fingerprint},
        rows,
        versions,
        transforms,
    )


def _features(
    fitted: Descriptor,
    data: Dataset,
    store: FeatureCache | None,
    device: torch.device | str | None,
    progress: Callable[[int, int], None],
    ranks: Ranks | None,
) -> Tensor | Rows:
    if store is not None:
        return store.features(fitted, data, device=device, progress=progress, ranks=ranks)
    return fitted.features(data, device=device, progress=progress, ranks=ranks)


def _compete(
    descriptor: Descriptor,
    seen: Features,
    inputs: AuditInputs,
    settings: AuditSettings,
    ranks: Ranks | None,
) -> Evidence:
    """The evidence of one descriptor, after registration where it asks for that."""
    refine = None
    if descriptor.registers and inputs.train.kind == "images" and inputs.heldout is not None:
        refine = partial(register, sets=inputs.sets, compared=inputs.compared, ranks=ranks)
    return test(
        seen,
        inputs.compared,
        groups=inputs.groups,
        kin=inputs.kin,
        settings=settings,
        refine=refine,
        ranks=ranks,
    )


def _whole(evidence: Evidence, inputs: AuditInputs) -> Any:  # noqa: ANN401
    return evidence.features.distances(
        duplicates={"train": inputs.duplicates.labels}, ranks=evidence.distances.ranks
    )
