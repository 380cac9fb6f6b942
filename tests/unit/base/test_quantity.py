"""Quantities: the grammar's table, and exactness by property."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmlet.base import quantity
from wasmlet.base.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1", 1),
        ("+1", 1),
        ("-1.5", Fraction(-3, 2)),
        (".5", Fraction(1, 2)),
        ("1.", 1),
        ("100m", Fraction(1, 10)),
        ("1u", Fraction(1, 10**6)),
        ("1n", Fraction(1, 10**9)),
        ("1k", 1000),
        ("1M", 10**6),
        ("1G", 10**9),
        ("1T", 10**12),
        ("1P", 10**15),
        ("1E", 10**18),
        ("1Ki", 1024),
        ("1Mi", 1024**2),
        ("1.5Gi", 3 * 1024**3 // 2),
        ("1Ti", 1024**4),
        ("1Pi", 1024**5),
        ("1Ei", 1024**6),
        ("1e3", 1000),
        ("1E3", 1000),
        ("12E-1", Fraction(6, 5)),
        ("1e+2", 100),
        (2, 2),
        (0.1, Fraction(1, 10)),
        (1e-07, Fraction(1, 10**7)),
        (1e22, 10**22),
    ],
)
def test_what_kubernetes_reads(text: quantity.Quantity, value: Fraction) -> None:
    assert quantity.parse(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        "1 ",
        " 1",
        "1K",
        "1mi",
        "1KI",
        "1e",
        "1e3m",
        "--1",
        "1..2",
        "0x10",
        "١",
        "1e100",
        "1e999999999",
        "9" * 65,
        True,
        math.inf,
        math.nan,
    ],
)
def test_what_kubernetes_refuses(text: quantity.Quantity) -> None:
    assert quantity.parse(1) == 1  # what is remembered of it is not taken for True
    with pytest.raises(UserError):
        quantity.parse(text)


@given(st.integers(-(10**20), 10**20), st.sampled_from(sorted(quantity.SUFFIXES)))
def test_integers_with_any_suffix_are_exact(number: int, suffix: str) -> None:
    assert quantity.parse(f"{number}{suffix}") == number * quantity.SUFFIXES[suffix]


@given(st.decimals(-(10**9), 10**9, places=6), st.integers(-20, 20))
def test_decimals_with_exponents_are_exact(number: object, exponent: int) -> None:
    assert quantity.parse(f"{number:f}e{exponent}") == Fraction(str(number)) * Fraction(10) ** exponent


@given(st.integers(0, 10**9), st.integers(1, 10**6))
def test_division_rounds_up_and_never_by_one_too_much(milli: int, divisor: int) -> None:
    result = quantity.ceil_divided(f"{milli}m", f"{divisor}m")
    assert (result - 1) * divisor < milli <= result * divisor


@pytest.mark.parametrize(
    ("value", "divisor", "result"),
    [("250m", "1", 1), ("250m", "1m", 250), ("64Mi", "1Mi", 64), ("65M", "1Mi", 62), ("1", "0", 1), (0, 1, 0)],
)
def test_division_as_in_resource_field_refs(value: quantity.Quantity, divisor: quantity.Quantity, result: int) -> None:
    assert quantity.ceil_divided(value, divisor) == result


def test_ceil_rounds_up() -> None:
    assert quantity.ceil("0.5Ki") == 512
    assert quantity.ceil("100m") == 1
