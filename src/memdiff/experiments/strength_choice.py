"""True error and leave-one-out loss of regularised scores, where the data law is known.

The formulas are in :mod:`memdiff.experiments.strength_selection`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from memdiff.generate.families import EMPIRICAL_BAYES, Family
from memdiff.generate.selection import leave_one_out_draws, select
from memdiff.objectives import (
    Draws,
    LogUniformRatio,
    denoising_score_matching,
    draw,
    explicit_score_matching,
    leave_one_out_denoising,
    paired_difference,
)
from memdiff.processes import VE
from memdiff.scores import EmpiricalScore, GaussianMixtureScore, silverman_bandwidth

__all__ = [
    "Choice",
    "Comparison",
    "Curves",
    "choices_on",
    "choose",
    "compare",
    "curves",
    "data_law",
    "strength_ratio",
]

PROCESS = VE()
PER_POINT = 8


@dataclass(frozen=True)
class Choice:
    """The choice on one training set.

    Attributes:
        chosen: The strength that leave-one-out chooses.
        oracle: The strength with the smallest true error.
        steps: Number of candidates between them.
        at_edge: Whether the choice is at an end of the grid.
        error_chosen: True error at the choice.
        error_oracle: True error at the oracle.
        error_plain: True error of the empirical score, with no regulariser.
    """

    chosen: float
    oracle: float
    steps: int
    at_edge: bool
    error_chosen: float
    error_oracle: float
    error_plain: float


@dataclass(frozen=True)
class Curves:
    """Both curves on one training set, in the units of the true error.

    Attributes:
        candidates: Strengths with shape ``(K,)``.
        true: True error at each.
        leave_one_out: Leave-one-out loss minus that of the population score on the same draws.
        standard_error: Its standard error over training points.
    """

    candidates: Tensor
    true: Tensor
    leave_one_out: Tensor
    standard_error: Tensor


@dataclass(frozen=True)
class Comparison:
    """A training set with what both curves need.

    Attributes:
        score: Its empirical score.
        fitting: Noised training points, for leave-one-out.
        testing: Noised points of the law, for the true error.
    """

    score: EmpiricalScore
    fitting: Draws
    testing: Draws


def data_law() -> GaussianMixtureScore:
    """Return the law: three Gaussians in the plane of different weight and width, float64."""
    means = torch.tensor([[-2.0, 0.0], [1.5, 1.0], [0.5, -2.0]], dtype=torch.float64)
    return GaussianMixtureScore(
        torch.tensor([0.5, 0.3, 0.2]), means, torch.tensor([0.3, 0.5, 0.2]), PROCESS
    )


def compare(law: GaussianMixtureScore, num: int, num_test: int, seed: int) -> Comparison:
    """Draw a training set of ``num`` points, its noised points and ``num_test`` of the law."""
    generator = torch.Generator().manual_seed(seed)
    score = EmpiricalScore(law.sample_data(num, generator), PROCESS)
    times = LogUniformRatio(0.1 * silverman_bandwidth(score.data))
    return Comparison(
        score=score,
        fitting=leave_one_out_draws(score, per_point=PER_POINT, times=times, seed=seed),
        testing=draw(PROCESS, law, num_test, generator, times=times),
    )


def true_errors(
    law: GaussianMixtureScore, family: Family, case: Comparison, candidates: Tensor
) -> Tensor:
    """Return the true error at each candidate strength, float64 with shape ``(K,)``."""
    errors = [
        explicit_score_matching(family.build(case.score, strength), law, case.testing).value
        for strength in candidates.tolist()
    ]
    return torch.tensor(errors, dtype=torch.float64)


def choose(law: GaussianMixtureScore, family: Family, case: Comparison) -> Choice:
    """Choose by leave-one-out and by the oracle."""
    candidates = family.grid(case.score)
    selection = select(family, case.score, candidates, draws=case.fitting)
    true = true_errors(law, family, case, candidates)
    best = int(true.argmin())
    return Choice(
        chosen=selection.best,
        oracle=float(candidates[best]),
        steps=abs(selection.index - best),
        at_edge=selection.at_edge,
        error_chosen=float(true[selection.index]),
        error_oracle=float(true[best]),
        error_plain=explicit_score_matching(case.score, law, case.testing).value,
    )


def choices_on(
    law: GaussianMixtureScore, families: Sequence[Family], num: int, num_test: int, seed: int
) -> dict[str, dict[str, float]]:
    """Return the choices of all families on one training set, as plain numbers by family name."""
    case = compare(law, num, num_test, seed)
    return {family.name: asdict(choose(law, family, case)) for family in families}


def curves(law: GaussianMixtureScore, family: Family, case: Comparison) -> Curves:
    """Return both curves over the candidates, in the units of the true error."""
    candidates = family.grid(case.score)
    offset = denoising_score_matching(law, case.fitting)
    fitted = [
        paired_difference(
            leave_one_out_denoising(family.build(case.score, strength), case.fitting),
            offset,
        )
        for strength in candidates.tolist()
    ]
    return Curves(
        candidates=candidates,
        true=true_errors(law, family, case, candidates),
        leave_one_out=torch.tensor([one.value for one in fitted], dtype=torch.float64),
        standard_error=torch.tensor([one.standard_error for one in fitted], dtype=torch.float64),
    )


def strength_ratio(family: Family, choice: Choice) -> float:
    """Return chosen over oracle strength; where it is a logarithm, that of the floors."""
    if family is EMPIRICAL_BAYES:
        return float(np.exp(choice.chosen - choice.oracle))
    return choice.chosen / choice.oracle
