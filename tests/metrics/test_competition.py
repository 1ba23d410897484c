"""The competition against brute force over all pairs; what it must not look at."""

import numpy as np
import pytest
import torch
from competing import (
    Brute,
    blank,
    categories,
    cells_of,
    distances,
    duplicated_heldout,
    groups_of,
    integers,
    patients,
    zero_inflated,
)

from memdiff.metrics import Cells, compete, compete_again
from memdiff.metrics import competition as module
from memdiff.metrics.competition import Competition
from memdiff.sources import Rows


def rng(seed=0):
    return np.random.default_rng(seed)


def normal(rng, sizes=(70, 60, 40), dim=3):
    x = rng.standard_normal((sum(sizes), dim))
    return np.split(x, np.cumsum(sizes)[:-1])


def assert_is(result, brute, rtol=1e-7):
    np.testing.assert_allclose(result.distances, brute.first, rtol=rtol, atol=1e-9)
    np.testing.assert_allclose(result.ratios, brute.ratios, rtol=rtol, atol=1e-9)
    np.testing.assert_allclose(result.target_share, brute.target_share(), atol=1e-12)
    np.testing.assert_allclose(np.bincount(result.sample, result.share), 1.0)
    assert result.train_units == brute.is_train.sum()
    assert result.heldout_units == (~brute.is_train).sum()
    assert result.undecided == 0
    winner = np.take_along_axis(brute.tied, result.winner[:, None], 1)
    assert winner.all()
    for found, here in ((result.train, brute.is_train), (result.heldout, ~brute.is_train)):
        column = found[1] if here[0] else found[1] + brute.is_train.sum()
        lengths = np.take_along_axis(brute.lengths, column[:, None], 1)[:, 0]
        np.testing.assert_allclose(lengths, brute.lengths[:, here].min(1), rtol=rtol, atol=1e-9)


@pytest.mark.parametrize(
    "case", [normal, blank, categories, integers, zero_inflated, duplicated_heldout]
)
def test_against_brute_force(case):
    """Ties on lattices, duplicates within and across sets, atoms, unequal sizes."""
    sets = case(rng())
    result, brute = compete(distances(*sets)), Brute(*sets)
    assert_is(result, brute)
    assert cells_of(result) == brute.cells()


@pytest.mark.parametrize("sizes", [(50, 2, 60), (50, 60, 2), (3, 200, 7), (50, 2, 2)])
def test_sets_of_few_points(sizes):
    """Fewer points than neighbours that are asked for."""
    sets = normal(rng(), sizes)
    assert_is(compete(distances(*sets)), Brute(*sets))


def test_groups_against_brute_force():
    """The next point is of another group; units are the groups of each set."""
    generated, train, heldout, groups = patients(rng(), scans=4, each=12)
    both = np.concatenate([groups["train"], groups["heldout"]])
    both[:6] = both[-1]  # a group in both sets, as a careless split makes it
    groups = groups_of(both[: len(train)], both[len(train) :])
    result = compete(distances(generated, train, heldout, groups=groups))
    brute = Brute(generated, train, heldout, groups=both)
    np.testing.assert_allclose(result.ratios, brute.ratios, rtol=1e-7)
    np.testing.assert_allclose(result.target_share, brute.target_share())
    unit = np.unique(2 * both + brute.is_train, return_inverse=True)[1]
    on_units = np.array([np.bincount(unit, share) for share in brute.shares]).sum(0)
    assert sorted(result.weights()) == pytest.approx(sorted(on_units[on_units > 0]))
    assert (result.cells.size == 1).all()
    units = len(np.unique(both[: len(train)])), len(np.unique(both[len(train) :]))
    assert (result.train_units, result.heldout_units) == units


def test_a_value_that_several_groups_hold_falls_on_each_by_its_points():
    """Groups 0 and 1 in train hold the blank frame twice and once, group 2 in held-out once."""
    train = np.array([[0.0], [0.0], [5.0], [0.0], [9.0]])
    heldout = np.array([[0.0], [20.0], [21.0]])
    groups = groups_of([0, 0, 0, 1, 1], [2, 2, 3])
    result = compete(distances(np.zeros((3, 1)), train, heldout, groups=groups))
    assert result.ratios.tolist() == [0.0] * 3
    cells = sorted(zip(result.cells.train, result.weights(), strict=True))
    np.testing.assert_allclose(cells, [(0.0, 0.75), (1.0, 0.75), (1.0, 1.5)])
    assert result.target_share == pytest.approx([0.75] * 3)


