"""The cases of the self-check."""

from __future__ import annotations

from memdiff.audit.planted.laws import (
    Blanks,
    Categorical,
    Clusters,
    Digits,
    Gaussian,
    HeavyTable,
    LargeColumn,
    Manifold,
    MixedTable,
    Mixture,
    Patients,
    Scales,
    StudentT,
    TwoClasses,
    TwoWidths,
    Windows,
    ZeroInflated,
)
from memdiff.audit.planted.models import (
    Collapse,
    Copies,
    Dropped,
    EditedCopies,
    Fresh,
    Interpolation,
    Kernel,
    Scaled,
    Transform,
)
from memdiff.audit.planted.photographs import EDITS, Halves, Patches
from memdiff.audit.planted.sets import PlantedCase

__all__ = ["BY_SHARE", "CASES", "EDITED", "FRESH", "LADDER", "LAWS", "OTHERS"]

_SURELY = 0.9
_EITHER = ("memorizing", "overfitting")
_NEITHER = ("inconclusive",)

_TRANSFORMS: tuple[Transform, ...] = ("flip", "shift")
_GAUSSIAN, _MIXTURE, _DIGITS = Gaussian(), Mixture(), Digits()
LAWS = (_GAUSSIAN, _MIXTURE, StudentT(), Manifold(), _DIGITS)
_KINDS = (
    *(Blanks(share) for share in (0.01, 0.02, 0.05, 0.1)),
    ZeroInflated(),
    Scales(),
    LargeColumn(table=False),
    LargeColumn(table=True),
    Categorical(),
    MixedTable(),
    HeavyTable(),
    Windows(),
    Clusters(),
    TwoWidths(),
)
_IMAGES = (Patches(), Patches(blank=0.05), Patches(binary=True))
_RATIOS = (
    (100, 5000, 100),
    (100, 2000, 400),
    (100, 1000, 50),
    (100, 100, 5000),
    (1000, 1000, 50),
    (1000, 50, 1000),
    (2000, 100, 400),
    (5000, 100, 100),
)

BY_SHARE = tuple(
    PlantedCase(
        f"exact copies {100 * share:g} %",
        _GAUSSIAN,
        Copies(share),
        "copies",
        demanded=_SURELY if share >= 0.01 else 0.0,
        # Ten copies suffice, fewer need luck.
        least=round(10 / share),
    )
    for share in (0.005, 0.01, 0.02, 0.05, 0.2, 1.0)
)

