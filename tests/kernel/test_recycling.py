"""Logits from few dimensions: the bounds of what they miss, where they miss much."""

import pytest
import torch

from memdiff.kernel import PartialPosterior, Queries
from memdiff.kernel.points import MemoryPoints
from memdiff.kernel.trajectories.recycling import RecycledProducts, recycled_sums
from memdiff.kernel.trajectories.split import SplitCoordinates, lifted

NUM, DIM, QUERIES = 600, 40, 7


def setting(directions):
    """Points with a spectrum, of which ``directions`` leave much out."""
    generator = torch.Generator().manual_seed(0)
    width = torch.arange(1, DIM + 1, dtype=torch.float64).rsqrt()
    data = width * torch.randn(NUM, DIM, generator=generator, dtype=torch.float64)
    points = MemoryPoints(data.float() + 3.0)
    split = SplitCoordinates.of(points.gather, torch.arange(NUM), points.centre, directions)
    x = points.gather(torch.arange(QUERIES))
    x = x + torch.randn(QUERIES, DIM, generator=generator, dtype=torch.float64)
    return points, split, x


def logits(points, x, scale, sigma):
    difference = x[:, None] - scale[:, None, None] * points.exact(slice(0, NUM))
    return -(difference**2).sum(2) / (2 * sigma[:, None] ** 2)


@pytest.mark.parametrize("directions", [3, 12, DIM])
def test_split_bound_is_below_every_distance(directions):
    points, split, x = setting(directions)
    inside, rest = split.project(x - points.centre)
    query = torch.cat([inside, rest[:, None]], 1)
    bound = torch.cdist(query, split.coordinates.double())
    distance = torch.cdist(x, points.exact(slice(0, NUM)))
    assert (bound <= distance + 1e-5).all()
    assert bound.mean() > 0.6 * distance.mean()
    torch.testing.assert_close(split.basis.T @ split.basis, torch.eye(split.directions).double())


def test_error_of_recycled_logits_is_bounded():
    """Combinations of two earlier queries, with a remainder that is far from negligible."""
    points, split, x = setting(4)
    everything = torch.arange(QUERIES)
    scale, sigma = torch.full((QUERIES,), 0.9).double(), torch.full((QUERIES,), 1.3).double()
    memory = RecycledProducts(QUERIES, points, split)
    arguments = (points, split)
    for moved in (x, 0.7 * x + 0.3 * points.gather(everything + 50)):
        centred = moved - scale[:, None] * points.centre
        recycled = memory.recycled(everything, centred)
        queries = Queries.of(moved, scale, sigma).under(torch.zeros(NUM).double())
        fresh = recycled_sums(*arguments, queries, memory, recycled, fresh=True, entropy=True)
        true = logits(points, moved, scale, sigma)
        assert ((fresh.top_logit - true.amax(1)).abs() <= fresh.logit_error).all()
        total = (true - true.amax(1)[:, None]).exp().sum(1)
        torch.testing.assert_close(fresh.total, total, rtol=1e-5, atol=0)  # float32 products
    moved = 0.5 * x + 0.5 * points.gather(everything + 100)
    recycled = memory.recycled(everything, moved - scale[:, None] * points.centre)
    queries = Queries.of(moved, scale, sigma).under(torch.zeros(NUM).double())
    known = (*arguments, queries, memory, recycled)
    ours = recycled_sums(*known, fresh=False, entropy=True)
    true = logits(points, moved, scale, sigma)
    error = (ours.top_logit - true.amax(1)).abs()
    assert (error <= ours.logit_error).all()
    assert (error > 1e-3).any()  # far above rounding: the remainder is what the bound is about
    bare = recycled_sums(*known, fresh=False, entropy=False)
    assert torch.equal(bare.residual_sum, ours.residual_sum) and bare.entropy_sum.isnan().all()


def test_the_rest_is_the_least_that_two_queries_leave():
    """Against least squares: coefficients of another normal equation leave more."""
    points, split, x = setting(4)
    members = torch.arange(QUERIES)
    one = torch.ones(QUERIES).double()
    memory = RecycledProducts(QUERIES, points, split)
    rests, residual = [], torch.eye(DIM).double() - split.basis @ split.basis.T
    for moved in (x, 0.9 * x + 0.1 * points.gather(members + 50)):
        centred = moved - points.centre
        recycled = memory.recycled(members, centred)
        queries = Queries.of(moved, one, one).under(torch.zeros(NUM).double())
        recycled_sums(points, split, queries, memory, recycled, fresh=True, entropy=False)
        rests.append(centred @ residual)
    some = torch.tensor([5, 2, 3])
    centred = 0.5 * x + 0.5 * points.gather(members + 100) - points.centre
    for rows in (members, some):
        recycled = memory.recycled(rows, centred[rows])
        basis = torch.stack(rests, 2)[rows]
        target = (centred[rows] @ residual)[:, :, None]
        best = torch.linalg.lstsq(basis, target).solution
        torch.testing.assert_close(recycled.factors, best[:, :, 0], rtol=1e-6, atol=1e-9)
        left = (target - basis @ best)[:, :, 0].norm(dim=1)
        torch.testing.assert_close(recycled.rest, left, rtol=1e-8, atol=1e-12)


def test_error_of_reduced_logits_is_bounded():
    points, split, x = setting(4)
    scale, sigma = torch.full((QUERIES,), 0.9).double(), torch.full((QUERIES,), 1.3).double()
    centred = x - scale[:, None] * points.centre
    inside = centred @ split.basis
    coordinates = split.coordinates[:, :-1].double()
    square = ((inside[:, None] - scale[:, None, None] * coordinates) ** 2).sum(2)
    part = PartialPosterior.empty(QUERIES, split.directions, x.device)
    part.top_logit = -(square / (2 * sigma[:, None] ** 2)).amin(1)
    part.total = torch.ones(QUERIES).double()
    beyond = centred - inside @ split.basis.T
    ours = lifted(part, inside, beyond, Queries.of(x, scale, sigma), split, 2.0**-24)
    true = logits(points, x, scale, sigma)
    error = (ours.top_logit - true.amax(1)).abs()
    assert (error <= ours.logit_error).all()
    assert (error > 1e-3).any()
