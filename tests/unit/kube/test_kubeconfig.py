"""Kubeconfig files and what a pod finds about its cluster."""

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wasmlet.base.errors import NotFoundError, UserError
from wasmlet.kube.kubeconfig import load


def write(path: Path, *, cluster: Any = None, user: Any = None, context: Any = None, **top: Any) -> Path:
    """JSON is YAML."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", **(context or {})}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://api:6443/", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
    }
    file = path / "config"
    file.write_bytes(msgspec.json.encode(document | top))
    return file


def test_everything_a_file_may_say(tmp_path: Path) -> None:
    text = base64.b64encode(b"PEM text").decode()
    file = write(
        tmp_path,
        cluster={"certificate-authority-data": text, "tls-server-name": "kube", "extensions": [{"name": "x"}]},
        user={"client-certificate": "certs/a.pem", "client-key": "/keys/a.pem", "token": "t0ken", "tokenFile": "tok"},
        context={"namespace": "mine"},
    )
    access = load(file)
    assert access.server == "https://api:6443"
    assert (access.authority, access.tls_server_name, access.is_insecure) == (b"PEM text", "kube", False)
    assert (access.certificate, access.key) == (tmp_path / "certs/a.pem", Path("/keys/a.pem"))
    assert (access.token, access.token_file, access.namespace) == ("t0ken", tmp_path / "tok", "mine")


def test_text_beats_file(tmp_path: Path) -> None:
    text = base64.b64encode(b"secret key").decode()
    user = {"client-certificate": "a", "client-certificate-data": text, "client-key": "b", "client-key-data": text}
    access = load(write(tmp_path, user=user))
    assert access.certificate == access.key == b"secret key"


def test_no_secret_in_any_repr(tmp_path: Path) -> None:
    text = base64.b64encode(b"secret").decode()
    user = {
        "client-certificate-data": text,
        "client-key-data": text,
        "token": "secret",
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "login",
            "args": ["--password=secret"],
            "env": [{"name": "PASSWORD", "value": "secret"}],
        },
    }
    access = load(write(tmp_path, user=user))
    assert access.exec is not None
    assert access.exec.environment == {"PASSWORD": "secret"}
    assert "secret" not in repr(access).replace(str(tmp_path), "")
    assert text not in repr(access)


def test_another_context(tmp_path: Path) -> None:
    contexts = [{"name": "other", "context": {"cluster": "c", "namespace": "n"}}]
    assert load(write(tmp_path, contexts=contexts, users=None), context="other").namespace == "n"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"current-context": ""}, "has no current-context"),
        ({"current-context": "gone"}, "has no context 'gone'; it has 'here'"),
        ({"clusters": []}, "has no cluster 'c'; it has none"),
        ({"users": None}, "has no user 'u'"),
        ({"cluster": {"server": "api:6443"}}, "cluster 'c': server must be an https URL"),
        ({"cluster": {"server": "https://me:word@api"}}, "server must be a plain URL"),
        ({"cluster": {"server": 7}}, "cluster 'c': server: expected `str`, got `int`"),
        ({"cluster": {"certificate-authority-data": "?"}}, "certificate-authority-data is not base64"),
        ({"cluster": {"proxy-url": "http://proxy"}}, "proxy-url is not supported"),
        ({"user": {"client-key-data": "c2VjcmV0"}}, "only one of client-certificate and client-key"),
        ({"user": {"client-key-data": "s3cret!"}}, "client-key-data is not base64"),
        ({"user": {"token": ["s3cret"]}}, "user 'u': token: expected `str`, got `array`"),
        ({"user": {"username": "x", "password": "s3cret"}}, "username is not supported"),
        ({"user": {"as": "admin"}}, "as is not supported"),
        ({"user": {"auth-provider": {"name": "gcp"}}}, "auth-provider is not supported"),
        ({"user": {"exec": {"command": "x", "apiVersion": "v9"}}}, "exec.apiVersion must be"),
        ({"user": {"exec": {"apiVersion": "client.authentication.k8s.io/v1"}}}, "exec.command is missing"),
        (
            {"user": {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "x",
                               "interactiveMode": "Always"}}},
            "needs a terminal",
        ),
        ({"contexts": {}}, "contexts: expected `array"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    file = write(tmp_path, **changes)
    with pytest.raises(UserError) as raised:
        load(file)
    assert expected in str(raised.value)
    assert str(file) in str(raised.value)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "[]", "token: 's3cret", "{s3cret", "a: *s3cret", "!s3cret x", "\x00"])
def test_what_is_no_kubeconfig(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config"
    file.write_text(text)
    with pytest.raises(UserError) as raised:
        load(file)
    assert str(file) in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        load(tmp_path / "config")
    with pytest.raises(UserError, match="cannot read"):
        load(tmp_path)