def test_ties_across_groups_leave_out_all_of_them():
    """A look at the first of the tie would be a look at its set: train comes first."""
    train, heldout = np.array([[1.0], [3.0], [40.0]]), np.array([[-1.0], [-2.0], [50.0]])
    groups = groups_of([0, 0, 1], [2, 2, 3])
    swapped = groups_of([2, 2, 3], [0, 0, 1])
    zero = np.zeros((1, 1))
    one = compete(distances(zero, train, heldout, groups=groups))
    other = compete(distances(zero, heldout, train, groups=swapped))
    assert one.ratios == other.ratios == pytest.approx([1 / 40])


def test_cosine_is_a_ratio_of_lengths():
    sets = [x * np.exp(rng(5).standard_normal((len(x), 1))) for x in normal(rng())]
    result = compete(distances(*sets, metric="cosine"))
    brute = Brute(*sets, metric="cosine")
    np.testing.assert_allclose(result.ratios, brute.ratios, rtol=1e-6)
    np.testing.assert_allclose(result.distances, brute.first**2 / 2, rtol=1e-6, atol=1e-15)
    np.testing.assert_allclose(result.target_share, brute.target_share())
    np.testing.assert_allclose(cells_of(result), brute.cells(), rtol=1e-6)


def test_variants_of_the_samples():
    sets = normal(rng())
    sets[0][:10] = -sets[1][:10]
    variants = {"generated": [-sets[0], sets[0][:, ::-1].copy()]}
    tensors = {"generated": [torch.as_tensor(x) for x in variants["generated"]]}
    result = compete(distances(*sets, variants=tensors))
    assert_is(result, Brute(*sets, variants=variants["generated"]))
    assert (result.ratios[:10] == 0).all() and (result.target_share[:10] == 1).all()


def test_images_of_any_shape_and_dtype():
    generated, train, heldout = (x.reshape(-1, 4, 4) for x in blank(rng()))
    assert_is(compete(distances(generated, train, heldout)), Brute(generated, train, heldout))
    halves = [torch.as_tensor(x).half() for x in normal(rng())]
    result = compete(distances(*halves))
    assert_is(result, Brute(*(x.double().numpy() for x in halves)))


# What the labels of the pool must not decide.


def relabelled(case, seed, chosen, **options):
    """The competition of one pool under labels that are given, and the pool."""
    generated, train, heldout = case(rng(seed))
    pool = np.concatenate([train, heldout])
    options = {name: make(pool, chosen) for name, make in options.items()}
    found = distances(generated, pool[chosen], pool[~chosen], **options)
    return compete(found), pool


def runs(result, within):
    """The runs of the order; each a multiset of cells, named by the samples on them."""
    order, ends = result.order(within)
    members = [frozenset() for _ in result.cells.train]
    for sample, cell in zip(result.sample, result.cell, strict=True):
        members[cell] |= {int(sample)}
    found, start = [], 0
    for end in ends:
        cells = [(sorted(members[c]), int(result.cells.size[c])) for c in order[start:end]]
        found.append(sorted(cells))
        start = end
    return found


@pytest.mark.parametrize("case", [normal, blank, categories, zero_inflated, duplicated_heldout])
def test_the_order_does_not_look_at_labels(case):
    _, train, heldout = case(rng(1))
    total = len(train) + len(heldout)
    found = []
    for seed in range(4):
        chosen = np.zeros(total, dtype=bool)
        chosen[rng(seed).permutation(total)[: len(train) + 7 * seed]] = True
        result, _ = relabelled(case, 1, chosen)
        found.append((result.ratios, runs(result, 1.0), runs(result, 0.5)))
    for ratios, order, close in found[1:]:
        np.testing.assert_allclose(ratios, found[0][0], rtol=1e-9)
        assert order == found[0][1] and close == found[0][2]


def popular(rng, n=150):
    """Of 30 % of the points there are near-duplicates, by chance in either set."""
    x = rng.standard_normal((3 * n, 8))
    some = rng.random(3 * n) < 0.3
    x[some] = rng.standard_normal((20, 8))[rng.integers(0, 20, some.sum())]
    x[some] += 1e-4 * rng.standard_normal((some.sum(), 8))
    return x[:n], x[n : 2 * n], x[2 * n :]


