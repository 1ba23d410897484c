import math

import pytest
import torch

from memdiff.metrics.vendi import vendi


def _train(d):
    return torch.randn(50, d, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("kernel", ["cosine", "rbf"])
@pytest.mark.parametrize("m", [3, 40])
def test_identical_samples_count_as_one(kernel, m):
    result = vendi(generated=torch.ones(m, 8), train=_train(8), kernel=kernel)
    assert result.value == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(result.scores, torch.ones(m, dtype=torch.float64))
    assert result.interval.high < 1.001


@pytest.mark.parametrize(("m", "d"), [(5, 5), (30, 50)])
def test_orthogonal_samples_count_each(m, d):
    result = vendi(generated=3 * torch.eye(d)[:m], train=_train(d))
    assert result.value == pytest.approx(m, rel=1e-9)
    assert result.scores.abs().max() < 1e-12


@pytest.mark.parametrize("kernel", ["cosine", "rbf"])
def test_clusters_of_unequal_size(kernel):
    """Groups of identical samples: the exponential of the entropy of their shares."""
    sizes = (60, 30, 10)
    generated = torch.cat([10 * torch.eye(4)[i].expand(size, -1) for i, size in enumerate(sizes)])
    bandwidth = 0.5 if kernel == "rbf" else None
    result = vendi(generated=generated, train=_train(4), kernel=kernel, bandwidth=bandwidth)
    shares = [size / 100 for size in sizes]
    expected = math.exp(-sum(p * math.log(p) for p in shares))
    assert result.value == pytest.approx(expected, rel=1e-9)
    assert float(result.scores[0]) == pytest.approx(59 / 99, rel=1e-9)


def test_gram_and_kernel_matrices_agree(planted):
    data = planted(7, 60)
    generated = data.fresh()
    gram = vendi(generated=generated, train=data.train)
    dense = vendi(generated=torch.cat([generated, torch.zeros(60, 53)], 1), train=_train(60))
    assert gram.value == pytest.approx(dense.value, rel=1e-9)
    torch.testing.assert_close(gram.scores, dense.scores)
    assert gram.interval.low == pytest.approx(dense.interval.low, rel=1e-6)
    cosine = torch.nn.functional.normalize(generated.double())
    k = cosine @ cosine.T
    torch.testing.assert_close(gram.scores, (k.sum(1) - 1) / 59)


def test_rbf_against_dense(planted):
    data = planted(4, 30)
    generated = data.fresh().double()
    result = vendi(generated=generated, train=data.train, kernel="rbf", bandwidth=1.5)
    k = (-(generated[:, None] - generated[None]).square().sum(-1) / (2 * 1.5**2)).exp()
    values = torch.linalg.eigvalsh(k / 30).clamp(min=1e-300)
    assert result.value == pytest.approx(float((-(values * values.log()).sum()).exp()), rel=1e-9)


@pytest.mark.parametrize("kernel", ["cosine", "rbf"])
def test_collapse_is_far_below_the_null_and_fresh_samples_are_not(planted, kernel):
    data = planted(16, 300)
    sets = {"train": data.train, "heldout": data.heldout, "kernel": kernel}
    collapsed = vendi(generated=data.collapsed() + 0.01 * data.fresh(), **sets)
    assert collapsed.interval.high < 1.5 < 5 < collapsed.null.interval.low
    fresh = [vendi(generated=data.fresh(), **sets) for _ in range(8)]
    null = fresh[0].null
    values = torch.tensor([result.value for result in fresh])
    spread = float(values.std()) * (1 + 1 / 8) ** 0.5  # the null is one draw more
    assert float(values.mean()) == pytest.approx(null.value, abs=4 * spread)
    widths = [(r.interval.high - r.interval.low) / 4.5 for r in fresh]  # t of 9: 2.26
    assert 0.5 < float(values.std()) / (sum(widths) / 8) < 2
    # Both the value and the null vary: the intervals of nearly all overlap.
    assert sum(r.interval.low < null.interval.high for r in fresh) >= 7
    assert sum(r.interval.high > null.interval.low for r in fresh) >= 7


def test_large_sets_are_subsampled_like_the_null(planted):
    data = planted(4, 200)
    result = vendi(
        generated=data.fresh(), train=data.train, kernel="rbf", max_samples=50, bandwidth=0.3
    )
    assert result.used == 50
    assert result.value < 50
    assert result.null.source == "50 training points"
    assert result.null.value == pytest.approx(result.value, rel=0.15)
    assert result.scores.shape == (200,)


def test_bad_input():
    train = _train(3)
    with pytest.raises(ValueError, match="generated has a zero vector"):
        vendi(generated=torch.zeros(3, 3), train=train)
    with pytest.raises(ValueError, match="kernel must be 'cosine' or 'rbf'"):
        vendi(generated=train, train=train, kernel="linear")
    with pytest.raises(ValueError, match="bandwidth must be given"):
        vendi(generated=train, train=torch.ones(4, 3), kernel="rbf")
    with pytest.raises(ValueError, match="bandwidth must be None"):
        vendi(generated=train, train=train, bandwidth=1.0)
