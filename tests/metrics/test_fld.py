import math
import warnings

import pytest
import torch

from memdiff.metrics import Distances
from memdiff.metrics.fld import fld

pytestmark = pytest.mark.filterwarnings("ignore:(FLD|gap) is")


def _standardised(data, generated):
    mean, std = data.heldout.double().mean(0), data.heldout.double().std(0)
    return [(x.double() - mean) / std for x in (generated, data.train, data.heldout)]


def test_fit_against_autograd(planted):
    """The optimisation of the released code, dense and by automatic differentiation."""
    data = planted(5, 40)
    generated = data.mixed(0.2)
    result = fld(generated=generated, train=data.train, heldout=data.heldout)
    centres, train, _ = _standardised(data, generated)
    squares = torch.cdist(train, centres, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    origin = 0.81 * (train - train.mean(0)).square().sum(1, keepdim=True)
    s = ((squares.amin(0) + 1e-3) / 5).log().requires_grad_()
    s0 = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([s, s0], lr=0.5)

    def log_density(squared, log_variance):
        return -0.5 * squared / log_variance.exp() - 2.5 * (log_variance + math.log(2 * math.pi))

    for _ in range(50):
        adam.zero_grad()
        ours = log_density(squares, s) - math.log(40)
        loss = -torch.logsumexp(torch.cat([ours, log_density(origin, s0)], 1), 1).mean() / 5
        loss.backward()
        adam.step()
        s.data.clamp_(-40, 20)
    torch.testing.assert_close(result.log_variances, s.detach(), rtol=1e-5, atol=1e-5)
    closest = log_density(squares.amin(0), s.detach()) / 5
    torch.testing.assert_close(result.scores, closest, rtol=1e-5, atol=1e-5)


def test_likelihood_against_torch_distributions(planted):
    data = planted(6, 80)
    generated = data.near_copies(0.7)
    result = fld(generated=generated, train=data.train, heldout=data.heldout)
    centres, train, heldout = _standardised(data, generated)
    normal = torch.distributions.Independent(
        torch.distributions.Normal(centres, (0.5 * result.log_variances).exp()[:, None]), 1
    )
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=torch.zeros(80, dtype=torch.float64)), normal
    )
    nll_heldout = float(-mixture.log_prob(heldout).mean() / 6)
    nll_train = float(-mixture.log_prob(train).mean() / 6)
    assert result.nll_heldout == pytest.approx(nll_heldout, rel=1e-6)
    assert result.nll_train == pytest.approx(nll_train, rel=1e-6)
    assert result.value == pytest.approx(100 * (nll_heldout - result.nll_base), rel=1e-6)
    assert result.gap.value == pytest.approx(100 * (nll_train - nll_heldout), rel=1e-6)


@pytest.mark.parametrize("d", [16, 64])
def test_fresh_samples_are_where_the_null_says(planted, d):
    values, gaps = [], []
    for seed in range(4):
        data = planted(d, 250, seed)
        result = fld(generated=data.fresh(), train=data.train, heldout=data.heldout)
        values.append(result.value - result.null.value)
        gaps.append(result.gap.value - result.gap.null.value)
        assert abs(result.gap.value) < 8
        assert result.gap.value in result.gap.interval
    assert abs(sum(values)) / 4 < 4
    assert abs(sum(gaps)) / 4 < 3


def test_copies(planted):
    data = planted(16, 250)
    with pytest.warns(UserWarning, match="FLD is .*copy train"):
        result = fld(generated=data.copies(), train=data.train, heldout=data.heldout)
    assert result.value > 1000
    assert result.gap.value < -1000
    assert torch.isfinite(result.scores).all()
    fast = fld(generated=data.copies(), train=data.train, heldout=data.heldout, learning_rate=2.0)
    assert fast.log_variances.min() == -40


