import itertools
import math

import pytest
import torch
from scipy.stats import kstest, mannwhitneyu

from memdiff.metrics import Distances
from memdiff.metrics.data_copying import data_copying

FAST = {"permutations": 99, "draws": 1}


def test_all_copies_have_the_extreme_value(planted):
    """U = 0 with 1000 against 1000 points: z = -38.72."""
    data = planted(32)
    result = data_copying(
        generated=data.copies(), train=data.train, heldout=data.heldout, cells=1, **FAST
    )
    assert result.value == pytest.approx(-38.72, abs=0.005)
    assert (result.scores == 0).all()
    assert (result.p_value, result.p_value_underfit) == (0.01, 1.0)
    cells = data_copying(
        generated=data.copies(), train=data.train, heldout=data.heldout, cells=3, **FAST
    )
    # sqrt(n m / (n + m + 1) * 3) summed over cells falls with the root of their number.
    assert cells.value == pytest.approx(-38.72 / math.sqrt(3), rel=0.03)


def test_fresh_samples_over_data_sets(planted):
    values, p_values, covered = [], [], 0
    for seed in range(120):
        data = planted(16, 150, seed)
        result = data_copying(
            generated=data.fresh(), train=data.train, heldout=data.heldout, cells=1, **FAST
        )
        values.append(result.value)
        p_values.append(result.p_value)
        covered += result.value in result.null.interval
    values = torch.tensor(values)
    assert abs(float(values.mean())) < 3.5 / 120**0.5
    assert 0.8 < float(values.std()) < 1.2
    assert kstest(p_values, "uniform").pvalue > 1e-3
    assert covered >= 105


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2])
def test_weakness_against_rare_copying(planted, share):
    """Copies lie below all held-out points, so they shift the mean by -38.72 of their share."""
    values = []
    for seed in range(10):
        data = planted(32, 1000, seed)
        result = data_copying(
            generated=data.mixed(share), train=data.train, heldout=data.heldout, cells=1, **FAST
        )
        values.append(result.value)
    assert sum(values) / 10 == pytest.approx(-38.72 * share, abs=3.5 / 10**0.5)


@pytest.mark.parametrize("d", [2, 32])
def test_underfit_is_positive(planted, d):
    data = planted(d)
    result = data_copying(
        generated=1.5 * data.fresh(), train=data.train, heldout=data.heldout, cells=1, **FAST
    )
    assert 8 < result.value < 39
    assert result.p_value_underfit == 0.01


def test_a_doubled_training_set_does_not_hide_copies(planted):
    data = planted(8, 300)
    doubled = torch.cat([data.train, data.train])
    result = data_copying(
        generated=data.copies(), train=doubled, heldout=data.heldout, cells=1, **FAST
    )
    assert result.value < -20


def test_z_against_scipy_with_ties():
    generator = torch.Generator().manual_seed(1)
    train, heldout, generated = torch.randint(0, 4, (3, 60, 2), generator=generator).double()
    distances = Distances(generated=generated, train=train, heldout=heldout)
    result = data_copying(distances=distances, cells=1, **FAST)
    ours = distances.to_train("generated").distances[:, 0]
    fresh = distances.to_train("heldout").distances[:, 0]
    assert len(ours.unique()) < 5
    u = mannwhitneyu(ours, fresh).statistic
    z = (u - (60 * 60 / 2 - 0.5)) / math.sqrt(60 * 60 * 121 / 12)
    assert result.value == pytest.approx(z, rel=1e-12)
    assert result.scores.mean().item() == pytest.approx(u / 3600, rel=1e-12)


def test_p_value_against_all_relabellings():
    train = torch.zeros(2, 1)
    generated, heldout = torch.tensor([[1.0], [2], [4], [7]]), torch.tensor([[3.0], [5], [6], [8]])
    result = data_copying(
        generated=generated,
        train=train,
        heldout=heldout,
        cells=1,
        min_share=0.0,
        permutations=9999,
        draws=1,
    )
    # The samples have ranks 1, 2, 4 and 7 of 8.
    sums = [sum(ranks) for ranks in itertools.combinations(range(1, 9), 4)]
    for p_value, extreme in (
        (result.p_value, [s <= 14 for s in sums]),
        (result.p_value_underfit, [s >= 14 for s in sums]),
    ):
        exact = sum(extreme) / 70
        assert p_value == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 9999) ** 0.5)


