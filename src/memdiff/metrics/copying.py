"""All tests of copying together: one competition, four tests, one p-value.

The level is shared unequally, as the tail test is the one with power in most cases: it gets two
fifths, the share test, the local exceedance and the repeated cell a fifth each (weighted
Bonferroni, valid under any dependence).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memdiff.metrics.competition import Competition, compete
from memdiff.metrics.copied_fraction import CopiedFraction, copied_fraction, resolved_ratio
from memdiff.metrics.discoveries import Discoveries, discoveries
from memdiff.metrics.distances import Distances
from memdiff.metrics.local_exceedance import LocalExceedance, local_exceedance, local_scale
from memdiff.metrics.repeated_cell import RepeatedCell, repeated_cell
from memdiff.metrics.share import ShareTest, share_test
from memdiff.metrics.tail import TailTest, tail_test

__all__ = ["CopyingTests", "copying_tests"]

_TAIL, _OTHERS = 2.5, 5.0


@dataclass(frozen=True)
class CopyingTests:
    """What one competition says about copying.

    Attributes:
        competition: The competition.
        tail: Tail test.
        share: Share test.
        local: Weighted local exceedance; None where held-out points are of one group.
        cell: Repeated cell; None likewise.
        fraction: Copied fraction at the ratio 1/3.
        resolved: Copied fraction at the largest ratio at which the resolution can be seen.
        list: The flagged list.
    """

    competition: Competition
    tail: TailTest
    share: ShareTest
    local: LocalExceedance | None
    cell: RepeatedCell | None
    fraction: CopiedFraction
    resolved: CopiedFraction
    list: Discoveries

    @property
    def p_cell(self) -> float:
        """p-value of the repeated cell, with its part of the level."""
        return 1.0 if self.cell is None else min(1.0, _OTHERS * self.cell.p_value)

    @property
    def p_copy(self) -> float:
        """Smallest p-value of the tests for copies, each with its part of the level."""
        found = [_TAIL * self.tail.p_value, self.p_cell]
        if self.local is not None:
            found.append(_OTHERS * self.local.p_value)
        return min(1.0, *found)

    @property
    def p_share(self) -> float:
        """p-value of the share test, with its part of the level."""
        return min(1.0, _OTHERS * self.share.p_value)

    @property
    def p_value(self) -> float:
        """The smaller of both: samples are nearer to train than chance allows."""
        return min(self.p_copy, self.p_share)


def copying_tests(
    found: Distances,
    *,
    competition: Competition | None = None,
    also: Sequence[Competition] = (),
    rate: float = 0.1,
    resolution: float = 0.01,
    seed: int = 0,
) -> CopyingTests:
    """Run all tests on one competition.

    Args:
        found: Distances with held-out points.
        competition: A competition to use in place of the one by these distances (for example
            after the registration of images).
        also: Further competitions of the same pool that the tail test looks at as well.
        rate: False-discovery rate of the flagged list.
        resolution: Copied fraction that should not go unseen.
        seed: Seed of the relabellings.

    Returns:
        CopyingTests.

    Raises:
        ValueError: If there are no held-out points.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> train, heldout, fresh = torch.randn(3, 200, 8, generator=generator)
        >>> copying_tests(Distances(generated=train, train=train, heldout=heldout)).p_copy < 1e-9
        True
        >>> copying_tests(Distances(generated=fresh, train=train, heldout=heldout)).p_value > 0.05
        True
    """
    result = compete(found) if competition is None else competition
    scale = local_scale(found, result, seed=seed)
    return CopyingTests(
        competition=result,
        tail=tail_test(competition=result, also=also, seed=seed),
        share=share_test(competition=result, seed=seed),
        local=None
        if scale is None
        else local_exceedance(distances=found, competition=result, scale=scale),
        cell=None
        if scale is None
        else repeated_cell(distances=found, competition=result, scale=scale, seed=seed),
        fraction=copied_fraction(competition=result),
        resolved=copied_fraction(competition=result, ratio=resolved_ratio(result, resolution)),
        list=discoveries(competition=result, rate=rate),
    )
