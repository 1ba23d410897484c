import numpy as np
import pytest
import torch

from memdiff.metrics.pairwise import Pairwise, blocks, moments
from memdiff.neighbors import Rows


@pytest.mark.parametrize("memory_limit", [2**30, 3000, 1])
@pytest.mark.parametrize("weighted", [False, True])
def test_strips_against_direct_differences(memory_limit, weighted):
    generator = torch.Generator().manual_seed(0)
    x = 1e4 + torch.randn(17, 2, 3, generator=generator, dtype=torch.float64)
    y = 1e4 + torch.randn(23, 2, 3, generator=generator, dtype=torch.float64)
    y[4], y[5] = x[2], x[3] + 1e-9
    weights = torch.rand(6, generator=generator, dtype=torch.float64) if weighted else None
    pairs = Pairwise(
        Rows(x, "x"),
        Rows(y, "y"),
        centre=y.flatten(1).mean(0),
        weights=weights,
        memory_limit=memory_limit,
    )
    strips = list(pairs.strips())
    assert [a for a, _, _ in strips] == [0, *(b for _, b, _ in strips[:-1])]
    found = torch.cat([strip for _, _, strip in strips])
    scale = torch.ones(6, dtype=torch.float64) if weights is None else weights
    expected = ((x.flatten(1)[:, None] - y.flatten(1)) * scale).square().sum(-1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    assert found[2, 4] == 0
    assert (len(strips) == 17) == (memory_limit == 1)


def test_moments_and_blocks():
    data = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = 1e6 + data * torch.tensor([1.0, 2.0, 0.0, 1e-3])
    wide = data.numpy().astype(np.longdouble)
    wide = wide - wide.mean(0)
    exact = torch.from_numpy((wide.T @ wide / 49).astype(np.float64))
    for limit in (2**30, 200):
        mean, variance = moments(Rows(data, "x"), "x", memory_limit=limit)
        torch.testing.assert_close(mean, data.mean(0), rtol=1e-14, atol=0)
        torch.testing.assert_close(variance, exact.diagonal(), rtol=1e-9, atol=0)
        assert variance[2] == 0
        covariance = moments(Rows(data, "x"), "x", covariance=True, memory_limit=limit)[1]
        torch.testing.assert_close(covariance, exact, rtol=1e-9, atol=1e-15)
        assert torch.equal(torch.cat(list(blocks(Rows(data, "x"), "x", limit))), data)
    assert moments(Rows(data[:1], "x"), "x")[1].eq(0).all()
