"""The examination: from the sets to the verdict, stage by stage.

:func:`examine` is the method of an audit and reads like it; measurements, pairs and pages come
after it and change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from memdiff.audit.belonging import GroupsSource
from memdiff.audit.choosing import choose
from memdiff.audit.evidence import Evidence, Features, test
from memdiff.audit.inputs import AuditInputs, Source, prepare
from memdiff.audit.pairing import flagged_samples
from memdiff.audit.registration import register
from memdiff.audit.settings import AuditSettings
from memdiff.audit.verdict import DescriptorTest, Verdict, decide, undecidable
from memdiff.data import Dataset
from memdiff.features import Descriptor, FeatureCache, parse_invariance
from memdiff.run.ranks import Ranks
from memdiff.sources import Rows

__all__ = ["Examination", "Means", "Progress", "examine", "judge"]

Progress = Callable[[str, int, int], None]
"""Receives (stage, done, total)."""


@dataclass(frozen=True)
class Means:
    """With what an audit computes; no result depends on it.

    Attributes:
        cache: Keeps computed features, or None.
        device: Where learned descriptors compute.
        progress: Receives what is being done, or None.
        ranks: Processes that share features and searches.
    """

    cache: FeatureCache | None = None
    device: torch.device | str | None = None
    progress: Progress | None = None
    ranks: Ranks | None = None

    def note(self, stage: str, done: int, total: int) -> None:
        """Report a stage."""
        if self.progress is not None:
            self.progress(stage, done, total)


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


def examine(
    generated: Source,
    train: Source,
    heldout: Source | None,
    settings: AuditSettings,
    *,
    features: Sequence[str | Descriptor] | None = None,
    groups: GroupsSource | None = None,
    means: Means | None = None,
) -> Examination:
    """Reach the verdict of an audit: all that decides, and nothing beside it.

    Args:
        generated: As for :func:`memdiff.audit.audit`.
        train: Likewise.
        heldout: Likewise.
        settings: What is asked.
        features: Descriptors or their names; those of the settings by default.
        groups: As for :func:`memdiff.audit.audit`.
        means: With what to compute.

    Returns:
        The examination.

    Raises:
        ValueError: As :func:`memdiff.audit.audit`.
    """
    means = Means() if means is None else means

    # The three sets, made comparable; overlap, duplicates and groups are found on the way.
    means.note("loading", 0, 1)
    inputs = prepare(
        generated,
        train,
        heldout,
        settings.duplicate_tolerance,
        groups=groups,
        drop_overlap=settings.drop_overlap,
        ranks=means.ranks,
    )
    means.note("loading", 1, 1)

    # What they are looked at with.
    descriptors = choose(settings.features if features is None else features, inputs.train)
    settings = replace(settings, features=tuple(one.name for one in descriptors))

    # In the features of each descriptor, training points and held-out decoys compete.
    evidence = []
    for position, descriptor in enumerate(descriptors):
        means.note("tests", position, len(descriptors))
        seen = _describe(descriptor, inputs, settings, means)
        evidence.append(_compete(descriptor, seen, inputs, settings, means.ranks))
    means.note("tests", len(descriptors), len(descriptors))

    # The rule, and the samples that count as copies.
    decision = judge(evidence, inputs, settings)
    decisive = next((e for e in evidence if e.name == decision.descriptor), evidence[0])
    flagged = flagged_samples(decisive, decision)
    return Examination(inputs, settings, tuple(evidence), decision, flagged)


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


def _describe(
    descriptor: Descriptor, inputs: AuditInputs, settings: AuditSettings, means: Means
) -> Features:
    """The sets, and their transformed versions, as one descriptor sees them."""
    fitted = descriptor.fit(inputs.train)
    asked = [one for one in (settings.invariance, descriptor.invariance) if one is not None]
    names = dict.fromkeys(",".join(asked).split(",")) if asked else {}
    transforms = parse_invariance(",".join(names)) if names else None
    compute = fitted.features if means.cache is None else partial(means.cache.features, fitted)
    rows: dict[str, Tensor | Rows] = {}
    versions: dict[str, list[Tensor | Rows]] = {}
    for name, data in inputs.sets.items():
        sets: list[tuple[str, Dataset]] = [(name, data)]
        if transforms is not None:
            sets = list(transforms.variants(data))
        found = [
            compute(
                version,
                device=means.device,
                progress=partial(means.note, "features"),
                ranks=means.ranks,
            )
            for _, version in sets
        ]
        rows[name] = found[0]
        if len(found) > 1:
            versions[name] = found[1:]
    return Features(
        descriptor.name,
        fitted.metric,
        {**fitted.settings, "fingerprint": fitted.fingerprint},
        rows,
        versions,
        transforms,
    )


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
