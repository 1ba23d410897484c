"""Memorisation in generative diffusion models: measure it, explain it, prevent it.

The public names; each module's docstring says what it is about.

>>> import torch
>>> from memdiff import VE, EmpiricalScore, LogTime, sample
>>> train = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
>>> x = sample(EmpiricalScore(train, VE()), num=5, sampler=LogTime()).x
>>> bool(torch.cdist(x, train).min(1).values.max() < 1e-6)  # it returns its training data
True

Names are imported when they are first used.
"""

from typing import TYPE_CHECKING

from memdiff.public.lazy import lazily

if TYPE_CHECKING:
    from memdiff.data import Dataset, load
    from memdiff.generate import Generated, GenerationSettings, Selection, regularised, select
    from memdiff.kernel import Posterior
    from memdiff.objectives import (
        denoising_score_matching,
        draw,
        excess_empirical_risk,
        explicit_score_matching,
        implicit_score_matching,
        leave_one_out_denoising,
    )
    from memdiff.processes import EDM, VE, VP, ForwardProcess, LinearInterpolant
    from memdiff.samplers import (
        DDIM,
        RK45,
        Euler,
        EulerMaruyama,
        Heun,
        LogTime,
        Sampler,
        Samples,
        sample,
    )
    from memdiff.scores import (
        CollapseTemperature,
        Covariance,
        DiagonalCovariance,
        EmpiricalBayes,
        EmpiricalScore,
        FourierCovariance,
        GaussianMixtureScore,
        GaussianScore,
        InverseTemperature,
        LowRankCovariance,
        Score,
        Smoothed,
        Stopped,
        Tempered,
        Tikhonov,
    )

__all__ = [
    "DDIM",
    "EDM",
    "RK45",
    "VE",
    "VP",
    "CollapseTemperature",
    "Covariance",
    "Dataset",
    "DiagonalCovariance",
    "EmpiricalBayes",
    "EmpiricalScore",
    "Euler",
    "EulerMaruyama",
    "ForwardProcess",
    "FourierCovariance",
    "GaussianMixtureScore",
    "GaussianScore",
    "Generated",
    "GenerationSettings",
    "Heun",
    "InverseTemperature",
    "LinearInterpolant",
    "LogTime",
    "LowRankCovariance",
    "Posterior",
    "Sampler",
    "Samples",
    "Score",
    "Selection",
    "Smoothed",
    "Stopped",
    "Tempered",
    "Tikhonov",
    "denoising_score_matching",
    "draw",
    "excess_empirical_risk",
    "explicit_score_matching",
    "implicit_score_matching",
    "leave_one_out_denoising",
    "load",
    "regularised",
    "sample",
    "select",
]

_MODULES = (
    "audit",
    "data",
    "doctor",
    "dynamics",
    "experiments",
    "features",
    "generate",
    "kernel",
    "metrics",
    "neighbors",
    "objectives",
    "processes",
    "report",
    "run",
    "samplers",
    "scores",
    "sources",
    "testing",
    "training",
)

__getattr__, __dir__ = lazily(__name__, _MODULES)
