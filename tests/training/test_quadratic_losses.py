"""Quadratic losses: their draws, and that their gradients are those of the library's losses."""

import pytest
import torch

from memdiff.objectives import Draws
from memdiff.processes import EDM, VP
from memdiff.training.averages import LinearWarmup
from memdiff.training.ensemble import Ensemble, Member
from memdiff.training.networks import MLP
from memdiff.training.objective import Objective, TikhonovPenalty, edm_objective
from memdiff.training.quadratic_losses import EDMBatches, FullBatchScoreMatching

DATA = torch.randn(9, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def gradients(loss, net, conditions=None, step=7):
    """Gradients of the first block's step ``step`` by the ensemble, one layer after the other."""
    member = Member(net, DATA, loss, 3, conditions)
    ensemble = Ensemble([member], average=LinearWarmup(), dtype=torch.float64)
    (group,) = ensemble._groups
    inputs, slope, shift = group.draw(0)
    group.differentiate(inputs[step], slope[step], shift[step])
    return [part for weight, bias in group.gradients for part in (weight[0].T, bias[0, 0])]


def check(actual, objective, score, draws):
    """Compare with the gradients of an objective by automatic differentiation."""
    objective(score, draws).total.mean().backward()
    layers = score.net.linear_layers()
    expected = [part.grad for layer in layers for part in (layer.weight, layer.bias)]
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_edm_batches_have_the_gradient_of_the_edm_objective() -> None:
    net = MLP((3,), width=8, depth=2, condition_features=2, seed=3).double()
    loss, conditions = EDMBatches(5, 0.7), DATA[:, :2] + 1.0
    actual = gradients(loss, net, conditions)
    index, level, noise = loss.noise(3, 0, *DATA.shape)
    x0, sigma, z = DATA[index[7]], level[7].double(), noise[7].double()
    x = x0 + sigma[:, None] * z
    draws = Draws(process=EDM(), x0=x0, t=sigma, z=z, x=x, y=conditions[index[7]])
    check(actual, edm_objective(0.7), loss.score(net), draws)


@pytest.mark.parametrize(("kind", "strength"), [("score", 0.0), ("score", 0.1), ("noise", 0.0)])
def test_full_batch_score_matching_has_the_gradient_of_the_objective(kind, strength) -> None:
    net, process = MLP((3,), width=8, depth=1, seed=3).double(), VP()
    loss = FullBatchScoreMatching(process, kind, strength)
    actual = gradients(loss, net)
    t, z = (part[7].double() for part in loss.noise(3, 0, *DATA.shape))
    x = process.scale(t)[:, None] * DATA + process.std(t)[:, None] * z
    draws = Draws(process=process, x0=DATA, t=t, z=z, x=x)
    penalty = TikhonovPenalty(strength) if strength else None
    check(actual, Objective(penalty=penalty), loss.score(net), draws)


def test_noise_is_standard_and_of_the_seed() -> None:
    loss = FullBatchScoreMatching(VP())
    t, z = loss.noise(5, 2, 20, 2)
    assert t.shape == (loss.block, 20)
    assert z.shape == (loss.block, 20, 2)
    assert 0.0 <= float(t.min()) < 0.01
    assert 0.99 < float(t.max()) < 1.0
    assert abs(float(z.mean())) < 0.05
    assert abs(float(z.std()) - 1.0) < 0.03
    for other in ((6, 2), (5, 3)):
        assert not torch.equal(loss.noise(*other, 20, 2)[1], z)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="parametrization"):
        FullBatchScoreMatching(VP(), "velocity")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="strength must be 0"):
        FullBatchScoreMatching(VP(), "noise", 0.1)
    with pytest.raises(ValueError, match="strength must be finite"):
        FullBatchScoreMatching(VP(), strength=-1.0)
