"""Features from any network that is given in Python."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from memdiff.data import Dataset, sha256_of
from memdiff.data.dataset import Kind
from memdiff.features.descriptor import Descriptor, Metric, find_device
from memdiff.features.preprocessing import Preprocessing

__all__ = ["Network", "state_sha256"]


def state_sha256(module: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers, by name, dtype, shape and values.

    Args:
        module: The network; non-persistent buffers and code do not enter.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{key}\0{sha256_of(value)}\n".encode())
    return digest.hexdigest()


class Network(Descriptor):
    """Features from a network: ``(B, C, H, W)`` prepared images in, ``(B, e)`` out.

    The network is run in evaluation mode without gradients, and left in the mode and on the device
    in which it was. Outputs of more dimensions are flattened; float32.

    Args:
        module: The network. Its features must depend on one image at a time, without randomness.
        name: What reports call it. Part of the fingerprint, as code cannot be hashed: give another
            name to another way of using the same weights.
        preprocessing: How images are brought to its input: there is no default, as published
            similarities differ in it.
        metric: ``"cosine"`` or ``"euclidean"``.

    Raises:
        ValueError: If an argument is of another type.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("images",)

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        preprocessing: Preprocessing,
        metric: Metric = "cosine",
    ) -> None:
        if not isinstance(preprocessing, Preprocessing):
            raise ValueError(
                f"preprocessing of features {name!r} must be a Preprocessing, got "
                f"{type(preprocessing).__name__}; see PREPROCESSING_PRESETS."
            )
        if not isinstance(module, nn.Module):
            raise ValueError(
                f"module of features {name!r} must be a torch.nn.Module, got "
                f"{type(module).__name__}."
            )
        if not isinstance(name, str) or not name:
            raise ValueError(f"name must say what reports call the features, got {name!r}.")
        if metric not in ("euclidean", "cosine"):
            raise ValueError(f"metric must be 'euclidean' or 'cosine', got {metric!r}.")
        self.module = module
        self.preprocessing = preprocessing
        self.metric = metric
        self._name = name

    @property
    def name(self) -> str:
        """As given."""
        return self._name

    @property
    def parameters(self) -> dict[str, Any]:
        """Name, class, preprocessing, and hash of the weights as they are now."""
        return {
            "network": self._name,
            "class": type(self.module).__qualname__,
            "weights_sha256": state_sha256(self.module),
            "preprocessing": self.preprocessing.parameters,
        }

    def check(self, data: Dataset) -> None:
        """Raise unless ``data`` holds images of known range."""
        super().check(data)
        if data.encoding == "free":
            low, high = data.extremes()
            raise ValueError(
                f"features {self.name!r} need pixels of a known range, but {data.title} has "
                f"values from {low:.3g} to {high:.3g}; load it with value_range=(low, high)."
            )

    @contextmanager
    def _computing_on(self, device: torch.device | str | None) -> Iterator[torch.device]:
        """Evaluation mode on a device, and back."""
        tensors = (*self.module.parameters(), *self.module.buffers())
        home = tensors[0].device if tensors else torch.device("cpu")
        where = home if device is None else find_device(device)
        # Scripts that were frozen for inference have no mode.
        parts = [part for part in self.module.modules() if hasattr(part, "training")]
        modes = [(part, part.training) for part in parts]
        self.module.eval()
        if where != home:
            self.module.to(where)
        try:
            yield where
        finally:
            if where != home:
                self.module.to(home)
            for part, training in modes:
                part.training = training

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

    def _output(self, prepared: Tensor) -> Any:  # noqa: ANN401
        return self.module(prepared)
