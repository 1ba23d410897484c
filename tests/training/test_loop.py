"""The training loop: what it does to weights, step by step."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from memdiff.objectives import LogUniformRatio
from memdiff.processes import EDM, VP
from memdiff.run.ranks import Ranks
from memdiff.scores import NetworkScore
from memdiff.scores.base import Score
from memdiff.training import (
    Objective,
    TikhonovPenalty,
    TrainingSettings,
    TrainingState,
    edm_objective,
    train,
)
from memdiff.training.networks import MLP


def data(num=20, seed=0):
    return torch.randn(num, 2, generator=torch.Generator().manual_seed(seed))


def mlp(width=16, seed=0, process=None, **arguments):
    return NetworkScore(MLP((2,), width=width, depth=1, seed=seed), process or VP(), **arguments)


class Dropping(nn.Module):
    """A network that draws from torch's global generator, as dropout does."""

    def __init__(self):
        super().__init__()
        self.net = MLP((2,), width=16, depth=1, seed=0)
        self.drop = nn.Dropout(0.5)

    def forward(self, x, t):
        return self.net(self.drop(x), t)


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_overfits_one_batch():
    """Two points far apart against the noise: the memorising score has no loss."""
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.5]])
    score = mlp(64, process=EDM(), parametrization="edm")
    objective = Objective(times=LogUniformRatio(0.1, 0.2))
    settings = TrainingSettings(steps=600, batch_size=None, learning_rate=1e-2)
    losses = [step.loss for step in train(score, points.repeat(8, 1), objective, settings)]
    assert sum(losses[:3]) / 3 > 0.7
    assert sum(losses[-20:]) / 20 < 0.05


def test_average_follows_its_formula():
    score = mlp()
    settings = TrainingSettings(steps=12, ema=0.6, ema_warmup=False)
    expected = weights(score)
    for step in train(score, data(), settings=settings):
        expected = 0.6 * expected + 0.4 * weights(step.score)
        torch.testing.assert_close(weights(step.averaged), expected)
    assert not torch.allclose(weights(score), expected, atol=1e-3)


def test_average_warms_up():
    score, settings = mlp(), TrainingSettings(steps=30, ema=0.7)
    expected = weights(score)
    for k, step in enumerate(train(score, data(), settings=settings)):
        decay = min(0.7, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay) * weights(step.score)
    torch.testing.assert_close(weights(step.averaged), expected)


def test_clipping_and_warmup():
    """With plain gradient descent the step is the clipped gradient times the rate."""
    score = mlp()
    settings = TrainingSettings(steps=6, learning_rate=0.5, warmup=4, clip=0.01)
    state = TrainingState(score, settings, optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
    before, rates = weights(score), []
    for step in train(score, data(), settings=settings, state=state):
        moved = (weights(score) - before).norm()
        assert step.gradient_norm > 0.01
        torch.testing.assert_close(float(moved), 0.01 * step.learning_rate, rtol=1e-3, atol=1e-7)
        before = weights(score)
        rates.append(step.learning_rate)
    assert rates == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]


def test_weight_decay_is_decoupled():
    """One step of AdamW differs from one of Adam by rate * decay * weights."""
    runs = []
    for decay in (0.0, 0.5):
        score = mlp()
        start = weights(score)
        settings = TrainingSettings(steps=1, learning_rate=0.01, weight_decay=decay)
        list(train(score, data(), settings=settings))
        runs.append(weights(score))
    torch.testing.assert_close(runs[0] - runs[1], 0.01 * 0.5 * start, rtol=1e-3, atol=1e-6)


def test_same_seed_same_weights_whatever_else_draws():
    """Dropout included; the caller's own random numbers are neither used nor moved."""

    def run(seed, disturb):
        torch.manual_seed(0)
        score = NetworkScore(Dropping(), VP())
        settings = TrainingSettings(steps=8, batch_size=7, seed=seed)
        for _ in train(score, data(), settings=settings):
            if disturb:
                torch.rand(3)
        return weights(score), torch.rand(1)

    first, after = run(1, False)
    assert torch.equal(first, run(1, True)[0])
    assert not torch.equal(first, run(2, False)[0])
    torch.manual_seed(0)
    NetworkScore(Dropping(), VP())
    assert torch.equal(after, torch.rand(1))


def test_conditions_stay_with_their_points():
    class Spy(Score):
        def __init__(self):
            super().__init__(VP())
            self.a = nn.Parameter(torch.zeros(()))
            self.seen = []

        def forward(self, x, t, y=None):
            self.seen.append((x.detach(), y))
            return self.a * x

    score, points = Spy(), data(9)
    objective = Objective(times=LogUniformRatio(1e-4, 1e-4))
    settings = TrainingSettings(steps=4, batch_size=4)
    list(train(score, points, objective, settings, y=points[:, 0]))
    for x, y in score.seen:
        torch.testing.assert_close(x[:, 0], y, rtol=1e-3, atol=1e-3)