def _blobs(counts, generator, spread=0.05):
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    return torch.cat(
        [
            centres[i] + spread * torch.randn(count, 2, generator=generator)
            for i, count in enumerate(counts)
        ]
    )


def test_cells_are_weighted_by_held_out_mass_and_small_ones_dropped():
    generator = torch.Generator().manual_seed(0)
    train = _blobs((100, 100, 100), generator)
    heldout = _blobs((60, 120, 20), generator)
    generated = torch.cat([train[:50], _blobs((0, 40, 10), generator)])
    result = data_copying(generated=generated, train=train, heldout=heldout, **FAST)
    by_size = {cell.generated: cell for cell in result.cells}
    assert {(c.heldout, c.used) for c in by_size.values()} == {(60, 1), (120, 1), (20, 0)}
    assert result.value == pytest.approx((60 * by_size[50].z + 120 * by_size[40].z) / 180)
    assert by_size[50].z < -8
    assert result.dropped_generated == pytest.approx(0.1)
    assert result.dropped_heldout == pytest.approx(0.1)
    kept = data_copying(generated=generated, train=train, heldout=heldout, min_share=0.05, **FAST)
    assert kept.dropped_heldout == pytest.approx(0)
    exactly = data_copying(
        generated=generated, train=train, heldout=heldout, min_share=0.1, **FAST
    )
    assert exactly.dropped_generated == pytest.approx(0.1)  # the share must exceed tau


def test_empty_cells():
    """A cell without samples, and one without held-out points, are left out, not a failure."""
    generator = torch.Generator().manual_seed(0)
    train = _blobs((100, 100, 100), generator)
    heldout = _blobs((100, 0, 50), generator)
    generated = _blobs((60, 40, 0), generator)
    result = data_copying(generated=generated, train=train, heldout=heldout, **FAST)
    assert sorted((c.heldout, c.generated, c.used) for c in result.cells) == [
        (0, 40, False),
        (50, 0, False),
        (100, 60, True),
    ]
    assert [c.z is None for c in result.cells].count(True) == 2
    assert result.dropped_generated == pytest.approx(0.4)
    assert result.dropped_heldout == pytest.approx(1 / 3)
    assert torch.isfinite(result.scores).all()


def test_other_cell_shares_are_not_copying():
    """Relabelling stays within cells: samples from the dense cell alone are not closer there."""
    generator = torch.Generator().manual_seed(3)

    def two(near, far):
        return torch.cat(
            [
                0.01 * torch.randn(near, 2, generator=generator),
                10 + torch.randn(far, 2, generator=generator),
            ]
        )

    p_values = [
        data_copying(
            generated=two(170, 30), train=two(100, 100), heldout=two(30, 170), cells=2, **FAST
        ).p_value
        for _ in range(40)
    ]
    assert kstest(p_values, "uniform").pvalue > 1e-3


def test_high_dimension_goes_through_principal_components(planted):
    data = planted(100, 400)
    result = data_copying(
        generated=data.copies(), train=data.train, heldout=data.heldout, permutations=99
    )
    again = data_copying(
        generated=data.copies(), train=data.train, heldout=data.heldout, permutations=99
    )
    assert result.value == pytest.approx(-24.5 / math.sqrt(3), rel=0.1)
    assert sum(c.train for c in result.cells) == 400
    assert again.cells[0].train == result.cells[0].train
    fresh = data_copying(generated=data.fresh(), train=data.train, heldout=data.heldout)
    assert fresh.interval.low < fresh.value < fresh.interval.high
    assert 0.5 < fresh.null.interval.high - fresh.null.interval.low < 4


def test_bad_input(planted):
    data = planted(2, 30)
    sets = {"generated": data.fresh(), "train": data.train, "heldout": data.heldout}
    with pytest.raises(ValueError, match="heldout must be given for C_T"):
        data_copying(generated=sets["generated"], train=data.train)
    with pytest.raises(ValueError, match=r"cells must lie between 1 and .* 30, got 31"):
        data_copying(**sets, cells=31)
    with pytest.raises(ValueError, match="more than 20 samples in a cell"):
        data_copying(**sets, cells=3)
    with pytest.raises(ValueError, match="min_share must lie"):
        data_copying(**sets, min_share=1.0)
