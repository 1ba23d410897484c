"""Rows as 8-bit integers: what rounding takes off is bounded, products are exact."""

import pytest
import torch

from memdiff.kernel import integers, products
from memdiff.kernel.integers import IntegerRows, ProductBuffer, integers_pay

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setattr(products, "_chosen", {})
    monkeypatch.setenv("MEMDIFF_CACHE", str(tmp_path))
    monkeypatch.delenv("MEMDIFF_INTEGERS", raising=False)


def planted(kind, dtype, dim=300):
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(50, dim, generator=generator, dtype=torch.float64)
    if kind == "mixed":
        rows *= 10.0 ** torch.linspace(-12, 12, 50, dtype=torch.float64)[:, None]
    if kind == "spikes":
        rows[:, 0] = 1e4
    if kind == "integers":
        rows = (3.0 * rows.sign() * torch.arange(dim, dtype=torch.float64)).remainder(127.0)
        rows[:, 0] = 127.0
    if kind == "zero":
        rows.zero_()
    return rows, IntegerRows.of(rows.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["normal", "mixed", "spikes", "integers", "zero"])
def test_the_rest_is_what_the_error_says(kind, dtype):
    """Catches an error that forgets the rounding of the step, of the row or of its own sum."""
    rows, found = planted(kind, dtype)
    near = found.step.double()[:, None] * found.codes
    rest = (rows - near).norm(dim=1)
    assert (rest <= found.error).all()
    assert (found.error <= 1.001 * rest + 1e-6 * rows.norm(dim=1)).all()
    torch.testing.assert_close(2 * found.half_norm, (near**2).sum(1), rtol=1e-14, atol=0)
    if kind in ("integers", "zero"):
        assert torch.equal(near, rows)
    half_step = 0.5 * found.step.double()
    assert (rest <= half_step * (rows.shape[1] ** 0.5) * (1 + 1e-4)).all()


@pytest.mark.parametrize("dim", [1, 7, 300, 2**17 + 5])
def test_products_are_those_of_the_integers(dim):
    """Catches a step of the wrong side, and a part of a long row that is left out or overflows."""
    generator = torch.Generator().manual_seed(0)
    mine = IntegerRows.of(1.0 + torch.rand(3, dim, generator=generator))
    theirs = IntegerRows.of(torch.rand(9, dim, generator=generator) + 1.0)
    buffer = ProductBuffer()
    buffer.of(5, 9)  # more than is needed
    found = mine.products(theirs, buffer)
    expected = (mine.codes.double() @ theirs.codes.double().T) * theirs.step
    torch.testing.assert_close(found.double(), expected, rtol=2e-7, atol=0)


def test_parts_and_joined_rows_are_the_rows():
    _, rows = planted("normal", torch.float32)
    again = IntegerRows.joined([rows[:20], rows[20:]])
    for name in ("codes", "step", "error", "half_norm"):
        assert torch.equal(getattr(again, name), getattr(rows, name))
    assert len(again) == 50


def test_the_choice_is_measured_and_remembered(monkeypatch):
    calls = []
    monkeypatch.setattr(integers, "_faster", lambda size: calls.append(size) or "yes")
    assert integers_pay(700, CPU) and integers_pay(800, CPU)
    assert len(calls) == 1
    assert not integers_pay(32, CPU) and not integers_pay(700, torch.device("meta"))


def test_the_choice_can_be_made_by_hand(monkeypatch):
    monkeypatch.setattr(integers, "_faster", lambda size: "yes")
    monkeypatch.setattr(integers, "_right", lambda *arguments: True)
    monkeypatch.setenv("MEMDIFF_INTEGERS", "0")
    assert not integers_pay(700, CPU)
    monkeypatch.setattr(integers, "_faster", lambda size: "no")
    monkeypatch.setenv("MEMDIFF_INTEGERS", "1")
    assert integers_pay(700, CPU)
    monkeypatch.setattr(integers, "_right", lambda *arguments: False)
    with pytest.raises(ValueError, match="no right product of 8-bit integers"):
        integers_pay(700, CPU)
    monkeypatch.setenv("MEMDIFF_INTEGERS", "yes")
    with pytest.raises(ValueError, match="MEMDIFF_INTEGERS must be 0"):
        integers_pay(700, CPU)


@pytest.mark.parametrize("break_it", ["missing", "wrong", "refused"])
def test_without_a_product_of_integers_there_is_no_such_screen(monkeypatch, break_it):
    """The function is a private one of torch: it may go, change or refuse a machine."""

    def refused(*arguments, **settings):
        raise RuntimeError("not on this machine")

    if break_it == "missing":
        monkeypatch.delattr(torch, "_int_mm")
    elif break_it == "refused":
        monkeypatch.setattr(torch, "_int_mm", refused)
    else:
        monkeypatch.setattr(torch, "_int_mm", lambda a, b, out: out.zero_())
    assert not integers_pay(700, CPU)
