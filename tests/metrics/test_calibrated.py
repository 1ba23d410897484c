import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from memdiff.metrics import calibrated_l2


def test_equals_the_definition(planted):
    data = planted(5, 300)
    generated = data.fresh()
    result = calibrated_l2(
        generated=generated, train=data.train, neighbors=7, factor=0.3, threshold=2.0
    )
    near = np.sort(cdist(generated.double(), data.train.double()))[:, :7]
    expected = near[:, 0] / (0.3 * near.mean(1))
    np.testing.assert_allclose(result.scores, expected, rtol=1e-9)
    assert result.value == (expected < 2).mean()
    assert result.minimum == pytest.approx(expected.min())
    assert result.median == pytest.approx(np.median(expected))
    assert result.quantile_5 == pytest.approx(np.quantile(expected, 0.05))


@pytest.mark.parametrize(
    ("d", "median", "below"),
    [(2, (0.3, 0.4), (0.99, 1)), (8, (1.22, 1.34), (0.68, 0.82)),
     (32, (1.67, 1.73), (0, 0.006)), (128, (1.85, 1.89), (0, 0))],
)  # fmt: skip
def test_fresh_samples_have_no_universal_value(planted, d, median, below):
    data = planted(d)
    result = calibrated_l2(generated=data.fresh(), train=data.train, heldout=data.heldout)
    assert median[0] <= result.median <= median[1]
    assert below[0] <= result.value <= below[1]
    assert below[0] <= result.null.value <= below[1]


def test_copies_score_zero(planted):
    data = planted(32)
    result = calibrated_l2(generated=data.mixed(0.1), train=data.train)
    assert (result.scores[:100] == 0).all()
    assert (result.scores[100:] > 1).all()
    assert result.minimum == 0


def test_one_duplicate_does_little_harm(planted):
    data = planted(32)
    near = data.near_copies(0.05)
    result = calibrated_l2(generated=near, train=torch.cat([data.train] * 2))
    assert (result.scores < 0.2).all()


def test_nothing_but_copies_around_is_a_copy():
    train = torch.cat([torch.zeros(10, 1), torch.arange(1, 11.0)[:, None]])
    result = calibrated_l2(generated=torch.zeros(1, 1), train=train, neighbors=2)
    assert result.scores.tolist() == [0]
    assert result.value == 1


def test_the_scale_of_pixels_cancels(planted):
    data = planted(6, 200)
    generated = data.fresh()
    base = calibrated_l2(generated=generated, train=data.train, neighbors=20)
    scaled = calibrated_l2(generated=generated * 4, train=data.train * 4, neighbors=20)
    assert torch.equal(base.scores, scaled.scores)


def test_bad_input(planted):
    data = planted(2, 100)
    sets = {"generated": data.fresh(), "train": data.train}
    with pytest.raises(ValueError, match="a tenth of the 100 training points, got 50"):
        calibrated_l2(**sets)
    with pytest.raises(ValueError, match="factor must be positive"):
        calibrated_l2(**sets, neighbors=5, factor=0.0)
