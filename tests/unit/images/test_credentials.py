"""Docker's configuration format and the kubelet's matching rules."""

import base64
import json
from pathlib import Path

import pytest

from wasmlet.base.errors import UserError
from wasmlet.images.credentials import (
    Credential,
    load_default,
    matching,
    parse_docker_config,
    parse_legacy_docker_config,
)
from wasmlet.images.reference import parse_remote


def encoded(pair: str) -> str:
    return base64.b64encode(pair.encode()).decode()


def test_every_form_of_an_entry_is_read() -> None:
    content = json.dumps(
        {
            "auths": {
                "a.example": {"auth": encoded("user:pass:word")},
                "b.example": {"username": "u", "password": "p"},
                "c.example": {"auth": encoded("u:"), "identitytoken": "refresh"},
                "d.example": {},
            },
            "credsStore": "desktop",
        }
    )
    assert parse_docker_config(content, source="test") == (
        Credential("a.example", "user", "pass:word"),
        Credential("b.example", "u", "p"),
        Credential("c.example", "u", "", "refresh"),
    )


def test_the_legacy_form_has_the_registries_at_the_top() -> None:
    content = json.dumps({"https://index.docker.io/v1/": {"auth": encoded("u:p"), "email": "x@example"}})
    (credential,) = parse_legacy_docker_config(content, source="test")
    assert matching([credential], parse_remote("hello")) == (credential,)


def test_the_representation_shows_no_secret() -> None:
    text = repr(Credential("a.example", "user", "pass-word", "refresh-token"))
    assert "user" in text
    assert "pass-word" not in text
    assert "refresh-token" not in text


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"auths": 5}',
        '{"auths": {"a.example": "s3cret"}}',
        '{"auths": {"a.example": {"auth": "s3cret!"}}}',
        '{"auths": {"a.example": {"username": 1, "password": "s3cret"}}}',
        json.dumps({"auths": {"a.example": {"auth": encoded("s3cret")}}}),
        "s3cret",
    ],
)
def test_a_broken_file_is_named_without_its_content(content: str) -> None:
    with pytest.raises(UserError, match=r"the-source") as caught:
        parse_docker_config(content, source="the-source")
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("pattern", "image", "fits"),
    [
        ("ghcr.io", "ghcr.io/a/b", True),
        ("https://ghcr.io", "ghcr.io/a/b", True),
        ("ghcr.io/", "ghcr.io/a/b", True),
        ("ghcr.io/v2/", "ghcr.io/a/b", True),
        ("GHCR.io", "ghcr.io/a/b", True),
        ("ghcr.io/a", "ghcr.io/a/b", True),
        ("ghcr.io/a/b", "ghcr.io/a/b", True),
        ("ghcr.io/c", "ghcr.io/a/b", False),
        ("ghcr.io:443", "ghcr.io/a/b", False),
        ("host:5000", "host:5000/a", True),
        ("host:5000", "host:5001/a", False),
        ("host.example", "host.example:5000/a", False),
        ("*.example.com", "a.example.com/x", True),
        ("*.example.com", "a.b.example.com/x", False),
        ("*.example.com", "example.com/x", False),
        ("reg-?.example.com:8443/team", "reg-1.example.com:8443/team/x", True),
        ("*", "ghcr.io/a", False),
        ("[::1]:5000", "[::1]:5000/a", True),
        ("[::1]", "[::1]/a", True),
        ("https://index.docker.io/v1/", "hello", True),
        ("docker.io", "user/hello", True),
        ("registry-1.docker.io", "hello", True),
        ("docker.io/user", "hello", False),
    ],
)
def test_a_credential_fits_as_the_kubelet_matches(pattern: str, image: str, fits: bool) -> None:
    credential = Credential(pattern, "u", "p")
    assert bool(matching([credential], parse_remote(image))) is fits


def test_the_longest_path_comes_first_and_every_match_is_kept_once() -> None:
    short, long, other = (
        Credential("*.example.com", "short", "p"),
        Credential("a.example.com/team", "long", "p"),
        Credential("b.example.com", "other", "p"),
    )
    assert matching([short, long, other, short], parse_remote("a.example.com/team/x")) == (long, short)


def test_the_default_files_are_docker_s_and_podman_s(tmp_path: Path) -> None:
    assert load_default({}, tmp_path) == ()
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text(json.dumps({"auths": {"a.example": {"auth": encoded("u:p")}}}))
    (tmp_path / "containers").mkdir()
    (tmp_path / "containers" / "auth.json").write_text(json.dumps({"auths": {"b.example": {"auth": encoded("u:p")}}}))
    found = load_default({"XDG_RUNTIME_DIR": str(tmp_path)}, tmp_path)
    assert [credential.pattern for credential in found] == ["a.example", "b.example"]
    assert load_default({"DOCKER_CONFIG": str(tmp_path / "nowhere")}, tmp_path) == ()


def test_an_unreadable_default_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UserError, match=r"config\.json"):
        load_default({"DOCKER_CONFIG": str(tmp_path)}, tmp_path)