def test_near_duplicates_are_kin_across_the_sets():
    """Kin by set would make near-duplicates within train look like copies, others not."""
    found = []
    for seed in range(4):
        chosen = rng(seed).random(300) < 0.5
        result, _ = relabelled(popular, 2, chosen, tolerance=lambda pool, chosen: 0.01)
        found.append((result.ratios, np.sort(result.distances)))
    for ratios, nearest in found[1:]:
        np.testing.assert_allclose(ratios, found[0][0], rtol=1e-9)
        np.testing.assert_allclose(nearest, found[0][1], rtol=1e-9)
    assert (found[0][0] < 0.01).mean() > 0.2


def test_runs_of_ties_end_where_closeness_changes():
    """Sizes come after closeness; values of several points come last."""
    closest = np.array([0.2, 0.1, 0.1, 0.0, 0.3, 0.1])
    train = np.array([1.0, 1, 0, 2, 0, 1])
    heldout = np.array([0.0, 0, 1, 0, 1, 1])
    m = len(closest)
    result = Competition(
        ratios=closest,
        distances=np.ones(m),
        train=(np.ones(m), np.zeros(m, int)),
        heldout=(np.ones(m), np.zeros(m, int)),
        winner=np.zeros(m, int),
        candidates=np.full((m, 4), -1),
        sample=np.arange(m),
        cell=np.arange(m),
        share=np.ones(m),
        cells=Cells(train, heldout, np.arange(m)),
        train_units=10,
        heldout_units=5,
        undecided=0,
    )
    order, ends = result.order(1.0)
    assert order.tolist() == [1, 2, 0, 4, 3, 5] and ends.tolist() == [2, 3, 4, 5, 6]
    order, ends = result.order(0.15)
    assert order.tolist() == [1, 2, 3, 5] and ends.tolist() == [2, 3, 4]
    order, ends = result.order(-1.0)
    assert len(order) == len(ends) == 0
    assert result.odds == 2.0
    assert result.weights(0.15).tolist() == [0, 1, 1, 1, 0, 1]


# Ties that go on and on.


@pytest.mark.parametrize("repeats", [3, 5, 40, 300])
def test_a_value_that_is_repeated_is_one_kin(repeats):
    """However often a value occurs, ties with it are complete in the first search."""
    x = normal(rng())
    train = np.concatenate([np.repeat(x[1][:1], repeats, 0), x[1]])
    heldout = np.concatenate([np.repeat(x[1][:1], 2 * repeats, 0), x[2]])
    generated = np.concatenate([x[1][:1] + 1e-3, x[0]])
    assert_is(compete(distances(generated, train, heldout)), Brute(generated, train, heldout))


@pytest.mark.parametrize("corners", [6, 40, 200])
def test_different_points_at_one_distance(corners):
    """Unit vectors are equally far from 0: more neighbours are asked for until ties are whole."""
    train, heldout = np.eye(corners + 4)[:corners], 3 * np.eye(corners + 4)[:5]
    heldout[0] /= 3
    generated = np.zeros((2, corners + 4))
    generated[1] = heldout[1] / 6  # of a tie that is no tie
    result = compete(distances(generated, train, heldout))
    assert_is(result, Brute(generated, train, heldout))
    assert result.target_share[0] == pytest.approx((corners - 1 + 1) / (corners + 1))


def test_256_points_and_more_at_one_distance_are_undecided():
    corners = 600
    train, heldout = np.eye(corners)[:300], np.eye(corners)[300:]
    generated = np.zeros((2, corners))
    generated[1, 3] = 0.9
    result = compete(distances(generated, train, heldout))
    assert result.undecided == 1
    assert result.ratios[0] == 1.0 and result.ratios[1] == pytest.approx(0.1 / np.sqrt(1.81))
    assert result.target_share.tolist() == [0.0, 1.0]
    assert set(result.sample.tolist()) == {1}


@pytest.mark.parametrize("train", [10, 120, 254])
@pytest.mark.parametrize("points", [255, 256])
def test_whether_a_tie_is_decided_does_not_depend_on_labels(points, train):
    tie = np.eye(points)
    result = compete(distances(np.zeros((1, points)), tie[:train], tie[train:]))
    assert result.undecided == (points == 256)
    if points == 255:
        assert result.target_share == pytest.approx([train / 255])


# Candidates, and a second competition among them.


