"""What an audit is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AuditSettings"]


@dataclass(frozen=True)
class AuditSettings:
    """Settings of :func:`memdiff.audit.audit`.

    Attributes:
        features: Descriptors, as ``memdiff.features.parse_descriptor`` takes them; the distances
            of each are judged on their own, and the level is shared among them. ``"auto"`` stands
            for those that fit the kind of data.
        invariance: Transforms under which a copy is still a copy, such as ``"flip"`` or
            ``"flip,shift"``; None for none.
        groups: How points that belong together were given: a column, ``"folder"``, a regular
            expression, ``"labels"``, or None.
        drop_overlap: Whether values that train and held-out share are left out, with the samples
            on them: for a split that is known to have leaked.
        level: Stated false-positive rate of the verdict, in (0, 1).
        resolution: Copied fraction that should not go unseen: with no evidence of copying, the
            verdict is "not detected" only if the data would have shown this much.
        false_discovery_rate: Level of the list of flagged samples.
        duplicate_tolerance: Training points closer than this share of the median distance of
            training points to their nearest other one count as duplicates: they are no second
            neighbour of each other. No point is removed for it.
        ratio_threshold: Threshold ``k`` of the ratio test beside the verdict.
        pairs: Number of the most suspicious pairs to list, besides all flagged ones.
        full: Whether the measurements beside the verdict use all points; else at most 1000 of
            each set.
        seed: Seed of relabellings and subsampling.
        fail_above: Gate: fail if the verdict is "memorizing" and the lower limit of the copied
            fraction, or the share of flagged samples, is above this; None for no gate.

    Raises:
        ValueError: If a value is out of range.
    """

    features: tuple[str, ...] = ("auto",)
    invariance: str | None = None
    groups: str | None = None
    drop_overlap: bool = False
    level: float = 0.05
    resolution: float = 0.01
    false_discovery_rate: float = 0.1
    duplicate_tolerance: float = 0.01
    ratio_threshold: float = 1.0 / 3.0
    pairs: int = 48
    full: bool = False
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
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}.")
        if self.pairs < 1:
            raise ValueError(f"pairs must be at least 1, got {self.pairs}.")
