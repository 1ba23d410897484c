"""How the page prints shares, p-values and intervals."""

from __future__ import annotations

from collections.abc import Callable

from memdiff.metrics import Interval
from memdiff.report import Cell
from memdiff.report.html import format_number

__all__ = ["number", "p_cell", "p_text", "percent", "percent_given", "range_text"]


def percent(share: float) -> str:
    """A share in per cent: one decimal, below 1 % two significant digits.

    >>> percent(0.3125), percent(0.0037), percent(0.0), percent(1.0), percent(-0.002)
    ('31.2%', '0.37%', '0%', '100%', '−0.2%')
    """
    value = 100.0 * share
    if value in (0.0, 100.0):
        return f"{value:.0f}%"
    text = f"{value:.2g}" if abs(value) < 0.995 else f"{value:.1f}"
    return (format_number(value) if "e" in text else text.replace("-", "−")) + "%"


def p_text(p_value: float) -> str:
    r"""A p-value that no line break divides: two digits, below 0.001 a power of ten.

    >>> p_text(0.0123), p_text(1.0), p_text(3.2e-7), p_text(0.0)
    ('0.012', '1', '3\xa0×\xa010⁻⁷', '<\xa010⁻³⁰⁰')
    """
    if p_value < 1e-300:
        return "<\xa010⁻³⁰⁰"
    if p_value < 1e-3:
        return format_number(float(f"{p_value:.0e}")).replace(" ", "\xa0")
    return f"{p_value:.2g}"


def p_cell(p_value: float) -> Cell:
    """A p-value in a table, aligned and sorted as a number."""
    return Cell(p_text(p_value), sort=p_value)


def percent_given(share: float) -> str:
    """A share that was asked for, with the digits that it was given.

    >>> percent_given(0.1), percent_given(0.005)
    ('10%', '0.5%')
    """
    return f"{100.0 * share:.6g}%"


def number(value: float) -> str:
    """Any other number, to three significant digits.

    >>> number(1.23456), number(-14.966), number(9.36e16)
    ('1.23', '−15', '9.36 × 10¹⁶')
    """
    return format_number(float(f"{value:.3g}"))


def range_text(interval: Interval | None, form: Callable[[float], str]) -> str:
    """An interval in words; an en dash for none.

    >>> range_text(Interval(0.01, 0.2, 0.95, ""), percent)
    '1.0% to 20.0%'
    """
    return "–" if interval is None else f"{form(interval.low)} to {form(interval.high)}"