def test_candidates_are_the_nearest_points_of_different_kin():
    sets = duplicated_heldout(rng(3))
    result, brute = compete(distances(*sets)), Brute(*sets)
    for sample, row in enumerate(result.candidates):
        row = row[row >= 0]
        values = brute.values[row]
        assert len(set(values)) == len(values) == 4
        nearest = np.array([brute.lengths[sample][brute.values == v].min() for v in values])
        assert (np.diff(nearest) >= -1e-12).all()
        every = [brute.lengths[sample][brute.values == v].min() for v in set(brute.values)]
        np.testing.assert_allclose(nearest, np.sort(every)[:4], rtol=1e-7, atol=1e-9)
    few = compete(distances(np.zeros((1, 1)), np.array([[1.0], [1.0], [2.0]]), np.ones((2, 1))))
    assert (few.candidates[0] >= 0).sum() == 2


def test_a_second_competition_by_the_same_distances_changes_nothing():
    sets = normal(rng(4))
    first, brute = compete(distances(*sets)), Brute(*sets)
    same = np.take_along_axis(brute.lengths, first.candidates, 1)
    again = compete_again(distances(*sets), first, np.arange(first.samples), same)
    np.testing.assert_allclose(again.ratios, first.ratios, rtol=1e-7)
    assert (again.winner == first.winner).all()
    assert again.target_share.tolist() == first.target_share.tolist()
    np.testing.assert_allclose(cells_of(again), cells_of(first), rtol=1e-6)


def test_a_second_competition_goes_by_its_own_distances():
    """The third candidate wins, by a quarter of the distance of the next one."""
    sets = normal(rng(4))
    first = compete(distances(*sets))
    anew = np.tile([4.0, 5.0, 1.0, 6.0], (first.samples, 1))
    again = compete_again(distances(*sets), first, np.arange(first.samples), anew)
    assert (again.winner == first.candidates[:, 2]).all()
    assert (again.ratios == 0.25).all() and (again.distances == 1.0).all()
    assert again.target_share.tolist() == (first.candidates[:, 2] < 60).tolist()
    assert again.train is first.train and again.undecided == 0


# Where and how it is computed.


def same(one, other):
    for name in ("ratios", "distances", "winner", "candidates", "sample", "cell", "share"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert cells_of(one) == cells_of(other) and one.undecided == other.undecided


@pytest.mark.parametrize("case", [normal, categories, duplicated_heldout])
def test_memory_limit_does_not_matter(case):
    sets = case(rng())
    same(compete(distances(*sets, memory_limit=20_000)), compete(distances(*sets)))


def test_the_order_of_the_samples_does_not_matter():
    generated, train, heldout = categories(rng())
    order = rng(9).permutation(len(generated))
    one = compete(distances(generated, train, heldout))
    other = compete(distances(generated[order], train, heldout))
    np.testing.assert_array_equal(other.ratios, one.ratios[order])
    np.testing.assert_array_equal(other.target_share, one.target_share[order])
    assert runs(one, 1.0) == [
        sorted((sorted(int(order[i]) for i in samples), size) for samples, size in run)
        for run in runs(other, 1.0)
    ]


@pytest.mark.parametrize("case", [normal, categories, duplicated_heldout])
def test_rows_on_disk(case, tmp_path):
    sets = dict(zip(("generated", "train", "heldout"), case(rng()), strict=True))
    for name, x in sets.items():
        for part, half in enumerate(np.array_split(x, 2)):
            np.save(tmp_path / f"{name}{part}.npy", half)
    rows = {name: Rows.open([tmp_path / f"{name}{i}.npy" for i in (0, 1)]) for name in sets}
    assert all(one.on_disk for one in rows.values())
    same(compete(module.Distances(**rows)), compete(distances(*sets.values())))


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("case", [normal, categories, patients])
def test_ranks(in_ranks, case, count):
    generated, train, heldout, *groups = case(rng())
    options = {"groups": groups[0] if groups else None}
    alone = compete(distances(generated, train, heldout, **options))

    def run(ranks):
        return compete(distances(generated, train, heldout, ranks=ranks, **options))

    for found in in_ranks(count, run):
        same(found, alone)


def test_refuses_no_heldout_points():
    x = torch.zeros(3, 1) + torch.arange(3.0)[:, None]
    with pytest.raises(ValueError, match="heldout must be given for a competition"):
        compete(module.Distances(generated=x, train=x))
