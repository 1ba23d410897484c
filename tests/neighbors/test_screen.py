"""The error bound of the screen against float64."""

import pytest
import torch

from memdiff.neighbors.screen import PRODUCT_LENGTH, ErrorBound, Operand, PointBlock, scores


def screen_and_truth(x, y, dtype, group=1):
    bound = ErrorBound(x.shape[1], dtype, x.device)
    centre = y.mean(0)
    queries = Operand.of(x, centre, dtype)
    block = PointBlock.of(y, centre, dtype, start=0, group=group)
    screen = scores(queries, block, bound, torch.empty(len(x) * len(block.rows), dtype=dtype))
    squared = torch.stack([((row - y) ** 2).sum(1) for row in x])
    norms = queries.rows.double().norm(dim=1, keepdim=True)
    return screen, squared - norms**2


@pytest.mark.parametrize("features", [1, 30, PRODUCT_LENGTH + 1, 3 * PRODUCT_LENGTH])
@pytest.mark.parametrize("kind", ["normal", "positive", "outliers", "copies"])
def test_the_bound_holds_and_is_of_use(features, kind):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, features, generator=generator, dtype=torch.float64)
    y = torch.randn(256, features, generator=generator, dtype=torch.float64)
    if kind == "positive":
        x, y = x.abs() + 3, y.abs()  # no cancellation of signs in the sums
    if kind == "outliers":
        x[:5] *= 1e4
        y[:5] *= 1e4
    if kind == "copies":
        x = y[:40] + 1e-9 * x
    screen, truth = screen_and_truth(x, y, torch.float32)
    error = (screen.values.double() - truth).abs()
    bound = screen.bound(screen.query_norms[:, None], screen.block.norms)
    assert (error <= bound).all()
    largest = (screen.query_norms[:, None] + screen.block.norms) ** 2
    assert (bound <= 3e-4 * largest).all()
    lower, upper = screen.group_bounds()
    assert (lower.double() <= truth).all()
    assert (truth <= upper.double()).all()


@pytest.mark.parametrize("group", [4, 64])
def test_groups_and_pairs(group):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 9, generator=generator, dtype=torch.float64)
    y = torch.randn(150, 9, generator=generator, dtype=torch.float64)
    screen, truth = screen_and_truth(x, y, torch.float32, group)
    padded = torch.nn.functional.pad(truth, (0, -150 % group), value=torch.inf)
    least = padded.view(20, -1, group).amin(2)
    lower, upper = screen.group_bounds()
    assert (lower <= least).all()
    assert (least <= upper).all()
    torch.testing.assert_close(lower.double(), least, rtol=1e-4, atol=1e-4)
    threshold = truth.median(1)[0].float() + 1e-3
    query, point, low, high = screen.pairs_below(threshold, lower)
    wanted = (truth <= threshold[:, None]).nonzero()
    found = torch.stack([query, point], 1)
    pairs = set(map(tuple, found.tolist()))
    assert set(map(tuple, wanted.tolist())) <= pairs
    assert len(pairs) == len(found) <= len(wanted) + 5
    assert (low <= truth[query, point]).all()
    assert (truth[query, point] <= high).all()


def test_a_backend_that_rounds_the_factors_is_allowed_for():
    one = torch.ones((), dtype=torch.float32)
    bound = ErrorBound(10, torch.float32, torch.device("cpu"))
    exact = float(bound(one, one))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        rounded = float(bound(one, one))
    finally:
        torch.set_float32_matmul_precision(before)
    assert exact < 1e-5
    assert rounded > 2 * 2**-7  # 2 a.b with bfloat16 factors