def test_rare_copies_stand_out_by_gap_and_score(planted):
    data = planted(16, 250)
    result = fld(generated=data.mixed(0.04), train=data.train, heldout=data.heldout)
    assert result.gap.value < -20
    assert result.gap.interval.high < result.gap.null.interval.low
    assert set(result.scores.topk(10).indices.tolist()) == set(range(10))
    assert result.scores[:10].min() > 5 > result.scores[10:].max()


def test_underfit_and_collapse_raise_fld_not_the_gap(planted):
    data = planted(32, 250)
    for generated in (1.5 * data.fresh(), data.collapsed()):
        result = fld(generated=generated, train=data.train, heldout=data.heldout)
        assert result.value > 8
        assert abs(result.gap.value) < 5


def test_fresh_samples_do_not_warn(planted):
    data = planted(8, 60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fld(generated=data.fresh(), train=data.train, heldout=data.heldout)


def test_constant_features_are_left_out(planted):
    data = planted(6, 60)
    generated, train, heldout = (x.double() for x in (data.fresh(), data.train, data.heldout))
    plain = fld(generated=generated, train=train, heldout=heldout)
    dead = torch.full((60, 1), 0.1, dtype=torch.float64)
    assert float(dead.sum() / 60) != 0.1  # the mean is not exact, the deviation must be
    widened = fld(
        generated=torch.cat([generated, 2 * dead], 1),
        train=torch.cat([train, dead], 1),
        heldout=torch.cat([heldout, dead], 1),
    )
    assert (plain.constant_features, widened.constant_features) == (0, 1)
    assert widened.value == pytest.approx(plain.value, rel=1e-9)
    torch.testing.assert_close(widened.scores, plain.scores, rtol=1e-9, atol=1e-9)


def test_scale_of_features_does_not_matter(planted):
    data = planted(6, 60)
    generated = data.fresh()
    scale, shift = torch.logspace(-3, 3, 6), 5.0
    plain = fld(generated=generated, train=data.train, heldout=data.heldout)
    moved = fld(
        generated=(generated * scale + shift).double(),
        train=(data.train * scale + shift).double(),
        heldout=(data.heldout * scale + shift).double(),
    )
    assert moved.value == pytest.approx(plain.value, rel=1e-2, abs=0.01)


def test_bounded_memory_gives_the_same(planted):
    """Strips of a few rows, recomputed in every epoch, against all distances kept."""
    data = planted(6, 60)
    sets = {"generated": data.mixed(0.1), "train": data.train, "heldout": data.heldout}
    whole = fld(**sets, epochs=20)
    tight = fld(distances=Distances(**sets, memory_limit=10_000), epochs=20)
    torch.testing.assert_close(tight.log_variances, whole.log_variances, rtol=1e-9, atol=1e-9)
    assert tight.gap.value == pytest.approx(whole.gap.value, rel=1e-9)
    assert fld(**sets, epochs=20).value == whole.value


def test_components_are_limited(planted):
    data = planted(6, 60)
    result = fld(generated=data.fresh(), train=data.train, heldout=data.heldout, max_components=20)
    assert result.components == 20
    assert int(torch.isfinite(result.scores).sum()) == 20
    assert torch.equal(result.scores.isnan(), result.log_variances.isnan())
    assert math.isfinite(result.value)


def test_bad_input(planted):
    data = planted(2, 10)
    with pytest.raises(ValueError, match="heldout must be given for FLD"):
        fld(generated=data.train, train=data.train)
    with pytest.raises(ValueError, match="heldout must vary"):
        fld(generated=data.train, train=data.train, heldout=torch.ones(5, 2))
    with pytest.raises(ValueError, match="epochs must lie between 1 and 50, got 51"):
        fld(generated=data.train, train=data.train, heldout=data.heldout, epochs=51)
    with pytest.raises(ValueError, match="at least 4 points each"):
        fld(generated=data.train, train=data.train, heldout=data.heldout[:3])
    broken = data.heldout.clone()
    broken[7, 1] = math.nan
    with pytest.raises(ValueError, match="heldout must be finite, got NaN or infinity in row 7"):
        fld(generated=data.train, train=data.train, heldout=broken)
