"""The bounds of the screens against float64."""

import pytest
import torch

from memdiff.kernel.rounding import PRODUCT_LENGTH, SquareBound
from memdiff.kernel.screen import FloatProduct, IntegerProduct, PointBlock, Screen

CPU = torch.device("cpu")


def screen_and_truth(x, y, kind="float", group=1):
    product = FloatProduct(x.shape[1], torch.float32, CPU) if kind == "float" else IntegerProduct()
    centre = y.mean(0)
    queries = product.operand(x - centre)
    block = PointBlock.of(y - centre, product, start=0, group=group, skip=None)
    screen = Screen.of(queries, block, product)
    truth = torch.stack([((row - y) ** 2).sum(1) for row in x])
    if kind == "float":
        truth -= queries.rows.double().norm(dim=1, keepdim=True) ** 2
    return screen, truth


def pairs(features, kind, generator):
    x = torch.randn(40, features, generator=generator, dtype=torch.float64)
    y = torch.randn(256, features, generator=generator, dtype=torch.float64)
    if kind == "positive":
        x, y = x.abs() + 3, y.abs()  # no cancellation of signs in the sums
    if kind == "outliers":
        x[:5] *= 1e4
        y[:5] *= 1e4
    if kind == "copies":
        x = y[:40] + 1e-9 * x
    return x, y


@pytest.mark.parametrize("features", [1, 30, PRODUCT_LENGTH + 1, 3 * PRODUCT_LENGTH])
@pytest.mark.parametrize("kind", ["normal", "positive", "outliers", "copies"])
def test_the_bound_holds_and_is_of_use(features, kind):
    x, y = pairs(features, kind, torch.Generator().manual_seed(0))
    screen, truth = screen_and_truth(x, y)
    error = (screen.values.double() - truth).abs()
    norms = screen.queries.info, screen.block.operand.info.T
    bound = screen.product.bound(*norms)
    assert (error <= bound).all()
    assert (bound <= 3e-4 * (norms[0] + norms[1]) ** 2).all()
    lower, upper = screen.group_bounds()
    assert (lower.double() <= truth).all()
    assert (truth <= upper.double()).all()


@pytest.mark.parametrize("features", [1, 30, 700, 3000])
@pytest.mark.parametrize("kind", ["normal", "positive", "outliers", "copies"])
def test_the_bounds_of_integers_hold_and_are_of_use(features, kind):
    """Catches a step, an error or a norm that is lost, and parts of long products that are."""
    x, y = pairs(features, kind, torch.Generator().manual_seed(0))
    screen, truth = screen_and_truth(x, y, "integer")
    lower, upper = screen.group_bounds()
    assert (lower.double() <= truth).all()
    assert (truth <= upper.double()).all()
    apart = truth.median()
    if kind in ("normal", "positive") and features > 1:
        assert ((upper - lower).median() <= 0.1 * apart).all()


def test_the_bounds_of_integers_are_reached():
    """Rounding makes one distance longer and one shorter by all that is allowed."""
    half = torch.tensor([[127.0, 20.49], [127.0, 19.51]], dtype=torch.float64)
    y = torch.cat([half, -half])  # the first coordinates make the steps 1, the centre 0
    x = torch.tensor([[127.0, -10.49], [127.0, -9.51]], dtype=torch.float64)
    screen, truth = screen_and_truth(x, y, "integer")
    lower, upper = screen.group_bounds()
    assert truth[0, 0] <= upper[0, 0] <= truth[0, 0] + 0.3
    assert truth[1, 1] - 0.3 <= lower[1, 1] <= truth[1, 1]


def test_float32_sharpens_the_bounds_of_integers():
    x, y = pairs(200, "copies", torch.Generator().manual_seed(0))
    y[50] = y[3]
    screen, truth = screen_and_truth(x, y, "integer", group=64)
    threshold = torch.full((40,), 4.0)
    query, point, low, high = screen.pairs_below(threshold, screen.groups_below(threshold))
    exact = truth[query, point]
    assert (low <= exact).all() and (exact <= high).all()
    assert set(map(tuple, torch.stack([query, point], 1).tolist())) >= {(i, i) for i in range(40)}
    assert (high - low <= 1e-4 * exact + 1e-8).all()


@pytest.mark.parametrize("kind", ["float", "integer"])
@pytest.mark.parametrize("group", [4, 64])
def test_groups_and_pairs(group, kind):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 9, generator=generator, dtype=torch.float64)
    y = torch.randn(150, 9, generator=generator, dtype=torch.float64)
    screen, truth = screen_and_truth(x, y, kind, group)
    padded = torch.nn.functional.pad(truth, (0, -150 % group), value=torch.inf)
    least = padded.view(20, -1, group).amin(2)
    lower, upper = screen.group_bounds()
    assert (lower <= least).all()
    assert (least <= upper).all()
    close = 1e-4 if kind == "float" else 0.1
    torch.testing.assert_close(lower.double(), least, rtol=close, atol=close)
    threshold = truth.median(1)[0].float() + 1e-3
    query, point, low, high = screen.pairs_below(threshold, screen.groups_below(threshold))
    wanted = (truth <= threshold[:, None]).nonzero()
    found = torch.stack([query, point], 1)
    pairs = set(map(tuple, found.tolist()))
    assert set(map(tuple, wanted.tolist())) <= pairs
    spare = 5 if kind == "float" else 0.1 * len(wanted)
    assert len(pairs) == len(found) <= len(wanted) + spare
    assert (low <= truth[query, point]).all()
    assert (truth[query, point] <= high).all()


def test_a_backend_that_rounds_the_factors_is_allowed_for():
    one = torch.ones((), dtype=torch.float32)
    bound = SquareBound(10, torch.float32, torch.device("cpu"))
    exact = float(bound(one, one))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        rounded = float(bound(one, one))
    finally:
        torch.set_float32_matmul_precision(before)
    assert exact < 1e-5
    assert rounded > 2 * 2**-7  # 2 a.b with bfloat16 factors
