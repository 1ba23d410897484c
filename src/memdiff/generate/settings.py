"""What is asked of a generation: regulariser, strength, process, sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from memdiff.generate.selection import EARLY_STOP, FAMILIES
from memdiff.processes import EDM, VE, VP, ForwardProcess, LinearInterpolant
from memdiff.samplers import DDIM, RK45, Euler, EulerMaruyama, Heun, LogTime, Sampler
from memdiff.scores import (
    EmpiricalScore,
    leave_one_out_likelihood,
    scott_bandwidth,
    silverman_bandwidth,
)

__all__ = ["PROCESSES", "REGULARIZERS", "SAMPLERS", "STOPPING_RULES", "GenerationSettings"]

REGULARIZERS = ("none", *(family.name for family in FAMILIES))
"""Names of the regularisers: one per entry of :data:`~memdiff.generate.selection.FAMILIES`."""

PROCESSES: dict[str, Callable[[float], ForwardProcess]] = {
    "edm": lambda scale: _edm(scale / 0.5 if scale > 0 else 1.0),
    "ve": lambda scale: VE(),
    "vp": lambda scale: VP(),
    "linear": lambda scale: LinearInterpolant(),
}
"""Forward process by name, from the standard deviation of the data."""

SAMPLERS: dict[str, Callable[[int], Sampler]] = {
    "heun": Heun,
    "euler": Euler,
    "ddim": DDIM,
    "rk45": lambda steps: RK45(),
    "logtime": lambda steps: LogTime(),
    "sde": EulerMaruyama,
}
"""Sampler by name, from a number of steps, which adaptive ones choose themselves."""

STOPPING_RULES: dict[str, Callable[[EmpiricalScore], float]] = {
    "silverman": lambda score: silverman_bandwidth(score.source),
    "scott": lambda score: scott_bandwidth(score.source),
    "likelihood": lambda score: leave_one_out_likelihood(score).best,
}
"""Rules for the strength of early stopping."""


def _edm(unit: float) -> EDM:
    return EDM(sigma_min=0.002 * unit, sigma_max=80.0 * unit)


@dataclass(frozen=True)
class GenerationSettings:
    r"""What :func:`generate` does.

    Attributes:
        regularizer: One of :data:`REGULARIZERS`.
        strength: A number in the units of the regulariser (see :mod:`memdiff.generate.selection`),
            ``"auto"`` for leave-one-out selection, or for ``early-stop`` a rule of
            :data:`STOPPING_RULES`.
        num: Number of samples.
        process: One of :data:`PROCESSES`. ``"edm"`` spans 0.002/0.5 to 80/0.5 standard deviations
            of the data (the levels of Karras et al. for their data of deviation 0.5); the others
            have the constants of the paper, in units of the data.
        sampler: One of :data:`SAMPLERS`; ``"sde"`` is Euler-Maruyama with eta = 1.
        steps: Steps of a fixed-step sampler; the tolerance of an adaptive one is 1e-5.
        t_end: Final time; None for that of the sampler, or of ``early-stop``.
        seed: Seed of latents, noise and selection. Sample ``i`` depends on it and on ``i`` alone.
        batch_size: Samples integrated together; also the unit in which a run resumes.
    """

    regularizer: str = "none"
    strength: float | str = "auto"
    num: int = 100
    process: str = "edm"
    sampler: str = "heun"
    steps: int = 40
    t_end: float | None = None
    seed: int = 0
    batch_size: int = 256

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("regularizer", self.regularizer, REGULARIZERS),
            ("process", self.process, PROCESSES),
            ("sampler", self.sampler, SAMPLERS),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")
        for name, count in (("num", self.num), ("batch_size", self.batch_size)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}.")
        if isinstance(self.strength, str):
            words = ["auto", *(STOPPING_RULES if self.regularizer == EARLY_STOP.name else ())]
            if self.strength not in words:
                raise ValueError(
                    f"strength must be a number or {' or '.join(words)} for the regularizer "
                    f"{self.regularizer}, got {self.strength!r}."
                )
        elif self.regularizer == "none":
            raise ValueError(
                f"strength {self.strength:g} was given with no regularizer: name one of "
                f"{', '.join(REGULARIZERS[1:])}."
            )