def test_mixed_precision_trains():
    """Weights stay float32, and the losses are those of full precision up to its rounding."""
    losses = {}
    for precision in ("float32", "bfloat16"):
        score = mlp(64)
        settings = TrainingSettings(steps=20, precision=precision)
        losses[precision] = [step.loss for step in train(score, data(), settings=settings)]
        assert all(p.dtype == torch.float32 for p in score.parameters())
    assert losses["float32"] != losses["bfloat16"]
    torch.testing.assert_close(losses["float32"], losses["bfloat16"], rtol=0.05, atol=0.05)


def test_caller_stops_and_goes_on():
    """Leaving the loop and coming back with its state is the same as staying."""
    settings = TrainingSettings(steps=10, batch_size=6)
    whole, parted = mlp(), mlp()
    list(train(whole, data(), edm_objective(), settings))
    state = TrainingState(parted, settings)
    for step in train(parted, data(), edm_objective(), settings, state=state):
        if step.step == 4:
            break
    list(train(parted, data(), edm_objective(), settings, state=state))
    assert torch.equal(weights(whole), weights(parted)) and state.step == 10


def test_refusals():
    score = mlp()
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        TrainingSettings(steps=0)
    with pytest.raises(ValueError, match=r"ema must lie in \[0, 1\), got 1.0"):
        TrainingSettings(ema=1.0)
    with pytest.raises(ValueError, match="precision must be"):
        TrainingSettings(precision="half")
    with pytest.raises(ValueError, match="data must be floating-point"):
        next(train(score, torch.zeros(3, dtype=torch.int64)))
    with pytest.raises(ValueError, match="y must have 20 rows"):
        next(train(score, data(), y=torch.zeros(3)))
    with pytest.raises(ValueError, match="a point for each of the 3 processes, got 2"):
        next(train(score, data(), settings=TrainingSettings(batch_size=2), ranks=Ranks(0, 3)))
    with pytest.raises(ValueError, match="state must be of the score"):
        other = TrainingState(copy.deepcopy(score), TrainingSettings())
        next(train(score, data(), state=other))
    with torch.no_grad():
        next(iter(score.parameters())).fill_(float("nan"))
    with pytest.raises(ValueError, match="the loss is nan at step 1: lower the learning rate"):
        next(train(score, data()))


@pytest.mark.parametrize(("batch_size", "count"), [(8, 2), (7, 2), (None, 3)])
def test_ranks_share_a_batch(in_ranks, batch_size, count):
    """Also one that does not divide among them; all start from the weights of the first."""
    settings = TrainingSettings(steps=6, batch_size=batch_size, clip=1.0, learning_rate=1e-2)
    objective = Objective(penalty=TikhonovPenalty(0.01))

    def run(ranks):
        net = MLP((2,), width=16, depth=1, seed=ranks.rank, condition_features=1)
        score = NetworkScore(net, VP())
        steps = train(score, data(), objective, settings, y=data()[:, :1], ranks=ranks)
        curve = [(step.loss, step.penalty, step.gradient_norm) for step in steps]
        return curve, weights(score)

    alone, found = run(Ranks()), in_ranks(count, run)
    for curve, end in found:
        assert curve == found[0][0] and torch.equal(end, found[0][1])
        torch.testing.assert_close(torch.tensor(curve), torch.tensor(alone[0]))
        torch.testing.assert_close(end, alone[1], rtol=1e-4, atol=1e-5)


RANK = """
import json, sys
import torch
import torch.distributed as dist
torch.set_num_threads(1)
from memdiff.processes import VP
from memdiff.run.ranks import joined
from memdiff.scores import NetworkScore
from memdiff.training import TrainingSettings, train
from memdiff.training.networks import MLP
rank, count, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if count > 1:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
data = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
score = NetworkScore(MLP((2,), width=16, seed=rank), VP())  # rank 0's weights count
settings = TrainingSettings(steps=10, batch_size=8, clip=1.0)
steps = train(score, data, settings=settings, ranks=joined())
print(json.dumps([step.loss for step in steps]))
if count > 1:
    dist.destroy_process_group()
"""


@pytest.mark.slow
def test_processes_of_another_library_share_a_batch(tmp_path):
    """A process group that the caller has initialised, as an Accelerator does."""

    def start(rank, count):
        command = [sys.executable, "-c", RANK, str(rank), str(count), str(tmp_path / "store")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    ranks = [start(rank, 2) for rank in range(2)]
    score = NetworkScore(MLP((2,), width=16, seed=0), VP())
    settings = TrainingSettings(steps=10, batch_size=8, clip=1.0)
    alone = [step.loss for step in train(score, data(20), settings=settings)]
    curves = [json.loads(rank.communicate(timeout=300)[0]) for rank in ranks]
    assert curves[0] == curves[1]
    torch.testing.assert_close(curves[0], alone, rtol=1e-4, atol=1e-5)
