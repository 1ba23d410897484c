import pytest
import torch

from memdiff.metrics import intrinsic_dimension
from memdiff.metrics.intrinsic_dimension import dimension_from_neighbors


@pytest.mark.parametrize("r", [1, 2, 3, 5])
@pytest.mark.parametrize("neighbors", [2, 8])
def test_gaussian_in_a_random_subspace(r, neighbors):
    generator = torch.Generator().manual_seed(r)
    basis = torch.linalg.qr(torch.randn(20, r, generator=generator))[0]
    points = torch.randn(1500, r, generator=generator) @ basis.T
    # The mean of N(k-1) exponential variables has relative error (N(k-1))^-1/2.
    error = 4 * r / (1500 * (neighbors - 1)) ** 0.5 + 0.06 * r  # edges of the cloud
    result = intrinsic_dimension(points, neighbors=neighbors)
    assert result.value == pytest.approx(r, abs=error)
    assert result.value in result.interval
    assert result.interval.high - result.interval.low < 0.3 * r


def test_the_estimator_on_exact_poisson_neighbours():
    # Volumes to successive neighbours of a Poisson process are partial sums of exponentials.
    generator = torch.Generator().manual_seed(0)
    for r, k in ((1.7, 2), (4.0, 5), (30.0, 12)):
        volumes = -torch.rand(4000, k, generator=generator, dtype=torch.float64).log()
        distances = volumes.cumsum(1) ** (1 / r)
        result = dimension_from_neighbors(distances)
        assert result.value == pytest.approx(r, rel=4 / (4000 * (k - 1)) ** 0.5)
        assert result.interval.low < r * 1.02
        assert result.interval.high > r * 0.98


def test_circle_and_scale():
    angle = 6.2832 * torch.rand(1000, 1, generator=torch.Generator().manual_seed(0)).double()
    circle = torch.cat([angle.cos(), angle.sin()], 1)
    result = intrinsic_dimension(circle, neighbors=5)
    assert result.value == pytest.approx(1, abs=0.08)
    scaled = intrinsic_dimension(1024 * circle, neighbors=5)
    assert scaled.value == pytest.approx(result.value, rel=1e-12)


def test_identical_points_count_once():
    points = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    doubled = torch.cat([points, points[:100]])
    assert intrinsic_dimension(doubled).value == pytest.approx(
        intrinsic_dimension(points).value, rel=1e-12
    )


def test_bad_input():
    with pytest.raises(ValueError, match="number of distinct points 2, got 2"):
        intrinsic_dimension(torch.tensor([[0.0], [1.0], [1.0]]), neighbors=2)
    with pytest.raises(ValueError, match="equally far"):
        intrinsic_dimension(torch.eye(4), neighbors=2)
    with pytest.raises(ValueError, match="distances must be positive"):
        dimension_from_neighbors(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="distances must have shape"):
        dimension_from_neighbors(torch.ones(3, 1))
