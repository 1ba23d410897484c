"""Coordinates along the principal axes of the training set."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from memdiff.data import Dataset
from memdiff.data.dataset import Kind
from memdiff.features.descriptor import Descriptor, signed_pixels
from memdiff.sources.hashing import sha256_of

__all__ = ["PCA", "PrincipalAxes"]

_EXACT_UP_TO = 2048
_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class PrincipalAxes:
    """What PCA learns from a training set, all float64.

    Attributes:
        mean: Mean of the training set, ``(d,)``.
        axes: Orthonormal principal axes, ``(k, d)``; the entry of largest magnitude of each is
            positive.
        explained_variance: Variance of the training set along each axis, divisor N - 1, ``(k,)``.
        total_variance: Variance along all axes together.
    """

    mean: Tensor
    axes: Tensor
    explained_variance: Tensor
    total_variance: float

    @property
    def explained_variance_ratio(self) -> Tensor:
        """Share of the total variance along each axis, ``(k,)``."""
        return self.explained_variance / self.total_variance


class PCA(Descriptor):
    """Principal components, fitted by :meth:`fit` on the training set.

    Computed in float64 from the covariance ``(d, d)`` or the Gram matrix ``(N, N)`` where the
    smaller has at most 2048 rows, which is exact, else by a randomised singular value
    decomposition with 7 power iterations. The data are read in blocks; extra memory is that
    matrix, or ``(N + d) (components + 10)`` numbers.

    Args:
        components: Number of axes, at most the rank of the centred training set.
        whiten: Divide every component by its standard deviation in the training set, so that
            distances are Mahalanobis distances within the subspace.
        seed: Seed of the randomised decomposition.

    Raises:
        ValueError: If ``components`` is not an integer of at least 1.

    References:
        Halko, Martinsson and Tropp 2011, Finding Structure with Randomness, algorithms 4.4, 5.1.

    Example:
        >>> from memdiff.data import from_array
        >>> train = from_array(torch.tensor([[3.0, 4.0], [-3.0, -4.0], [0.0, 0.0]]))
        >>> PCA(1).fit(train).features(train).flatten().tolist()
        [5.0, -5.0, 0.0]
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("images", "video", "vectors")

    def __init__(self, components: int, *, whiten: bool = False, seed: int = 0) -> None:
        if not isinstance(components, int) or isinstance(components, bool) or components < 1:
            raise ValueError(f"components must be an integer of at least 1, got {components!r}.")
        self.components = components
        self.whiten = bool(whiten)
        self.seed = seed
        self._fitted: PrincipalAxes | None = None
        self._shape: torch.Size | None = None

    @property
    def name(self) -> str:
        """Number of components, e.g. ``"pca:64"``."""
        return f"pca:{self.components}{':whiten' if self.whiten else ''}"

    @property
    def principal(self) -> PrincipalAxes:
        """Mean, axes and variances of the training set.

        Raises:
            ValueError: Before :meth:`fit`.
        """
        if self._fitted is None:
            raise ValueError(
                f"features {self.name!r} are not fitted: call fit(train), which returns the "
                f"fitted descriptor."
            )
        return self._fitted

    @property
    def parameters(self) -> dict[str, Any]:
        """Components, whitening, seed; hashes of mean, axes and variances once fitted."""
        fitted = self._fitted and {
            "mean_sha256": sha256_of(self._fitted.mean),
            "axes_sha256": sha256_of(self._fitted.axes),
            "variance_sha256": sha256_of(self._fitted.explained_variance),
        }
        return {
            "components": self.components,
            "whiten": self.whiten,
            "seed": self.seed,
            "fitted": fitted,
        }

    @property
    def settings(self) -> dict[str, Any]:
        """As for every descriptor, with the share of the variance that is kept."""
        found = super().settings
        if self._fitted is not None:
            found["explained_variance"] = float(self._fitted.explained_variance_ratio.sum())
        return found

    def fit(self, train: Dataset) -> PCA:
        """Find the principal axes of the training set.

        Args:
            train: Images, clips or vectors, at least ``components + 1`` points.

        Returns:
            The fitted descriptor.

        Raises:
            ValueError: If ``train`` is a table, or varies in fewer than ``components`` directions.
        """
        Descriptor.check(self, train)
        fitted = copy.copy(self)
        fitted._shape = train.shape
        fitted._fitted = _principal_axes(train, self.components, self.seed)
        return fitted

    def check(self, data: Dataset) -> None:
        """Raise unless the points of ``data`` have the shape of the training set."""
        super().check(data)
        self.principal  # noqa: B018  (raises before fit)
        if data.shape != self._shape:
            raise ValueError(
                f"features {self.name!r} were fitted on points of shape "
                f"{tuple(self._shape or ())}, but {data.title} has points of shape "
                f"{tuple(data.shape)}."
            )

    def _describe(self, x: Tensor) -> Tensor:
        principal = self.principal
        axes = principal.axes
        if self.whiten:
            axes = axes / principal.explained_variance.sqrt()[:, None]
        centred = x.flatten(1).to(torch.float64) - principal.mean.to(x.device)
        return (centred @ axes.T.to(x.device)).to(x.dtype)


