"""An ensemble trains each member as it would train alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from memdiff.data import load
from memdiff.processes import VP
from memdiff.training import ensemble as module
from memdiff.training.averages import LinearWarmup
from memdiff.training.ensemble import Ensemble, Member
from memdiff.training.networks import MLP
from memdiff.training.quadratic_losses import EDMBatches, FullBatchScoreMatching

LOSS = FullBatchScoreMatching(VP())
POINTS = load("points20").x


def member(seed: int = 0, width: int = 16, depth: int = 2, **loss: object) -> Member:
    net = MLP((2,), width=width, depth=depth, seed=seed)
    return Member(net, POINTS, replace(LOSS, **loss), seed)  # type: ignore[arg-type]


def own_points(seed: int) -> Member:
    """A conditional network on points of its own, in batches."""
    points = torch.randn(6 + seed, 3, generator=torch.Generator().manual_seed(seed))
    net = MLP((3,), width=8, condition_features=2, seed=seed)
    return Member(net, points, EDMBatches(5, 0.7), seed, points[:, :2].exp())


MEMBERS = (
    member(0),
    member(1, width=8, parametrization="noise"),
    member(2, strength=0.1),
    member(3, depth=1),
    own_points(4),
    own_points(5),
)


def alone(one: Member, steps: int) -> tuple[MLP, dict[str, Tensor]]:
    """Train one member with autograd and torch's own optimiser; the average by its definition."""
    loss, process, data = one.loss, VP(), one.data.double()
    assert isinstance(loss, FullBatchScoreMatching)
    net = MLP((2,), width=one.net.layers[0].out_features, depth=2, seed=one.seed).double()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, foreach=True)
    average = {key: value.clone() for key, value in net.state_dict().items()}
    for step in range(steps):
        t, z = loss.noise(one.seed, step // loss.block, len(data), 2)
        time, noise = t[step % loss.block].double(), z[step % loss.block].double()
        sigma = process.std(time)[:, None]
        output = net(process.scale(time)[:, None] * data + sigma * noise, time)
        value = output if loss.parametrization == "score" else -output / sigma
        total = (sigma * value + noise).square().mean() + loss.strength * value.square().mean()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        if step % 10 == 0:
            keep = 0.0 if step <= 100 else min(0.9999, 1 - (1 + step - 100) ** (-2 / 3))
            for key, value in net.state_dict().items():
                average[key] = keep * average[key] + (1 - keep) * value
    return net, average


@pytest.mark.parametrize(
    ("members", "steps"), [(MEMBERS[:3], 130), (MEMBERS[1:2], LOSS.block + 5)]
)
def test_members_equal_separate_training(members: tuple[Member, ...], steps: int) -> None:
    together = Ensemble(members, dtype=torch.float64)
    together.advance(steps)
    for index, one in enumerate(members):
        net, average = alone(one, steps)
        for kind, expected in ((False, net.state_dict()), (True, average)):
            actual = together.network(index, average=kind).state_dict()
            for key, value in expected.items():
                torch.testing.assert_close(actual[key], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("limit", [1, module.GROUP_BYTES])
def test_a_member_does_not_depend_on_the_others_nor_on_the_groups(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GROUP_BYTES", limit)
    together = Ensemble(MEMBERS)
    together.advance(140)
    for index in (2, 4, 5):
        one = Ensemble([MEMBERS[index]])
        one.advance(140)
        parameters = (e.parameters() for e in (together.network(index), one.network(0)))
        for a, b in zip(*parameters, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    first, second = (together.network(index).layers[0].weight for index in (4, 5))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("stop", [1, 100, LOSS.block, LOSS.block + 7])
def test_resumes_exactly(stop: int, tmp_path: Path) -> None:
    steps, path = LOSS.block + 20, tmp_path / "state.safetensors"
    whole, first, second = Ensemble(MEMBERS), Ensemble(MEMBERS), Ensemble(MEMBERS)
    whole.advance(steps)
    first.advance(stop)
    first.save(path)
    second.restore(path)
    assert second.step == stop
    second.advance(steps - stop)
    for index in range(len(MEMBERS)):
        for average in (True, False):
            networks = (one.network(index, average=average) for one in (whole, second))
            for a, b in zip(*(net.parameters() for net in networks), strict=True):
                assert torch.equal(a, b)


def test_state_of_another_ensemble_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    Ensemble(MEMBERS).save(path)
    for other in (
        Ensemble(MEMBERS[:3]),
        Ensemble([replace(MEMBERS[0], data=POINTS + 1), *MEMBERS[1:]]),
        Ensemble([replace(MEMBERS[0], seed=7), *MEMBERS[1:]]),
        Ensemble([replace(MEMBERS[0], net=MLP((2,), width=16, seed=7)), *MEMBERS[1:]]),
        Ensemble([*MEMBERS[:5], replace(MEMBERS[5], conditions=MEMBERS[5].data[:, 1:])]),
        Ensemble([member(0, process=VP(beta_max=4.0)), *MEMBERS[1:]]),
        Ensemble(MEMBERS, learning_rate=1e-2),
        Ensemble(MEMBERS, average=LinearWarmup()),
    ):
        with pytest.raises(ValueError, match="other members, data or settings"):
            other.restore(path)
    with pytest.raises(FileNotFoundError, match="not a file"):
        Ensemble(MEMBERS).restore(tmp_path / "none")


def test_training_lowers_the_denoising_loss_to_that_of_the_minimiser() -> None:
    # One point: the minimiser is -(x - m x1)/sigma^2 with loss 0; with the singularity built in,
    # a wide net comes near.
    point, process = torch.tensor([[0.5, -1.0]]), VP()
    one = replace(member(width=64, parametrization="noise"), data=point.expand(20, 2))
    ensemble = Ensemble([one])
    generator = torch.Generator().manual_seed(9)
    t = torch.rand(400, generator=generator).double()
    z = torch.randn(400, 2, generator=generator).double()
    points = process.scale(t)[:, None] * point[0].double() + process.std(t)[:, None] * z

    def loss() -> float:
        return (ensemble.score(0).noise(points, t) - z).square().mean().item()

    before = loss()
    ensemble.advance(1500)
    assert before > 0.8
    assert loss() < 0.1


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        Ensemble([])
    with pytest.raises(ValueError, match=r"data must have shape \(N, \*S\)"):
        replace(MEMBERS[0], data=POINTS[:0])
    with pytest.raises(ValueError, match="one row for each of 20 points"):
        replace(MEMBERS[0], conditions=POINTS[:3])
    with pytest.raises(ValueError, match="steps must not be negative"):
        Ensemble(MEMBERS[:1]).advance(-1)
    with pytest.raises(ValueError, match="step 3 is to be measured, but the networks are at"):
        Ensemble(MEMBERS[:1]).require_step(3)
