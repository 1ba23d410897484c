"""Stacks of networks: the loss is the library's, members are independent, runs resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memdiff.experiments import network_stack
from memdiff.experiments.network_stack import (
    BLOCK,
    NetworkStack,
    StackSettings,
    draw_batches,
    snapshots,
)
from memdiff.objectives import Draws
from memdiff.processes import EDM
from memdiff.scores import NetworkScore
from memdiff.training.networks import MLP
from memdiff.training.objective import edm_objective

SETTINGS = StackSettings(batch_size=5, sigma_data=0.7)


def points(num: int, seed: int) -> torch.Tensor:
    return torch.randn(num, 3, generator=torch.Generator().manual_seed(seed))


def stack(seeds: tuple[int, ...] = (3, 4)) -> NetworkStack:
    nets = [MLP((3,), width=8, condition_features=2, seed=seed) for seed in seeds]
    return NetworkStack(
        nets,
        [points(6 + seed, seed) for seed in seeds],
        seeds,
        SETTINGS,
        [points(6 + seed, 9 + seed)[:, :2] for seed in seeds],
    )


def test_the_loss_is_that_of_the_library() -> None:
    one = stack((3,))
    inputs, target = one._draws(0)
    net = MLP((3,), width=8, condition_features=2, seed=3)
    score = NetworkScore(net, EDM(), "edm", sigma_data=0.7)
    index, sigma, z = draw_batches(3, 0, (9, 3), SETTINGS)
    x0, t = points(9, 3)[index[7]], sigma[7].double()
    draws = Draws(
        process=EDM(),
        x0=x0,
        t=t,
        z=z[7],
        x=x0 + sigma[7][:, None] * z[7],
        y=points(9, 12)[:, :2][index[7]],
    )
    loss = one.loss(inputs[7], target[7])
    expected = edm_objective(0.7)(score, draws).total.mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    expected.backward()
    first, stacked = net.linear_layers()[0].weight.grad, one._weights[0].grad
    assert first is not None
    assert stacked is not None
    torch.testing.assert_close(stacked[0].T, first, rtol=1e-4, atol=1e-6)


def test_a_member_trains_as_it_would_alone() -> None:
    both, alone = stack((3, 4)), stack((4,))
    both.advance(BLOCK + 10)
    alone.advance(BLOCK + 10)
    for a, b in zip(both.score(1).parameters(), alone.score(0).parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    different = zip(both.score(0).parameters(), both.score(1).parameters(), strict=True)
    assert not all(torch.allclose(a, b) for a, b in different)


def test_an_interrupted_run_goes_on_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_stack, "CHUNK", 30)
    whole = stack()
    whole.advance(150)
    seen: list[int] = []

    def look(step: int, _: NetworkStack) -> bool:
        seen.append(step)
        return len(seen) == 2

    state = tmp_path / "state.safetensors"
    snapshots(stack(), [40, 100, 150], state, look)
    resumed = stack()
    snapshots(resumed, [40, 100, 150], state, look)
    assert seen == [40, 100, 40, 100, 150]
    resumed.check_step(150)
    with pytest.raises(ValueError, match="step 100 is to be measured"):
        resumed.check_step(100)
    for a, b in zip(whole.score(0).parameters(), resumed.score(0).parameters(), strict=True):
        assert torch.equal(a, b)
    other = stack((5, 6))
    with pytest.raises(ValueError, match="other data or settings"):
        other.restore(state)
