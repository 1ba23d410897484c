"""Features from any network that is given in Python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from memdiff.features.descriptor import Metric, find_device
from memdiff.features.learned import Learned
from memdiff.features.preprocessing import Preprocessing
from memdiff.sources.hashing import state_sha256

__all__ = ["Network"]


class Network(Learned):
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

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        preprocessing: Preprocessing,
        metric: Metric = "cosine",
    ) -> None:
        super().__init__(name=name, preprocessing=preprocessing, metric=metric)
        if not isinstance(module, nn.Module):
            raise ValueError(
                f"module of features {name!r} must be a torch.nn.Module, got "
                f"{type(module).__name__}."
            )
        self.module = module

    @property
    def parameters(self) -> dict[str, Any]:
        """Name, class, preprocessing, and hash of the weights as they are now."""
        return {
            "network": self._name,
            "class": type(self.module).__qualname__,
            "weights_sha256": state_sha256(self.module),
            "preprocessing": self.preprocessing.parameters,
        }

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

    def _output(self, prepared: Tensor) -> Any:  # noqa: ANN401
        return self.module(prepared)
