"""Approximate neighbours with a stand-in for the index, and with faiss where it is installed."""

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from memdiff.neighbors import nearest, nearest_approximate


class ForgetfulIndex:
    """An exact index that never returns some of its points."""

    def __init__(self, forgotten=()):
        self.forgotten = list(forgotten)
        self.hnsw = SimpleNamespace(efSearch=0)
        self.rows = []

    def add(self, rows):
        assert rows.dtype == np.float32
        self.rows.append(rows)

    def search(self, queries, k):
        apart = cdist(queries, np.concatenate(self.rows))
        apart[:, self.forgotten] = np.inf
        order = np.argsort(apart, axis=1)[:, :k]
        return None, np.where(np.isinf(np.take_along_axis(apart, order, 1)), -1, order)


@pytest.fixture
def index(monkeypatch):
    def install(**options):
        made = []

        def build(features, links):
            made.append(ForgetfulIndex(**options))
            return made[-1]

        monkeypatch.setitem(sys.modules, "faiss", SimpleNamespace(IndexHNSWFlat=build))
        return made

    return install


@pytest.fixture
def sets():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(400, 6, generator=generator) + 100
    return torch.cat([y[:50], torch.randn(50, 6, generator=generator) + 100]), y


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_with_every_candidate_it_is_exact(index, sets, metric):
    index()
    found = nearest_approximate(*sets, 3, metric=metric, memory_limit=2**16)
    exact = nearest(*sets, 3, metric=metric)
    assert torch.equal(found.distances, exact.distances)
    assert torch.equal(found.indices, exact.indices)
    assert (found.distances[:50, 0] == 0).all()
    assert found.recall == 1


def test_the_recall_counts_what_is_missed(index, sets):
    index(forgotten=range(20))
    found = nearest_approximate(*sets, 1, recall_queries=100)
    exact = nearest(*sets, 1)
    missed = int((exact.indices < 20).sum())
    assert missed >= 20
    assert (found.recall_hits, found.recall_trials) == (100 - missed, 100)
    assert (found.distances >= exact.distances).all()
    assert nearest_approximate(*sets, 1, recall_queries=10).recall_trials == 10


def test_the_breadth_covers_the_candidates(index, sets):
    made = index()
    nearest_approximate(*sets, 100, spare=5, breadth=10)
    assert made[0].hnsw.efSearch == 105


def test_bad_input(index, sets, monkeypatch):
    index(forgotten=range(2, 400))
    with pytest.raises(ValueError, match="breadth must be large enough"):
        nearest_approximate(*sets, 3)
    with pytest.raises(ValueError, match="number of points 400, got 401"):
        nearest_approximate(*sets, 401)
    with pytest.raises(ValueError, match="spare must be at least 0"):
        nearest_approximate(*sets, 1, spare=-1)
    with pytest.raises(ValueError, match="links must be at least 1"):
        nearest_approximate(*sets, 1, links=0)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        nearest_approximate(*sets, 1)


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")
def test_faiss_itself(sets):
    found = nearest_approximate(*sets, 3, recall_queries=100)
    exact = nearest(*sets, 3)
    assert found.recall > 0.9
    assert (found.distances >= exact.distances).all()
