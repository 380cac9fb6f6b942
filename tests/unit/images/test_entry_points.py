"""Modules of which another function is run: what is written anew, and what is refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.guests import guest
from tests.unit.images.conftest import COMPONENT, MODULE
from wasmlet.base.errors import GuestError
from wasmlet.images.entry_points import _encoded, _exports, _integer, with_entry_point


def module(*exports: tuple[str, int, int], tail: bytes = b"") -> bytes:
    content = _encoded(len(exports))
    for name, kind, index in exports:
        content += _encoded(len(name.encode())) + name.encode() + bytes([kind]) + _encoded(index)
    return MODULE + b"\1\4\1\x60\0\0" + b"\7" + _encoded(len(content)) + content + tail


def exported(content: bytes) -> dict[str, bytes]:
    position = 14
    size, position = _integer(content, position + 1)
    return {name.decode(): value for name, value in _exports(content[position : position + size])}


def test_a_function_takes_the_place_of_the_usual_one() -> None:
    given_ = module(("_start", 0, 1), ("run", 0, 300), ("memory", 2, 0), tail=b"\0\1x")
    assert exported(with_entry_point(given_, "run")) == {
        "run": b"\0\xac\2",
        "memory": b"\2\0",
        "_start": b"\0\xac\2",
    }
    assert with_entry_point(given_, "run").endswith(b"\0\1x")
    assert exported(with_entry_point(module(("run", 0, 1)), "run")) == {"run": b"\0\1", "_start": b"\0\1"}
    assert exported(with_entry_point(given_, "_start"))["_start"] == b"\0\1"


@pytest.mark.parametrize(
    ("content", "function", "reason", "text"),
    [
        (module(("a", 0, 0), ("m", 2, 0)), "b", "NoEntryPoint", "no function b; it exports a"),
        (module(("m", 2, 0)), "m", "NoEntryPoint", "it exports none"),
        (MODULE, "run", "NoEntryPoint", "it exports none"),
        (COMPONENT, "run", "NoEntryPoint", "a component"),
        (b"\x7fELF", "run", "NotWasm", "ELF"),
        (module(("a", 0, 0))[:-1], "a", "Malformed", "truncated"),
        (MODULE + b"\7\xff\xff\xff\xff\xff\xff", "a", "Malformed", "truncated"),
    ],
)
def test_what_has_no_such_function_is_refused(content: bytes, function: str, reason: str, text: str) -> None:
    with pytest.raises(GuestError, match=text) as caught:
        with_entry_point(content, function)
    assert caught.value.reason == reason


@given(st.binary(max_size=200), st.text(max_size=5))
def test_any_bytes_are_an_answer(content: bytes, function: str) -> None:
    for head in (MODULE, b""):
        with contextlib.suppress(GuestError):
            with_entry_point(head + content, function)


def test_a_real_module_stays_as_it_was_but_for_its_exports() -> None:
    content = guest("hello").read_bytes()
    assert len(with_entry_point(content, "_start")) == len(content)
