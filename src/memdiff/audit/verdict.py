r"""The rule that turns evidence into a verdict.

For each descriptor, with held-out data,

- :math:`p_{copy}` is the larger of two exceedance p-values, on the distance to train and on the
  local scale :math:`d(g, train)/d(g, heldout)`, each corrected over its ranks. Both have to
  reject: a model with too little variance moves the first alone. Samples that repeat each other
  count once (:mod:`memdiff.audit.clumping`): a model that has collapsed to a few fresh points
  would pass for a copier where one of them happens to be close.
- :math:`p_{share}` is the exchange test, which sees many slight copies that are no outliers.
- :math:`p = \min(1, 2 \min(p_{copy}, p_{share}))`.

Without held-out data the training points, each seen by the others, take their place;
:math:`p = p_{copy}` with the ratio :math:`d_1/d_2` as the local scale, approximately valid.

Over :math:`D` descriptors the smallest :math:`D p` decides (Bonferroni):

- **memorizing**: :math:`\min D p \le` level.
- **not detected**: otherwise, if the upper confidence bound of the share of samples that are
  closer to train than every reference point is at most the resolution. Zero hits is not zero
  rate: the bound is part of the verdict.
- **inconclusive**: otherwise. The data would not have shown copying at the resolution; the
  verdict says what would.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "DescriptorTest",
    "Verdict",
    "VerdictName",
    "decide",
    "heldout_needed",
    "samples_needed",
]

VerdictName = Literal["memorizing", "not detected", "inconclusive"]


@dataclass(frozen=True)
class DescriptorTest:
    """What the rule needs to know from one descriptor.

    Attributes:
        p_distance: Exceedance p-value of the distance to train, corrected over ranks and for
            samples that repeat each other.
        p_local: The same on the local scale.
        p_share: p-value of the exchange test, or None without held-out data.
        copied: Estimated share of copies beyond what reference data show; may be negative.
        copied_low: Lower confidence limit of it.
        copied_high: Upper confidence limit of it.
        upper_bound: Upper confidence limit of the share of samples closer to train than every
            reference point.
    """

    p_distance: float
    p_local: float
    p_share: float | None
    copied: float
    copied_low: float
    copied_high: float
    upper_bound: float

    @property
    def p_copy(self) -> float:
        """Both exceedance tests have to reject."""
        return max(self.p_distance, self.p_local)

    @property
    def p_value(self) -> float:
        """The p-value of the descriptor."""
        if self.p_share is None:
            return self.p_copy
        return min(1.0, 2.0 * min(self.p_copy, self.p_share))


@dataclass(frozen=True)
class Verdict:
    """The verdict.

    Attributes:
        name: ``"memorizing"``, ``"not detected"`` or ``"inconclusive"``.
        p_value: The p-value that decided, corrected over descriptors and tests.
        level: The false-positive rate that it was compared with.
        descriptor: The descriptor with the smallest p-value.
        copied: Estimated copied fraction of that descriptor, cut at 0.
        copied_low: Its lower confidence limit, cut at 0.
        copied_high: Its upper confidence limit, cut at 0.
        upper_bound: Largest upper bound over the descriptors.
        resolution: The copied fraction that should not go unseen.
        sentence: The verdict in words with its numbers.
    """

    name: VerdictName
    p_value: float
    level: float
    descriptor: str
    copied: float
    copied_low: float
    copied_high: float
    upper_bound: float
    resolution: float
    sentence: str


def decide(
    tests: Mapping[str, DescriptorTest],
    *,
    samples: int,
    reference: int,
    has_heldout: bool,
    level: float,
    resolution: float,
) -> Verdict:
    """Apply the rule.

    Args:
        tests: One test a descriptor, by its name.
        samples: Number of samples M.
        reference: Number of held-out points, or of training points in their place.
        has_heldout: Whether the reference is held-out data.
        level: False-positive rate of the verdict.
        resolution: Copied fraction that should not go unseen.

    Returns:
        The verdict.
    """
    descriptor = min(tests, key=lambda name: tests[name].p_value)
    test = tests[descriptor]
    p_value = min(1.0, len(tests) * test.p_value)
    bound = max(0.0, *(other.upper_bound for other in tests.values()))
    name: VerdictName = "inconclusive"
    if p_value <= level:
        name = "memorizing"
    elif bound <= resolution:
        name = "not detected"
    copied, low, high = (
        max(0.0, value) for value in (test.copied, test.copied_low, test.copied_high)
    )
    with_what = "held-out data" if has_heldout else "the training data among themselves"
    if name == "memorizing":
        seen = f" in the features {descriptor}" if len(tests) > 1 else ""
        if test.p_copy <= (test.p_share if test.p_share is not None else 1.0):
            what = (
                f"An estimated {copied:.1%} of the samples ({low:.1%} to {high:.1%}) are closer "
                f"to the training data than {with_what} would be{seen}"
            )
        else:
            what = (
                "The samples lie nearer to the training points than to held-out points more often "
                f"than chance allows{seen}, though few of them are outright copies "
                f"({copied:.1%}; {low:.1%} to {high:.1%})"
            )
        sentence = f"{what} (p = {_p(p_value)})."
    elif name == "not detected":
        sentence = (
            f"No sign of copying (p = {_p(p_value)}). These data allow a copied fraction of up to "
            f"{bound:.2%}, below the resolution of {resolution:.1%}."
        )
    else:
        sentence = (
            f"No sign of copying (p = {_p(p_value)}), but these data cannot exclude a copied "
            f"fraction of {bound:.1%}, above the resolution of {resolution:.1%}. "
            f"{_what_would_decide(samples, reference, has_heldout, resolution)}"
        )
    return Verdict(
        name=name,
        p_value=p_value,
        level=level,
        descriptor=descriptor,
        copied=copied,
        copied_low=low,
        copied_high=high,
        upper_bound=bound,
        resolution=resolution,
        sentence=sentence,
    )


def samples_needed(resolution: float, confidence: float = 0.95) -> int:
    """Samples for which no hit at all bounds the copied fraction by half the resolution.

    Half, because the reference points themselves let a few samples through.
    """
    tail = (1.0 - confidence) / 2.0
    return math.ceil(math.log(tail) / math.log1p(-resolution / 2.0))


def heldout_needed(resolution: float) -> int:
    """Held-out points for which a fresh sample beats them all with an eighth of the resolution."""
    return math.ceil(8.0 / resolution)


def _what_would_decide(samples: int, reference: int, has_heldout: bool, resolution: float) -> str:
    wanted_samples, wanted_reference = samples_needed(resolution), heldout_needed(resolution)
    missing = []
    if samples < wanted_samples:
        missing.append(f"about {wanted_samples} samples instead of {samples}")
    if reference < wanted_reference:
        kind = "held-out points" if has_heldout else "training or held-out points"
        missing.append(f"about {wanted_reference} {kind} instead of {reference}")
    if not missing:
        return "More samples and more held-out points would decide."
    return f"It would take {' and '.join(missing)} to decide."


def _p(value: float) -> str:
    if value < 1e-300:
        return "below 1e-300"
    return f"{value:.2g}" if value >= 1e-4 else f"{value:.0e}"
