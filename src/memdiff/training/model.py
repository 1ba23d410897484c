"""A trained model in a folder: its configuration in ``config.json``, its weights beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from memdiff.data import TableEncoding
from memdiff.processes import EDM, VE, VP, ForwardProcess, LinearInterpolant
from memdiff.run.memory import require_memory
from memdiff.scores.network import NetworkScore, Parametrization
from memdiff.training.checkpoints import load_weights
from memdiff.training.networks import MLP, UNet

__all__ = ["NETWORKS", "PROCESSES", "ModelConfig", "load_encoding", "load_model"]

NETWORKS = ("mlp", "unet")
PROCESSES = ("edm", "ve", "vp", "linear")
_BYTES = 20  # a weight in float32, its average, its gradient, and two moments of Adam
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class ModelConfig:
    r"""Configuration from which an untrained model is built.

    Attributes:
        shape: Shape ``S`` of one point.
        sigma_data: Standard deviation of the data, over all values.
        network: ``"mlp"`` (any data) or ``"unet"`` (images).
        width: Units of a hidden layer, or channels of the first level of a U-Net; None for the
            default of the network.
        depth: Hidden layers after the first, or residual blocks per level; None for the default.
        dropout: Dropout of a U-Net, in [0, 1).
        process: ``"edm"``, with levels from 0.002/0.5 to 80/0.5 standard deviations of the data;
            ``"ve"``, ``"vp"`` or ``"linear"`` with the constants of the paper.
        parametrization: What the network predicts; see :class:`memdiff.scores.NetworkScore`.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If a value is out of range.
    """

    shape: tuple[int, ...]
    sigma_data: float
    network: str = "mlp"
    width: int | None = None
    depth: int | None = None
    dropout: float = 0.0
    process: str = "edm"
    parametrization: Parametrization = "edm"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("network", self.network, NETWORKS),
            ("process", self.process, PROCESSES),
            ("parametrization", self.parametrization, get_args(Parametrization)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")
        if not 0.0 < self.sigma_data < math.inf:
            raise ValueError(
                f"sigma_data must be positive and finite, got {self.sigma_data}: are all values "
                "of the training data equal?"
            )
        for name in ("width", "depth"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}.")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}.")
        if self.dropout and self.network != "unet":
            raise ValueError(f"dropout {self.dropout} needs the network unet, got {self.network}.")
        if self.network == "unet" and len(self.shape) != 3:
            raise ValueError(
                f"the network unet needs images with shape (C, H, W), got points of shape "
                f"{self.shape}: use the network mlp."
            )

    @classmethod
    def for_data(cls, data: Tensor, **choices: Any) -> ModelConfig:  # noqa: ANN401
        """Return the configuration with the shape and scale of training data ``(N, *S)``."""
        deviation = float(data.to(torch.float64).std(correction=0))
        return cls(shape=tuple(data.shape[1:]), sigma_data=deviation, **choices)

    def build(self) -> NetworkScore:
        """Build the untrained model; equal configurations give equal weights.

        Raises:
            ValueError: If its weights, and what a step of training keeps for each, do not fit
                into memory.
        """
        require_memory(
            _BYTES * self._weights_at_least(),
            f"the network {self.network} with width={self.width or 'default'}, "
            f"depth={self.depth or 'default'}",
            "give a smaller width or depth",
        )
        return NetworkScore(
            self._network(),
            self._process(),
            self.parametrization,
            sigma_data=self.sigma_data,
            shape=self.shape,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration in plain JSON types."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> ModelConfig:
        """Return the configuration that :meth:`to_dict` described."""
        return cls(**{**entry, "shape": tuple(entry["shape"])})

    def _process(self) -> ForwardProcess:
        if self.process == "edm":
            unit = self.sigma_data / 0.5
            return EDM(sigma_min=0.002 * unit, sigma_max=80.0 * unit)
        kinds: dict[str, type[ForwardProcess]] = {"ve": VE, "vp": VP, "linear": LinearInterpolant}
        return kinds[self.process]()

    def _weights_at_least(self) -> int:
        """Number of weights of the hidden layers."""
        width, depth = self.width or 1, self.depth or 1
        if self.network == "mlp":
            return width**2 * depth + 2 * width * math.prod(self.shape)
        return 2 * 9 * width**2 * depth

    def _network(self) -> nn.Module:
        depth = "depth" if self.network == "mlp" else "blocks"
        given = {"width": self.width, depth: self.depth}
        sizes: dict[str, Any] = {name: size for name, size in given.items() if size is not None}
        if self.network == "mlp":
            return MLP(self.shape, seed=self.seed, **sizes)
        return UNet(
            self.shape,
            multipliers=_multipliers(self.shape),
            dropout=self.dropout,
            seed=self.seed,
            **sizes,
        )


def _multipliers(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Three levels, or as many as the sides can be halved for."""
    levels = 1
    while levels < 3 and all(side % 2**levels == 0 for side in shape[1:]):
        levels += 1
    return (1, 2, 2)[:levels]


def load_model(
    folder: str | Path, *, weights: str = WEIGHTS, device: torch.device | str = "cpu"
) -> NetworkScore:
    """Load a model that ``memdiff train`` wrote.

    Args:
        folder: The folder, with ``config.json``.
        weights: Name of the weights in it: the kept ones, or ``"best.safetensors"``.
        device: Where to put it.

    Returns:
        The score, in evaluation mode.

    Raises:
        FileNotFoundError: If there is no model in the folder.
        ValueError: If the files do not belong together.
    """
    text, path = _configuration(folder)
    try:
        config = ModelConfig.from_dict(text["model"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} describes no model: {error}.") from error
    score = config.build()
    load_weights(score, Path(folder) / weights)
    return score.eval().requires_grad_(False).to(device)


def load_encoding(folder: str | Path) -> TableEncoding | None:
    """Load the encoding of table rows of a model that ``memdiff train`` wrote.

    Its :meth:`~memdiff.data.TableEncoding.decode` makes rows of what the model draws.

    Args:
        folder: The folder, with ``config.json``.

    Returns:
        The encoding, or None where the model was not trained on a table.

    Raises:
        FileNotFoundError: If there is no model in the folder.
        ValueError: If ``config.json`` cannot be read.
    """
    text, path = _configuration(folder)
    try:
        table = text.get("table")
        return None if table is None else TableEncoding.from_dict(table)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} describes no table: {error}.") from error


def _configuration(folder: str | Path) -> tuple[Any, Path]:
    """The content of ``config.json``, and its path."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"no {CONFIG} in {str(folder)!r}: give a folder that memdiff train wrote."
        )
    try:
        return json.loads(path.read_text("utf-8")), path
    except ValueError as error:
        raise ValueError(
            f"{str(path)!r} is damaged, it is no whole JSON ({error}): the command of the run "
            "writes it anew, if state.safetensors is still there."
        ) from error
