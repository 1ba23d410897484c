"""An ensemble trains each member as it would train alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from memdiff.data import load
from memdiff.processes import VP
from memdiff.scores import NetworkScore
from memdiff.training.ensemble import BLOCK, Ensemble, Member, WeightAverage, draw_noise
from memdiff.training.networks import MLP

MEMBERS = (
    Member(seed=0, width=16),
    Member(seed=1, width=8, parametrization="noise"),
    Member(seed=2, width=16, strength=0.1),
    Member(seed=3, width=16, depth=1),
)


def alone(member: Member, data: Tensor, steps: int) -> tuple[MLP, dict[str, Tensor]]:
    """Train one member with autograd and torch's own optimiser; the average by its definition."""
    process = VP()
    net = member.network(data.shape[1:]).double()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, foreach=True)
    average = {key: value.clone() for key, value in net.state_dict().items()}
    for step in range(steps):
        t, z = draw_noise(member.seed, step // BLOCK, len(data), 2, process.t_max)
        time, noise = t[step % BLOCK].double(), z[step % BLOCK].double()
        sigma = process.std(time)[:, None]
        output = net(process.scale(time)[:, None] * data.double() + sigma * noise, time)
        value = output if member.parametrization == "score" else -output / sigma
        loss = (sigma * value + noise).square().mean()
        if member.strength:
            loss = loss + member.strength * value.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            keep = 0.0 if step <= 100 else min(0.9999, 1 - (1 + step - 100) ** (-2 / 3))
            for key, value in net.state_dict().items():
                average[key] = keep * average[key] + (1 - keep) * value
    return net, average


@pytest.mark.parametrize(("members", "steps"), [(MEMBERS, 130), (MEMBERS[1:2], BLOCK + 5)])
def test_members_equal_separate_training(members: tuple[Member, ...], steps: int) -> None:
    data = load("points20").x
    ensemble = Ensemble(data, VP(), members, dtype=torch.float64)
    ensemble.advance(steps)
    for index, member in enumerate(members):
        net, average = alone(member, data, steps)
        for kind, expected in ((False, net.state_dict()), (True, average)):
            actual = ensemble.network(index, average=kind).state_dict()
            for key, value in expected.items():
                torch.testing.assert_close(actual[key], value, rtol=1e-9, atol=1e-11)


def test_a_member_does_not_depend_on_the_others() -> None:
    data = load("points20").x
    many = Ensemble(data, VP(), [Member(seed=s, width=32) for s in range(5)])
    one = Ensemble(data, VP(), [Member(seed=3, width=32)])
    many.advance(50)
    one.advance(50)
    for a, b in zip(many.network(3).parameters(), one.network(0).parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stop", [1, 100, BLOCK, BLOCK + 7])
def test_resumes_exactly(stop: int, tmp_path: Path) -> None:
    data, steps, path = load("points20").x, BLOCK + 20, tmp_path / "state.safetensors"
    whole = Ensemble(data, VP(), MEMBERS)
    whole.advance(steps)
    first = Ensemble(data, VP(), MEMBERS)
    first.advance(stop)
    first.save(path)
    second = Ensemble(data, VP(), MEMBERS)
    second.restore(path)
    assert second.step == stop
    second.advance(steps - stop)
    for average in (True, False):
        for a, b in zip(
            whole.networks(average=average), second.networks(average=average), strict=True
        ):
            assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))  # noqa: B905


def test_state_of_another_ensemble_is_refused(tmp_path: Path) -> None:
    data, path = load("points20").x, tmp_path / "state.safetensors"
    Ensemble(data, VP(), MEMBERS).save(path)
    for other in (
        Ensemble(data, VP(), MEMBERS[:3]),
        Ensemble(data + 1, VP(), MEMBERS),
        Ensemble(data, VP(beta_max=4.0), MEMBERS),
        Ensemble(data, VP(), MEMBERS, learning_rate=1e-2),
    ):
        with pytest.raises(ValueError, match="other members, data or settings"):
            other.restore(path)
    with pytest.raises(FileNotFoundError, match="not a file"):
        Ensemble(data, VP(), MEMBERS).restore(tmp_path / "none")


def test_training_lowers_the_denoising_loss_to_that_of_the_minimiser() -> None:
    # One point: the minimiser is -(x - m x1)/sigma^2 with loss 0; with the singularity built in,
    # a wide net comes near.
    data, process = torch.tensor([[0.5, -1.0]]).expand(20, 2), VP()
    ensemble = Ensemble(data, process, [Member(width=64, parametrization="noise")])
    generator = torch.Generator().manual_seed(9)
    t = torch.rand(400, generator=generator).double()
    z = torch.randn(400, 2, generator=generator).double()
    points = process.scale(t)[:, None] * data[0].double() + process.std(t)[:, None] * z

    def loss() -> float:
        noise = NetworkScore(ensemble.network(0), process, "noise").noise(points, t)
        return (noise - z).square().mean().item()

    before = loss()
    ensemble.advance(1500)
    assert before > 0.8
    assert loss() < 0.1


def test_noise_is_standard_and_of_the_seed() -> None:
    t, z = draw_noise(5, 2, 20, 2, 3.0)
    assert t.shape == (BLOCK, 20)
    assert z.shape == (BLOCK, 20, 2)
    assert 0.0 <= float(t.min()) < 0.01
    assert 2.99 < float(t.max()) < 3.0
    assert abs(float(z.mean())) < 0.05
    assert abs(float(z.std()) - 1.0) < 0.03
    for other in ((6, 2), (5, 3)):
        assert not torch.equal(draw_noise(*other, 20, 2, 3.0)[1], z)


def test_weight_average_schedule() -> None:
    schedule = WeightAverage()
    assert schedule.decay_at(5) is None
    assert schedule.decay_at(100) == 0.0
    assert schedule.decay_at(110) == pytest.approx(1 - 11 ** (-2 / 3))
    assert schedule.decay_at(2_000_000) == 0.9999
    assert WeightAverage(decay=0.99, every=1, after=0, power=0.0).decay_at(7) == 0.99


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="parametrization"):
        Member(parametrization="velocity")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="strength must be 0"):
        Member(parametrization="noise", strength=0.1)
    with pytest.raises(ValueError, match="strength must be finite"):
        Member(strength=-1.0)
    with pytest.raises(ValueError, match="must not be empty"):
        Ensemble(torch.randn(3, 2), VP(), [])
    with pytest.raises(ValueError, match="decay"):
        WeightAverage(decay=1.0)
    with pytest.raises(ValueError, match="steps"):
        Ensemble(torch.randn(3, 2), VP(), [Member(width=4)]).advance(-1)
