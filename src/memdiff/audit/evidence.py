"""Everything that one descriptor has to say: tests, measurements, and where they failed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memdiff.audit.clumping import Clumping, clumping
from memdiff.audit.flagging import flag
from memdiff.audit.settings import AuditSettings
from memdiff.audit.verdict import DescriptorTest
from memdiff.metrics import (
    Conformal,
    Distances,
    Exceedance,
    ExcessCopies,
    Exchange,
    MetricResult,
    authenticity,
    calibrated_l2,
    conformal_local,
    data_copying,
    exceedance,
    excess_copies,
    exchange,
    fidelity,
    fld,
    maximal_similarity,
    ratio,
    vendi,
)
from memdiff.metrics.closeness import Reference, Statistic
from memdiff.ranks import Ranks
from memdiff.sources import Rows

__all__ = ["Evidence", "Measurement", "Tests", "measure", "run_tests"]

# FLD fits a mixture with one component a sample: above this many points a set is subsampled.
_FLD_POINTS = 2000


@dataclass(frozen=True)
class Measurement:
    """A metric beside the verdict.

    Attributes:
        title: What reports call it.
        result: The result, or None where it could not be computed.
        problem: Why not, or what to mind, in a sentence; empty where there is nothing to say.
        meaning: What the value says, and which end is suspicious.
        reference: Key of the reference.
    """

    title: str
    result: MetricResult | None
    problem: str
    meaning: str
    reference: str


@dataclass(frozen=True)
class Tests:
    """The tests of one descriptor: all that the verdict rests on, and the flagged lists.

    Attributes:
        summary: What the verdict needs.
        by_distance: Exceedance test of the distance to train.
        by_scale: Exceedance test on the local scale.
        shares: Exchange test, or None without held-out data.
        copies: Excess copies at the 1 % quantile of the reference: the headline.
        closest: Excess copies below the closest reference point: the upper bound.
        flags: Conformal p-values, the larger of those by distance and on the local scale, and the
            flagged list; the scores are distances.
        local_flags: Those on the local scale alone, or None without held-out data.
        clumping: How far the samples repeat each other.
    """

    summary: DescriptorTest
    by_distance: Exceedance
    by_scale: Exceedance
    shares: Exchange | None
    copies: ExcessCopies
    closest: ExcessCopies
    flags: Conformal
    local_flags: Conformal | None
    clumping: Clumping


def run_tests(found: Distances, settings: AuditSettings) -> Tests:
    """Run the tests: what :func:`memdiff.audit.self_check` calibrates is what an audit runs.

    Args:
        found: The distances.
        settings: Settings of the audit.

    Returns:
        The tests.
    """
    has_heldout = found.has_heldout and found.size("heldout") >= 2
    reference: Reference = "heldout" if has_heldout else "train"
    local: Statistic = "local" if has_heldout else "ratio"
    size = found.size(reference)
    common: dict[str, Any] = {
        "distances": found,
        "reference": reference,
        "seed": settings.seed,
    }
    by_distance = exceedance(**common)
    by_scale = exceedance(**common, statistic=local)
    shares = exchange(distances=found, seed=settings.seed) if has_heldout else None
    copies = excess_copies(**common, quantile=0.01)
    closest = excess_copies(**common, quantile=1.0 / (size + 1))
    rate = settings.false_discovery_rate
    flags = flag(found, reference, local, rate)
    local_flags = (
        conformal_local(distances=found, false_discovery_rate=rate) if has_heldout else None
    )
    clumps = clumping(found, reference)
    assert copies.interval is not None and closest.interval is not None
    summary = DescriptorTest(
        p_distance=clumps.p_value(by_distance, size),
        p_local=clumps.p_value(by_scale, size),
        p_share=None if shares is None else shares.p_value,
        copied=copies.value,
        copied_low=copies.interval.low,
        copied_high=copies.interval.high,
        upper_bound=closest.interval.high,
    )
    return Tests(
        summary=summary,
        by_distance=by_distance,
        by_scale=by_scale,
        shares=shares,
        copies=copies,
        closest=closest,
        flags=flags,
        local_flags=local_flags,
        clumping=clumps,
    )


@dataclass(frozen=True)
class Evidence:
    """What one descriptor says.

    Attributes:
        name: The descriptor.
        settings: How the features were made, with a fingerprint.
        metric: ``"euclidean"`` or ``"cosine"``.
        test: What the verdict needs.
        by_distance: Exceedance test of the distance to train.
        by_scale: Exceedance test on the local scale.
        shares: Exchange test, or None without held-out data.
        copies: Excess copies at the 1 % quantile of the reference: the headline.
        closest: Excess copies below the closest reference point: the upper bound.
        flags: Conformal p-values, the larger of those by distance and on the local scale, and the
            flagged list; the scores are distances.
        local_flags: Those on the local scale alone, or None without held-out data.
        clumping: How far the samples repeat each other.
        measurements: Further metrics.
        distances: The searches behind it all.
        variant: For each sample the transform under which it is closest, as an index.
    """

    name: str
    settings: Mapping[str, Any]
    metric: str
    test: DescriptorTest
    by_distance: Exceedance
    by_scale: Exceedance
    shares: Exchange | None
    copies: ExcessCopies
    closest: ExcessCopies
    flags: Conformal
    local_flags: Conformal | None
    clumping: Clumping
    measurements: Sequence[Measurement]
    distances: Distances
    variant: Tensor


def measure(
    name: str,
    features: Mapping[str, Tensor | Rows],
    variants: Mapping[str, Sequence[Tensor | Rows]],
    *,
    metric: str,
    tolerance: float,
    descriptor_settings: Mapping[str, Any],
    settings: AuditSettings,
    progress: Callable[[str], None] | None = None,
    ranks: Ranks | None = None,
) -> Evidence:
    """Measure the features of one descriptor.

    Args:
        name: The descriptor.
        features: Rows ``(N, e)`` of ``generated``, ``train`` and, if there is one, ``heldout``.
        variants: Rows of transformed versions of each set, in the order of the invariance.
        metric: ``"euclidean"`` or ``"cosine"``.
        tolerance: Distance of duplicates in these features.
        descriptor_settings: How the features were made.
        settings: Settings of the audit.
        progress: Receives the name of each measurement before it is made.
        ranks: Processes that share the searches; each makes the same call.

    Returns:
        The evidence.
    """

    def note(stage: str) -> None:
        if progress is not None:
            progress(stage)

    found = Distances(
        generated=features["generated"],
        train=features["train"],
        heldout=features.get("heldout"),
        metric=metric,
        tolerance=tolerance,
        variants=variants,
        ranks=ranks,
    )
    note("tests")
    tests = run_tests(found, settings)
    measurements = []
    for entry in _PANEL:
        note(entry.title)
        if entry.only is not None and metric != entry.only:
            continue
        measurements.append(entry.measure(found, features, settings))
    return Evidence(
        name=name,
        settings=descriptor_settings,
        metric=metric,
        test=tests.summary,
        by_distance=tests.by_distance,
        by_scale=tests.by_scale,
        shares=tests.shares,
        copies=tests.copies,
        closest=tests.closest,
        flags=tests.flags,
        local_flags=tests.local_flags,
        clumping=tests.clumping,
        measurements=tuple(measurements),
        distances=found,
        variant=_closest_variant(features, variants, found, metric),
    )


def _closest_variant(
    features: Mapping[str, Tensor | Rows],
    variants: Mapping[str, Sequence[Tensor | Rows]],
    found: Distances,
    metric: str,
) -> Tensor:
    """Which version of each sample is nearest to its nearest training point."""
    versions = (features["generated"], *variants.get("generated", ()))
    closest: list[Tensor] = []
    for index in found.to_train("generated").indices[:, 0].split(1024):
        target = features["train"][index].to(torch.float64)
        start = len(closest) * 1024
        apart = []
        for version in versions:
            rows = version[start : start + len(index)].to(torch.float64)
            if metric == "cosine":
                apart.append(-torch.cosine_similarity(rows, target, dim=1))
            else:
                apart.append((rows - target).norm(dim=1))
        closest.append(torch.stack(apart).argmin(0))
    return torch.cat(closest)


@dataclass(frozen=True)
class _Entry:
    """One line of the panel of further metrics."""

    title: str
    run: Callable[[Distances, Mapping[str, Tensor | Rows], AuditSettings], MetricResult]
    meaning: str
    reference: str
    only: str | None = None

    def measure(
        self, found: Distances, features: Mapping[str, Tensor | Rows], settings: AuditSettings
    ) -> Measurement:
        result, problem = None, ""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = self.run(found, features, settings)
            except ValueError as error:
                # A metric that these data do not admit; the report says why.
                problem = str(error)
        if caught and not problem:
            problem = str(caught[0].message)
        return Measurement(self.title, result, problem, self.meaning, self.reference)


def _fld(
    found: Distances, features: Mapping[str, Tensor | Rows], settings: AuditSettings
) -> MetricResult:
    found.require_heldout("FLD")
    generator = torch.Generator().manual_seed(settings.seed)
    generated, train, heldout = (
        rows[torch.randperm(len(rows), generator=generator)[:_FLD_POINTS].sort().values]
        for rows in (features["generated"], features["train"], features["heldout"])
    )
    return fld(generated=generated, train=train, heldout=heldout, seed=settings.seed)


_PANEL: tuple[_Entry, ...] = (
    _Entry(
        "ratio test d1/d2",
        lambda found, _, settings: ratio(distances=found, threshold=settings.ratio_threshold),
        "share of samples much closer to one training point than to the next; high is suspicious, "
        "but in few dimensions it is high by chance",
        "Y23",
    ),
    _Entry(
        "calibrated L2",
        lambda found, _, settings: calibrated_l2(distances=found),
        "share of samples below a cut that belongs to CIFAR-10; compare with the null only",
        "Carlini23",
        only="euclidean",
    ),
    _Entry(
        "maximal cosine similarity",
        lambda found, _, settings: maximal_similarity(distances=found),
        "share of samples above the similarity bound; bounds do not carry over between "
        "descriptors, compare with the null",
        "Somepalli23",
        only="cosine",
    ),
    _Entry(
        "authenticity",
        lambda found, _, settings: authenticity(distances=found),
        "low is suspicious; its value without copying depends on dimension and sizes, compare "
        "with the null and never with one half",
        "A22",
    ),
    _Entry(
        "data copying C_T",
        lambda found, _, settings: data_copying(distances=found, seed=settings.seed),
        "far below 0 is copying everywhere, far above 0 is too much variance; blind to rare "
        "copying",
        "M20",
    ),
    _Entry(
        "FLD",
        _fld,
        "likelihood of held-out data under the samples; high is bad. Its gap, train minus "
        "held-out, is far below 0 when the samples overfit",
        "J23",
    ),
    _Entry(
        "precision, recall, density, coverage",
        lambda found, _, settings: fidelity(distances=found, seed=settings.seed),
        "coverage (the value), recall: low is collapse, which is no memorisation; precision, "
        "density: low is noise",
        "N20",
    ),
    _Entry(
        "Vendi score",
        lambda found, features, settings: vendi(
            generated=features["generated"], train=features["train"], seed=settings.seed
        ),
        "effective number of different samples; far below that of the data is collapse",
        "Friedman23",
    ),
)
