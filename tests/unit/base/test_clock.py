"""Moments and their texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmlet.base.clock import from_text, to_text


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("2026-11-23T10:00:00Z", 1795428000.0),
        ("2026-11-23T10:00:01.250000000Z", 1795428001.25),
        ("2026-11-23T10:00:01.5Z", 1795428001.5),
        ("2026-11-23T12:00:00.000001+02:00", 1795428000.000001),
        ("2026-11-23T10:00:00.1234567891234Z", 1795428000.123456),
    ],
)
def test_texts(text: str, moment: float) -> None:
    assert from_text(text) == pytest.approx(moment, abs=1e-6)


@pytest.mark.parametrize("text", ["", "now", "2026-11-23", "2026-11-23T10:00:00", "2026-13-01T00:00:00Z", "1.5"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match=r"isoformat|time zone|month"):
        from_text(text)


@given(st.integers(0, 4_000_000_000))
def test_whole_seconds_go_round(moment: int) -> None:
    assert from_text(to_text(moment)) == moment


def test_fractions_are_cut() -> None:
    assert to_text(1795428000.999) == "2026-11-23T10:00:00Z"
