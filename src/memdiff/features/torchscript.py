"""Features from a TorchScript file, such as the released SSCD models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memdiff.features.descriptor import Metric
from memdiff.features.learned import local_file
from memdiff.features.network import Network
from memdiff.features.preprocessing import Preprocessing
from memdiff.sources.hashing import sha256_of

__all__ = ["TorchScript"]


class TorchScript(Network):
    """Features from a TorchScript file on this machine.

    The file needs no code beside it: ``sscd_disc_mixup.torchscript.pt`` of the SSCD authors is one
    (licence CC-BY-NC; memdiff ships no weights). Only load files that you trust.

    Args:
        path: The file, as ``torch.jit.save`` writes it.
        preprocessing: How images are brought to its input; for SSCD
            ``PREPROCESSING_PRESETS["sscd-288"]``.
        name: What reports call it.
        metric: ``"cosine"`` or ``"euclidean"``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no TorchScript file.

    References:
        Pizzi et al. 2022, A Self-Supervised Descriptor for Image Copy Detection.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        preprocessing: Preprocessing,
        name: str = "torchscript",
        metric: Metric = "cosine",
    ) -> None:
        self.path = local_file(path, name, "a TorchScript file")
        try:
            module = torch.jit.load(self.path, map_location="cpu")
        except RuntimeError as error:
            raise ValueError(
                f"features {name!r}: {str(self.path)!r} is not a TorchScript file (a file of "
                f"weights alone is not one); save the network with torch.jit.save."
            ) from error
        super().__init__(module, name=name, preprocessing=preprocessing, metric=metric)
        self._sha256 = sha256_of(self.path)

    @property
    def parameters(self) -> dict[str, Any]:
        """Preprocessing and the hash of the file, which holds code and weights."""
        return {
            "weights_sha256": self._sha256,
            "preprocessing": self.preprocessing.parameters,
        }

    def _output(self, prepared: Tensor) -> Any:  # noqa: ANN401
        try:
            return super()._output(prepared)
        except RuntimeError as error:
            # The interpreter shows the code of the file; the last line says what went wrong.
            reason = str(error).strip().splitlines()[-1][:200]
            raise ValueError(
                f"features {self.name!r}: the network could not be run on images of shape "
                f"{tuple(prepared.shape)}: {reason}; give another preset."
            ) from error

    @property
    def settings(self) -> dict[str, Any]:
        """As for every descriptor, with the path."""
        return {**super().settings, "path": str(self.path)}
