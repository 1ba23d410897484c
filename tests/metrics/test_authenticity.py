import pytest
import torch

from memdiff.metrics import authenticity


@pytest.mark.parametrize(
    ("d", "low", "high"), [(2, 0.33, 0.48), (8, 0.54, 0.64), (32, 0.72, 0.81), (128, 0.81, 0.9)]
)
def test_fresh_samples_have_no_universal_value(planted, d, low, high):
    data = planted(d)
    result = authenticity(generated=data.fresh(), train=data.train, heldout=data.heldout)
    assert low <= result.value <= high
    assert low <= result.null.value <= high


def test_copies_and_far_points(planted):
    data = planted(8)
    assert authenticity(generated=data.copies(), train=data.train).value == 0
    assert authenticity(generated=100 + data.fresh(), train=data.train).value == 1


def test_ten_percent_of_copies(planted):
    data = planted(32)
    result = authenticity(generated=data.mixed(0.1), train=data.train, heldout=data.heldout)
    assert result.value == pytest.approx(0.9 * result.null.value, abs=0.05)
    assert (result.scores[:100] == 0).all()


def test_the_radius_is_that_of_the_nearest_training_point():
    train = torch.tensor([[0.0], [10.0], [11.0]])
    # Nearest to 10, whose radius is 1; nearest to 0, whose radius is 10.
    result = authenticity(generated=torch.tensor([[8.5], [-9.0], [-11.0]]), train=train)
    assert result.indices.tolist() == [1, 0, 0]
    assert result.scores.tolist() == pytest.approx([1.5, 0.9, 1.1])
    assert result.value == pytest.approx(2 / 3)
    # As far from 0 as the nearest other training point is: not authentic.
    assert authenticity(generated=torch.tensor([[-10.0]]), train=train).value == 0


def test_copies_of_few_points_do_not_mix_up_indices(planted):
    """Published defect: real-to-synthetic distances with radii at synthetic indices give 0.94."""
    data = planted(16)
    few = data.train[torch.randint(10, (1000,), generator=data.generator)]
    assert authenticity(generated=few, train=data.train).value == 0


def test_a_doubled_training_set_hides_copies_until_grouped(planted):
    data = planted(8, 300)
    doubled = torch.cat([data.train] * 2)
    near = data.near_copies(0.05)
    assert authenticity(generated=near, train=doubled, group_duplicates=False).value == 1
    grouped = authenticity(generated=near, train=doubled)
    assert grouped.value < 0.01
    assert torch.equal(grouped.scores, authenticity(generated=near, train=data.train).scores)


def test_collapse_looks_authentic(planted):
    values = []
    for seed in range(10):
        data = planted(32, 200, seed)
        values.append(authenticity(generated=data.collapsed(), train=data.train).value)
    assert set(values) <= {0.0, 1.0}
    assert sum(values) >= 5


def test_bad_input():
    with pytest.raises(ValueError, match="at least 2 groups of points, got 3 points"):
        authenticity(generated=torch.zeros(1, 1), train=torch.ones(3, 1))
