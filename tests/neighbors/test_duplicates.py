"""Duplicate groups against planted groups and a dense graph."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from memdiff.neighbors import duplicate_groups
from memdiff.neighbors.coordinates import Coordinates


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_no_duplicates(generator):
    groups = duplicate_groups(torch.randn(50, 4, generator=generator))
    assert groups.labels.tolist() == list(range(50))
    assert groups.sizes.tolist() == [1] * 50
    assert (groups.num_groups, groups.num_redundant) == (50, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bfloat16])
def test_planted_copies(generator, dtype):
    base = (torch.rand(40, 3, 7, generator=generator) * 255).to(dtype)
    source = torch.cat([torch.arange(40), torch.tensor([3, 3, 17, 39])])
    order = torch.randperm(44, generator=generator)
    groups = duplicate_groups(base[source[order]])
    assert groups.num_groups == 40
    same = source[order][:, None] == source[order]
    assert torch.equal(groups.labels[:, None] == groups.labels, same)
    assert sorted(groups.sizes.tolist())[-4:] == [1, 2, 2, 3]
    first = groups.representatives()
    assert torch.equal(groups.labels[first], torch.arange(40))
    assert torch.equal(first, first.sort()[0])


def test_zero_has_one_sign():
    assert duplicate_groups(torch.tensor([[0.0, 1.0], [-0.0, 1.0]])).num_groups == 1


def test_colliding_hashes_are_told_apart(generator, monkeypatch):
    y = torch.randint(0, 3, (60, 2), generator=generator).float()
    expected = duplicate_groups(y)
    monkeypatch.setattr(
        Coordinates, "hashes", lambda self: torch.zeros(len(self), dtype=torch.int64)
    )
    found = duplicate_groups(y)
    assert torch.equal(found.labels, expected.labels)
    assert found.num_groups == len(y.unique(dim=0))


def dense(y, tolerance):
    adjacent = cdist(y.double().numpy(), y.double().numpy()) <= tolerance
    return connected_components(adjacent, directed=False)[1]


@pytest.mark.parametrize("tolerance", [0.05, 0.3, 1.0, 100.0])
@pytest.mark.parametrize("memory", [2**15, 2**30])
def test_tolerance_equals_a_dense_graph(generator, tolerance, memory):
    y = torch.randn(150, 3, generator=generator)
    y[100:120] = y[:20]
    groups = duplicate_groups(y, tolerance, memory_limit=memory)
    expected = torch.from_numpy(dense(y, tolerance))
    assert torch.equal(
        groups.labels[:, None] == groups.labels, expected[:, None] == expected[None, :]
    )
    assert int(groups.sizes.sum()) == 150


def test_the_tolerance_is_met_to_the_last_digit():
    # Near copies 1e-5 apart at offset 1e4: the expansion in float32 sees nothing of it.
    y = 1e4 + torch.arange(6, dtype=torch.float64)[:, None].repeat(1, 50)
    near = y + 1e-5 / 50**0.5
    both = torch.cat([y, near])
    gap = float((near[:, :] - y).norm(dim=1).max())
    assert duplicate_groups(both, gap * (1 + 1e-9)).num_groups == 6
    assert duplicate_groups(both, gap * 0.99).num_groups == 12


def test_a_chain_is_one_group():
    y = torch.arange(1000.0)[:, None]
    assert duplicate_groups(y, 1.0).num_groups == 1
    assert duplicate_groups(y, 0.999).num_groups == 1000


def test_memory_map_and_shards(generator, tmp_path):
    y = torch.randint(0, 2, (90, 5), generator=generator).float()
    np.save(tmp_path / "y.npy", y.numpy())
    mapped = np.load(tmp_path / "y.npy", mmap_mode="r")
    for data in (mapped, [y[:33], mapped[33:]]):
        assert torch.equal(duplicate_groups(data).labels, duplicate_groups(y).labels)
        assert torch.equal(duplicate_groups(data, 1.0).labels, duplicate_groups(y, 1.0).labels)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 3), st.integers(0, 2**31), st.sampled_from([0, 1, 1.5]))
def test_integer_points(n, d, seed, tolerance):
    y = torch.randint(0, 6, (n, d), generator=torch.Generator().manual_seed(seed)).float()
    groups = duplicate_groups(y, tolerance, memory_limit=2**14)
    expected = dense(y, tolerance)
    assert groups.num_groups == expected.max() + 1
    # scipy numbers components by their first point as well.
    assert groups.labels.tolist() == expected.tolist()


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_bad_tolerance(tolerance):
    with pytest.raises(ValueError, match="tolerance must be a distance"):
        duplicate_groups(torch.zeros(3, 1), tolerance)


def test_not_finite():
    with pytest.raises(ValueError, match="points must be finite"):
        duplicate_groups(torch.tensor([[0.0], [torch.nan]]))
