"""Image references: docker's grammar and defaults."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmlet.base.errors import UserError
from wasmlet.images.reference import LocalFile, Reference, parse, parse_remote

DIGEST = "sha256:" + "0123456789abcdef" * 4

LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True)
PORT = st.integers(1, 65535).map(lambda port: f":{port}")
HOST = st.one_of(
    st.just("localhost"),
    st.just("[::1]"),
    st.builds(lambda a, b: f"{a}.{b}", LABEL, LABEL),
)
REGISTRY = st.builds(lambda host, port: host + port, HOST, st.one_of(st.just(""), PORT))
COMPONENT = st.from_regex(r"[a-z0-9]{1,4}((\.|_|__|-{1,3})[a-z0-9]{1,3}){0,2}", fullmatch=True)
REPOSITORY = st.lists(COMPONENT, min_size=1, max_size=4).map("/".join)
TAG = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("hello", "docker.io/library/hello:latest"),
        ("hello:1.0", "docker.io/library/hello:1.0"),
        ("user/hello", "docker.io/user/hello:latest"),
        ("docker.io/hello", "docker.io/library/hello:latest"),
        ("index.docker.io/user/hello:v1", "docker.io/user/hello:v1"),
        ("localhost/hello", "localhost/hello:latest"),
        ("localhost:5000/hello", "localhost:5000/hello:latest"),
        ("[::1]:5000/hello", "[::1]:5000/hello:latest"),
        ("GHCR.io/Owner".lower() + "/x", "ghcr.io/owner/x:latest"),
        ("Registry.Example/a/b", "registry.example/a/b:latest"),
        (f"ghcr.io/a/b@{DIGEST}", f"ghcr.io/a/b@{DIGEST}"),
        (f"ghcr.io/a/b:v1@{DIGEST}", f"ghcr.io/a/b:v1@{DIGEST}"),
        ("library/file:tag", "docker.io/library/file:tag"),
        ("file:/srv/hello.wasm", "file:/srv/hello.wasm"),
        ("file:///srv/hello.wasm", "file:/srv/hello.wasm"),
        ("file:/srv/with space:and@at.wasm", "file:/srv/with space:and@at.wasm"),
    ],
)
def test_a_reference_has_a_canonical_form(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("a" * 64, "image id"),
        ("Hello", "lower case"),
        ("ghcr.io/Owner/x", "lower case"),
        ("hello:", "tag"),
        ("http://localhost:5000/hello:v1", "no scheme; write 'localhost:5000/hello:v1'"),
        ("docker://hello", "no scheme; write 'hello'"),
        ("file:hello.wasm", "images are in registries"),
        ("hello:-x", "tag"),
        ("hello:" + "x" * 129, "tag"),
        ("hello@sha256:abc", "64 lower-case"),
        ("hello@sha512:" + "a" * 128, "sha256"),
        ("hello@", "sha256"),
        ("host:99999/x", "port"),
        ("host:0/x", "port"),
        ("host:/x", "host name"),
        ("-host.example/x", "host name"),
        ("https://ghcr.io/x", "no scheme"),
        ("ghcr.io/", "repository"),
        ("ghcr.io/a//b", "repository"),
        ("ghcr.io/../x", "repository"),
        ("hello world", "repository"),
        ("hello\n", "repository"),
        ("ghcr.io/" + "a" * 256, "longer"),
        ("file:hello.wasm", "absolute"),
        ("file:", "absolute"),
        ("file://host/x.wasm", "no host"),
        ("file:/x\0y", "absolute"),
    ],
)
def test_what_is_not_a_reference_is_refused_with_the_wrong_part(text: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as caught:
        parse(text)
    assert caught.value.reason == "InvalidImageName"


def test_a_local_file_is_not_a_reference_to_a_registry() -> None:
    assert isinstance(parse("file:/x.wasm"), LocalFile)
    with pytest.raises(UserError, match="a local file"):
        parse_remote("file:/x.wasm")


def test_the_digest_decides_when_there_is_a_tag_too() -> None:
    reference = parse_remote(f"ghcr.io/a/b:v1@{DIGEST}")
    assert (reference.selector, reference.name) == (DIGEST, "ghcr.io/a/b")
    assert parse_remote("ghcr.io/a/b").selector == "latest"


@given(REGISTRY, REPOSITORY, st.one_of(st.none(), TAG), st.booleans())
def test_every_well_formed_reference_survives_the_round_trip(
    registry: str, repository: str, tag: str | None, digested: bool
) -> None:
    text = f"{registry}/{repository}" + (f":{tag}" if tag else "") + (f"@{DIGEST}" if digested else "")
    reference = parse_remote(text)
    assert reference == Reference(
        registry, repository, tag or (None if digested else "latest"), DIGEST if digested else None
    )
    assert parse(str(reference)) == reference


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_a_user_error(text: str) -> None:
    with contextlib.suppress(UserError):
        reference = parse(text)
        assert parse(str(reference)) == reference
