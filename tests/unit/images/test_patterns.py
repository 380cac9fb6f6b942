"""Patterns of image names: what they fit, which is the more specific, what is refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmlet.images.patterns import MAX_PATTERN_LENGTH, parse
from wasmlet.images.reference import parse as parse_reference

DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        (
            "registry.example/team/tool",
            ["registry.example/team/tool", "registry.example/team/tool:v1", f"registry.example/team/tool@{DIGEST}"],
            ["registry.example/team/tool/x", "registry.example/team", "other.example/team/tool", "team/tool"],
        ),
        (
            "registry.example/team/**",
            ["registry.example/team/a", "registry.example/team/a/b/c:1"],
            ["registry.example/team", "registry.example/teams/a", "registry.example:5000/team/a"],
        ),
        ("registry.example/*", ["registry.example/a"], ["registry.example/a/b"]),
        (
            "registry.example/**/tool",
            ["registry.example/a/b/tool"],
            ["registry.example/tool", "registry.example/a/tools"],
        ),
        ("registry.example/te*m/x-*-y", ["registry.example/team/x--y"], ["registry.example/te/m/x-a-y"]),
        ("*.example.com/a", ["x.example.com/a"], ["x.y.example.com/a", "example.com/a", "x.example.com:80/a"]),
        ("localhost:*/**", ["localhost:5000/a/b"], ["localhost/a"]),
        ("[::1]:5000/a", ["[::1]:5000/a"], ["[::1]/a"]),
        ("docker.io/library/hello", ["hello", "index.docker.io/library/hello:1"], ["user/hello"]),
        (
            "registry.example/a:v1*",
            ["registry.example/a:v1", "registry.example/a:v1.2"],
            ["registry.example/a", f"registry.example/a:v1@{DIGEST}", f"registry.example/a@{DIGEST}"],
        ),
        ("file:/srv/**", ["file:/srv/a.wasm", "file:/srv/b/c.wasm"], ["file:/srv", "file:/etc/a.wasm", "srv/a"]),
        ("file:/a b/*.wasm", ["file:/a b/c.wasm"], ["file:/a b/c.wat"]),
    ],
)
def test_what_patterns_fit(pattern: str, fitting: list[str], others: list[str]) -> None:
    parsed = parse(pattern)
    assert [name for name in fitting if not parsed.fits(parse_reference(name))] == []
    assert [name for name in others if parsed.fits(parse_reference(name))] == []


@pytest.mark.parametrize(
    "ordered",
    [
        ["*.io/**", "a.io/**", "a.io/team/**", "a.io/team/t*", "a.io/team/tool", "a.io/team/tool:v*",
         "a.io/team/tool:v1"],
        ["*.example.com/very/long/name/of/a/tool", "registry.example.com/**"],
        ["localhost:*/**", "localhost:5000/**"],
    ],
)  # fmt: skip
def test_the_more_specific_comes_later(ordered: list[str]) -> None:
    ranks = [parse(each).rank for each in ordered]
    assert ranks == sorted(set(ranks))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no registry"),
        ("**", "no registry"),
        ("hello", "no registry"),
        ("team/tool", "write docker.io/team/tool"),
        ("Registry.example/a", "lower case"),
        ("registry.example/A", "can be no part"),
        ("registry.example/", "no registry and repository"),
        ("registry.example//a", "can be no part"),
        ("registry.example/a**", "whole components"),
        ("registry.example/a:", "a tag has"),
        (f"registry.example/a@{DIGEST}", "can be no part"),
        ("registry.example/a:v1:v2", "a tag has"),
        ("file:a.wasm", "absolute"),
        ("file:/", "can be no part"),
        ("registry.example/" + "a" * MAX_PATTERN_LENGTH, "at most"),
    ],
)
def test_what_is_no_pattern(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        parse(text)


def expression(component: str) -> str:
    return "".join("[^/]*" if each == "*" else re.escape(each) for each in component)


COMPONENTS = st.text("ab*", min_size=1, max_size=5).filter(lambda text: "**" not in text) | st.just("**")
NAMES = st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=6)


@given(st.lists(COMPONENTS, min_size=1, max_size=5), NAMES)
def test_matching_is_that_of_a_regular_expression(pattern: list[str], name: list[str]) -> None:
    wanted = "/".join("[^/]+(?:/[^/]+)*" if each == "**" else expression(each) for each in pattern)
    reference = parse_reference(f"registry.example/{'/'.join(name)}")
    assert parse(f"registry.example/{'/'.join(pattern)}").fits(reference) == bool(re.fullmatch(wanted, "/".join(name)))


def test_many_wildcards_take_no_long_time() -> None:
    pattern = parse("registry.example/" + "a*" * 100 + "b")
    assert not pattern.fits(parse_reference("registry.example/" + "a" * 255))
    deep = parse("registry.example/" + "**/" * 100 + "b")
    assert not deep.fits(parse_reference("registry.example/" + "/".join("a" * 120)))


@given(st.text(max_size=60))
def test_any_text_is_a_pattern_or_refused(text: str) -> None:
    try:
        pattern = parse(text)
    except ValueError:
        return
    assert pattern.text == text
    pattern.fits(parse_reference("registry.example/a/b:c"))


@given(NAMES, st.sampled_from(["", ":v1"]))
def test_a_name_is_a_pattern_of_itself(name: list[str], tag: str) -> None:
    text = f"registry.example/{'/'.join(name)}"
    assert parse(text + tag).fits(parse_reference(text + tag))
    assert parse(text).fits(parse_reference(text + tag))
