"""What an audit is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AuditSettings"]


@dataclass(frozen=True)
class AuditSettings:
    """Settings of :func:`memdiff.audit.audit`.

    Attributes:
        features: Descriptors, as ``memdiff.features.parse_descriptor`` takes them; the distances
            of each are judged on their own, and the level is shared among them.
        invariance: Transforms under which a copy is still a copy, such as ``"flip"`` or
            ``"flip,shift"``; None for none.
        level: Stated false-positive rate of the verdict, in (0, 1).
        resolution: Copied fraction that should not go unseen: with no evidence of copying, the
            verdict is "not detected" only if the data would have shown this much.
        false_discovery_rate: Level of the list of flagged samples.
        duplicate_tolerance: Training points closer than this share of the median distance of
            training points to their nearest other one count as duplicates; the same for overlap
            between training and held-out data.
        ratio_threshold: Threshold ``k`` of the ratio test.
        pairs: Number of the most suspicious pairs to list, besides all flagged ones.
        seed: Seed of tie-breaking, permutations, bootstrap and subsampling.
        fail_above: Gate: fail if the verdict is "memorizing" and the estimated copied fraction is
            above this; None for no gate.

    Raises:
        ValueError: If a value is out of range.
    """

    features: tuple[str, ...] = ("pixels",)
    invariance: str | None = None
    level: float = 0.05
    resolution: float = 0.01
    false_discovery_rate: float = 0.1
    duplicate_tolerance: float = 0.01
    ratio_threshold: float = 1.0 / 3.0
    pairs: int = 48
    seed: int = 0
    fail_above: float | None = None

    def __post_init__(self) -> None:
        if not self.features:
            raise ValueError("features must name at least one descriptor, such as 'pixels'.")
        if len(set(self.features)) != len(self.features):
            raise ValueError(f"features must be distinct, got {', '.join(self.features)}.")
        for name in ("level", "resolution", "false_discovery_rate", "ratio_threshold"):
            value = getattr(self, name)
            if not 0.0 < value < 1.0:
                raise ValueError(f"{name} must lie between 0 and 1, got {value}.")
        if not 0.0 <= self.duplicate_tolerance < 1.0:
            raise ValueError(
                f"duplicate_tolerance must lie in [0, 1), got {self.duplicate_tolerance}."
            )
        if self.fail_above is not None and not 0.0 <= self.fail_above < 1.0:
            raise ValueError(f"fail_above must lie in [0, 1), got {self.fail_above}.")
        if self.pairs < 1:
            raise ValueError(f"pairs must be at least 1, got {self.pairs}.")
