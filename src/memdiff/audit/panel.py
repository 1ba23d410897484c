"""The measurements beside the verdict: published metrics, each with what it says.

To add one, write it in :mod:`memdiff.metrics` and give it an :class:`Entry` in :data:`PANEL`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from memdiff.audit.settings import AuditSettings
from memdiff.metrics import (
    Distances,
    MetricResult,
    authenticity,
    calibrated_l2,
    data_copying,
    fidelity,
    fld,
    maximal_similarity,
    ratio,
    vendi,
)
from memdiff.sources import Rows

__all__ = ["PANEL", "Entry", "Measurement"]

# FLD fits a mixture with one component per sample: above this many points per set is subsampled.
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
class Entry:
    """A metric of the panel.

    Attributes:
        title: What reports call it.
        run: Measures, from distances, features of each set and the settings of the audit.
        meaning: What the value says, and which end is suspicious.
        reference: Key of the reference; empty for none.
        only: The distance that it needs, or None for any.
    """

    title: str
    run: Callable[[Distances, Mapping[str, Tensor | Rows], AuditSettings], MetricResult]
    meaning: str
    reference: str = ""
    only: str | None = None

    def measure(
        self, found: Distances, features: Mapping[str, Tensor | Rows], settings: AuditSettings
    ) -> Measurement:
        """Measure, or say in a sentence why these data do not admit it."""
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


PANEL: tuple[Entry, ...] = (
    Entry(
        "ratio test d1/d2",
        lambda found, _, settings: ratio(distances=found, threshold=settings.ratio_threshold),
        "share of samples much closer to one training point than to the next; high is suspicious, "
        "but in few dimensions it is high by chance",
        "Y23",
    ),
    Entry(
        "calibrated L2",
        lambda found, _, settings: calibrated_l2(distances=found),
        "share of samples below a cut that belongs to CIFAR-10; compare with the null only",
        "Carlini23",
        only="euclidean",
    ),
    Entry(
        "maximal cosine similarity",
        lambda found, _, settings: maximal_similarity(distances=found),
        "share of samples above the similarity bound; bounds do not carry over between "
        "descriptors, compare with the null",
        "Somepalli23",
        only="cosine",
    ),
    Entry(
        "authenticity",
        lambda found, _, settings: authenticity(distances=found),
        "low is suspicious; its value without copying depends on dimension and sizes, compare "
        "with the null and never with one half",
        "A22",
    ),
    Entry(
        "data copying C_T",
        lambda found, _, settings: data_copying(distances=found, seed=settings.seed),
        "far below 0 is copying everywhere, far above 0 is too much variance; blind to rare "
        "copying",
        "M20",
    ),
    Entry(
        "FLD",
        _fld,
        "likelihood of held-out data under the samples; high is bad. Its gap, train minus "
        "held-out, is far below 0 when the samples overfit",
        "J23",
    ),
    Entry(
        "precision, recall, density, coverage",
        lambda found, _, settings: fidelity(distances=found, seed=settings.seed),
        "coverage (the value), recall: low is collapse, which is no memorisation; precision, "
        "density: low is noise",
        "N20",
    ),
    Entry(
        "Vendi score",
        lambda found, features, settings: vendi(
            generated=features["generated"], train=features["train"], seed=settings.seed
        ),
        "effective number of different samples; far below that of the data is collapse",
        "Friedman23",
    ),
)
