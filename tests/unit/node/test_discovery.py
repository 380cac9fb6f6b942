"""Trust by a token: what is accepted, and everything that is not."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import yaml

from tests.support.fake_api import Authorities, FakeApi
from wasmlet.base.errors import RetryableError, UserError
from wasmlet.node import discovery, keys
from wasmlet.node.discovery import Token, parse_token, server_url, verify_signature

TOKEN = Token("abcdef", "0123456789abcdef")


def signed(content: str, token: Token = TOKEN, *, header: object = None) -> str:
    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    head = encoded(json.dumps(header or {"alg": "HS256", "kid": token.id}).encode())
    message = f"{head}.{encoded(content.encode())}".encode()
    return f"{head}..{encoded(hmac.new(token.secret.encode(), message, hashlib.sha256).digest())}"


def test_a_signature_by_the_token() -> None:
    assert verify_signature(signed("content"), b"content", TOKEN)


@pytest.mark.parametrize(
    "signature",
    [
        signed("other"),
        signed("content", replace(TOKEN, secret="0123456789abcdee")),
        signed("content", header={"alg": "none", "kid": "abcdef"}),
        signed("content", header={"alg": "HS256", "kid": "other1"}),
        signed("content", header=["HS256"]),
        signed("content").replace("..", ".eA."),
        "", "..", "a.b", "é..é", "e30..",
    ],
)  # fmt: skip
def test_no_signature_by_the_token(signature: str) -> None:
    assert not verify_signature(signature, b"content", TOKEN)


@pytest.mark.parametrize("text", ["", "abcdef", "abcdef.0123456789abcde", "ABCDEF.0123456789abcdef", "x" * 23])
def test_no_token_and_it_is_not_quoted(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_token(text)
    assert not text or text not in str(caught.value)


def test_a_token_hides_its_secret() -> None:
    assert parse_token(" abcdef.0123456789abcdef\n") == TOKEN
    assert "0123" not in repr(TOKEN)


@pytest.mark.parametrize(
    ("text", "url"),
    [("10.0.0.1:6443", "https://10.0.0.1:6443"), ("https://api.test:6443/", "https://api.test:6443")],
)
def test_servers(text: str, url: str) -> None:
    assert server_url(text) == url


@pytest.mark.parametrize("text", ["http://10.0.0.1", "", "https://user@host", "https://host/?a=b"])
def test_no_servers(text: str) -> None:
    with pytest.raises(UserError, match="is no API server"):
        server_url(text)


# --- with a server ----------------------------------------------------------------------------------------------------

AUTHORITIES = Authorities.make()
PIN = keys.pins(AUTHORITIES.ca)[0]


@pytest.fixture
async def server() -> AsyncIterator[FakeApi]:
    async with FakeApi.running(tls=AUTHORITIES.server) as api:
        yield api


async def publish(api: FakeApi, *, ca: bytes = AUTHORITIES.ca, token: Token = TOKEN, tampers: bool = False) -> None:
    data = base64.b64encode(ca).decode()
    content = yaml.safe_dump({"clusters": [{"name": "", "cluster": {"certificate-authority-data": data}}]})
    signature = signed(content + "#" if tampers else content, token)
    await api.put("configmaps", {
        "metadata": {"name": "cluster-info", "namespace": "kube-public"},
        "data": {"kubeconfig": content, f"jws-kubeconfig-{token.id}": signature},
    })  # fmt: skip


async def discover(api: FakeApi, *hashes: str) -> object:
    return await discovery.discover(server=api.url, token=TOKEN, ca_hashes=hashes)


async def test_the_cluster_is_found_and_looked_at_twice(server: FakeApi) -> None:
    await publish(server)
    access = await discovery.discover(server=server.url, token=TOKEN, ca_hashes=[PIN.upper().replace("SHA", "sha")])
    assert (access.authority, access.is_insecure) == (AUTHORITIES.ca, False)
    assert access.token == "abcdef.0123456789abcdef"
    assert "0123456789abcdef" not in repr(access)
    assert len(server.asked("GET")) == 2
    assert not any("Authorization" in each.headers for each in server.seen)


async def test_the_token_alone_can_be_enough(server: FakeApi) -> None:
    await publish(server)
    assert await discover(server)


async def test_another_hash(server: FakeApi) -> None:
    await publish(server)
    with pytest.raises(UserError, match="another hash"):
        await discover(server, "sha256:" + "0" * 64)
    with pytest.raises(UserError, match="no hash"):
        await discover(server, "sha256:short")


async def test_a_second_authority_that_is_not_pinned(server: FakeApi) -> None:
    await publish(server, ca=AUTHORITIES.ca + Authorities.make().ca)
    with pytest.raises(UserError, match="another hash"):
        await discover(server, PIN)


async def test_a_server_whose_certificate_is_anothers(server: FakeApi) -> None:
    await publish(server, ca=Authorities.make().ca)
    with pytest.raises(UserError, match="not trusted"):
        await discover(server)


async def test_what_was_tampered_with(server: FakeApi) -> None:
    await publish(server, tampers=True)
    with pytest.raises(UserError, match="not signed with this token"):
        await discover(server, PIN)


async def test_no_cluster_info(server: FakeApi) -> None:
    with pytest.raises(UserError, match="no public cluster-info"):
        await discover(server)


async def test_a_signature_that_never_comes(server: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "DISCOVERY_SECONDS", 0.3)
    monkeypatch.setattr(discovery, "RETRY_SECONDS", 0.05)
    await publish(server, token=Token("other1", TOKEN.secret))
    with pytest.raises(RetryableError, match="not signed with the token abcdef"):
        await discover(server)


async def test_a_signature_that_comes_later(server: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "RETRY_SECONDS", 0.01)
    await publish(server, token=Token("other1", TOKEN.secret))

    async def later(_: object) -> None:
        if len(server.seen) == 3:
            await publish(server)

    server.behaviours.append(later)
    assert await discover(server)
