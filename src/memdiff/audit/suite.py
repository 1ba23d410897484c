"""The cases of the self-check and the rounds in which they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from memdiff.audit.planted import (
    Digits,
    Gaussian,
    Manifold,
    Mixture,
    PlantedCase,
    StudentT,
    Transform,
)

__all__ = ["CASES", "Preset", "Round", "rounds"]

Preset = Literal["quick", "full"]

_GAUSSIAN, _DIGITS = Gaussian(), Digits()
_SURELY = 0.9
_LAWS = (_GAUSSIAN, Mixture(), StudentT(), Manifold(), _DIGITS)

_BY_SHARE = tuple(
    PlantedCase(
        f"exact copies {100 * share:g} %",
        _GAUSSIAN,
        copied=share,
        demanded=_SURELY if share >= 0.05 else 0.0,
    )
    for share in (0.005, 0.01, 0.02, 0.05, 0.2, 1.0)
)

CASES: tuple[PlantedCase, ...] = (
    *(PlantedCase("fresh", law) for law in _LAWS),
    *(PlantedCase("fresh, no held-out data", law, heldout=False) for law in _LAWS),
    PlantedCase("fresh, invariance on", _DIGITS, invariance="flip,shift:1"),
    PlantedCase("collapse to 1 fresh point", _GAUSSIAN, points=1),
    PlantedCase("collapse to 5 fresh points", _GAUSSIAN, points=5),
    PlantedCase("collapse to 20 fresh points", _GAUSSIAN, points=20),
    PlantedCase("collapse to 5 fresh points, spread 0.3", _GAUSSIAN, points=5, spread=0.3),
    PlantedCase("collapse to 1 fresh point", _DIGITS, points=1),
    PlantedCase("collapse to 5 fresh points", _DIGITS, points=5),
    PlantedCase("underfit, inflated by 1.5", _GAUSSIAN, scale=1.5),
    PlantedCase("underfit, shrunk by 0.8", _GAUSSIAN, scale=0.8),
    PlantedCase("underfit, shrunk by 0.5", _GAUSSIAN, scale=0.5),
    PlantedCase("underfit, shrunk by 0.8", _DIGITS, scale=0.8),
    PlantedCase("doubled training set, fresh", _GAUSSIAN, repeats=2),
    PlantedCase("20 % overlap, fresh", _GAUSSIAN, overlap=0.2),
    PlantedCase("shrunk by 0.8, no held-out data", _GAUSSIAN, scale=0.8, heldout=False),
    PlantedCase("collapse to 1 fresh point, no held-out data", _GAUSSIAN, points=1, heldout=False),
    PlantedCase(
        "collapse to 5 fresh points, no held-out data", _GAUSSIAN, points=5, heldout=False
    ),
    *_BY_SHARE,
    *(
        PlantedCase(f"near copies 5 %, noise {noise:g}", _GAUSSIAN, copied=0.05, noise=noise)
        for noise in (0.1, 0.3, 0.6)
    ),
    PlantedCase("near copies 100 %, noise 0.6", _GAUSSIAN, copied=1.0, noise=0.6),
    PlantedCase("near copies 100 %, noise 1", _GAUSSIAN, copied=1.0, noise=1.0),
    *(PlantedCase("exact copies 5 %", law, copied=0.05, demanded=_SURELY) for law in _LAWS[1:]),
    PlantedCase("5 % copies of one point", _GAUSSIAN, copied=0.05, sources=1, demanded=_SURELY),
    PlantedCase(
        "collapse to 1 training point", _GAUSSIAN, copied=1.0, sources=1, demanded=_SURELY
    ),
    PlantedCase(
        "doubled training set, 5 % copies", _GAUSSIAN, copied=0.05, repeats=2, demanded=_SURELY
    ),
    PlantedCase("20 % overlap, 5 % copies", _GAUSSIAN, copied=0.05, overlap=0.2, demanded=_SURELY),
    PlantedCase("5 % copies, shrunk by 0.8", _GAUSSIAN, copied=0.05, scale=0.8, demanded=_SURELY),
    PlantedCase(
        "5 % copies, no held-out data", _GAUSSIAN, copied=0.05, heldout=False, demanded=_SURELY
    ),
    PlantedCase(
        "5 % copies, no held-out data", _DIGITS, copied=0.05, heldout=False, demanded=_SURELY
    ),
    *(
        PlantedCase(
            f"5 % copies by {transform}, invariance {'on' if invariance else 'off'}",
            _DIGITS,
            copied=0.05,
            transform=transform,
            invariance=invariance,
            demanded=_SURELY if transform == "flip" and invariance else 0.0,
        )
        for transform in get_args(Transform)
        for invariance in ({"flip": "flip", "shift": "shift:1"}[transform], None)
    ),
)


@dataclass(frozen=True)
class Round:
    """Repetitions of a case at a dimension and a size.

    Attributes:
        case: The case.
        dimension: Dimension of the data.
        size: Number of samples, of training points and of held-out points.
        repetitions: Number of draws.
    """

    case: PlantedCase
    dimension: int
    size: int
    repetitions: int


def rounds(preset: Preset, repetitions: int | None = None) -> Iterator[Round]:
    """What a preset draws: more of what is no copying, as small rates need more draws.

    Args:
        preset: ``"quick"`` or ``"full"``.
        repetitions: Draws of each; those of the preset by default.

    Yields:
        The rounds.
    """
    dimensions = (2, 32) if preset == "quick" else (2, 8, 32, 128)
    plan = (
        ((200, 25, 10),) if preset == "quick" else ((200, 100, 40), (500, 50, 25), (1000, 25, 25))
    )
    for size, without, with_copies in plan:
        for case in CASES:
            times = with_copies if case.memorizes else without
            if size > 200 and not (case.name.startswith("fresh") or case in _BY_SHARE):
                continue
            if case.law.dimension is not None and 3 * size > 1797:
                continue
            chosen = dimensions if case.law.dimension is None else (case.law.dimension,)
            for dimension in chosen:
                yield Round(case, dimension, size, repetitions or times)
