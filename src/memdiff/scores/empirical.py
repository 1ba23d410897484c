r"""The minimiser of score matching on a finite training set.

.. math::
    s_N(x, t) = \frac{m D(x, t) - x}{\sigma^2}, \qquad D = \sum_n w_n x_n, \qquad
    w = \mathrm{softmax}_n\Big(\log \pi_n - \frac{|x - m x_n|^2}{2 \sigma^2}\Big) .

It is the score of :math:`p^N_t = \sum_n \pi_n N(m x_n, \sigma^2 I)`, and a diffusion model that
reaches it returns its training data.

References:
    Baptista et al., arXiv:2501.15785.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from memdiff.kernel import Posterior, Trajectory
from memdiff.kernel.shards import Engine
from memdiff.kernel.trajectories import followed, index_bytes
from memdiff.processes import ForwardProcess
from memdiff.run.ranks import Ranks
from memdiff.scores.base import Score, expand_time, per_sample
from memdiff.scores.conditions import Conditions
from memdiff.scores.kernels import Kernels
from memdiff.scores.query import DifferentiableResidual, ScoreQuery
from memdiff.sources import RowData, Rows

__all__ = ["EmpiricalScore", "negligible_mass"]


def negligible_mass(dtype: torch.dtype) -> float:
    """Mass that may be left out with no digit lost: 1e-6 for float32 data, 1e-12 for float64."""
    return 1e-12 if dtype == torch.float64 else 1e-6


class EmpiricalScore(Score):
    r"""Exact score of the noised training data.

    Conditional training on pairs :math:`(x_n, y_n)` has a minimiser that, at a training
    condition, uses only the points that share it. ``conditions`` with shape ``(N,)`` are labels;
    with shape ``(N, k)`` they are vectors, and with ``condition_bandwidth`` :math:`h > 0` the
    weights are multiplied by :math:`\exp(-|y - y_n|^2 / (2 h^2))`, which extends the minimiser
    between training conditions (:math:`h \to 0` recovers it, :math:`h \to \infty` gives the
    unconditional score). Called without ``y``, a conditional score is the unconditional one.
    Conditions that are compared for equality and have 256 points each on average get a posterior
    of their own, which sees no other points and takes a copy of its own.

    The score is differentiable once with respect to ``x``: its Jacobian
    :math:`m^2 \mathrm{Cov}_w / \sigma^4 - I / \sigma^2` is exact.

    Data that do not fit into memory are given as :class:`~memdiff.sources.Rows` (or what makes
    one: a memory map, a file, a list of shards) and stay where they are: every evaluation reads
    them in blocks. However large the file, the score and its evaluations then take
    ``memory_limit``, 24 bytes a training point and 32 MiB. The data are no buffer in this case but
    the attribute ``source``: ``state_dict()`` holds the prior weights alone, and ``to()`` changes
    the device and dtype in which blocks arrive.

    Args:
        data: Training data with shape ``(N, *S)``, in memory or on disk. float32 and float64 are
            kept, half precision and integers become float32.
        process: Forward process.
        weights: Prior weights :math:`\pi_n` with shape ``(N,)``, non-negative with a positive
            sum; they are normalised. Repeated points act as weights.
        conditions: Labels ``(N,)`` or vectors ``(N, k)``; see above.
        condition_bandwidth: Kernel width :math:`h` for vector conditions, in their units; 0 asks
            for equality.
        memory_limit: Bound in bytes of the temporary memory of one evaluation.
        tolerance: Mass of the weights that an evaluation may leave out where that makes it
            cheaper, relative to all, at least 0 and below 1; ``error_bound`` includes it. 0 sums
            over all points always. None, the default, is 0 for direct calls, and
            :func:`negligible_mass` along the trajectories of
            :func:`~memdiff.samplers.sample`, too little to change a digit of the samples. It
            matters from some thousand points in 64 dimensions on. See
            :class:`~memdiff.kernel.trajectories.TruncatedPosterior` for the memory it takes; of
            data on disk None leaves out nothing where that is more than ``memory_limit``.
        ranks: Processes that share the training points: each makes the same score of the same
            data and evaluates it at the same points, on its part of the data alone (of data on
            disk an evaluation reads no more); each gets the whole result. By default this process
            does it all.

    Raises:
        ValueError: If the data are empty or not finite, or if shapes do not match.

    Example:
        >>> from memdiff.processes import VE
        >>> data = torch.tensor([[-1.0], [1.0]])
        >>> EmpiricalScore(data, VE()).denoise(torch.tensor([[0.9]]), 0.01)
        tensor([[1.]])
    """

    data: Tensor
    log_prior: Tensor

    def __init__(
        self,
        data: RowData,
        process: ForwardProcess,
        *,
        weights: Tensor | None = None,
        conditions: Tensor | None = None,
        condition_bandwidth: float = 0.0,
        memory_limit: int = 2**26,
        tolerance: float | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__(process)
        if tolerance is not None and not 0.0 <= tolerance < 1.0:
            raise ValueError(
                f"tolerance must be a mass of at least 0 and below 1, or None, got {tolerance}."
            )
        data = _training_data(data)
        self._hold(data)
        self.register_buffer("log_prior", _log_prior(weights, data))
        self.conditions = (
            None
            if conditions is None
            else Conditions(conditions, len(data), condition_bandwidth).to(data.device)
        )
        self.memory_limit = memory_limit
        self.tolerance = tolerance
        self.ranks = Ranks() if ranks is None else ranks
        self._renew_kernels()

    @override
    def extra_repr(self) -> str:
        points = self.source
        kind = str(points.dtype).removeprefix("torch.")
        conditional = "" if self.conditions is None else ", conditional"
        where = " on disk" if isinstance(points, Rows) else ""
        shape = tuple(points.shape[1:])
        return f"{len(points):,} points of shape {shape}{where}, {kind}{conditional}"

    def _renew_kernels(self) -> None:
        """Kernels of the data as they are now."""
        arguments = (self.source, self.log_prior, self.conditions, self.memory_limit, self.ranks)
        self.kernels = Kernels(*arguments)

    def _hold(self, data: Tensor | Rows) -> None:
        """Keep the data: as a buffer where they are in memory."""
        self._rows = data if isinstance(data, Rows) else None
        if isinstance(data, Tensor):
            self.register_buffer("data", data)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "data":
                raise AttributeError(
                    "data are on disk: use source, which reads what is indexed."
                ) from None
            raise

    @property
    def source(self) -> Tensor | Rows:
        """The training data ``(N, *S)``, wherever they are."""
        return self.data if self._rows is None else self._rows

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the training data."""
        return self.source.dtype

    @property
    def num_points(self) -> int:
        """Number of training points N."""
        return len(self.source)

    @property
    def shape(self) -> torch.Size:
        """Shape ``S`` of one point."""
        return self.source.shape[1:]

    @property
    def engine(self) -> Engine:
        """The posterior over the flattened training points, built at first use."""
        return self.kernels.whole

    def truncation(self) -> tuple[float, Trajectory | None]:
        """Mass that a call may leave out, and what is remembered where a sampler asks."""
        if self.tolerance == 0.0:
            return 0.0, None
        trajectory = followed(self.kernels)
        if self.tolerance is not None:
            return self.tolerance, trajectory
        index = 0 if self._rows is None else index_bytes(self.num_points, self.shape.numel())
        if trajectory is None or index > self.memory_limit:
            return 0.0, None  # what leaves points out lies in memory, where these points shall not
        return negligible_mass(self.dtype), trajectory

    def forward(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        """The score, of the shape and dtype of ``x``; infinite or NaN at sigma = 0."""
        return self.score_from_residual(x, t, y)

    def residual(
        self,
        x: Tensor,
        t: float | Tensor,
        y: Tensor | None = None,
        *,
        exclude: Tensor | None = None,
        temperature: Tensor | float = 1.0,
    ) -> Tensor:
        r"""The residual :math:`m D - x`, finite down to and at :math:`\sigma = 0`.

        Args:
            x: Points with shape ``(B, *S)``.
            t: Time, a scalar or ``(B,)``.
            y: Conditions with shape ``(B,)`` or ``(B, k)``.
            exclude: Index of a training point that each query leaves out, int64 with shape
                ``(B,)``; -1 for none.
            temperature: Divides the logits of the weights, a scalar or ``(B,)``.

        Returns:
            Tensor of the shape and dtype of ``x``.
        """
        query = ScoreQuery(self, x, t, y, exclude, temperature)
        if torch.is_grad_enabled() and x.requires_grad:
            return DifferentiableResidual.apply(x, query)
        return query.residual(x)

    def denoise(
        self,
        x: Tensor,
        t: float | Tensor,
        y: Tensor | None = None,
        *,
        exclude: Tensor | None = None,
    ) -> Tensor:
        """The posterior mean D, of the shape and dtype of ``x``."""
        m = self.process.scale(expand_time(t, x))
        residual = self.residual(x, t, y, exclude=exclude)
        return ((x + residual).to(torch.float64) / per_sample(m, x)).to(x.dtype)

    def posterior(
        self,
        x: Tensor,
        t: float | Tensor,
        y: Tensor | None = None,
        *,
        exclude: Tensor | None = None,
        temperature: Tensor | float = 1.0,
    ) -> Posterior:
        """All posterior quantities from one pass; arguments as in :meth:`residual`.

        Returns:
            A :class:`~memdiff.kernel.Posterior`. ``mean`` and ``residual`` have the dtype of
            ``x``, the statistics are float64. With a temperature other than 1, or under a
            condition, ``log_density`` is that of the weighted sum which the weights normalise.
        """
        query = ScoreQuery(self, x, t, y, exclude, temperature)
        part = query.sums(x)
        flat = x.reshape(len(x), -1).to(torch.float64)
        residual = part.residual_sum / part.total[:, None]
        mean = (flat + residual) / query.scale[:, None]
        entropy = (part.total.log() - part.entropy_sum / part.total).clamp(
            0, math.log(self.num_points)
        )
        log_normaliser = -0.5 * flat.shape[1] * (2 * math.pi * query.width**2).log()
        top_weight = (1.0 / part.total).clamp_max(1.0)  # a total may round to less than 1
        spread = 2 * query.radius * (1 - top_weight) * (2 * part.logit_error).expm1()
        error = spread + part.sum_error / query.scale
        error = error + 2 * torch.finfo(x.dtype).eps * mean.norm(dim=1)
        return Posterior(
            mean=mean.reshape(x.shape).to(x.dtype),
            log_density=part.top_logit + part.total.log() + log_normaliser,
            entropy=entropy,
            effective_points=entropy.exp(),
            top_weight=top_weight,
            top_index=part.top_index,
            error_bound=error,
            residual=residual.reshape(x.shape).to(x.dtype),
        )

    def log_density(
        self,
        x: Tensor,
        t: float | Tensor,
        y: Tensor | None = None,
        *,
        exclude: Tensor | None = None,
    ) -> Tensor:
        r"""Normalised log density :math:`\log p^N_t(x)`, float64 with shape ``(B,)``."""
        return self.posterior(x, t, y, exclude=exclude).log_density

    def weights(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        """All posterior weights, float64 with shape ``(B, N)``.

        Raises:
            ValueError: If ``B * N`` numbers do not fit ``memory_limit``; use :meth:`posterior`.
        """
        size = 8 * len(x) * self.num_points
        if size > self.memory_limit:
            raise ValueError(
                f"weights would take {size:,} bytes for {len(x):,} queries and "
                f"{self.num_points:,} training points, above memory_limit = "
                f"{self.memory_limit:,}: pass fewer queries at a time, or use posterior(), which "
                "gives the statistics of the weights without storing them."
            )
        return ScoreQuery(self, x, t, y, None, 1.0).weights(x)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super()._load_from_state_dict(*arguments, **options)
        self._renew_kernels()  # the old ones hold copies of the points that were here

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> EmpiricalScore:
        if self._rows is not None:
            probe = fn(torch.empty(0, dtype=self._rows.dtype, device=self._rows.device))
            if probe.dtype != self._rows.dtype:
                self._rows = self._rows.map(partial(Tensor.to, dtype=probe.dtype))
            if probe.device != self._rows.device:
                self._rows = self._rows.to(probe.device)
        super()._apply(fn, recurse)
        # The old ones hold copies of the points in their old dtype and on their old device.
        self._renew_kernels()
        return self


def _training_data(data: RowData) -> Tensor | Rows:
    if not isinstance(data, (Tensor, Rows)):
        data = Rows(data, "data")
    if isinstance(data, Rows) and not data.on_disk:
        data = data.tensor()
    if data.ndim < 2 or len(data) == 0:
        raise ValueError(
            f"data must have shape (N, *S) with at least one point and one dimension, "
            f"got {tuple(data.shape)}."
        )
    if data.dtype not in (torch.float32, torch.float64):
        convert = partial(Tensor.to, dtype=torch.float32)
        data = data.map(convert) if isinstance(data, Rows) else convert(data)
    if isinstance(data, Rows):
        data.moments()  # raises where a value is not finite
        return data
    bad = ~torch.isfinite(data.reshape(len(data), -1)).all(1)
    if bool(bad.any()):
        raise ValueError(
            f"data must be finite, but {int(bad.sum())} of {len(data)} training points hold NaN "
            f"or infinity, the first at index {int(bad.nonzero()[0])}: remove or repair them."
        )
    return data.detach()


def _log_prior(weights: Tensor | None, data: Tensor | Rows) -> Tensor:
    if weights is None:
        weights = torch.ones(len(data), dtype=torch.float64, device=data.device)
    weights = torch.as_tensor(weights, dtype=torch.float64, device=data.device)
    if weights.shape != (len(data),):
        raise ValueError(
            f"weights must have shape ({len(data)},), one a training point, "
            f"got {tuple(weights.shape)}."
        )
    if not bool(torch.isfinite(weights).all() & (weights >= 0).all() & (weights.sum() > 0)):
        raise ValueError("weights must be finite and non-negative with a positive sum.")
    return (weights / weights.sum()).log_()
