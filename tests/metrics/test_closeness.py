"""Closeness statistics, and versions of points."""

import numpy as np
import pytest
import torch

from memdiff.metrics import Distances, closeness, exceedance
from memdiff.neighbors import nearest


def sets(seed=0, dim=6, sizes=(30, 40, 25)):
    generator = torch.Generator().manual_seed(seed)
    names = ("generated", "train", "heldout")
    return {
        name: torch.randn(size, dim, generator=generator, dtype=torch.float64)
        for name, size in zip(names, sizes, strict=True)
    }


def test_statistics_are_what_they_say():
    data = sets()
    found = Distances(**data)
    distance = torch.cdist(data["generated"], data["train"])
    scale = torch.cdist(data["generated"], data["heldout"]).min(1).values
    near = distance.topk(2, largest=False).values
    torch.testing.assert_close(closeness(found, "generated"), near[:, 0])
    torch.testing.assert_close(closeness(found, "generated", "local"), near[:, 0] / scale)
    torch.testing.assert_close(closeness(found, "generated", "ratio"), near[:, 0] / near[:, 1])
    own = torch.cdist(data["train"], data["train"]).fill_diagonal_(torch.inf)
    torch.testing.assert_close(closeness(found, "train"), own.min(1).values)


def test_training_points_leave_out_their_own_group():
    """A doubled training set is seen as a single one; catches self-exclusion by index alone."""
    data = sets()
    doubled = {**data, "train": data["train"].repeat(2, 1)}
    for statistic in ("distance", "ratio"):
        single = closeness(Distances(**data), "train", statistic)
        double = closeness(Distances(**doubled), "train", statistic)
        torch.testing.assert_close(double, single.repeat(2))


def test_zero_over_zero():
    point = torch.zeros(1, 2)
    data = {
        "generated": point,
        "train": torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]]),
        "heldout": torch.tensor([[0.0, 0.0], [1.0, 1.0]]),
    }
    found = Distances(**data)
    assert closeness(found, "generated", "local").item() == 1.0
    assert closeness(found, "generated", "ratio").item() == 0.0


@pytest.mark.parametrize(
    ("statistic", "reference"),
    [
        ("distance", "heldout"),
        ("local", "heldout"),
        ("ratio", "heldout"),
        ("distance", "train"),
        ("ratio", "train"),
    ],
)
def test_exceedance_is_calibrated_and_sees_copies(statistic, reference):
    """Fresh data: at most the level; 5 % copies: found. For every statistic and reference."""
    low, found_copies = 0, 0
    for seed in range(60):
        data = sets(seed, dim=8, sizes=(100, 100, 100))
        p_value = exceedance(**data, statistic=statistic, reference=reference).p_value
        low += p_value <= 0.1
        data["generated"][:5] = data["train"][:5]
        p_value = exceedance(**data, statistic=statistic, reference=reference).p_value
        found_copies += p_value <= 0.1
    assert low <= 12  # 60 fair trials at 0.1: more than 12 with probability 0.005
    assert found_copies >= 54


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("double", [False, True])
def test_versions_take_the_closest(k, double):
    """Against the pooled search written out, with and without groups of duplicates."""
    data = sets(dim=3)
    if double:
        data["train"] = data["train"].repeat(2, 1)
    mirrored = data["generated"].flip(1)
    found = Distances(**data, variants={"generated": [mirrored]})
    ours = found.to_train("generated", k, distinct=double)
    unique = data["train"][:40]
    pooled = torch.minimum(torch.cdist(data["generated"], unique), torch.cdist(mirrored, unique))
    torch.testing.assert_close(ours.distances, pooled.sort(1).values[:, :k])
    assert (ours.indices % 40 == pooled.sort(1).indices[:, :k]).all()
    plain = Distances(**data).to_train("heldout", k)
    torch.testing.assert_close(found.to_train("heldout", k).distances, plain.distances)


def test_versions_of_training_points_leave_themselves_out():
    """A symmetric image is its own mirror image, and no copy of itself."""
    train = torch.tensor([[1.0, 2.0, 1.0], [5.0, 0.0, 3.0], [0.0, 9.0, 0.0]])
    found = Distances(generated=train, train=train, variants={"train": [train.flip(1)]})
    own = torch.cdist(train, train).fill_diagonal_(torch.inf)
    mirrored = torch.cdist(train.flip(1), train).fill_diagonal_(torch.inf)
    expected = torch.minimum(own, mirrored).min(1).values
    torch.testing.assert_close(found.to_train("train").distances[:, 0], expected.double())


def test_versions_must_fit_their_set():
    data = sets()
    with pytest.raises(ValueError, match="must have the rows of generated"):
        Distances(**data, variants={"generated": [data["generated"][:3]]})
    assert nearest(np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)).distances.item() > 0
