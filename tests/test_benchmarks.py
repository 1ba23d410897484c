"""The benchmark: peers give our answers, runs keep each other's tables, the page is its data."""

import importlib
import json
from pathlib import Path

import pytest
import torch

from memdiff.kernel import PosteriorEngine, Queries

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def registry():
    return importlib.import_module("benchmarks.__main__").TABLES


def test_every_table_has_a_module_that_runs():
    for name, table in registry().items():
        module = importlib.import_module(table.module)
        assert callable(module.run), name
        assert table.caption.endswith(".")


@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_peers_compute_what_memdiff_computes(sigma):
    """A ratio to a method that computes something else says nothing."""
    peers = importlib.import_module("benchmarks.peers")
    x, data = peers._clouds(30, 500, 6, sigma)
    part = PosteriorEngine(data)(Queries.of(x, torch.ones(30), torch.full((30,), sigma)))
    mean = x + (part.residual_sum / part.total[:, None]).to(x.dtype)
    for peer in (peers.attention, peers.one_shot, peers.paper_loop):
        assert torch.allclose(peer(x, data, sigma), mean, atol=1e-4), peer.__name__


def test_floor_is_both_products(monkeypatch):
    floor = importlib.import_module("benchmarks.floor")
    x, data = torch.randn(7, 5), torch.randn(40, 5)
    expected = (x @ data.T) @ data
    assert torch.allclose(floor.two_products(x, data, block=16)(), expected, atol=1e-3)


def test_a_run_keeps_the_tables_of_others(tmp_path):
    table = importlib.import_module("benchmarks.table")
    origin = {
        "provenance": {
            "date": "2026-01-02T03:04:05+00:00",
            "cpu": "a cpu",
            "threads": 2,
            "versions": {"torch": "2.0"},
            "commit": None,
        },
        "size": "full",
        "repeats": 2,
        "caption": "What.",
    }
    rows = [{"points": 1000, "memdiff": 1.25, "note": None}, {"points": 2000, "met": True}]
    table.merge(tmp_path, "second", {**origin, "rows": rows}, ["first", "second"])
    table.merge(tmp_path, "first", {**origin, "rows": [{"a": 1}]}, ["first", "second"])
    table.merge(tmp_path, "first", {**origin, "rows": [{"a": 2}]}, ["first", "second"])
    kept = table.read(tmp_path)
    assert list(kept) == ["first", "second"]
    assert kept["first"]["rows"] == [{"a": 2}] and kept["second"]["rows"] == rows
    page = (tmp_path / "results.md").read_text("utf-8")
    assert "| points | memdiff | note | met |" in page
    assert "| 1,000 | 1.25 | - | - |" in page and "| 2,000 | - | - | yes |" in page
    assert "2026-01-02 03:04 UTC" in page


def test_the_recorded_page_is_that_of_the_recorded_numbers():
    table = importlib.import_module("benchmarks.table")
    folder = ROOT / "benchmarks" / "results"
    assert table.markdown(table.read(folder)) == (folder / "results.md").read_text("utf-8")
    assert json.loads((folder / "results.json").read_text("utf-8"))["schema"] == 2
