"""The paths of the matrix products: same numbers, a choice that is remembered, a fallback."""

import json
from functools import partial

import pytest
import torch

from memdiff.kernel import PosteriorEngine, Queries, products

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """No choice made before, and a place of its own to remember one."""
    monkeypatch.setattr(products, "_chosen", {})
    monkeypatch.setattr(products, "_paths", {})
    monkeypatch.setenv("MEMDIFF_CACHE", str(tmp_path))
    monkeypatch.delenv("MEMDIFF_GEMM", raising=False)


def count_measurements(monkeypatch, seconds):
    calls = []

    def measure(**arguments):
        calls.append(arguments)
        return seconds

    monkeypatch.setattr(products, "gemm_paths", measure)
    return calls


@pytest.mark.parametrize("dim", [2, 7, 200])
@pytest.mark.parametrize("name", products.available_paths())
def test_every_path_computes_both_products(name, dim):
    """Catches transposed operands and a bias along the wrong axis, in few dimensions and many."""
    path = products.available_paths()[name]
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(5, dim, generator=generator)
    points = torch.randn(11, dim, generator=generator)
    bias, weights = torch.randn(11, generator=generator), torch.rand(5, 11, generator=generator)
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
    expected = (query.double() @ points.double().T).float()
    close(path.logits(query, points, None), expected)
    close(path.logits(query, points, bias), expected + bias)
    expected = (weights.double() @ points.double()).float()
    close(path.weighted(weights, points), expected)
    if name == "torch":  # also what float64 takes
        exact = weights.double() @ points.double()
        close(path.weighted(weights.double(), points.double()), exact, rtol=1e-14, atol=1e-14)


def test_the_choice_is_measured_once_and_remembered(monkeypatch, tmp_path):
    calls = count_measurements(monkeypatch, {"torch": 2.0, "onednn": 1.0})
    monkeypatch.setattr(products, "available_paths", lambda: {"torch": 0, "onednn": 1})
    for dimension in (100, 300):  # one class of dimensions
        assert products.gemm_path(dimension, torch.float32, CPU) == 1
    assert len(calls) == 1
    assert list(json.loads((tmp_path / "gemm.json").read_text()).values()) == ["onednn"]
    monkeypatch.setattr(products, "_chosen", {})  # another process
    assert products.gemm_path(200, torch.float32, CPU) == 1
    assert len(calls) == 1
    products.gemm_path(2, torch.float32, CPU)
    assert len(calls) == 2


def test_a_tie_goes_to_torch(monkeypatch):
    count_measurements(monkeypatch, {"torch": 1.0, "onednn": 0.98})
    assert products.gemm_path(32, torch.float32, CPU).name == "torch"


@pytest.mark.parametrize("content", ["", "[1]", "{not json"])
def test_a_broken_memory_is_measured_anew(monkeypatch, tmp_path, content):
    (tmp_path / "gemm.json").write_text(content)
    calls = count_measurements(monkeypatch, {"torch": 1.0})
    assert products.gemm_path(32, torch.float32, CPU).name == "torch"
    assert len(calls) == 1
    assert json.loads((tmp_path / "gemm.json").read_text())


def test_without_a_place_to_write_the_choice_holds_for_the_process(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEMDIFF_CACHE", str(tmp_path / "file"))
    calls = count_measurements(monkeypatch, {"torch": 1.0})
    for _ in range(2):
        assert products.gemm_path(32, torch.float32, CPU).name == "torch"
    assert len(calls) == 1


@pytest.mark.parametrize(
    "replacement", [None, lambda *_: torch.zeros(1, 2), lambda only_one: only_one]
)
def test_a_private_function_that_is_gone_or_changed_is_not_used(monkeypatch, replacement):
    class Operators:
        _linear_pointwise = replacement

    monkeypatch.setattr(torch.ops, "mkldnn", Operators())
    assert list(products.available_paths()) == ["torch"]
    monkeypatch.setenv("MEMDIFF_GEMM", "onednn")
    with pytest.raises(ValueError, match="MEMDIFF_GEMM must name a path of this machine"):
        products.gemm_path(32, torch.float32, CPU)


def test_other_dtypes_take_the_products_of_torch():
    assert products.gemm_path(32, torch.float64, CPU).name == "torch"


@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
def test_paths_differ_by_rounding(monkeypatch, sigma):
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(2500, 24, generator=generator)
    x = points[:6] + sigma * torch.randn(6, 24, generator=generator)
    ones, level = torch.ones(6), torch.full((6,), sigma)
    answers = []
    for name in products.available_paths():
        monkeypatch.setenv("MEMDIFF_GEMM", name)
        part = PosteriorEngine(points)(Queries.of(x, ones, level))
        answers.append(part.residual_sum / part.total[:, None])
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], rtol=1e-5, atol=1e-5 * sigma)


def test_measured_paths_are_those_of_the_machine():
    seconds = products.gemm_paths(8, 4, points=64, repeats=1)
    assert list(seconds) == list(products.available_paths())
    assert all(value > 0 for value in seconds.values())
