import pytest
import torch

from memdiff.metrics import clopper_pearson, tolerance_fraction


def test_planted_distances():
    train = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    generated = torch.tensor([[0.0, 0.0], [0.0, 0.05], [10.0, 0.3], [5.0, 0.0]])
    result = tolerance_fraction(generated=generated, train=train, tolerances=(0.04, 0.06, 1, 5.1))
    assert result.values == (0.25, 0.5, 0.75, 1.0)
    assert result.value == 0.25
    assert result.interval == clopper_pearson(1, 4)
    assert result.intervals[2] == clopper_pearson(3, 4)
    assert result.null is None
    torch.testing.assert_close(
        result.scores, torch.tensor([0, 0.05, 0.3, 5]).double(), rtol=1e-6, atol=0
    )


def test_the_inequality_is_strict():
    sets = {"generated": torch.tensor([[0.5]]), "train": torch.tensor([[0.0], [2.0]])}
    assert tolerance_fraction(**sets, tolerances=0.5).value == 0
    assert tolerance_fraction(**sets, tolerances=0.5000001).value == 1


def test_the_null_is_that_of_the_heldout_points(planted):
    data = planted(2)
    result = tolerance_fraction(
        generated=data.copies(), train=data.train, heldout=data.heldout, tolerances=(0.1, 1e-6)
    )
    apart = torch.cdist(data.heldout.double(), data.train.double()).amin(1)
    expected = float((apart < 0.1).double().mean())
    assert 0.05 < expected < 0.95
    assert result.values == (1.0, 1.0)
    assert result.null.value == expected
    assert expected in result.null.interval
    assert result.nulls[1].value == 0


@pytest.mark.parametrize("tolerances", [0.0, -1.0, (), (0.1, float("nan")), float("inf")])
def test_bad_tolerances(tolerances):
    with pytest.raises(ValueError, match="tolerances must be positive"):
        tolerance_fraction(
            generated=torch.zeros(1, 1), train=torch.zeros(2, 1), tolerances=tolerances
        )
