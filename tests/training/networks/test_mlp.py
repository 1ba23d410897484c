"""The MLP is the published one, and says what it accepts."""

from __future__ import annotations

import math

import pytest
import torch

from memdiff.training.networks import MLP


def test_it_is_the_published_architecture() -> None:
    net = MLP(seed=4)
    sizes = [(layer.in_features, layer.out_features) for layer in net.linear_layers()]
    assert sizes == [(10, 256), (256, 256), (256, 256), (256, 2)]
    assert net.frequencies.shape == (4,)
    x, t = torch.randn(3, 2), torch.rand(3)
    angle = 2 * math.pi * t[:, None] * net.frequencies
    hidden = torch.cat([x, angle.sin(), angle.cos()], dim=1)
    for index, layer in enumerate(net.linear_layers()):
        hidden = hidden @ layer.weight.T + layer.bias
        hidden = hidden.clamp_min(0) if index < 3 else hidden
    torch.testing.assert_close(net(x, t), hidden)


def test_weights_come_from_the_seed_alone_with_the_law_of_linear() -> None:
    torch.manual_seed(0)
    first = MLP(seed=1)
    torch.manual_seed(1)
    second, other = MLP(seed=1), MLP(seed=2)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.frequencies, other.frequencies)
    weight = first.linear_layers()[1].weight
    assert 0.99 / 16 < float(weight.abs().max()) <= 1 / 16
    assert float(weight.var()) == pytest.approx(1 / 256 / 3, rel=0.02)
    scales = [float(MLP(width=1, seed=seed).frequencies.square().mean()) for seed in range(300)]
    assert sum(scales) / 300 == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("kind", ["classes", "condition_features"])
def test_conditions(kind: str) -> None:
    net = MLP((2,), width=8, **{kind: 3})
    x, t = torch.randn(2, 2), torch.rand(2)
    one = torch.tensor([0, 1]) if kind == "classes" else torch.randn(2, 3)
    two = torch.tensor([0, 2]) if kind == "classes" else one + torch.tensor([[0.0], [1.0]])
    assert torch.equal(net(x, t, one)[0], net(x, t, two)[0])
    assert not torch.allclose(net(x, t, one)[1], net(x, t, two)[1])
    with pytest.raises(ValueError, match="y is missing"):
        net(x, t)
    with pytest.raises(ValueError, match="y must have shape"):
        net(x, t, torch.zeros(2, 7))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="width"):
        MLP(width=0)
    with pytest.raises(ValueError, match="time_features"):
        MLP(time_features=3)
    with pytest.raises(ValueError, match="at most one"):
        MLP(classes=2, condition_features=1)
    with pytest.raises(ValueError, match="takes no condition"):
        MLP()(torch.zeros(1, 2), torch.zeros(1), torch.zeros(1))
    with pytest.raises(ValueError, match=r"0 \.\. 2"):
        MLP(classes=3)(torch.zeros(1, 2), torch.zeros(1), torch.tensor([3]))
