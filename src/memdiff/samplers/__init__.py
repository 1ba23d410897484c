"""Samplers: draw from the distribution that a score leads to. See :func:`sample`."""

from memdiff.samplers.adaptive import RK45, AdaptiveSampler, LogTime
from memdiff.samplers.base import Path, Sampler
from memdiff.samplers.fixed_step import DDIM, Euler, EulerMaruyama, FixedStepSampler, Heun
from memdiff.samplers.flow import ReverseFlow
from memdiff.samplers.noise import BrownianMotion, SeededBrownianMotion, draw_latents
from memdiff.samplers.sampling import SamplerStats, Samples, sample

__all__ = [
    "DDIM",
    "RK45",
    "AdaptiveSampler",
    "BrownianMotion",
    "Euler",
    "EulerMaruyama",
    "FixedStepSampler",
    "Heun",
    "LogTime",
    "Path",
    "ReverseFlow",
    "Sampler",
    "SamplerStats",
    "Samples",
    "SeededBrownianMotion",
    "draw_latents",
    "sample",
]
