"""Scores: exact, regularised, population and learned."""

from memdiff.scores.bandwidth import (
    BandwidthCurve,
    leave_one_out_likelihood,
    scott_bandwidth,
    silverman_bandwidth,
)
from memdiff.scores.base import Score
from memdiff.scores.covariance import (
    Covariance,
    DiagonalCovariance,
    FourierCovariance,
    LowRankCovariance,
)
from memdiff.scores.diffusers import DiffusersScore, as_diffusers_model
from memdiff.scores.empirical import EmpiricalScore
from memdiff.scores.empirical_bayes import EmpiricalBayes
from memdiff.scores.network import NetworkScore, Parametrization
from memdiff.scores.population import GaussianMixtureScore, GaussianScore
from memdiff.scores.regularised import RegularisedScore
from memdiff.scores.smoothed import Smoothed
from memdiff.scores.stopped import Stopped
from memdiff.scores.tempered import (
    CollapseTemperature,
    InverseTemperature,
    TemperatureRule,
    Tempered,
)
from memdiff.scores.tikhonov import Tikhonov

__all__ = [
    "BandwidthCurve",
    "CollapseTemperature",
    "Covariance",
    "DiagonalCovariance",
    "DiffusersScore",
    "EmpiricalBayes",
    "EmpiricalScore",
    "FourierCovariance",
    "GaussianMixtureScore",
    "GaussianScore",
    "InverseTemperature",
    "LowRankCovariance",
    "NetworkScore",
    "Parametrization",
    "RegularisedScore",
    "Score",
    "Smoothed",
    "Stopped",
    "TemperatureRule",
    "Tempered",
    "Tikhonov",
    "as_diffusers_model",
    "leave_one_out_likelihood",
    "scott_bandwidth",
    "silverman_bandwidth",
]
