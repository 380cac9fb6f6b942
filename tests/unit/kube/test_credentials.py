"""Tokens from files, plugins, TLS contexts."""

import json
import os
import stat
from pathlib import Path

import pytest

from tests.support.fake_api import Authorities
from tests.support.waiting import eventually
from wasmlet.base.errors import RetryableError, UserError
from wasmlet.kube import credentials
from wasmlet.kube.credentials import Credentials, Identity, tls_context
from wasmlet.kube.kubeconfig import Access, ExecPlugin

VERSION = "client.authentication.k8s.io/v1"


class Now:
    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Now:
    return Now()


def plugin(directory: Path, script: str, **changes: object) -> Access:
    program = directory / "login"
    program.write_text(f"#!/bin/sh\necho called >> {directory}/calls\n{script}\n")
    program.chmod(stat.S_IRWXU)
    arguments = {"api_version": VERSION, "command": "./login", "directory": directory, "hint": "install login"}
    return Access(source="the file", server="https://api", exec=ExecPlugin(**(arguments | changes)))  # type: ignore[arg-type]


def credential(**status: str) -> str:
    return f"echo '{json.dumps({'apiVersion': VERSION, 'kind': 'ExecCredential', 'status': status})}'"


def calls(directory: Path) -> int:
    return (directory / "calls").read_text().count("called")


# --- files ------------------------------------------------------------------------------------------------------------


async def test_a_token_file_is_read_again_after_a_minute_or_a_refusal(tmp_path: Path, now: Now) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    source = Credentials(Access(source="x", server="https://api", token="other", token_file=file), now=now)
    first = await source.identity()
    assert first.token == "one"
    replaced = tmp_path / "new"
    replaced.write_text("two")
    replaced.rename(file)
    assert await source.identity() is first
    now.seconds += 61
    second = await source.identity()
    assert second.token == "two"
    assert await source.identity(refused=first) is second
    assert await source.identity(refused=second) is second  # the file says nothing new
    file.write_text("three")
    os.utime(file, ns=(0, 1))
    assert (await source.identity(refused=second)).token == "three"


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"\xff"])
async def test_a_bad_token_file_is_told_and_an_old_token_kept(tmp_path: Path, now: Now, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    source = Credentials(Access(source="x", server="https://api", token_file=file), now=now)
    with pytest.raises(RetryableError, match="token"):
        await source.identity()
    file.write_text("good")
    assert (await source.identity()).token == "good"
    file.write_bytes(content)
    now.seconds += 61
    assert (await source.identity()).token == "good"
    file.unlink()
    now.seconds += 61
    assert (await source.identity()).token == "good"


async def test_a_missing_token_file(tmp_path: Path) -> None:
    with pytest.raises(RetryableError, match="No such file"):
        await Credentials(Access(source="x", server="https://api", token_file=tmp_path / "no")).identity()


# --- plugins ----------------------------------------------------------------------------------------------------------


async def test_a_plugin_is_asked_once_until_its_credential_ends(tmp_path: Path, now: Now) -> None:
    access = plugin(tmp_path, credential(token="t", expirationTimestamp="1970-01-12T13:47:40Z"))
    source = Credentials(access, now=now)
    first = await source.identity()
    assert first.token == "t"
    now.seconds += 45
    assert await source.identity() is first
    assert calls(tmp_path) == 1
    now.seconds += 10
    assert await source.identity() is not first
    assert calls(tmp_path) == 2


async def test_a_plugin_is_asked_again_after_a_refusal(tmp_path: Path) -> None:
    source = Credentials(plugin(tmp_path, credential(token="t")))
    first = await source.identity()
    assert await source.identity(refused=first) is not first
    assert await source.identity(refused=first) is await source.identity()
    assert calls(tmp_path) == 2


async def test_a_plugin_sees_its_environment_and_the_cluster(tmp_path: Path) -> None:
    script = f'echo "$KUBERNETES_EXEC_INFO" > {tmp_path}/info\necho "$NAME $1" > {tmp_path}/said\n' + credential(
        token="t"
    )
    access = plugin(tmp_path, script, environment={"NAME": "a b"}, arguments=("$(id)",), passes_cluster=True)
    await Credentials(access).identity()
    assert json.loads((tmp_path / "info").read_text()) == {
        "apiVersion": VERSION,
        "kind": "ExecCredential",
        "spec": {"interactive": False, "cluster": {"server": "https://api"}},
    }
    assert (tmp_path / "said").read_text() == "a b $(id)\n"  # no shell


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo s3cret; echo s3cret >&2; exit 3", "ended with 3; install login"),
        ("echo s3cret", "did not print an ExecCredential"),
        ('echo \'{"kind":"Pod","status":{}}\'', "printed no ExecCredential"),
        (credential(), "neither a token nor a certificate"),
        (credential(clientKeyData="s3cret"), "only one of certificate and key"),
        (credential(token="s3cret", expirationTimestamp="soon"), "is no time"),
        ("head -c 2000000 /dev/zero; sleep 30", "printed more than"),
    ],
)
async def test_a_bad_plugin_is_told_without_what_it_said(tmp_path: Path, script: str, expected: str) -> None:
    with pytest.raises(RetryableError) as raised:
        await Credentials(plugin(tmp_path, script)).identity()
    assert expected in str(raised.value)
    assert "s3cret" not in str(raised.value)


async def test_a_plugin_that_waits_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "EXEC_SECONDS", 1.5)
    script = f"sleep 300 & echo $! > {tmp_path}/child; wait"
    with pytest.raises(RetryableError, match="did not end within"):
        await Credentials(plugin(tmp_path, script)).identity()
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    await eventually(lambda: not child.exists() or child.read_text().split()[2] == "Z", child)


async def test_a_plugin_that_is_missing(tmp_path: Path) -> None:
    access = Access(
        source="the file",
        server="https://api",
        exec=ExecPlugin(api_version=VERSION, command="./gone", directory=tmp_path, hint="install it"),
    )
    with pytest.raises(UserError, match=r"cannot be started.*install it"):
        await Credentials(access).identity()


# --- TLS --------------------------------------------------------------------------------------------------------------


def test_a_context_from_text_and_from_one_file(tmp_path: Path) -> None:
    made = Authorities.make()
    both = tmp_path / "both.pem"
    both.write_bytes(made.certificate + made.key)
    access = made.access("https://api")
    before = set(os.listdir("/proc/self/fd"))
    for identity in (Identity(None, made.certificate, made.key), Identity(None, both, both)):
        assert tls_context(access, identity).get_ca_certs()
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    made = Authorities.make()
    other = Authorities.make()
    made.write(tmp_path)
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    access = made.access("https://api")
    with pytest.raises(UserError, match="empty holds no PEM certificates"):
        tls_context(made.access("https://api", authority=empty), Identity())
    with pytest.raises(UserError, match=r"cannot read .*gone \(named by the test\)"):
        tls_context(made.access("https://api", authority=tmp_path / "gone"), Identity())
    with pytest.raises(UserError, match="client-certificate-data of the test cannot be used"):
        tls_context(access, Identity(None, made.certificate, other.key))
    with pytest.raises(UserError, match=r"client.crt and .*empty cannot be used"):
        tls_context(access, Identity(None, tmp_path / "client.crt", empty))
