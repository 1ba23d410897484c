"""Searches shared among ranks: what one process finds, to the last bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memdiff.neighbors import duplicate_groups, nearest, nearest_distinct, self_nearest


def rows(seed, num, dim=3):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(num, dim, generator=generator)
    points[num // 2 :: 3] = points[0]  # more copies than neighbours asked for
    return points


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    count=st.integers(1, 7),
    queries=st.integers(1, 12),
    num=st.integers(8, 60),
    metric=st.sampled_from(["euclidean", "cosine"]),
)
def test_queries_may_be_shared(in_ranks, seed, count, queries, num, metric):
    points = rows(seed, num)
    x = torch.randn(queries, 3, generator=torch.Generator().manual_seed(seed + 1))
    exclude = torch.arange(queries) % num - 1
    groups = duplicate_groups(points).labels

    def run(ranks):
        return (
            nearest(x, points, 3, metric=metric, exclude=exclude, ranks=ranks),
            self_nearest(points, 2, metric=metric, ranks=ranks),
            nearest_distinct(x, points, groups, 3, metric=metric, ranks=ranks),
        )

    alone = run(None)
    for results in in_ranks(count, run):
        for found, expected in zip(results, alone, strict=True):
            assert torch.equal(found.indices, expected.indices)
            assert torch.equal(found.distances, expected.distances)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**16), count=st.integers(2, 5), num=st.integers(2, 200))
def test_a_chain_of_duplicates_that_crosses_the_ranks_is_one_group(in_ranks, seed, count, num):
    generator = torch.Generator().manual_seed(seed)
    steps = torch.where(torch.rand(num, generator=generator) < 0.3, 5.0, 0.9)
    points = steps.cumsum(0)[torch.randperm(num, generator=generator), None]
    # Memory for few rows at a time: many blocks to deal out.
    alone = duplicate_groups(points, 1.0)
    for found in in_ranks(
        count, lambda r: duplicate_groups(points, 1.0, memory_limit=2**13, ranks=r)
    ):
        assert torch.equal(found.labels, alone.labels)


def test_what_is_wrong_is_wrong_on_every_rank(in_ranks):
    points = rows(0, 8)
    messages = []

    def run(ranks):
        with pytest.raises(ValueError, match="k must lie") as caught:
            nearest(points[:1], points, 9, ranks=ranks)  # one query: nothing for the second rank
        messages.append(str(caught.value))

    in_ranks(2, run)
    assert len(set(messages)) == 1 and len(messages) == 2
