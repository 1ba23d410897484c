"""What features of every network have in common, whatever computes them."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from memdiff.data import Dataset
from memdiff.data.dataset import Kind
from memdiff.features.descriptor import Descriptor, Metric
from memdiff.features.preprocessing import Preprocessing

__all__ = ["Learned", "local_file"]


class Learned(Descriptor):
    """Features from ``(B, C, H, W)`` prepared images: what :meth:`_output` returns, as rows.

    Outputs of more dimensions are flattened; float32.

    Args:
        name: What reports call it.
        preprocessing: How images are brought to the input.
        metric: ``"cosine"`` or ``"euclidean"``.

    Raises:
        ValueError: If an argument is of another type.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("images",)

    def __init__(
        self, *, name: str, preprocessing: Preprocessing, metric: Metric = "cosine"
    ) -> None:
        if not isinstance(preprocessing, Preprocessing):
            raise ValueError(
                f"preprocessing of features {name!r} must be a Preprocessing, got "
                f"{type(preprocessing).__name__}; see PREPROCESSING_PRESETS."
            )
        if not isinstance(name, str) or not name:
            raise ValueError(f"name must say what reports call the features, got {name!r}.")
        if metric not in ("euclidean", "cosine"):
            raise ValueError(f"metric must be 'euclidean' or 'cosine', got {metric!r}.")
        self.preprocessing = preprocessing
        self.metric = metric
        self._name = name

    @property
    def name(self) -> str:
        """As given."""
        return self._name

    @abstractmethod
    def _output(self, prepared: Tensor) -> Any:  # noqa: ANN401
        """What the network returns for prepared images, to be checked here."""

    def check(self, data: Dataset) -> None:
        """Raise unless ``data`` holds images of known range."""
        super().check(data)
        if data.encoding == "free":
            low, high = data.extremes()
            raise ValueError(
                f"features {self.name!r} need pixels of a known range, but {data.title} has "
                f"values from {low:.3g} to {high:.3g}; load it with value_range=(low, high)."
            )

    def _describe(self, x: Tensor) -> Tensor:
        output = self._output(self.preprocessing(x))
        if not isinstance(output, Tensor):
            raise ValueError(
                f"features {self.name!r}: the network returned a {type(output).__name__}, "
                f"expected a tensor (B, e); wrap it in a module that returns the features."
            )
        if output.ndim < 2 or len(output) != len(x) or not output.is_floating_point():
            raise ValueError(
                f"features {self.name!r}: the network returned {output.dtype} of shape "
                f"{tuple(output.shape)} for {len(x)} images, expected floats ({len(x)}, e)."
            )
        return output.flatten(1).to(torch.float32)


def local_file(path: str | Path, name: str, noun: str) -> Path:
    """The path of a file that exists.

    Args:
        path: What the user gave.
        name: What reports call the features.
        noun: What kind of file is expected, such as ``"a TorchScript file"``.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    found = Path(path).expanduser()
    if not found.is_file():
        raise FileNotFoundError(
            f"features {name!r}: there is no file {str(found)!r}; give the path of {noun} on this "
            f"machine, nothing is downloaded."
        )
    return found
