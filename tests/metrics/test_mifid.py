import math

import numpy as np
import pytest
import scipy.linalg
import torch

from memdiff.metrics import Distances
from memdiff.metrics.mifid import frechet_distance, mifid


def _fid(x, y):
    """Frechet distance with the square root of the product, as commonly written."""
    x, y = x.double().numpy(), y.double().numpy()
    c1, c2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(c1 @ c2).real
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * root)


@pytest.mark.parametrize("d", [2, 16])
def test_fid_against_scipy(planted, d):
    data = planted(d, 200)
    skew = torch.randn(d, d, generator=data.generator)
    generated, train = data.fresh() @ skew + 1, data.train * torch.linspace(0.1, 2, d)
    result = mifid(generated=generated, train=train)
    assert result.fid == pytest.approx(_fid(generated, train), rel=1e-9)


def test_frechet_distance_of_commuting_and_singular_covariances():
    a, b = torch.tensor([4.0, 1.0, 0.0]).double(), torch.tensor([1.0, 9.0, 4.0]).double()
    mean = torch.zeros(3, dtype=torch.float64)
    found = frechet_distance(mean, a.diag(), mean + 1, b.diag())
    assert found == pytest.approx(3 + float((a.sqrt() - b.sqrt()).square().sum()), rel=1e-12)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    turned = [rotation @ c.diag() @ rotation.T for c in (a, b)]
    assert frechet_distance(mean, turned[0], mean + 1, turned[1]) == pytest.approx(found, rel=1e-7)
    assert frechet_distance(mean, turned[0], mean, turned[0]) < 1e-7


def test_distance_is_averaged_over_generated(planted):
    """Resampled copies: 0 over the samples, but not over the training points, many unused."""
    data = planted(32, 300)
    generated = data.copies()
    result = mifid(generated=generated, train=data.train, heldout=data.heldout)
    assert result.distance == 0
    assert result.value == math.inf
    assert result.penalised
    swapped = mifid(generated=data.train, train=generated)
    assert swapped.distance > 0.05
    assert result.null_distance > 0.3
    assert result.null.value == result.null_fid


def test_distances_against_dense_cosines(planted):
    data = planted(4, 80)
    for generated, train in (
        (data.fresh(), data.train),
        (-data.train, data.train),
        (data.fresh().abs(), data.train.abs()),
    ):
        unit = [torch.nn.functional.normalize(x.double()) for x in (generated, train)]
        expected = 1 - (unit[0] @ unit[1].T).abs().amax(1)
        result = mifid(generated=generated, train=train)
        torch.testing.assert_close(result.scores, expected, rtol=1e-9, atol=1e-12)
        assert result.distance in result.distance_interval


def test_the_step_at_the_cut(planted):
    data = planted(8, 100)
    generated = data.fresh()
    plain = mifid(generated=generated, train=data.train, cut=0.01)
    assert (plain.value, plain.penalised) == (plain.fid, False)
    cut = mifid(generated=generated, train=data.train, cut=min(1.0, plain.distance * 1.001))
    assert cut.penalised
    assert cut.value == pytest.approx(plain.fid / plain.distance)


def test_rows_with_structure_bytes_and_ready_distances(planted):
    generator = torch.Generator().manual_seed(0)
    train, fresh = torch.randint(1, 255, (2, 40, 3, 2), dtype=torch.uint8, generator=generator)
    result = mifid(distances=Distances(generated=fresh, train=train, metric="cosine"))
    flat = mifid(generated=fresh.flatten(1).double(), train=train.flatten(1).double())
    assert result.fid == pytest.approx(flat.fid, rel=1e-9)
    torch.testing.assert_close(result.scores, flat.scores)


def test_more_held_out_points_than_samples(planted):
    data = planted(8, 200)
    result = mifid(generated=data.fresh(50), train=data.train, heldout=data.heldout)
    assert result.null.source == "50 held-out points"
    assert result.null_fid == pytest.approx(result.fid, rel=0.5)


def test_bad_input(planted):
    data = planted(3, 10)
    with pytest.raises(ValueError, match="cut must lie in"):
        mifid(generated=data.train, train=data.train, cut=0.0)
    with pytest.raises(ValueError, match="at least 2 samples"):
        mifid(generated=data.train[:1], train=data.train)
    with pytest.raises(ValueError, match="zero vector"):
        mifid(generated=torch.zeros(4, 3), train=data.train)
