"""Defects of released software that concern a metric, one test each: ours has none of them."""

import numpy as np
import pytest
import torch

from memdiff.data import load
from memdiff.metrics import Distances, authenticity, data_copying, fidelity, mifid, ratio
from memdiff.neighbors import duplicate_groups, nearest, self_nearest


def normal(num, dim, seed):
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def test_a_missing_sample_file_is_an_error_and_no_row_of_zeros(tmp_path):
    """A released f_mem counts files that are missing as zero rows, hence as not memorised."""
    with pytest.raises(FileNotFoundError, match=r"sample-7\.npy"):
        load(tmp_path / "sample-7.npy", name="generated")


def test_copies_of_repeated_points_are_defined_and_counted():
    """0/0 in the ratio is a copy of a duplicated point; a released f_mem drops it."""
    train = normal(50, 4, 0)
    result = ratio(generated=train[:10], train=train.repeat(2, 1))
    assert result.value == 1.0
    assert torch.isfinite(result.scores).all()


def test_an_empty_cell_does_not_break_data_copying():
    """Released C_T fails where a cell has no sample; others drop its mass silently."""
    train = torch.cat([normal(100, 3, 1), normal(100, 3, 2) + 50])
    heldout = torch.cat([normal(100, 3, 3), normal(100, 3, 4) + 50])
    result = data_copying(generated=normal(200, 3, 5), train=train, heldout=heldout, cells=2)
    assert np.isfinite(result.value)
    assert result.dropped_heldout == pytest.approx(0.5)


def test_authenticity_of_few_points_copied_often_is_zero():
    """A released version indexes real radii by synthetic indices: 0.94 to 0.98 here."""
    train = normal(500, 8, 6)
    assert authenticity(generated=train[:10].repeat(100, 1), train=train).value == 0.0
    fresh = authenticity(generated=normal(500, 8, 7), train=train).value
    assert 0.5 < fresh < 0.7


def test_mifid_averages_over_the_generated_rows():
    """A released version averages over real rows: 0.07 and more for resampled copies."""
    train = normal(300, 16, 8)
    copies = train[torch.randint(300, (300,), generator=torch.Generator().manual_seed(9))]
    result = mifid(generated=copies, train=train)
    assert result.distance == pytest.approx(0.0, abs=1e-12)


def test_the_null_stands_beside_the_value():
    """A released share of close samples has no baseline; fresh data give it 0.5."""
    train, heldout, fresh = normal(300, 8, 10), normal(300, 8, 11), normal(300, 8, 12)
    result = authenticity(generated=fresh, train=train, heldout=heldout)
    assert result.null is not None and abs(result.value - result.null.value) < 0.1


def test_precision_and_recall_are_not_exchanged():
    """All samples equal to one real point: precision 1, recall near 0."""
    train = normal(400, 6, 13)
    result = fidelity(generated=train[:1].repeat(400, 1), train=train)
    assert result.precision.value == 1.0
    assert result.recall.value < 0.02


def test_exact_copies_have_distance_zero_in_float32():
    """A Gram matrix in float32 gives up to 5.7 for bytes and 0.03 for pixels in [-1, 1]."""
    generator = torch.Generator().manual_seed(14)
    byte = torch.randint(256, (200, 3072), generator=generator).to(torch.float32)
    for points in (byte, byte / 127.5 - 1, byte + 1e4):
        assert nearest(points[:20], points).distances.abs().max() == 0.0


def test_self_exclusion_is_by_index():
    """Excluding the value 0 drops duplicates silently."""
    points = normal(30, 4, 15).repeat(2, 1)
    assert self_nearest(points).distances.abs().max() == 0.0
    assert duplicate_groups(points).num_groups == 30
    found = Distances(generated=points[:5], train=points)
    assert (found.to_train("train", distinct=True).distances > 0).all()
