"""`$(VAR)`: the table of Kubernetes' own tests, and a character-by-character model of its algorithm."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmlet.pods.expansion import expand

VALUES = {"VAR_A": "A", "VAR_B": "B", "VAR_C": "C", "VAR_REF": "$(VAR_A)", "VAR_EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$(VAR_A)", "A"),
        ("___$(VAR_B)___", "___B___"),
        ("___$(VAR_C)", "___C"),
        ("$(VAR_A)-$(VAR_A)", "A-A"),
        ("$(VAR_A)_1", "A_1"),
        ("$(VAR_B)_2_$(VAR_A)", "B_2_A"),
        ("$$(VAR_B)_$(VAR_A)", "$(VAR_B)_A"),
        ("$$$(VAR_A)", "$A"),
        ("$$$$(VAR_A)", "$$(VAR_A)"),
        ("$$$$$(VAR_A)", "$$A"),
        ("$$$$$$(VAR_A)", "$$$(VAR_A)"),
        ("$(VAR_REF)", "$(VAR_A)"),
        ("%%$(VAR_REF)--$(VAR_REF)%%", "%%$(VAR_A)--$(VAR_A)%%"),
        ("foo$(VAR_EMPTY)bar", "foobar"),
        ("foo$(VAR_Awhoops!", "foo$(VAR_Awhoops!"),
        ("f00__(VAR_A)__", "f00__(VAR_A)__"),
        ("$?_boo_$!", "$?_boo_$!"),
        ("$VAR_A", "$VAR_A"),
        ("$(VAR_DNE)", "$(VAR_DNE)"),
        ("$$$$$$(BIG_MONEY)", "$$$(BIG_MONEY)"),
        ("$VAR_A)", "$VAR_A)"),
        ("${VAR_A}", "${VAR_A}"),
        ("$(VAR_B)_______$(A", "B_______$(A"),
        ("$(VAR_C)_______$(", "C_______$("),
        ("$(VAR_A)foobarzab$", "Afoobarzab$"),
        ("foo-\\$(VAR_A", "foo-\\$(VAR_A"),
        ("--$($($($($--", "--$($($($($--"),
        ("$($($($($--foo$(", "$($($($($--foo$("),
        ("foo0--$($($($(", "foo0--$($($($("),
        ("$(foo$$var)", "$(foo$$var)"),
        ("$", "$"),
        ("", ""),
        ("$()", "$()"),
        ("$(\n)", "$(\n)"),
        ("$é(VAR_A)", "$é(VAR_A)"),
    ],
)
def test_as_kubernetes_tests_it(text: str, result: str) -> None:
    assert expand(text, VALUES.get) == result


def model(text: str) -> str:
    """tryReadVariableName and Expand, as written in Go."""
    result, cursor = "", 0
    while cursor < len(text):
        if text[cursor] != "$" or cursor + 1 == len(text):
            result, cursor = result + text[cursor], cursor + 1
        elif text[cursor + 1] == "$":
            result, cursor = result + "$", cursor + 2
        elif text[cursor + 1] == "(" and (end := text.find(")", cursor + 2)) >= 0:
            name = text[cursor + 2 : end]
            result, cursor = result + VALUES.get(name, f"$({name})"), end + 1
        else:
            result, cursor = result + text[cursor : cursor + 2], cursor + 2
    return result


@given(st.lists(st.sampled_from(["$", "(", ")", "VAR_A", "VAR_REF", "x", "$(", "$$", "\n"]), max_size=30).map("".join))
def test_it_agrees_with_the_model(text: str) -> None:
    assert expand(text, VALUES.get) == model(text)


@given(st.text())
def test_doubling_dollars_keeps_any_text(text: str) -> None:
    assert expand(text.replace("$", "$$"), lambda name: "expanded") == text


def test_hostile_text_takes_linear_time() -> None:
    start = time.monotonic()
    expand("$(" * 500_000, VALUES.get)
    expand("$(" * 500_000 + ")", VALUES.get)
    assert time.monotonic() - start < 5
