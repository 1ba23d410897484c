r"""Score-matching objectives: what training minimises, and what its minimiser costs.

With a weight :math:`\lambda(t) > 0`, a law of the times, and :math:`x = m x_0 + \sigma z`,

.. math::
    I(s) &= E_t\, \lambda\, E_{p_t} |s - \nabla \log p_t|^2 && \text{explicit} \\
    J(s) &= E_t\, \lambda\, E\, |s + z/\sigma|^2 && \text{denoising} \\
    K(s) &= E_t\, \lambda\, E_{p_t} [\, |s|^2 + 2\, \mathrm{div}\, s \,] && \text{implicit}

differ by constants: neither :math:`J - I` nor :math:`K - I` depends on :math:`s`. On a training
set (:math:`x_0` uniform on it) the minimiser of :math:`J_N` is the empirical score :math:`s_N`,
and the excess empirical risk

.. math::
    J_N(s) - J_N(s_N) = E_t\, \lambda\, E_{p^N_t} |s - s_N|^2 \ge 0

tells, with no sampling, how close a network is to the score that memorises.

Each objective comes twice. ``..._loss`` gives one loss a draw as a float64 tensor, differentiable
with respect to the parameters of the score: for training. ``..._score_matching``,
:func:`excess_empirical_risk` and :func:`leave_one_out_denoising` average it into an
:class:`Estimate` with a standard error: for measuring. Both take :class:`Draws`, made once by
:func:`draw`, so that scores are compared under common random numbers.

All are written in the residual :math:`r = \sigma^2 s`, which stays finite where the score does
not: :math:`\lambda |s + z/\sigma|^2 = (\lambda/\sigma^2)\, |r/\sigma + z|^2`.

References:
    Baptista et al., arXiv:2501.15785 (the objectives, the memorising minimiser).
    Hyvärinen, *Estimation of Non-Normalized Statistical Models by Score Matching*, JMLR 2005.
    Vincent, *A Connection Between Score Matching and Denoising Autoencoders*, 2011.
"""

from __future__ import annotations

from memdiff.objectives.draws import (
    DataLaw,
    Draws,
    LogUniformRatio,
    TimeLaw,
    UniformTime,
    draw,
    rademacher,
)
from memdiff.objectives.estimates import (
    Estimate,
    denoising_score_matching,
    excess_empirical_risk,
    explicit_score_matching,
    implicit_score_matching,
    leave_one_out_denoising,
    paired_difference,
)
from memdiff.objectives.losses import (
    LeaveOneOut,
    Weighting,
    denoising_loss,
    divergence,
    explicit_loss,
    implicit_loss,
    leave_one_out_loss,
    likelihood,
    sigma2,
    uniform,
)

__all__ = [
    "DataLaw",
    "Draws",
    "Estimate",
    "LeaveOneOut",
    "LogUniformRatio",
    "TimeLaw",
    "UniformTime",
    "Weighting",
    "denoising_loss",
    "denoising_score_matching",
    "divergence",
    "draw",
    "excess_empirical_risk",
    "explicit_loss",
    "explicit_score_matching",
    "implicit_loss",
    "implicit_score_matching",
    "leave_one_out_denoising",
    "leave_one_out_loss",
    "likelihood",
    "paired_difference",
    "rademacher",
    "sigma2",
    "uniform",
]
