"""What is asked of a generation: regulariser, strength, process, sampler.

Regularisers, processes, samplers and rules are named here with the place of what they name, and
nothing is imported: the command line offers them without torch. To add one, write its module and
add its line.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

__all__ = [
    "FAMILIES",
    "PROCESSES",
    "REGULARIZERS",
    "SAMPLERS",
    "STOPPING_RULES",
    "GenerationSettings",
    "named",
]

FAMILIES = {
    "tikhonov": "memdiff.generate.families:TIKHONOV",
    "empirical-bayes": "memdiff.generate.families:EMPIRICAL_BAYES",
    "temperature": "memdiff.generate.families:TEMPERATURE",
    "smoothed": "memdiff.generate.families:SMOOTHED",
    "early-stop": "memdiff.generate.families:EARLY_STOP",
}
"""Regularisers: each a :class:`~memdiff.generate.families.Family`."""

REGULARIZERS = ("none", *FAMILIES)
"""What ``regularizer`` may be."""

PROCESSES = {
    "edm": "memdiff.processes:EDM",
    "ve": "memdiff.processes:VE",
    "vp": "memdiff.processes:VP",
    "linear": "memdiff.processes:LinearInterpolant",
}
"""Forward processes."""

SAMPLERS = {
    "heun": "memdiff.samplers:Heun",
    "euler": "memdiff.samplers:Euler",
    "ddim": "memdiff.samplers:DDIM",
    "rk45": "memdiff.samplers:RK45",
    "logtime": "memdiff.samplers:LogTime",
    "sde": "memdiff.samplers:EulerMaruyama",
}
"""Samplers; those with ``steps`` get the number asked for, the others choose their steps."""

STOPPING_RULES = {
    "silverman": "memdiff.generate.stopping:silverman",
    "scott": "memdiff.generate.stopping:scott",
    "likelihood": "memdiff.generate.stopping:likelihood",
}
"""Rules for the strength of ``early-stop``: functions of an empirical score."""


def named(place: str) -> Any:  # noqa: ANN401
    """Import what a place such as ``"memdiff.samplers:Heun"`` names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


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
            words = ["auto", *(STOPPING_RULES if self.regularizer == "early-stop" else ())]
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
