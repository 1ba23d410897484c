"""The rounds in which the cases of the self-check are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from memdiff.audit.planted.cases import BY_SHARE, EDITED, FRESH, LADDER, LAWS, OTHERS
from memdiff.audit.planted.photographs import Halves, Patches
from memdiff.audit.planted.sets import PlantedCase

__all__ = ["Preset", "Round", "rounds"]

Preset = Literal["quick", "full"]
Sizes = tuple[int, int, int]

_ONE_DIMENSION = 8
"""Dimension of cases with sizes of their own, or whose dimension is of no interest."""


@dataclass(frozen=True)
class Round:
    """Repetitions of a case at a dimension and at sizes.

    Attributes:
        case: The case.
        dimension: Dimension of the data.
        sizes: Numbers of samples, of different training points and of held-out points.
        repetitions: Number of draws.
    """

    case: PlantedCase
    dimension: int
    sizes: Sizes
    repetitions: int


@dataclass(frozen=True)
class _Plan:
    """Draws of a preset.

    Attributes:
        sizes: Size of the sets, draws without copies, draws with copies.
        dimensions: Dimensions.
        fewer: Dimensions of cases other than fresh samples and exact copies.
        own: Draws of cases with sizes of their own, without and with copies.
        ladder: Sizes and draws of each step of a ladder.
        images: Draws of cases of photographs without copies.
        edited: Draws of each edit of 5 % and of 2 % of the samples.
    """

    sizes: tuple[tuple[int, int, int], ...]
    dimensions: tuple[int, ...]
    fewer: tuple[int, ...]
    own: tuple[int, int]
    ladder: tuple[tuple[int, int], ...]
    images: int
    edited: tuple[int, int]


_PLANS = {
    "quick": _Plan(((200, 8, 3),), (2, 32), (32,), (2, 2), ((200, 4),), 2, (2, 0)),
    "full": _Plan(
        ((200, 50, 20), (500, 25, 12), (1000, 12, 10)),
        (2, 8, 32, 128),
        (2, 32, 128),
        (40, 10),
        ((200, 20), (500, 12)),
        25,
        (10, 6),
    ),
}


def rounds(preset: Preset, repetitions: int | None = None) -> Iterator[Round]:
    """What a preset draws: more of what is no copying, as small rates need more draws.

    Args:
        preset: ``"quick"`` or ``"full"``.
        repetitions: Draws of each; those of the preset by default.

    Yields:
        The rounds.
    """
    plan = _PLANS[preset]
    for dimension, sizes, times, case in _planned(plan):
        if times:
            yield Round(case, dimension, sizes, repetitions or times)


def _planned(plan: _Plan) -> Iterator[tuple[int, Sizes, int, PlantedCase]]:
    for size, without, with_copies in plan.sizes:
        for case in (*FRESH, *OTHERS):
            times = with_copies if case.truth in ("copies", "follows") else without
            if case.sizes is not None:
                continue
            if isinstance(case.law, (Patches, Halves)):
                if size == 200:
                    yield 3072, (size, size, size), plan.images, case
                continue
            everywhere = case in BY_SHARE or (case.name == "fresh" and case.law in LAWS)
            if size > 200 and not (everywhere or case.least > 200):
                continue
            if case.law.points is not None and 3 * size > case.law.points:
                continue
            free = case.law.dimension is None
            dimensions = plan.dimensions if free else (case.law.dimension or 0,)
            if free and not everywhere:
                dimensions = plan.fewer
            for dimension in dimensions:
                yield dimension, (size, size, size), times, case
    for case in (*FRESH, *OTHERS):
        if case.sizes is not None:
            times = plan.own[case.truth == "copies"]
            dimension = case.law.dimension or (20 if case.estimate else _ONE_DIMENSION)
            yield dimension, case.sizes, times, case
    for size, times in plan.ladder:
        for case in LADDER:
            yield _ONE_DIMENSION, (size, size, size), times, case
    for case in EDITED:
        assert case.sizes is not None
        yield 3072, case.sizes, plan.edited[case.sizes[0] != 400], case
