"""Published values of the paper, and tolerances of agreement with them.

Source: arXiv:2501.15785 [B25] and the authors' public repository; see
``published.json`` beside this file. Values of a table are printed there; values of a figure were
read off a plot, to :data:`READING_ERROR`.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

__all__ = [
    "LATENTS",
    "READING_ERROR",
    "NetworkValues",
    "Published",
    "Sweep",
    "SweepAgreement",
    "allowed_difference",
    "compare_sweep",
    "published",
]

READING_ERROR = 0.015
"""Error of a fraction that was read off a published plot."""

LATENTS = 1000
"""Samples behind a published fraction."""


@dataclass(frozen=True)
class Sweep:
    """A published curve: memorised fraction against the strength of a regulariser.

    Attributes:
        parameter: Name of the strength: ``"c"`` or ``"floor"``.
        values: Strengths.
        fraction: Memorised fraction at each strength, in [0, 1].
        t_end: Time at which sampling stopped.
        convention: Convention of the density floor for empirical Bayes, else None.
    """

    parameter: str
    values: tuple[float, ...]
    fraction: tuple[float, ...]
    t_end: float
    convention: str | None = None


@dataclass(frozen=True)
class NetworkValues:
    """Published values for trained networks.

    Attributes:
        tolerances: Tolerances of the memorised fraction.
        steps: Training steps of the singularity table.
        without_singularity: Fractions ``[tolerance][step]``, score predicted as is.
        with_singularity: Fractions ``[tolerance][step]``, singularity built in.
        tikhonov_steps: Training steps of the Tikhonov figure.
        tikhonov_c: Strengths of the Tikhonov figure.
        tikhonov_fraction: Fractions ``[tolerance][strength]``, read off the figure.
    """

    tolerances: tuple[float, ...]
    steps: tuple[int, ...]
    without_singularity: tuple[tuple[float, ...], ...]
    with_singularity: tuple[tuple[float, ...], ...]
    tikhonov_steps: int
    tikhonov_c: tuple[float, ...]
    tikhonov_fraction: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Published:
    """All published values.

    Attributes:
        tikhonov: Tikhonov sweep.
        empirical_bayes: Empirical-Bayes sweep.
        unregularised: Memorised fraction of the exact score, by process name.
        network: Values for trained networks.
    """

    tikhonov: Sweep
    empirical_bayes: Sweep
    unregularised: dict[str, float]
    network: NetworkValues


def _floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _rows(values: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(_floats(row) for row in values)


@functools.cache
def published() -> Published:
    """Read the published values.

    >>> published().tikhonov.values[0], published().tikhonov.fraction[0]
    (1e-05, 0.99)
    """
    text = resources.files("memdiff.experiments").joinpath("published.json").read_text("utf-8")
    raw: dict[str, Any] = json.loads(text)
    closed, network = raw["closed_form"], raw["network"]
    tikhonov, bayes = closed["tikhonov_figure"], closed["empirical_bayes_figure"]
    table, figure = network["singularity_table"], network["tikhonov_figure"]
    return Published(
        tikhonov=Sweep(
            "c", _floats(tikhonov["c"]), _floats(tikhonov["fraction"]), tikhonov["t_end"]
        ),
        empirical_bayes=Sweep(
            "floor",
            _floats(bayes["floor"]),
            _floats(bayes["fraction"]),
            bayes["t_end"],
            bayes["convention"],
        ),
        unregularised={name: float(value) for name, value in closed["unregularised"].items()},
        network=NetworkValues(
            tolerances=_floats(network["tolerances"]),
            steps=tuple(int(step) for step in table["steps"]),
            without_singularity=_rows(table["without"]),
            with_singularity=_rows(table["with"]),
            tikhonov_steps=int(figure["steps"]),
            tikhonov_c=_floats(figure["c"]),
            tikhonov_fraction=_rows(figure["fraction_by_tolerance"]),
        ),
    )


def allowed_difference(
    fraction: float, num: int, *, published_num: int = LATENTS, deviations: float = 3.0
) -> float:
    r"""Return the largest difference to a published fraction that chance explains.

    .. math::
        e + z \sqrt{p (1 - p) (1/n + 1/n')}, \qquad p = (n' q + z^2/2)/(n' + z^2),

    with the published fraction :math:`q` of :math:`n'` samples, pulled a little to one half
    (Agresti and Coull) so that a published 0 or 1 keeps a deviation; :math:`n` samples of our own;
    and :math:`e` the error of reading the plot, :data:`READING_ERROR`.

    Args:
        fraction: Published fraction, in [0, 1].
        num: Number of samples behind the measured fraction.
        published_num: Number of samples behind the published one.
        deviations: Number of standard deviations :math:`z`.

    Returns:
        The allowed absolute difference.

    >>> round(allowed_difference(0.395, 1000), 3)
    0.081
    """
    extra = deviations**2
    shrunk = (published_num * fraction + extra / 2.0) / (published_num + extra)
    deviation = math.sqrt(shrunk * (1.0 - shrunk) * (1.0 / num + 1.0 / published_num))
    return READING_ERROR + deviations * deviation


@dataclass(frozen=True)
class SweepAgreement:
    """A measured sweep next to the published one.

    Attributes:
        within: Whether every point agrees.
        difference: Measured minus published at each strength.
        allowed: Allowed absolute difference at each strength.
        tolerance: A sentence that states the tolerance.
    """

    within: bool
    difference: tuple[float, ...]
    allowed: tuple[float, ...]
    tolerance: str


def compare_sweep(measured: Sequence[float], sweep: Sweep, *, num: int) -> SweepAgreement:
    """Compare a measured sweep with the published one, point by point.

    Args:
        measured: Measured fraction at each of ``sweep.values``.
        sweep: The published sweep.
        num: Number of samples behind each measured fraction.

    Returns:
        The agreement, by :func:`allowed_difference`.

    Raises:
        ValueError: If the lengths differ.
    """
    if len(measured) != len(sweep.fraction):
        raise ValueError(
            f"measured has {len(measured)} values, the published sweep has "
            f"{len(sweep.fraction)}; measure at each of sweep.values."
        )
    allowed = tuple(allowed_difference(fraction, num) for fraction in sweep.fraction)
    difference = tuple(
        float(ours) - theirs for ours, theirs in zip(measured, sweep.fraction, strict=True)
    )
    return SweepAgreement(
        within=all(abs(d) <= a for d, a in zip(difference, allowed, strict=True)),
        difference=difference,
        allowed=allowed,
        tolerance=(
            f"Every point within {READING_ERROR} (reading the published plot) plus three "
            f"standard deviations of the difference of two fractions, of {num} samples here and "
            "1000 there."
        ),
    )
