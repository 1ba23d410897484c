r"""Dynamics of memorisation: where and when a trajectory settles on a training point.

Under the empirical score the probability-flow ODE takes every start to a training point, or, from
exceptional starts, to a point of a Voronoi boundary: one equidistant to several training points,
at the average of them that the flow selects. On the way the posterior weights
:math:`w_n(x(t), t)` concentrate, the Voronoi cell of the scaled points :math:`m(t) x_n` that holds
:math:`x(t)` stops changing, and from then on :math:`|x(t) - x_*| = O(\sigma(t))`.

Everything here reads a recorded trajectory: times ``(K + 1,)``, decreasing, and points
``(K + 1, B, *S)``, as :func:`memdiff.samplers.sample` returns them with ``trajectory=True``. Times
of events are given in the units of the process and as the noise-to-signal ratio
:math:`\sigma/m`, which means the same in every process.

References:
    Baptista et al., arXiv:2501.15785 (limit points, Voronoi cells, rate).
    Biroli, Bonnaire, de Bortoli, Mézard, *Dynamical Regimes of Diffusion Models*,
    arXiv:2402.18491 (collapse time of a trajectory).
"""

from __future__ import annotations

from memdiff.dynamics.limits import BasinMap, LimitPoints, basin_map, limit_points
from memdiff.dynamics.trajectories import (
    Commitment,
    ConvergenceRate,
    LevelTimes,
    commitment,
    convergence_rate,
    level_times,
    voronoi_cells,
    weights_along,
)

__all__ = [
    "BasinMap",
    "Commitment",
    "ConvergenceRate",
    "LevelTimes",
    "LimitPoints",
    "basin_map",
    "commitment",
    "convergence_rate",
    "level_times",
    "limit_points",
    "voronoi_cells",
    "weights_along",
]
