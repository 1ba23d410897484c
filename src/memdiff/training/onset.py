r"""Steps at which generalisation came and memorisation began, from the curves of a monitor.

Of the observations at steps :math:`k_1 < k_2 < \dots`:

``tau_gen``
    The first step whose held-out denoising loss has made 95 % of the way from its first value to
    its smallest: the loss of unseen data has come to its plateau. It is known afterwards, and may
    move while the loss still falls.
``tau_mem``
    The first of ``patience`` observations in a row in which more samples than held-out points pass
    the ratio test (Fisher's exact test, one-sided, p at most ``alpha``).
``tau_close``
    The same with the test of the audit (:mod:`memdiff.audit.verdict`), which sees closeness to
    training points before it is outright copying: p at most ``alpha`` for
    :math:`\min(1, 2 \min(p_{copy}, p_{share}))`.
``onset``
    The earlier of ``tau_mem`` and ``tau_close``.
``best``
    Of the observations before the onset that reject neither test, the one with the smallest
    held-out denoising loss. Whether an observation may become the best is known when it is made,
    so its weights can be kept then.

Why so: one look in :math:`1/\alpha` rejects by chance even for a model that never memorises, so a
single rejection is no onset; samples share their latents over the run, so observations in a row
are dependent, and the level of one look is set well below that of an audit. Memorisation, once
begun, does not go away, and costs at most ``patience - 1`` observations of delay.

References:
    Bonnaire, Urfin, Biroli, Mezard, *Why Diffusion Models Don't Memorize*, arXiv:2505.17638
    (:math:`\tau_{gen}`, :math:`\tau_{mem}`); the rules here are ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Onset", "Reading", "find_onset"]

_PLATEAU = 0.05


@dataclass(frozen=True)
class Reading:
    """Values of one observation that the rules need.

    Attributes:
        step: Its step.
        heldout_loss: Held-out denoising loss.
        p_fraction: p-value of the memorised fraction against held-out points.
        p_close: p-value of the audit's test.
    """

    step: int
    heldout_loss: float
    p_fraction: float
    p_close: float


@dataclass(frozen=True)
class Onset:
    """Steps of generalisation and memorisation, each None where there is none yet.

    Attributes:
        tau_gen: Step at which generalisation came.
        tau_mem: Step at which samples began to be copies.
        tau_close: Step at which samples began to be closer to training data than fresh data are.
        clean: Steps before the onset that reject neither test, by held-out loss.
        suspicious: Whether the last observation rejects, be it confirmed or not.
    """

    tau_gen: int | None
    tau_mem: int | None
    tau_close: int | None
    clean: tuple[int, ...]
    suspicious: bool

    @property
    def best(self) -> int | None:
        """The step to keep."""
        return self.clean[0] if self.clean else None

    @property
    def onset(self) -> int | None:
        """The earlier of ``tau_mem`` and ``tau_close``."""
        found = [tau for tau in (self.tau_mem, self.tau_close) if tau is not None]
        return min(found) if found else None


def find_onset(readings: Sequence[Reading], *, alpha: float, patience: int) -> Onset:
    """Find the steps from the observations so far.

    Args:
        readings: The observations, by step.
        alpha: Level of one look, in (0, 1).
        patience: Number of rejections in a row that make an onset, at least 1.

    Returns:
        The steps.

    Raises:
        ValueError: If ``alpha`` or ``patience`` is out of range, or steps do not increase.

    Example:
        >>> p = [0.4, 0.005, 0.3, 0.002, 0.001]
        >>> readings = [Reading(10 * i, 1.0 / (i + 1), p[i], 1.0) for i in range(5)]
        >>> found = find_onset(readings, alpha=0.01, patience=2)
        >>> found.tau_mem, found.best
        (30, 20)
    """
    if not 0.0 < alpha < 1.0 or patience < 1:
        raise ValueError(
            f"alpha must lie in (0, 1) and patience be at least 1, got {alpha} and {patience}."
        )
    steps = [reading.step for reading in readings]
    if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        raise ValueError(f"steps of observations must increase, got {steps}.")
    fraction = [reading.p_fraction <= alpha for reading in readings]
    close = [reading.p_close <= alpha for reading in readings]
    mem, near = _first_run(fraction, patience), _first_run(close, patience)
    end = min((start for start in (mem, near) if start is not None), default=len(readings))
    clean = [
        reading
        for reading, a, b in zip(readings[:end], fraction, close, strict=False)
        if not (a or b)
    ]
    clean.sort(key=lambda reading: reading.heldout_loss)
    return Onset(
        tau_gen=_plateau(readings),
        tau_mem=None if mem is None else steps[mem],
        tau_close=None if near is None else steps[near],
        clean=tuple(reading.step for reading in clean),
        suspicious=bool(readings) and (fraction[-1] or close[-1]),
    )


def _first_run(rejects: Sequence[bool], patience: int) -> int | None:
    length = 0
    for position, reject in enumerate(rejects):
        length = length + 1 if reject else 0
        if length == patience:
            return position - patience + 1
    return None


def _plateau(readings: Sequence[Reading]) -> int | None:
    if len(readings) < 2:
        return None
    losses = [reading.heldout_loss for reading in readings]
    first, least = losses[0], min(losses)
    if least >= first:
        return None
    limit = least + _PLATEAU * (first - least)
    return next(r.step for r in readings if r.heldout_loss <= limit)
