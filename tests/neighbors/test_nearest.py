"""Exact neighbours against independent searches and planted truth."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from memdiff.kernel.candidates import Candidates
from memdiff.kernel.rounding import SquareBound
from memdiff.kernel.screen import FloatProduct, IntegerProduct
from memdiff.neighbors import Rows, nearest, nearest_distinct, self_nearest
from memdiff.neighbors import search as search_module
from memdiff.neighbors.coordinates import Coordinates
from memdiff.neighbors.search import Search


def brute(queries, points, k, *, metric="euclidean", exclude=None):
    """A float64 double loop; sorts by distance, then index."""
    x = np.asarray(queries, dtype=np.float64).reshape(len(queries), -1)
    y = np.asarray(points, dtype=np.float64).reshape(len(points), -1)
    if metric == "cosine":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        y = y / np.linalg.norm(y, axis=1, keepdims=True)
    distances = np.empty((len(x), k))
    indices = np.empty((len(x), k), dtype=np.int64)
    for i, row in enumerate(x):
        d = np.array([math.fsum((row - other) ** 2) for other in y])
        d = d / 2 if metric == "cosine" else np.sqrt(d)
        if exclude is not None and exclude[i] >= 0:
            d[exclude[i]] = np.inf
        order = np.lexsort((np.arange(len(y)), d))[:k]
        distances[i], indices[i] = d[order], order
    return distances, indices


def assert_equal_to_brute(found, expected, rtol=1e-12):
    distances, indices = expected
    np.testing.assert_allclose(found.distances.numpy(), distances, rtol=rtol, atol=0)
    np.testing.assert_array_equal(found.indices.numpy(), indices)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=["float", "integer"], autouse=True)
def first_screen(request, monkeypatch):
    """Every test with the screen of integers first, at any size, and without it."""
    many = math.inf if request.param == "float" else 1
    monkeypatch.setattr(search_module, "_INTEGER_POINTS", many)
    monkeypatch.setattr(search_module, "_INTEGER_QUERIES", 1)
    monkeypatch.setattr(search_module, "integers_pay", lambda features, device: True)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 3, 17])
def test_equals_a_double_loop(generator, dtype, k):
    x = torch.randn(23, 3, 5, generator=generator).to(dtype)
    y = torch.randn(301, 3, 5, generator=generator).to(dtype)
    assert_equal_to_brute(nearest(x, y, k), brute(x.double(), y.double(), k))


@pytest.mark.parametrize("d", [1, 2, 64, 2049, 4500])
def test_equals_scikit_learn(generator, d):
    # 2049 and 4500 are summed in two and three pieces.
    x = torch.randn(50, d, generator=generator)
    y = torch.randn(400, d, generator=generator)
    distances, indices = (
        NearestNeighbors(n_neighbors=5, algorithm="brute").fit(y.double()).kneighbors(x.double())
    )
    found = nearest(x, y, 5)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-9)
    np.testing.assert_array_equal(found.indices, indices)


def test_all_points_as_neighbours(generator):
    x = torch.randn(7, 4, generator=generator)
    y = torch.randn(90, 4, generator=generator)
    assert_equal_to_brute(nearest(x, y, 90), brute(x, y, 90))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_exact_copies_have_distance_zero(generator, metric):
    bytes_ = torch.randint(0, 256, (300, 3, 32, 32), generator=generator, dtype=torch.uint8)
    pixels = bytes_.float() / 127.5 - 1
    features = torch.randn(300, 1024, generator=generator)
    for points in (bytes_, pixels, features, features.double() + 1e4, features * 1e-30):
        copies = torch.randperm(300, generator=generator)[:40]
        found = nearest(points[copies], points, 2, metric=metric)
        assert (found.distances[:, 0] == 0).all()
        assert torch.equal(found.indices[:, 0], copies)
        assert (found.distances[:, 1] > 0).all()


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e8])
def test_small_distances_survive_a_large_offset(generator, offset):
    y = torch.randn(200, 30, generator=generator, dtype=torch.float64) + offset
    x = y[:20] + 1e-7 * torch.randn(20, 30, generator=generator, dtype=torch.float64)
    assert_equal_to_brute(nearest(x, y, 3), brute(x, y, 3))


def test_near_ties_far_below_float32_are_resolved(generator):
    # Distances from the origin differ by 1e-12 relative: only float64 refinement orders them.
    directions = torch.randn(500, 40, generator=generator, dtype=torch.float64)
    directions /= directions.norm(dim=1, keepdim=True)
    order = torch.randperm(500, generator=generator)
    radius = 1 + 1e-12 * order.double()
    found = nearest(torch.zeros(1, 40, dtype=torch.float64), directions * radius[:, None], 10)
    assert order[found.indices[0]].tolist() == list(range(10))


@pytest.mark.parametrize("magnitude", [1e-300, 1e-38, 1e30, 1e300])
def test_scale_equivariance(generator, magnitude):
    x = torch.randn(11, 6, generator=generator, dtype=torch.float64)
    y = torch.randn(150, 6, generator=generator, dtype=torch.float64)
    base = nearest(x, y, 4)
    scale = 2.0 ** round(math.log2(magnitude))
    found = nearest(x * scale, y * scale, 4)
    assert torch.equal(found.indices, base.indices)
    assert torch.equal(found.distances, base.distances * scale)


def test_an_outlier_does_not_disturb_the_others(generator):
    y = torch.randn(300, 8, generator=generator)
    y[17] *= 1e6
    x = torch.randn(20, 8, generator=generator)
    x[3] *= 1e6
    assert_equal_to_brute(nearest(x, y, 3), brute(x, y, 3))


@pytest.mark.parametrize("blocks", [(1, 1), (7, 13), (5, 64), (3, 70), (64, 1000)])
@pytest.mark.parametrize("k", [1, 6])
def test_block_sizes_change_nothing(generator, blocks, k):
    x = torch.randn(11, 20, generator=generator)
    y = torch.cat([torch.randn(100, 20, generator=generator), x[:5], x[:5]])
    dense = nearest(x, y, k)
    found = nearest(x, y, k, query_block=blocks[0], point_block=blocks[1])
    assert torch.equal(found.distances, dense.distances)
    assert torch.equal(found.indices, dense.indices)


def test_memory_limit_changes_nothing(generator):
    x = torch.randn(90, 64, generator=generator)
    y = torch.randn(500, 64, generator=generator)
    dense = nearest(x, y, 4)
    tight = nearest(x, y, 4, memory_limit=2**17)
    assert torch.equal(tight.distances, dense.distances)
    assert torch.equal(tight.indices, dense.indices)


def test_order_of_the_points_changes_only_indices(generator):
    x = torch.randn(30, 12, generator=generator)
    y = torch.randn(500, 12, generator=generator)
    order = torch.randperm(500, generator=generator)
    base, shuffled = nearest(x, y, 5), nearest(x, y[order], 5)
    assert torch.equal(base.distances, shuffled.distances)
    assert torch.equal(base.indices, order[shuffled.indices])


def test_number_of_threads_changes_nothing(generator):
    x = torch.rand(5, 100_001, generator=generator)
    y = torch.rand(1, 100_001, generator=generator)
    together = nearest(x, y, 1).distances
    torch.set_num_threads(2)
    try:
        alone = torch.cat([nearest(row, y, 1).distances for row in x.split(1)])
    finally:
        torch.set_num_threads(1)
    assert torch.equal(alone, together)


def test_memory_maps_and_shards(generator, tmp_path):
    x = torch.randn(40, 2, 9, generator=generator)
    y = torch.randn(230, 2, 9, generator=generator)
    dense = nearest(x, y, 3)
    np.save(tmp_path / "points.npy", y.numpy())
    mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
    shards = [y[:50].numpy(), mapped[50:51], y[51:]]
    for points in (mapped, shards, y.numpy()[::-1][::-1], y.numpy().astype(">f4")):
        for queries in (x, [x[:7], x[7:]], x.numpy()):
            found = nearest(queries, points, 3, point_block=64)
            assert torch.equal(found.distances, dense.distances)
            assert torch.equal(found.indices, dense.indices)


def test_ties_go_by_index():
    y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0], [2.0, 0.0]])
    for block in (None, 1, 2):
        found = nearest(torch.zeros(1, 2), y, 4, point_block=block)
        assert found.indices.tolist() == [[0, 1, 2, 3]]


def test_many_ties_need_the_search_without_a_screen():
    # One-hot points are all at one distance from zero: every one is a candidate at any precision.
    y = torch.eye(900)
    found = nearest(torch.zeros(2, 900), y, 3)
    assert found.indices.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert (found.distances == 1).all()
    without = nearest(torch.zeros(2, 900), y, 3, exclude=torch.tensor([1, -1]))
    assert without.indices.tolist() == [[0, 2, 3], [0, 1, 2]]


def test_the_direct_search_is_reached_by_many_ties(monkeypatch):
    calls = []
    direct = Search._search_directly
    monkeypatch.setattr(
        Search, "_search_directly", lambda self, *a: (calls.append(len(a[1])), direct(self, *a))
    )
    nearest(torch.zeros(2, 900), torch.eye(900), 3)
    assert calls == [2]


def test_a_tight_cluster_is_screened_again_in_float64(generator, monkeypatch, first_screen):
    # 2000 points within 1e-9 at distance 0.3 from the query: float32 cannot tell them apart.
    levels = []
    search = Search._search_chunk
    monkeypatch.setattr(
        Search,
        "_search_chunk",
        lambda self, task, chunk, product, *a: (
            levels.append((getattr(product, "bound", IntegerProduct()).dtype, len(chunk))),
            search(self, task, chunk, product, *a),
        )[1],
    )
    y = torch.randn(3000, 10, generator=generator, dtype=torch.float64)
    y[:2000] = y[0] + 1e-9 * y[:2000]
    x = torch.randn(4, 10, generator=generator, dtype=torch.float64)
    x[1] = y[0] + 0.1
    assert_equal_to_brute(nearest(x, y, 2), brute(x, y, 2))
    if first_screen == "integer":
        assert levels.pop(0) == (IntegerProduct.dtype, 4)
    else:
        assert levels[0][1] == 4
    assert [dtype for dtype, _ in levels] == [torch.float32, torch.float64]
    assert 1 <= levels[1][1] < 4


def test_thousands_of_copies_are_not_candidates(generator, monkeypatch):
    y = torch.randn(4000, 10, generator=generator)
    y[1::2] = y[1]
    x = torch.cat([y[1:2], torch.randn(3, 10, generator=generator)])
    exclude = torch.tensor([3, 1, -1, 1999])
    expected = brute(x, y, 3), brute(x, y, 3, exclude=exclude.tolist())
    monkeypatch.setattr(Search, "_search_directly", None)  # would raise if reached
    kept = []
    result = Candidates.result
    monkeypatch.setattr(
        Candidates, "result", lambda self: (kept.append(self._pending), result(self))[1]
    )
    assert_equal_to_brute(nearest(x, y, 3), expected[0])
    assert_equal_to_brute(nearest(x, y, 3, exclude=exclude), expected[1])
    assert max(kept) < 200


def test_a_collision_of_hashes_drops_nothing(generator, monkeypatch):
    y = torch.randn(300, 4, generator=generator)
    y[100:200] = y[0]
    x = torch.randn(20, 4, generator=generator)
    expected = brute(x, y, 3)
    monkeypatch.setattr(
        Coordinates, "hashes", lambda self: torch.zeros(len(self), dtype=torch.int64)
    )
    assert_equal_to_brute(nearest(x, y, 3), expected)


def test_self_exclusion_goes_by_index(generator):
    y = torch.randn(60, 5, generator=generator)
    y[10] = y[20] = y[30]
    found = self_nearest(y, 2)
    assert_equal_to_brute(found, brute(y, y, 2, exclude=range(60)))
    assert found.indices[[10, 20, 30]].tolist() == [[20, 30], [10, 30], [10, 20]]
    assert (found.distances[[10, 20, 30]] == 0).all()
    assert (found.distances.count_nonzero(1) == 2).sum() == 57


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cosine(generator, dtype):
    x = torch.randn(25, 17, generator=generator, dtype=dtype)
    y = torch.randn(310, 17, generator=generator, dtype=dtype)
    y[5] = 2 * x[0]
    y[6] = x[1] * 3 + 1e-6
    found = nearest(x, y, 4, metric="cosine")
    assert_equal_to_brute(found, brute(x.double(), y.double(), 4, metric="cosine"), rtol=1e-9)
    assert found.distances[0, 0] == 0
    cosine = torch.nn.functional.cosine_similarity(
        x.double()[:, None], y.double()[found.indices], dim=2
    )
    torch.testing.assert_close(found.distances, 1 - cosine, rtol=0, atol=1e-14)


def test_cosine_of_huge_and_tiny_vectors(generator):
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    base = nearest(x, y, 2, metric="cosine")
    found = nearest(x * 2.0**700, y * 2.0**-900, 2, metric="cosine")
    assert torch.equal(found.distances, base.distances)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("amount", [1e3, 3e4])
def test_any_error_within_the_bound_is_harmless(generator, monkeypatch, k, amount):
    """The proof in practice: an adversary moves every score to the edge of an inflated bound."""
    coefficients = SquareBound.coefficients
    monkeypatch.setattr(
        SquareBound, "coefficients", lambda self: [amount * c for c in coefficients(self)]
    )

    scores = FloatProduct.scores

    def adversary(self, queries, block):
        values = scores(self, queries, block)
        sign = torch.randint(0, 2, values.shape, generator=generator) * 1.98 - 0.99
        return values.add_(sign * self.bound(queries.info, block.operand.info.T))

    monkeypatch.setattr(FloatProduct, "scores", adversary)
    x = torch.randn(60, 8, generator=generator)
    y = torch.randn(1200, 8, generator=generator)
    assert_equal_to_brute(nearest(x, y, k), brute(x, y, k))


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("sharp", [False, True])
def test_any_error_of_integers_within_the_bound_is_harmless(generator, monkeypatch, k, sharp):
    """The same for the screen of integers, with and without the sharpening by float32."""
    monkeypatch.setattr(search_module, "_INTEGER_POINTS", 1)
    interval = IntegerProduct.interval

    def adversary(self, scores, queries, points):
        lower, upper = interval(self, scores, queries, points)
        sign = torch.randint(0, 2, lower.shape, generator=generator)
        # The distance lies at one end; the interval is as wide to the other side.
        width = upper - lower
        return lower - sign * width, upper + (1 - sign) * width

    monkeypatch.setattr(IntegerProduct, "interval", adversary)
    if not sharp:
        monkeypatch.setattr(IntegerProduct, "sharpened", FloatProduct.sharpened)
    x = torch.randn(60, 8, generator=generator)
    y = torch.randn(1200, 8, generator=generator)
    x[:20] = y[:20]
    assert_equal_to_brute(nearest(x, y, k), brute(x, y, k))


@pytest.mark.parametrize("size", [1e-10, 1e-18, 1e-22, 1e-40])
def test_a_small_world_far_from_the_centre_of_units(generator, size):
    """One point at 1, all others near 0, where float32 has no squares."""
    y = size * torch.randn(1000, 12, generator=generator, dtype=torch.float64)
    x = size * torch.randn(20, 12, generator=generator, dtype=torch.float64)
    y[0] = 1.0
    assert_equal_to_brute(nearest(x, y, 3), brute(x, y, 3))


def distinct_by_hand(distances, indices, groups, k):
    rows = []
    for index in indices:
        seen, row = set(), []
        for j in index:
            if groups[j] not in seen:
                seen.add(groups[j])
                row.append(j)
        rows.append(row[:k])
    return rows


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("number", [6, 60, 2000])
def test_nearest_distinct(generator, k, number):
    # With six groups of fifty the first pass does not settle every query.
    x = torch.randn(40, 3, generator=generator)
    y = torch.randn(300, 3, generator=generator)
    groups = torch.randint(0, number, (300,), generator=generator)
    if number == 6:
        groups = (y[:, 0] * 2).round().long().clamp(-2, 3) + 2
    distances, indices = brute(x, y, 300)
    found = nearest_distinct(x, y, groups, k)
    assert found.indices.tolist() == distinct_by_hand(distances, indices, groups.tolist(), k)
    direct = (x[:, None].double() - y[found.indices].double()).norm(dim=2)
    torch.testing.assert_close(found.distances, direct, rtol=1e-12, atol=0)


def test_nearest_distinct_leaves_out_a_group(generator):
    y = torch.randn(100, 3, generator=generator)
    groups = torch.arange(100) // 2
    found = nearest_distinct(y, y, groups, 2, exclude=groups)
    assert (groups[found.indices] != groups[:, None]).all()
    assert (groups[found.indices[:, 0]] != groups[found.indices[:, 1]]).all()
    _, indices = brute(y, y, 100)
    for i in range(100):
        others = [j for j in indices[i] if groups[j] != groups[i]]
        assert found.indices[i, 0] == others[0]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 90),
    st.integers(1, 6),
    st.integers(1, 90),
    st.integers(0, 2**31),
    st.booleans(),
    st.integers(1, 100),
)
def test_any_shape_with_many_ties(m, n, d, k, seed, small, block):
    # Integer coordinates: squared distances are exact and ties abound.
    k = min(k, n)
    generator = torch.Generator().manual_seed(seed)
    high = 3 if small else 200
    x = torch.randint(0, high, (m, d), generator=generator, dtype=torch.uint8)
    y = torch.randint(0, high, (n, d), generator=generator, dtype=torch.uint8)
    found = nearest(x, y, k, point_block=block)
    assert_equal_to_brute(found, brute(x, y, k), rtol=1e-15)


def test_progress_ends_at_the_total(generator):
    steps = []
    nearest(
        torch.randn(20, 4, generator=generator),
        torch.randn(30, 4, generator=generator),
        point_block=8,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert len(steps) == 4
    assert steps == sorted(steps)
    assert steps[-1] == (600, 600)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 5}, "k must lie between 1 and the number of points left 4, got 5"),
        ({"k": 0}, "k must lie between 1"),
        ({"k": 4, "exclude": torch.tensor([0, 1])}, "points left 3, got 4"),
        ({"metric": "manhattan"}, "metric must be"),
        ({"metric": "cosine"}, "queries has a zero vector in row 0"),
        ({"queries": torch.zeros(0, 3)}, "queries must hold at least one row"),
        ({"points": []}, "points must hold at least one row"),
        ({"points": torch.zeros(4, 0), "queries": torch.zeros(2, 0)}, "at least one element"),
        ({"points": torch.zeros(4, 2)}, "queries and points must have rows of one shape"),
        ({"points": torch.zeros(4, 3, dtype=torch.uint8)}, "both be uint8 or both floating"),
        ({"points": torch.zeros(4, 3, dtype=torch.int32)}, "points must be of a floating-point"),
        ({"points": [torch.zeros(4, 3), torch.zeros(4, 2)]}, "every shard of points"),
        ({"points": ["train"]}, "points must be a tensor"),
        ({"points": torch.full((4, 3), torch.nan)}, "points must be finite.*row 0"),
        ({"queries": torch.tensor([[0, 0, 0], [0, torch.inf, 0]])}, "queries must be .*row 1"),
        ({"exclude": torch.tensor([0])}, "exclude must be an integer tensor"),
        ({"exclude": torch.tensor([0.0, 1.0])}, "exclude must be an integer tensor"),
        ({"exclude": torch.tensor([0, 4])}, "exclude must hold indices below"),
        ({"exclude": torch.tensor([0, -2])}, "exclude must hold indices below"),
        ({"memory_limit": 0}, "memory_limit must be at least 1"),
        ({"query_block": 0}, "query_block must be at least 1"),
    ],
)
def test_bad_input(change, words):
    arguments = {"queries": torch.zeros(2, 3), "points": torch.zeros(4, 3), "k": 1} | change
    with pytest.raises(ValueError, match=words):
        nearest(**arguments)


def test_bad_groups(generator):
    y = torch.randn(4, 2, generator=generator)
    with pytest.raises(ValueError, match="number of groups left 2, got 3"):
        nearest_distinct(y, y, torch.tensor([0, 0, 1, 1]), 3)
    with pytest.raises(ValueError, match="groups must be non-negative"):
        nearest_distinct(y, y, torch.tensor([0, 0, 1, -1]))
    with pytest.raises(ValueError, match="groups must be an integer tensor"):
        nearest_distinct(y, y, torch.tensor([0, 0, 1]))


def test_requires_grad_and_views(generator):
    y = torch.randn(20, 8, generator=generator, requires_grad=True)
    found = nearest(y[:, ::2], y[:, ::2].flip(0), 1)
    assert torch.equal(found.indices[:, 0], torch.arange(19, -1, -1))
    assert len(Rows(y.T, "y")) == 8
