r"""Exact scores of known laws: Gaussians and Gaussian mixtures.

For data :math:`x_0 \sim \sum_k \pi_k N(\mu_k, \Sigma_k)` the forward process keeps the family,

.. math::
    p_t = \sum_k \pi_k\, N(m \mu_k,\; C_k), \qquad C_k = m^2 \Sigma_k + \sigma^2 I, \qquad
    s(x, t) = -\sum_k \rho_k(x, t)\, C_k^{-1} (x - m \mu_k),

with :math:`\rho_k` the posterior probability of component :math:`k`. These are the population
scores against which the error of an estimate from finitely many samples is measured.

Every :math:`\Sigma_k = Q_k \operatorname{diag}(v_k) Q_k^T` is diagonalised once, in float64; after
that a score costs one rotation into and one out of the eigenbasis, and :math:`C_k` is inverted at
any time by dividing by :math:`m^2 v + \sigma^2`. Covariances may be singular (data on a linear
manifold): :math:`C_k` is invertible for every :math:`\sigma > 0`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from memdiff.processes import ForwardProcess
from memdiff.scores.base import Score, expand_time
from memdiff.scores.spectra import as_floating, check_finite, covariance_spectra

__all__ = ["GaussianMixtureScore", "GaussianScore"]

# Bounds the (block, K, d) float64 work arrays to 32 MB each.
_BLOCK_ELEMENTS = 2**22
# Stands for sigma^2 = 0, so that 0/0 in the singular directions takes its limit. Far below every
# other number in play, far above the denormals.
_SMALLEST_VARIANCE = 1e-200


class GaussianMixtureScore(Score):
    r"""The score of a Gaussian mixture under a forward process, exact and differentiable.

    Evaluation is in float64 and in blocks of samples, with a few work arrays of at most 32 MB each
    (or of one sample, where ``K d`` numbers are more than that). Points have the dtype of ``x``,
    densities are float64. A condition ``y`` with shape ``(B,)`` is the label of a component, and
    selects the score of that component alone.

    Args:
        weights: Weights :math:`\pi_k` with shape ``(K,)``, non-negative; normalised to sum 1.
        means: Means :math:`\mu_k` with shape ``(K, *S)``. Their dtype is that of drawn data.
        covariances: Covariances :math:`\Sigma_k` of the flattened points (:math:`d` numbers each):
            full ``(K, d, d)``, one full ``(d, d)`` shared by all, diagonal (variances) ``(K, *S)``
            or ``(K, d)``, isotropic (variances) ``(K,)``, or one number. They may be singular:
            eigenvalues of a full covariance below :math:`d\,\epsilon` times the largest, with
            :math:`\epsilon` the rounding unit of its dtype, are taken as 0.
        process: Forward process.

    Raises:
        ValueError: If a shape does not fit (``(d, d)`` with ``K = d > 1`` could be shared or
            diagonal and is refused), a value is not finite, weights are negative or all zero,
            or a covariance is not symmetric and positive semi-definite.

    Example:
        >>> from memdiff.processes import VE
        >>> means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
        >>> score = GaussianMixtureScore(torch.ones(2), means, torch.tensor([0.1, 0.1]), VE())
        >>> score(torch.zeros(1, 2, dtype=torch.float64), 0.5).abs().max() < 1e-12
        tensor(True)
        >>> score.sample_data(5, torch.Generator().manual_seed(0)).shape
        torch.Size([5, 2])

    References:
        Baptista et al., arXiv:2501.15785, for the score of a noised law; the mixture
        formula is the standard one for a Gaussian convolution.
    """

    means: Tensor
    log_weights: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor | None

    def __init__(
        self,
        weights: Tensor | Sequence[float],
        means: Tensor | Sequence[Any],
        covariances: Tensor | Sequence[Any] | float,
        process: ForwardProcess,
    ) -> None:
        super().__init__(process)
        means = torch.as_tensor(means)
        means = means if means.is_floating_point() else means.to(torch.get_default_dtype())
        if means.ndim < 2 or means.numel() == 0:
            raise ValueError(
                f"means must have shape (K, *S) with K and S not empty, got {tuple(means.shape)}."
            )
        check_finite("means", means)
        log_weights = _log_weights(weights, means.shape[0])
        eigenvalues, eigenvectors = covariance_spectra(covariances, means)
        # First, because the dtype of a score is that of its first buffer.
        self.register_buffer("means", means.detach().clone())
        self.register_buffer("log_weights", log_weights.to(means.device))
        self.register_buffer("eigenvalues", eigenvalues.to(means.device))
        self.register_buffer(
            "eigenvectors", None if eigenvectors is None else eigenvectors.to(means.device)
        )

    @property
    def shape(self) -> torch.Size:
        """Shape ``S`` of one point."""
        return self.means.shape[1:]

    @property
    def num_components(self) -> int:
        """Number of components ``K``."""
        return self.means.shape[0]

    def forward(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        r"""The score :math:`\nabla \log p_t(x)`, of the shape and dtype of ``x``.

        Args:
            x: Points with shape ``(B, *S)``.
            t: Time, a scalar or ``(B,)``.
            y: Component labels with shape ``(B,)``; None for the score of the mixture.

        Returns:
            Tensor like ``x``. At :math:`\sigma = 0` it is finite where no covariance is singular.

        Raises:
            ValueError: If ``x``, ``t`` or ``y`` has another shape, or a label is out of range.
        """
        return self._blocks(x, t, y, lambda at: at.average(-at.z / at.total)).reshape(x.shape)

    def residual(
        self,
        x: Tensor,
        t: float | Tensor,
        y: Tensor | None = None,
        *,
        exclude: Tensor | None = None,
    ) -> Tensor:
        r"""The residual :math:`\sigma^2 s(x, t)`, like ``x``; finite at :math:`\sigma = 0` too.

        At :math:`\sigma = 0` it is minus the part of ``x`` outside the support of the nearest
        component, its limit as :math:`\sigma \to 0`.
        """
        if exclude is not None:  # refused: a population has no training points
            return super().residual(x, t, y, exclude=exclude)
        values = self._blocks(x, t, y, lambda at: at.average(-(at.variance / at.total) * at.z))
        return values.reshape(x.shape)

    def posterior_mean(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        r"""The posterior mean :math:`E[x_0 \mid x(t) = x]`, like ``x``.

        Summed as :math:`\sum_k \rho_k (\mu_k + m \Sigma_k C_k^{-1} (x - m \mu_k))` and not as
        :math:`(x + \sigma^2 s)/m`, which cancels where the noise is large.
        """

        def mean(at: _Evaluation) -> Tensor:
            shrunk = at.average(at.m * self.eigenvalues.to(torch.float64) / at.total * at.z)
            return shrunk + at.probabilities() @ self.means.flatten(1).to(torch.float64)

        return self._blocks(x, t, y, mean).reshape(x.shape)

    def denoise(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        """The denoiser, which here is the exact :meth:`posterior_mean`, like ``x``."""
        return self.posterior_mean(x, t, y)

    def log_density(self, x: Tensor, t: float | Tensor, y: Tensor | None = None) -> Tensor:
        r""":math:`\log p_t(x)` in nats, normalised.

        Args:
            x: Points with shape ``(B, *S)``.
            t: Time, a scalar or ``(B,)``.
            y: Component labels with shape ``(B,)``; then the log density of that component.

        Returns:
            float64 tensor with shape ``(B,)``.

        Raises:
            ValueError: As :meth:`forward`; also at :math:`\sigma = 0` where a covariance is
                singular, because there is no density.
        """
        singular = bool((self.eigenvalues == 0).any())
        if singular and bool((self.process.std(expand_time(t, x)) == 0).any()):
            raise ValueError(
                "t must be a time with sigma(t) > 0 where a covariance is singular: "
                "the law of the data has no density; take log_density at a small positive time."
            )
        return self._blocks(x, t, y, lambda at: torch.logsumexp(at.logits, dim=1), torch.float64)

    def responsibilities(self, x: Tensor, t: float | Tensor) -> Tensor:
        r"""Posterior probabilities :math:`\rho_k(x, t)`, float64 with shape ``(B, K)``."""
        return self._blocks(x, t, None, lambda at: at.probabilities(), torch.float64)

    @overload
    def sample_data(
        self, num: int, generator: torch.Generator, *, labels: Literal[False] = False
    ) -> Tensor: ...

    @overload
    def sample_data(
        self, num: int, generator: torch.Generator, *, labels: Literal[True]
    ) -> tuple[Tensor, Tensor]: ...

    def sample_data(
        self, num: int, generator: torch.Generator, *, labels: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Draw independent points from the law of the data (no noise of the process).

        Args:
            num: Number of points, at least 1.
            generator: Source of randomness; the draws are made on its device.
            labels: Whether to return the component of each point as well.

        Returns:
            Tensor with shape ``(num, *S)``, dtype and device of the means; with ``labels`` also
            int64 labels with shape ``(num,)``.

        Raises:
            ValueError: If ``num`` is below 1.
        """
        if num < 1:
            raise ValueError(f"num must be at least 1, got {num}.")
        device = self.means.device
        probabilities = self.log_weights.to(torch.float64).exp().to(generator.device)
        label = torch.multinomial(probabilities, num, replacement=True, generator=generator)
        label = label.to(device)
        z = torch.randn(
            (num, self.means[0].numel()),
            generator=generator,
            device=generator.device,
            dtype=torch.float64,
        ).to(device)
        z = z * self.eigenvalues.to(torch.float64).expand(self.num_components, -1)[label].sqrt()
        x = self._rotate_back(z, label) + self.means.flatten(1).to(torch.float64)[label]
        points = x.to(self.means.dtype).reshape(num, *self.shape)
        return (points, label) if labels else points

    def _rotate_back(self, z: Tensor, label: Tensor) -> Tensor:
        """Coordinates ``(num, d)`` in the eigenbasis of each point's component, to the data's."""
        if self.eigenvectors is None:
            return z
        basis = self.eigenvectors.to(torch.float64)
        if basis.shape[0] == 1:
            return z @ basis[0].T
        x = torch.empty_like(z)
        for k in range(self.num_components):
            x[label == k] = z[label == k] @ basis[k].T
        return x

    def _blocks(
        self,
        x: Tensor,
        t: float | Tensor,
        y: Tensor | None,
        read: Callable[[_Evaluation], Tensor],
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Evaluate ``read`` on blocks of samples and join, in the dtype of ``x`` by default."""
        if x.ndim < 1 or x.shape[1:] != self.shape or not x.is_floating_point():
            raise ValueError(
                f"x must be floating-point with shape (B, {', '.join(map(str, self.shape))}), "
                f"got {x.dtype} with shape {tuple(x.shape)}."
            )
        time = expand_time(t, x)
        label = None if y is None else self._check_labels(y, x)
        m, variance = self.process.scale(time), self.process.std(time) ** 2
        points = x.flatten(1)
        size = max(1, _BLOCK_ELEMENTS // self.means.numel())
        parts = []
        for start in range(0, max(1, x.shape[0]), size):
            block = slice(start, start + size)
            at = _Evaluation(
                self,
                points[block].to(torch.float64),
                m[block],
                variance[block],
                None if label is None else label[block],
            )
            parts.append(read(at).to(dtype or x.dtype))
        return torch.cat(parts)

    def _check_labels(self, y: Tensor, x: Tensor) -> Tensor:
        label = torch.as_tensor(y, device=x.device)
        if label.shape != (x.shape[0],) or label.is_floating_point() or label.is_complex():
            raise ValueError(
                f"y must hold integer component labels with shape ({x.shape[0]},), "
                f"got {label.dtype} with shape {tuple(label.shape)}."
            )
        label = label.to(torch.int64)
        if bool(((label < 0) | (label >= self.num_components)).any()):
            raise ValueError(
                f"y must hold component labels from 0 to {self.num_components - 1}, "
                f"got {int(label.min())} to {int(label.max())}."
            )
        return label


class GaussianScore(GaussianMixtureScore):
    r"""The score of one Gaussian: :math:`s(x, t) = -(m^2 \Sigma + \sigma^2 I)^{-1} (x - m \mu)`.

    Args:
        mean: Mean :math:`\mu` with shape ``S``.
        covariance: Covariance :math:`\Sigma` of the flattened points: full ``(d, d)``, diagonal
            (variances) ``S`` or ``(d,)``, or one variance. It may be singular.
        process: Forward process.

    Raises:
        ValueError: If the covariance does not fit or is not positive semi-definite.

    Example:
        >>> from memdiff.processes import EDM
        >>> score = GaussianScore(torch.zeros(2), torch.tensor([3.0, 0.0]), EDM())
        >>> score(torch.tensor([[1.0, 1.0]]), 1.0)
        tensor([[-0.2500, -1.0000]])
    """

    def __init__(
        self,
        mean: Tensor | Sequence[Any],
        covariance: Tensor | Sequence[Any] | float,
        process: ForwardProcess,
    ) -> None:
        mean = torch.as_tensor(mean)
        covariance = as_floating(covariance)
        if mean.ndim < 1:
            raise ValueError("mean must have a shape S of at least one axis, got a number.")
        # A full (d, d) is passed as (1, d, d) and a diagonal as (1, *S): neither is ambiguous.
        super().__init__(
            torch.ones(1, dtype=torch.float64),
            mean[None],
            covariance if covariance.ndim == 0 else covariance[None],
            process,
        )


class _Evaluation:
    """One block of points against all components, in the eigenbases.

    Attributes:
        m, variance: Scale and noise variance with shape ``(B, 1, 1)``.
        z: Coordinates of ``x - m mu_k`` with shape ``(B, K, d)``.
        total: Eigenvalues ``m^2 v + sigma^2`` with shape ``(B, K or 1, d)``.
        logits: Log of weight times density of each component with shape ``(B, K)``.
    """

    def __init__(
        self,
        law: GaussianMixtureScore,
        x: Tensor,
        m: Tensor,
        variance: Tensor,
        label: Tensor | None,
    ) -> None:
        self.m = m[:, None, None]
        self.variance = variance.clamp_min(_SMALLEST_VARIANCE)[:, None, None]
        self.basis = None if law.eigenvectors is None else law.eigenvectors.to(torch.float64)
        means = law.means.flatten(1).to(torch.float64)
        # Subtracted before the rotation: the other order cancels at small noise.
        z = x[:, None] - self.m * means
        if self.basis is not None:
            z = torch.einsum("bkd,kde->bke", z, self.basis.expand(means.shape[0], -1, -1))
        self.z = z
        self.total = self.m**2 * law.eigenvalues.to(torch.float64) + self.variance
        exponent = (self.z**2 / self.total + self.total.log()).sum(dim=-1)
        normaliser = x.shape[1] * math.log(2.0 * math.pi)
        self.logits = -0.5 * (exponent + normaliser)
        if label is None:
            self.logits = self.logits + law.log_weights.to(torch.float64)
        else:
            component = torch.arange(means.shape[0], device=x.device)
            self.logits = self.logits.masked_fill(label[:, None] != component, -math.inf)

    def probabilities(self) -> Tensor:
        """Posterior probabilities of the components with shape ``(B, K)``."""
        return torch.softmax(self.logits, dim=1)

    def average(self, values: Tensor) -> Tensor:
        """Posterior average ``(B, d)`` of values ``(B, K, d)`` given in the eigenbases."""
        weighted = self.probabilities()[:, :, None] * values
        if self.basis is None:
            return weighted.sum(dim=1)
        if self.basis.shape[0] == 1:
            return weighted.sum(dim=1) @ self.basis[0].T
        return torch.einsum("bke,kde->bd", weighted, self.basis)


def _log_weights(weights: Tensor | Sequence[float], components: int) -> Tensor:
    weights = as_floating(weights).to(torch.float64)
    if weights.shape != (components,):
        raise ValueError(
            f"weights must have shape ({components},), one a mean, got {tuple(weights.shape)}."
        )
    check_finite("weights", weights)
    if bool((weights < 0).any()) or not bool((weights > 0).any()):
        raise ValueError(
            f"weights must be non-negative and not all zero, got {weights.tolist()[:10]}."
        )
    return (weights / weights.sum()).log()