FRESH: tuple[PlantedCase, ...] = (
    *(PlantedCase("fresh", law) for law in (*LAWS, *_KINDS, *_IMAGES)),
    PlantedCase("fresh, invariance on", _DIGITS, invariance="flip,shift:1"),
    *(
        PlantedCase("fresh, M : N : H", law, sizes=sizes)
        for law, ratios in ((_GAUSSIAN, _RATIOS), (Categorical(), _RATIOS[::2]))
        for sizes in ratios
    ),
    PlantedCase("fresh, more held-out", Categorical(), sizes=(500, 200, 1000)),
    PlantedCase("fresh, train without duplicates", _GAUSSIAN, heldout_repeats=0.3),
    PlantedCase(
        "fresh, train cleaned of blank frames",
        Blanks(0.05),
        cleaned="train",
        sizes=(500, 500, 500),
    ),
    PlantedCase("fresh, patients in groups", Patients(), groups=True),
    PlantedCase("doubled training set, fresh", _GAUSSIAN, repeats=2),
    PlantedCase("20 % overlap, fresh", _GAUSSIAN, overlap=0.2),
    PlantedCase("one tight class only", TwoClasses(), Dropped((1,))),
    PlantedCase("one wide class only", TwoClasses(), Dropped((0,))),
    PlantedCase("narrow class only", TwoWidths(), Dropped((1,))),
    PlantedCase("two of five classes", _MIXTURE, Dropped((0, 3))),
    PlantedCase("widest class only", _MIXTURE, Dropped((4,))),
)
_DEFECTS = (
    *(
        PlantedCase(f"collapse to {points} fresh points", law, Collapse(points))
        for law, counts in (
            (_GAUSSIAN, (1, 5, 10, 20)),
            (_DIGITS, (1, 5)),
            (Blanks(0.05), (10,)),
            (Windows(), (5,)),
            (Clusters(), (5,)),
            (MixedTable(), (5,)),
            (Patches(), (5,)),
        )
        for points in counts
    ),
    PlantedCase("collapse to 5 fresh points, spread 0.3", _GAUSSIAN, Collapse(5, 0.3)),
    PlantedCase("collapse to 50 fresh points, spread 0.1", _MIXTURE, Collapse(50, 0.1)),
    *(PlantedCase("inflated by 1.5", law, Scaled(1.5)) for law in (_GAUSSIAN, _MIXTURE)),
    *(
        PlantedCase(f"shrunk by {scale:g}", law, Scaled(scale))
        for law, scales in (
            (_GAUSSIAN, (0.8, 0.5)),
            (_DIGITS, (0.8,)),
            (StudentT(), (0.5,)),
            (Windows(), (0.8,)),
            (TwoWidths(), (0.8,)),
            (Patches(), (0.8,)),
        )
        for scale in scales
    ),
)
_UNFAIR = (
    *(
        PlantedCase(
            f"no held-out data, {what}", _GAUSSIAN, model, "unfair", 1.0, _NEITHER, heldout=False
        )
        for what, model in (("fresh", Fresh()), ("5 % copies", Copies(0.05)))
    ),
    PlantedCase(
        "patients, no groups given", Patients(), truth="unfair", demanded=1.0, right=_NEITHER
    ),
    PlantedCase(
        "held-out shifted by 0.5",
        _GAUSSIAN,
        truth="unfair",
        demanded=_SURELY,
        right=_NEITHER,
        shift=0.5,
        least=500,
    ),
    PlantedCase("held-out of the other half", Halves(), truth="unfair"),
    PlantedCase(
        "train cleaned of repeated categories",
        Categorical(),
        truth="unfair",
        demanded=_SURELY,
        right=_NEITHER,
        sizes=(300, 600, 1500),
        cleaned="train",
    ),
    PlantedCase(
        "held-out cleaned of repeated categories",
        Categorical(),
        truth="unfair",
        demanded=_SURELY,
        right=_NEITHER,
        sizes=(300, 1500, 600),
        cleaned="heldout",
    ),
)
_COPIES = (
    *BY_SHARE,
    *(
        PlantedCase(f"near copies 5 %, noise {noise:g}", _GAUSSIAN, Copies(0.05, noise), "copies")
        for noise in (0.1, 0.3, 0.6)
    ),
    *(
        PlantedCase(
            f"near copies 100 %, noise {noise:g}",
            _GAUSSIAN,
            Copies(1.0, noise),
            "copies",
            demanded=_SURELY,
            right=_EITHER,
        )
        for noise in (0.6, 1.0)
    ),
    *(
        PlantedCase("exact copies 5 %", law, Copies(0.05), "copies", _SURELY)
        for law in (*LAWS[1:], ZeroInflated(), Scales(), MixedTable(), HeavyTable())
    ),
    # One fresh window in six equals a training window by chance: ten copies more are not sure.
    PlantedCase("exact copies 5 %", Windows(), Copies(0.05), "copies"),
    PlantedCase("5 % copies of one point", _GAUSSIAN, Copies(0.05, sources=1), "copies", _SURELY),
    PlantedCase(
        "collapse to 1 training point", _GAUSSIAN, Copies(1.0, sources=1), "copies", _SURELY
    ),
    PlantedCase(
        "doubled training set, 5 % copies", _GAUSSIAN, Copies(0.05), "copies", _SURELY, repeats=2
    ),
    PlantedCase(
        "20 % overlap, 5 % copies",
        _GAUSSIAN,
        Copies(0.05, distinct=True),
        "copies",
        overlap=0.2,
    ),
    PlantedCase(
        "5 % copies, shrunk by 0.8",
        _GAUSSIAN,
        Copies(0.05, others=Scaled(0.8)),
        "copies",
        _SURELY,
    ),
    PlantedCase(
        "patients in groups, 10 % copies",
        Patients(),
        Copies(0.1),
        "copies",
        groups=True,
    ),
    *(
        PlantedCase(
            f"5 % copies by {transform}, invariance {'on' if invariance else 'off'}",
            _DIGITS,
            Copies(0.05, transform=transform),
            "copies",
            _SURELY if transform == "flip" and invariance else 0.0,
            invariance=invariance,
        )
        for transform, on in zip(_TRANSFORMS, ("flip", "shift:1"), strict=True)
        for invariance in (on, None)
    ),
    *(
        PlantedCase(
            f"wide class, {100 * share:g} % near copies",
            TwoWidths(),
            Copies(share, absolute=0.05, distinct=True, of_class=0),
            "copies",
            _SURELY,
            sizes=(600, 600, 600),
        )
        for share in (0.1, 0.02)
    ),
    PlantedCase(
        "collapse to 10 fresh points and 5 % copies",
        _GAUSSIAN,
        Copies(0.05, distinct=True, others=Collapse(10, 0.01)),
        "copies",
        _SURELY,
        sizes=(1000, 1000, 1000),
    ),
    PlantedCase(
        "3 % copies",
        Blanks(0.05),
        Copies(0.03, distinct=True),
        "copies",
        _SURELY,
        sizes=(500, 500, 500),
    ),
    PlantedCase(
        "40 % near copies, 4 % overlap",
        _GAUSSIAN,
        Copies(0.4, absolute=0.2, distinct=True),
        "copies",
        _SURELY,
        sizes=(150, 300, 150),
        overlap=0.04,
        overlap_noise=0.1,
        estimate=(0.35, 0.45),
    ),
    PlantedCase(
        "1 % exact copies, few held-out",
        _GAUSSIAN,
        Copies(0.01),
        "copies",
        sizes=(1000, 5000, 500),
    ),
    PlantedCase(
        "2 % near copies, few held-out",
        _GAUSSIAN,
        Copies(0.02, 0.1),
        "copies",
        sizes=(1000, 8000, 400),
    ),
)
_FOLLOWS = (
    *(
        PlantedCase("SMOTE", law, Interpolation(), "follows")
        for law in (_GAUSSIAN, _MIXTURE, Manifold())
    ),
)

LADDER: tuple[PlantedCase, ...] = tuple(
    PlantedCase(
        f"kernel density, step {step}",
        _GAUSSIAN,
        Kernel(step / 8),
        "copies" if step < 2 else "follows",
        _SURELY if step == 0 else 0.0,
        ladder="kernel density",
    )
    for step in range(9)
)

EDITED: tuple[PlantedCase, ...] = tuple(
    PlantedCase(
        f"{num / size:.0%} copies, {edit}",
        Patches(),
        EditedCopies(edit, num),
        "copies",
        demanded[edit in ("crop 90",)] if edit not in ("half collage", "crop 60") else 0.0,
        sizes=(size, size, size),
    )
    for num, size, demanded in ((20, 400, (0.9, 0.8)), (12, 600, (0.5, 0.5)))
    for edit in EDITS
)

OTHERS: tuple[PlantedCase, ...] = (*_DEFECTS, *_UNFAIR, *_COPIES, *_FOLLOWS)
"""Cases that are no perfect model, of any size or of their own."""

CASES: tuple[PlantedCase, ...] = (
    *FRESH,
    *OTHERS,
    *LADDER,
    *EDITED,
)
