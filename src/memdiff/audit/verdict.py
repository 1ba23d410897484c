r"""The rule that turns evidence into a verdict.

For each descriptor, one competition between training points and held-out decoys
(:mod:`memdiff.metrics.competition`) gives a p-value of copies, :math:`p_{copy}` (tail test, local
exceedance, repeated cell), and one of nearness, :math:`p_{share}`, both corrected for their share
of the level (:mod:`memdiff.metrics.copying`). Over :math:`D` descriptors each counts :math:`D`
times (Bonferroni). Then

- **inconclusive**, whatever the tests say, where they do not apply: there are no held-out data,
  they are the training data, or train and held-out are not exchangeable (p at most 0.01 / D by
  :mod:`memdiff.metrics.exchangeability`);
- **memorizing**: a p-value is at most the level, and there are copies: the lower limit of the
  copied fraction at ratio 1/3 is above 0, or the repeated cell rejects, or a test for copies
  rejects and the share test does not (a few samples stand out, and the rest are as fresh data);
- **overfitting**: a p-value is at most the level, and there are none: samples follow their
  training points as a whole, as those of a wide kernel density do;
- **not detected**: no p-value is, and copies would have been seen: the upper limit of the copied
  fraction is at most the resolution, at the closeness that the verdict states;
- **inconclusive**: otherwise, with what would decide.

Where train and held-out are exchangeable, "memorizing" and "overfitting" together are wrong with
probability at most the level by the tail and share tests (exact), and under their stated
assumptions by the other two; ``docs/calibration.md`` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from memdiff.metrics import CopyingTests, Exchangeability

__all__ = [
    "NOT_EXCHANGEABLE",
    "DescriptorTest",
    "Verdict",
    "VerdictName",
    "decide",
    "samples_needed",
    "undecidable",
]

VerdictName = Literal["memorizing", "overfitting", "not detected", "inconclusive"]

NOT_EXCHANGEABLE = 0.01
"""p-value of the exchangeability test up to which no verdict is given, shared by descriptors."""


@dataclass(frozen=True)
class DescriptorTest:
    """What the rule needs to know from one descriptor.

    Attributes:
        p_copy: p-value of the tests for copies, corrected for their number.
        p_share: p-value of the share test, likewise.
        p_cell: p-value of the repeated cell, likewise (part of ``p_copy``).
        p_exchangeable: p-value of the exchangeability of train and held-out.
        copied: Estimated copied fraction at ``ratio``; may be negative.
        copied_low: Lower confidence limit of it.
        copied_high: Upper confidence limit of it.
        ratio: Closeness :math:`d_1/d_2` of a copy.
        flagged: Share of the samples on the flagged list.
        repeated: Share of the samples in the repeated cell.
        nearer: Share of the samples that fall on training points.
        nearer_expected: The same by chance.
        tail_ratio: Closeness at the best cut of the tail test.
        upper_bound: Upper confidence limit of the copied fraction at ``upper_ratio``.
        upper_ratio: The largest closeness at which the resolution can be seen.
    """

    p_copy: float
    p_share: float
    p_cell: float
    p_exchangeable: float
    copied: float
    copied_low: float
    copied_high: float
    ratio: float
    flagged: float
    repeated: float
    nearer: float
    nearer_expected: float
    tail_ratio: float
    upper_bound: float
    upper_ratio: float

    @classmethod
    def of(cls, tests: CopyingTests, exchangeability: Exchangeability) -> DescriptorTest:
        """The summary of tests."""
        fraction, resolved = tests.fraction, tests.resolved
        assert fraction.interval is not None and resolved.interval is not None
        assert tests.share.null is not None
        return cls(
            p_copy=tests.p_copy,
            p_share=tests.p_share,
            p_cell=tests.p_cell,
            p_exchangeable=exchangeability.p_value,
            copied=fraction.value,
            copied_low=fraction.interval.low,
            copied_high=fraction.interval.high,
            ratio=fraction.ratio,
            flagged=tests.list.value,
            repeated=0.0 if tests.cell is None else tests.cell.value,
            nearer=tests.share.value,
            nearer_expected=tests.share.null.value,
            tail_ratio=tests.tail.ratio,
            upper_bound=resolved.interval.high,
            upper_ratio=resolved.ratio,
        )

    @property
    def p_value(self) -> float:
        """The p-value of the descriptor."""
        return min(self.p_copy, self.p_share)

    def has_copies(self, level: float) -> bool:
        """Whether what was found are copies, if a test rejects at this level."""
        return (
            self.copied_low > 0.0 or self.p_cell <= level or (self.p_copy <= level < self.p_share)
        )


@dataclass(frozen=True)
class Verdict:
    """The verdict.

    Attributes:
        name: ``"memorizing"``, ``"overfitting"``, ``"not detected"`` or ``"inconclusive"``.
        p_value: The p-value that decided, corrected over descriptors and tests; 1 where the
            tests do not apply.
        level: The false-positive rate that it was compared with.
        descriptor: The descriptor that decided; empty where there was no test.
        copied: Estimated copied fraction of that descriptor, cut at 0.
        copied_low: Its lower confidence limit.
        copied_high: Its upper confidence limit.
        ratio: The closeness :math:`d_1/d_2` that these are for.
        upper_bound: Largest upper limit of the copied fraction over the descriptors.
        upper_ratio: The closeness that it is for.
        resolution: The copied fraction that should not go unseen.
        sentence: The verdict in words with its numbers.
        reasons: Why the tests do not apply; empty where they do.
    """

    name: VerdictName
    p_value: float
    level: float
    descriptor: str
    copied: float
    copied_low: float
    copied_high: float
    ratio: float
    upper_bound: float
    upper_ratio: float
    resolution: float
    sentence: str
    reasons: tuple[str, ...] = ()


def decide(
    tests: Mapping[str, DescriptorTest],
    *,
    samples: int,
    level: float,
    resolution: float,
    problems: Sequence[str] = (),
    doubts: Sequence[str] = (),
) -> Verdict:
    """Apply the rule.

    Args:
        tests: One test per descriptor, by its name; at least one.
        samples: Number of samples M.
        level: False-positive rate of the verdict.
        resolution: Copied fraction that should not go unseen.
        problems: Reasons why the tests do not apply, as sentences.
        doubts: Reasons why an absence of evidence does not count, as sentences.

    Returns:
        The verdict.
    """
    many = len(tests)
    found = {name: _corrected(test, many) for name, test in tests.items()}
    reasons = [*problems, *_not_exchangeable(found)]
    smallest = min(found, key=lambda name: found[name].p_value)
    rejecting = [name for name, test in found.items() if test.p_value <= level]
    copying = [name for name in rejecting if found[name].has_copies(level)]
    descriptor = min(copying or [smallest], key=lambda name: found[name].p_value)
    test = found[descriptor]
    loosest = max(found.values(), key=lambda other: other.upper_bound)
    name: VerdictName = "inconclusive"
    if reasons:
        sentence = " ".join(reasons)
    elif copying:
        name = "memorizing"
        sentence = _memorizing(test, level, _seen_in(descriptor, many))
    elif rejecting:
        name = "overfitting"
        sentence = _overfitting(test, _seen_in(descriptor, many))
    elif doubts:
        sentence = " ".join([f"No sign of copying (p = {_p(test.p_value)}).", *doubts])
    elif loosest.upper_bound <= resolution:
        name = "not detected"
        sentence = (
            f"No sign of copying (p = {_p(test.p_value)}). Copies {_closer(loosest.upper_ratio)} "
            f"make up at most {loosest.upper_bound:.2%} of the samples, less than the resolution "
            f"of {resolution:.1%}."
        )
    else:
        sentence = (
            f"No sign of copying (p = {_p(test.p_value)}), but these data cannot exclude that "
            f"{loosest.upper_bound:.1%} of the samples are copies {_closer(loosest.upper_ratio)}, "
            f"more than the resolution of {resolution:.1%}. "
            f"{_what_would_decide(samples, resolution)}"
        )
    return Verdict(
        name=name,
        p_value=1.0 if reasons else test.p_value,
        level=level,
        descriptor=descriptor,
        copied=max(0.0, test.copied),
        copied_low=test.copied_low,
        copied_high=test.copied_high,
        ratio=test.ratio,
        upper_bound=loosest.upper_bound,
        upper_ratio=loosest.upper_ratio,
        resolution=resolution,
        sentence=sentence,
        reasons=tuple(reasons),
    )


def undecidable(
    reason: str, *, samples_on_train: int, samples: int, level: float, resolution: float
) -> Verdict:
    """The verdict where there are no held-out data.

    Args:
        reason: Why, in a sentence.
        samples_on_train: Number of samples that equal a training point.
        samples: Number of samples.
        level: As in :func:`decide`.
        resolution: As in :func:`decide`.

    Returns:
        An inconclusive verdict.
    """
    if samples_on_train:
        reason += (
            f" {samples_on_train} of the {samples} samples equal a training point in every value: "
            "look at the pairs."
        )
    return Verdict(
        name="inconclusive",
        p_value=1.0,
        level=level,
        descriptor="",
        copied=0.0,
        copied_low=0.0,
        copied_high=1.0,
        ratio=1.0 / 3.0,
        upper_bound=1.0,
        upper_ratio=1.0 / 3.0,
        resolution=resolution,
        sentence=reason,
        reasons=(reason,),
    )


def samples_needed(resolution: float, confidence: float = 0.95) -> int:
    """Samples for which no copy at all bounds the copied fraction by the resolution.

    Half of the error goes to each side, and half of that to chance: the limit of
    :func:`memdiff.metrics.copied_fraction`.
    """
    return math.ceil(math.log((1.0 - confidence) / 4.0) / math.log1p(-resolution))


def _corrected(test: DescriptorTest, descriptors: int) -> DescriptorTest:
    from dataclasses import replace

    names = ("p_copy", "p_share", "p_cell", "p_exchangeable")
    return replace(test, **{name: min(1.0, descriptors * getattr(test, name)) for name in names})


def _not_exchangeable(found: Mapping[str, DescriptorTest]) -> list[str]:
    name = min(found, key=lambda one: found[one].p_exchangeable)
    p_value = found[name].p_exchangeable
    if p_value > NOT_EXCHANGEABLE:
        return []
    return [
        f"Train and held-out are not exchangeable{_seen_in(name, len(found))} (p = "
        f"{_p(p_value)}): points lie nearer to points of their own set than a random split would "
        "have it. Either they are of different sources, or points that belong together (patients, "
        "videos, bursts) were split together and no groups were given."
    ]


def _memorizing(test: DescriptorTest, level: float, seen: str) -> str:
    end = f"(p = {_p(test.p_value)})."
    interval = f"{max(0.0, test.copied):.1%} ({test.copied_low:.1%} to {test.copied_high:.1%})"
    if test.copied_low > 0.0:
        return (
            f"An estimated {interval} of the samples are copies of training points, "
            f"{_closer(test.ratio)}, beyond what falls on held-out points by chance{seen} {end}"
        )
    if test.p_cell <= level:
        return (
            f"One training point is copied again and again{seen}: {test.repeated:.1%} of the "
            f"samples repeat it {end} The interval of the copied fraction, {interval}, counts "
            "distinct training points and so includes 0."
        )
    if test.flagged > 0.0:
        return (
            f"{test.flagged:.1%} of the samples are flagged as copies of training points{seen} "
            f"{end} The interval of the copied fraction, {interval} {_closer(test.ratio)}, "
            "includes 0 since chance could account for any few of them."
        )
    return (
        f"Some samples are closer to training points than chance allows{seen}, and the rest are "
        f"not {end} They are no copies {_closer(test.ratio)} beyond chance, {interval}: look at "
        f"the closest pairs{_up_to(test.tail_ratio)}."
    )


def _overfitting(test: DescriptorTest, seen: str) -> str:
    interval = f"{max(0.0, test.copied):.1%}, {test.copied_low:.1%} to {test.copied_high:.1%}"
    return (
        f"The samples follow the training points: {test.nearer:.1%} of them are nearer to a "
        f"training point than to any held-out point, where chance gives "
        f"{test.nearer_expected:.1%}{seen} (p = {_p(test.p_value)}). No copies stand out "
        f"{_closer(test.ratio)} ({interval})."
    )


def _seen_in(descriptor: str, descriptors: int) -> str:
    return f" in the features {descriptor}" if descriptors > 1 else ""


def _closer(ratio: float) -> str:
    if ratio == 0.0:
        return "to the last digit"
    words = "a third" if abs(ratio - 1.0 / 3.0) < 1e-9 else f"{ratio:g}"
    return f"closer than {words} of the distance to the next point"


def _up_to(ratio: float) -> str:
    return f", up to a ratio of {ratio:.2f}" if ratio > 0.0 else ""


def _what_would_decide(samples: int, resolution: float) -> str:
    wanted = samples_needed(resolution)
    if samples < wanted:
        return f"It would take about {wanted} samples instead of {samples} to decide."
    return (
        "Chance alone puts samples so close to training points: more samples and more held-out "
        "points would decide."
    )


def _p(value: float) -> str:
    if value < 1e-300:
        return "below 1e-300"
    return f"{value:.2g}" if value >= 1e-4 else f"{value:.0e}"
