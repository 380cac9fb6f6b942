"""fileKeyRef's format: the rules that the kubelet's parser states."""

from __future__ import annotations

import pytest

from wasmlet.base.errors import UserError
from wasmlet.pods.environment_file import find

FILE = """\
# a comment
  \t
  LEADING='blank'
PLAIN='value' # comment
EMPTY=''
UNQUOTED_LATER= 'nothing'
MULTI='one
 two # not a comment
three'
LITERAL='$(X) \\n "q" =#'
PLAIN='second'
WINDOWS='line'\r
"""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("LEADING", "blank"),
        ("PLAIN", "value"),
        ("EMPTY", ""),
        ("UNQUOTED_LATER", ""),
        ("MULTI", "one\n two # not a comment\nthree"),
        ("LITERAL", '$(X) \\n "q" =#'),
        ("WINDOWS", "line"),
        ("NONE", None),
    ],
)
def test_values(key: str, value: str | None) -> None:
    assert find(FILE, key) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("KEY", "at line 1: missing '='"),
        ("\n='x'", "at line 2: empty variable name"),
        ("KEY ='x'", "at line 1: whitespace before '=' is not allowed"),
        ("KEY=x", "at line 1: value must be enclosed in single quotes"),
        ('KEY="x"', "at line 1: value must be enclosed in single quotes"),
        ("KEY=", "at line 1: value must be enclosed in single quotes"),
        ("A='x'\nKEY='x\ny\n", "starting at line 2: unclosed single quote"),
        ("A='x'y", "at line 1: unexpected content after closing quote"),
    ],
)
def test_errors_name_the_line_and_not_its_content(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        find(text, "KEY")
    assert str(caught.value) == f"invalid environment variable format {message}"


def test_what_follows_the_key_is_not_judged() -> None:
    assert find("KEY='x'\ngarbage", "KEY") == "x"
