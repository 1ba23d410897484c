import itertools

import pytest
import torch
from scipy.stats import kstest

from memdiff.metrics import Distances, clopper_pearson, ratio


def test_copy_and_midpoint():
    train = torch.tensor([[0.0, 0.0], [2.0, 0.0], [50.0, 0.0]])
    result = ratio(generated=torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.0]]), train=train)
    torch.testing.assert_close(result.scores, torch.tensor([0, 1, 1 / 3], dtype=torch.float64))
    assert ratio(generated=train, train=train).value == 1


@pytest.mark.parametrize("r", [1, 2, 3, 4])
def test_chance_on_the_flat_torus(r):
    """Uniform points on a torus: (d_1/d_2)^r is uniform, so the share below k is k^r."""
    generator = torch.Generator().manual_seed(r)
    offsets = torch.tensor(list(itertools.product((-1, 0, 1), repeat=r)))
    shares, first = [], []
    for _ in range(20):  # samples share training points, so the error is taken between sets
        train = torch.rand(300, r, generator=generator)
        tiled = (train[None] + offsets[:, None]).reshape(-1, r)
        tiled = tiled[((tiled > -0.5) & (tiled < 1.5)).all(1)]
        generated = torch.rand(600, r, generator=generator)
        result = ratio(generated=generated, train=tiled, dimension=float(r))
        assert result.chance == pytest.approx(3.0**-r)
        shares.append(result.value)
        first.append(result.scores[:30])
    shares = torch.tensor(shares)
    error = float(shares.std()) / 20**0.5
    assert error < 0.006
    assert float(shares.mean()) == pytest.approx(3.0**-r, abs=3.5 * error)
    assert kstest(torch.cat(first).numpy() ** r, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("d", [2, 8, 32])
def test_fresh_samples_and_their_null(planted, d):
    data = planted(d)
    result = ratio(generated=data.fresh(), train=data.train, heldout=data.heldout)
    low, high = (0.08, 0.14) if d == 2 else (0.0, 0.002)
    assert low <= result.value <= high
    assert low <= result.null.value <= high
    assert result.null.source == "held-out points"
    assert result.value in result.interval
    if d == 2:
        assert result.dimension == pytest.approx(2, abs=0.25)
        assert result.chance == pytest.approx(1 / 9, abs=0.03)
    else:
        assert result.chance < 0.001


def test_planted_copies(planted):
    data = planted(32)
    result = ratio(generated=data.mixed(0.1), train=data.train)
    assert result.value == 0.1
    assert result.interval == clopper_pearson(100, 1000)
    assert (result.scores[:100] == 0).all()


@pytest.mark.parametrize(
    ("amount", "d", "low", "high"),
    [(0.1, 2, 0.9, 1), (0.1, 32, 0.98, 1), (0.6, 2, 0.33, 0.45), (0.6, 8, 0.05, 0.13)],
)
def test_power_against_noisy_copies(planted, amount, d, low, high):
    data = planted(d)
    result = ratio(generated=data.near_copies(amount), train=data.train)
    assert low <= result.value <= high


def test_a_doubled_training_set_hides_copies_until_grouped(planted):
    data = planted(8, 300)
    doubled = torch.cat([data.train, data.train])
    generated = data.near_copies(0.05)[:300]
    blind = ratio(generated=generated, train=doubled, group_duplicates=False)
    assert blind.value == 0
    seen = ratio(generated=generated, train=doubled)
    assert seen.value > 0.99
    assert (seen.num_groups, seen.largest_group) == (300, 2)
    plain = ratio(generated=generated, train=data.train)
    assert torch.equal(seen.scores, plain.scores)
    assert seen.dimension == pytest.approx(plain.dimension, rel=1e-12)


def test_near_duplicates_are_grouped_within_a_tolerance(planted):
    data = planted(8, 300)
    jittered = torch.cat([data.train, data.train + 1e-3])
    sets = {"generated": data.train + 5e-4, "train": jittered}
    assert ratio(**sets).value == 0
    assert ratio(distances=Distances(**sets, tolerance=0.01)).value == 1


def test_zero_over_zero_is_a_copy():
    train = torch.tensor([[0.0], [0.0], [5.0]])
    result = ratio(generated=torch.tensor([[0.0], [1.0]]), train=train, group_duplicates=False)
    assert result.scores.tolist() == [0.0, 1.0]
    assert (result.value, result.zero_over_zero) == (0.5, 1)
    assert ratio(generated=torch.tensor([[0.0]]), train=train).zero_over_zero == 0


def test_invariance_to_rotation_scale_and_order(planted):
    data = planted(6, 200)
    generated = data.fresh().double()
    base = ratio(generated=generated, train=data.train.double())
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    order = torch.randperm(200)
    moved = ratio(
        generated=3 * generated @ rotation + 7,
        train=(3 * data.train.double() @ rotation + 7)[order],
    )
    torch.testing.assert_close(moved.scores, base.scores, rtol=1e-9, atol=0)


def test_bad_input():
    train = torch.zeros(3, 1)
    with pytest.raises(ValueError, match="at least 2 groups of points, got 3 points"):
        ratio(generated=torch.zeros(1, 1), train=train)
    with pytest.raises(ValueError, match="threshold must lie"):
        ratio(generated=torch.zeros(1, 1), train=train, threshold=0.0)
