"""The U-Net: size, conditioning, symmetry, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from memdiff.processes import EDM
from memdiff.scores import NetworkScore
from memdiff.testing import check_score
from memdiff.training.networks import UNet


def awake(net: UNet, seed: int = 0) -> UNet:
    """Give the layers that start at zero some weight, so that the output depends on everything."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1 and not bool(parameter.any()):
                parameter.normal_(0.0, 0.1, generator=generator)
    return net


def small(**options: object) -> UNet:
    settings: dict = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,)}
    return UNet((1, 8, 8), **{**settings, **options})


def images(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_size_is_the_published_one_and_the_range_is_covered() -> None:
    with torch.device("meta"):
        # Karras et al., arXiv:2206.00364: the DDPM++ network for CIFAR-10 has 55.7M parameters.
        large = UNet((3, 32, 32), width=128, multipliers=(2, 2, 2), blocks=4, attention=(16,))
    assert count(large) == pytest.approx(55.7e6, rel=0.005)
    tiny = UNet((1, 28, 28), width=16, multipliers=(1, 2), blocks=1, attention=())
    assert 0.1e6 < count(tiny) < 0.25e6


@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 8), (3, 12, 4), (2, 8, 16)])
def test_shape_is_kept(shape: tuple[int, ...]) -> None:
    net = awake(UNet(shape, width=8, multipliers=(1, 2), blocks=1, attention=(4,)))
    output = net(torch.randn(3, *shape), torch.rand(3))
    assert output.shape == (3, *shape)
    assert float(output.detach().std()) > 1e-3


def test_output_starts_at_zero() -> None:
    assert not bool(small()(images(), torch.rand(2)).any())


def test_score_conformance() -> None:
    score = NetworkScore(awake(small()), EDM(), "edm")
    assert score.shape == (1, 8, 8)
    check_score(score, x=images(4), t=[0.05, 2.0], tolerance=1e-4)


def test_time_and_condition_change_the_output() -> None:
    x, t = images(), torch.tensor([0.3, 0.3])
    plain = awake(small())
    assert not torch.allclose(plain(x, t)[1], plain(x, t + torch.tensor([0.0, 0.01]))[1])
    classes = awake(small(classes=4))
    vectors = awake(small(condition_features=3))
    numbers = torch.randn(2, 3)
    for net, one, two in (
        (classes, torch.tensor([1, 2]), torch.tensor([1, 3])),
        (vectors, numbers, numbers + torch.tensor([[0.0], [1.0]])),
    ):
        a, b = net(x, t, one), net(x, t, two)
        torch.testing.assert_close(a[0], b[0])
        assert float((a[1] - b[1]).detach().abs().max()) > 1e-3
        with pytest.raises(ValueError, match="y is missing"):
            net(x, t)
    with pytest.raises(ValueError, match="takes no condition"):
        plain(x, t, numbers)


def test_rows_are_independent() -> None:
    net, x, t = awake(small()), images(5), torch.rand(5)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(net(x[order], t[order]), net(x, t)[order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(x[2:3], t[2:3]), net(x, t)[2:3], rtol=1e-4, atol=1e-5)


def test_periodic_images_may_be_shifted() -> None:
    # Circular convolution, attention without positions: a shift by the stride of the levels (2)
    # commutes with the network. Zero padding breaks it, and so does an odd shift.
    net = awake(small(padding="circular")).double()
    x, t = images().double(), torch.rand(2, dtype=torch.float64)
    shifted = net(torch.roll(x, (2, -4), (2, 3)), t)
    torch.testing.assert_close(shifted, torch.roll(net(x, t), (2, -4), (2, 3)))
    odd = net(torch.roll(x, (1, 0), (2, 3)), t)
    assert not torch.allclose(odd, torch.roll(net(x, t), (1, 0), (2, 3)))
    bordered = awake(small()).double()
    moved = bordered(torch.roll(x, 2, 2), t)
    assert not torch.allclose(moved, torch.roll(bordered(x, t), 2, 2))


def test_attention_is_where_it_was_asked_for() -> None:
    def places(attention: tuple[int, ...]) -> int:
        net = small(attention=attention)
        return sum(getattr(module, "attention", None) is not None for module in net.modules())

    assert places(()) == 1  # the middle
    assert places((8,)) == places((4,)) == 1 + 2  # one block down, the last block up
    assert places((4, 8)) == 1 + 4


def test_attention_has_no_order_of_places() -> None:
    block = small(attention=()).middle[0].attention
    block.leave.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 16, 1, 6)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    torch.testing.assert_close(block(x[..., order]), block(x)[..., order])
    assert not torch.allclose(block(x), x)


def test_gradients_reach_every_weight() -> None:
    net = awake(small(classes=3))
    loss = net(images(), torch.rand(2), torch.tensor([0, 2])).square().mean()
    loss.backward()
    silent = [name for name, p in net.named_parameters() if not bool(p.grad.any())]
    assert silent == []


def test_it_learns_to_denoise_one_image() -> None:
    net, x0 = small(width=16), images(1, seed=3)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    score = NetworkScore(net, EDM(), "edm", sigma_data=1.0)
    errors = []
    for _ in range(60):
        z = torch.randn(8, 1, 8, 8, generator=generator)
        sigma = torch.full((8,), 0.5)
        error = (score.denoise(x0 + 0.5 * z, sigma) - x0).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert sum(errors[-5:]) / 5 < 0.3 * errors[0]


def test_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(0)
    first = small(seed=5)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))  # building a network takes nothing from the global
    second, other = small(seed=5), small(seed=6)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.enter.weight, other.enter.weight)


def test_dropout_acts_in_training_only() -> None:
    net, x, t = awake(small(dropout=0.5)), images(), torch.rand(2)
    assert not torch.equal(net(x, t), net(x, t))
    net.eval()
    assert torch.equal(net(x, t), net(x, t))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="divisible by 4"):
        UNet((1, 30, 30), multipliers=(1, 2, 2))
    with pytest.raises(ValueError, match="shape must be"):
        UNet((8,))
    with pytest.raises(ValueError, match="multiple of 4"):
        small(width=6)
    with pytest.raises(ValueError, match="blocks"):
        small(blocks=0)
    with pytest.raises(ValueError, match="dropout"):
        small(dropout=1.0)
    with pytest.raises(ValueError, match="padding"):
        small(padding="reflect")
    with pytest.raises(ValueError, match="x must have shape"):
        small()(torch.zeros(1, 1, 4, 4), torch.zeros(1))