def _principal_axes(train: Dataset, components: int, seed: int) -> PrincipalAxes:
    count, width = len(train), train.x[0].numel()
    most = min(count - 1, width)
    if components > most:
        raise ValueError(
            f"components={components} is more than {most}, the most directions that {train.title} "
            f"can vary in ({count} points with {width} values each); give at most {most}."
        )
    mean = torch.zeros(width, dtype=torch.float64)
    for block in _blocks(train):
        mean += block.sum(0) / count
    total = sum(float((block - mean).square().sum()) for block in _blocks(train)) / (count - 1)
    if width <= min(count, _EXACT_UP_TO):
        values, axes = _from_covariance(train, mean, components)
    elif count <= _EXACT_UP_TO:
        values, axes = _from_gram(train, mean, components)
    else:
        values, axes = _randomised(train, mean, components, seed)
    variance = values / (count - 1)
    # Below this a variance is rounding of the largest, and its axis is noise.
    floor = 1e-12 * max(total, float(mean.square().max()) * 1e-12)
    rank = int((variance > floor).sum())
    if rank < components:
        raise ValueError(
            f"components={components} is more than the {rank} directions in which {train.title} "
            f"varies; give at most {max(rank, 1)}, or use pixels."
        )
    largest = axes.abs().argmax(1, keepdim=True)
    axes = axes * axes.gather(1, largest).sign()
    return PrincipalAxes(mean, axes.contiguous(), variance, total)


def _blocks(train: Dataset) -> Iterator[Tensor]:
    """The points as float64 rows, pixels in [-1, 1], some at a time."""
    for block in train.x.split(_BLOCK):
        yield signed_pixels(block, train).flatten(1).to(torch.float64)


def _from_covariance(train: Dataset, mean: Tensor, k: int) -> tuple[Tensor, Tensor]:
    scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for block in _blocks(train):
        centred = block - mean
        scatter.addmm_(centred.T, centred)
    values, vectors = torch.linalg.eigh(scatter)
    return values[-k:].flip(0), vectors[:, -k:].flip(1).T


def _from_gram(train: Dataset, mean: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """From the products of points with points, where these are fewer than the values."""
    count = len(train)
    gram = torch.empty(count, count, dtype=torch.float64)
    for i, left in enumerate(_blocks(train)):
        for j, right in enumerate(_blocks(train)):
            if j <= i:
                product = (left - mean) @ (right - mean).T
                rows = slice(i * _BLOCK, i * _BLOCK + len(left))
                columns = slice(j * _BLOCK, j * _BLOCK + len(right))
                gram[rows, columns] = product
                gram[columns, rows] = product.T
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values[-k:].flip(0), vectors[:, -k:].flip(1)
    axes = _transposed_times(train, mean, vectors)
    # Orthonormal up to the error of the smallest eigenvalues, which the QR removes.
    return values, torch.linalg.qr(axes).Q.T


def _randomised(train: Dataset, mean: Tensor, k: int, seed: int) -> tuple[Tensor, Tensor]:
    width = min(k + 10, len(train) - 1, len(mean))
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(len(mean), width, generator=generator, dtype=torch.float64)
    for _ in range(8):
        image = torch.linalg.qr(_times(train, mean, basis)).Q
        basis = torch.linalg.qr(_transposed_times(train, mean, image)).Q
    reduced = _times(train, mean, basis)
    _, singular, right = torch.linalg.svd(reduced, full_matrices=False)
    return singular[:k].square(), (basis @ right[:k].T).T


def _times(train: Dataset, mean: Tensor, matrix: Tensor) -> Tensor:
    return torch.cat([(block - mean) @ matrix for block in _blocks(train)])


def _transposed_times(train: Dataset, mean: Tensor, matrix: Tensor) -> Tensor:
    product = torch.zeros(len(mean), matrix.shape[1], dtype=torch.float64)
    for block, part in zip(_blocks(train), matrix.split(_BLOCK), strict=True):
        product.addmm_((block - mean).T, part)
    return product
