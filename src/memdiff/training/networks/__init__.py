"""Networks for scores: a multilayer perceptron and a U-Net."""

from __future__ import annotations

from memdiff.training.networks.mlp import MLP
from memdiff.training.networks.unet import UNet

__all__ = ["MLP", "UNet"]
