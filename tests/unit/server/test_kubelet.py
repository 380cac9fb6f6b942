"""The API over real TLS: who gets in, who does not, and certificates that change while it serves."""

import asyncio
import contextlib
import ssl
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
import trustme

from tests.support.agent import Agent
from tests.unit.server.kubelet_api import ADMIN, ADMIN_TOKEN, HOST, Api, served
from tests.unit.server.still_pods import StillPod
from wasmlet.base.errors import ConflictError, NotFoundError, RetryableError, UserError, WasmletError
from wasmlet.server.kubelet import KubeletServer, Settings, status_of
from wasmlet.server.log_options import InvalidOptionsError, UnreadableOptionsError
from wasmlet.server.tls import TlsFiles

EVERY_PATH = [
    ("GET", "/"),
    ("GET", "/healthz"),
    ("GET", "/healthz/ping"),
    ("GET", "/pods"),
    ("GET", "/runningpods/"),
    ("GET", "/configz"),
    ("GET", "/containerLogs/default/web/main"),
    ("GET", "/exec/default/web/main"),
    ("POST", "/exec/default/web/uid/main"),
    ("POST", "/attach/default/web/main"),
    ("POST", "/run/default/web/main"),
    ("POST", "/portForward/default/web"),
    ("GET", "/stats/summary"),
    ("GET", "/metrics"),
    ("GET", "/nothing/here"),
    ("DELETE", "/pods"),
    ("OPTIONS", "/pods"),
    ("HEAD", "/healthz"),
]


# --- who is it --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), EVERY_PATH)
async def test_nobody_is_answered(api: Api, method: str, path: str) -> None:
    text = "" if method == "HEAD" else "Unauthorized"
    assert await api.get(path, method=method, token="") == (401, text)
    assert await api.get(path, method=method, token="made-up") == (401, text)
    assert {asked[0] for asked in api.cluster.asked} <= {"token"}


@pytest.mark.parametrize(("method", "path"), EVERY_PATH)
async def test_whoever_has_no_right_is_refused(api: Api, method: str, path: str) -> None:
    api.cluster.add_token("joans", "joan")
    status, text = await api.get(path, method=method, token="joans")
    assert status == 403
    assert method == "HEAD" or text.startswith("Forbidden (user=joan, verb=")


async def test_a_client_certificate(api: Api) -> None:
    async with api.caller(ADMIN).get("/healthz") as response:
        assert (response.status, await response.text()) == (200, "ok")
    assert api.cluster.asked == [("access", ADMIN, "get", "healthz")]


async def test_a_certificate_of_somebody_without_rights(api: Api) -> None:
    async with api.caller("joan").get("/pods") as response:
        assert response.status == 403
        text = "Forbidden (user=joan, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"
        assert await response.text() == text


async def _is_refused_by_tls(caller: aiohttp.ClientSession, *, token: str = "") -> bool:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with contextlib.suppress(aiohttp.ClientConnectionError, ssl.SSLError, ConnectionError):
        async with caller.get("/healthz", headers=headers):
            return False
    return True


async def test_a_certificate_of_another_authority(api: Api) -> None:
    assert await _is_refused_by_tls(api.caller(ADMIN, authority=trustme.CA()))
    assert await _is_refused_by_tls(api.caller(ADMIN, authority=api.papers.server_authority))
    assert api.cluster.asked == []


async def test_an_expired_certificate(api: Api) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    assert await _is_refused_by_tls(api.caller(ADMIN, not_after=yesterday))
    assert api.cluster.asked == []


async def test_a_certificate_that_expires_during_a_connection(api: Api) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=4)
    caller = api.caller(ADMIN, not_after=soon)
    async with caller.get("/healthz") as response:
        assert response.status == 200
    await asyncio.sleep(4.5)
    async with caller.get("/healthz") as response:
        assert response.status == 401


async def test_a_token_for_another_audience(api: Api) -> None:
    api.cluster.add_token("vaults", ADMIN, audiences=("vault",))
    assert await api.get("/healthz", token="vaults") == (401, "Unauthorized")


async def test_rights_that_are_taken_away(api: Api) -> None:
    api.cluster.add_token("joans", "joan")
    api.cluster.rights.add(("joan", "get", "configz"))
    assert (await api.get("/configz", token="joans"))[0] == 200
    api.cluster.rights.clear()
    assert (await api.get("/configz", token="joans"))[0] == 200
    api.time.now += 300
    assert (await api.get("/configz", token="joans"))[0] == 403
    del api.cluster.tokens["joans"]
    api.time.now += 120
    assert (await api.get("/configz", token="joans"))[0] == 401


async def test_an_api_server_that_is_away(api: Api) -> None:
    api.cluster.is_away = True
    assert await api.get("/healthz") == (401, "Unauthorized")
    text = f"Authorization error (user={ADMIN}, verb=get, resource=nodes, subresource=healthz)"
    async with api.caller(ADMIN).get("/healthz") as response:
        assert (response.status, await response.text()) == (500, text)


async def test_no_token_reaches_the_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    api.cluster.add_token("s3cr3t", "joan")
    await api.get("/exec/default/web/main?command=p4ssw0rd", token="s3cr3t")
    api.cluster.is_away = True
    await api.get("/healthz", token="s3cr3t-2")
    assert "request refused" in caplog.text
    shown = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert "s3cr3t" not in shown
    assert "p4ssw0rd" not in shown


@pytest.mark.parametrize(
    "path",
    ["/healthz/../exec/a/b/c", "/healthz/%2e%2e/exec/a/b/c", "/%65xec/a/b/c", "//exec/a/b/c", "/pods/..%2fexec/a/b/c"],
)
async def test_no_spelling_of_a_path_gets_by(api: Api, path: str) -> None:
    """Joan may see the health and the pods only."""
    api.cluster.add_token("joans", "joan")
    api.cluster.rights |= {("joan", "get", "healthz"), ("joan", "get", "pods")}
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer joans\r\nConnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection(HOST, api.server.port, ssl=api.papers.client())
    writer.write(request.encode())
    answer = await reader.read()
    writer.close()
    assert answer.startswith((b"HTTP/1.1 403", b"HTTP/1.1 404"))


# --- what is there ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "verb"),
    [
        ("GET", "/exec/ns/web/main?command=sh", "exec"),
        ("POST", "/exec/ns/web/main", "exec"),
        ("POST", "/exec/ns/web/uid/main", "exec"),
        ("GET", "/attach/ns/web/main", "attach"),
        ("POST", "/attach/ns/web/uid/main", "attach"),
        ("POST", "/run/ns/web/main", "run"),
        ("POST", "/run/ns/web/uid/main", "run"),
        ("GET", "/portForward/ns/web", "port-forward"),
        ("POST", "/portForward/ns/web/uid", "port-forward"),
    ],
)
async def test_what_is_not_there_yet(api: Api, method: str, path: str, verb: str) -> None:
    status, text = await api.get(path, method=method)
    assert status == 501
    assert text.startswith(f"wasmlet does not serve {verb} yet; ")
    assert "wasmlet exec" in text or "wasmlet attach" in text or "the pod's address" in text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/nothing", 404),
        ("GET", "/exec/ns/web", 404),
        ("GET", "/metrics", 404),
        ("POST", "/pods", 405),
        ("GET", "/run/ns/web/main", 405),
        ("DELETE", "/containerLogs/ns/web/main", 405),
        ("HEAD", "/pods", 405),
    ],
)
async def test_what_is_not_there(api: Api, method: str, path: str, status: int) -> None:
    assert (await api.get(path, method=method))[0] == status


async def test_without_debugging_handlers(agent: Agent, tmp_path: Path) -> None:
    async with served(tmp_path, agent.dispatch, agent.hub, settings=Settings(debugging_handlers=False)) as api:
        for path in ("/containerLogs/ns/web/main", "/exec/ns/web/main", "/runningpods/"):
            assert await api.get(path) == (405, "Debug endpoints are disabled.\n")
            assert (await api.get(path, token=""))[0] == 401
        assert (await api.get("/pods"))[0] == 200


async def test_a_fault_of_ours(api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("wasmlet.server.logs.find_pod", broken)
    assert (await api.get("/containerLogs/ns/web/main"))[0] == 500
    assert "request failed" in caplog.text
    assert (await api.get("/healthz"))[0] == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidOptionsError("x"), 422),
        (UnreadableOptionsError("x"), 400),
        (NotFoundError("x"), 404),
        (ConflictError("x"), 409),
        (UserError("x"), 400),
        (RetryableError("x"), 503),
        (WasmletError("x"), 500),
    ],
)
def test_errors_and_their_statuses(error: WasmletError, status: int) -> None:
    assert status_of(error) == status


# --- certificates that change -----------------------------------------------------------------------------------------


def _serial(transport: asyncio.WriteTransport) -> str:
    return str(transport.get_extra_info("peercert")["serialNumber"])


async def _connect(api: Api, name: str = ADMIN) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(HOST, api.server.port, ssl=api.papers.client(name))


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """The status line of one more answer on this connection."""
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)
    return head.split(b"\r\n")[0].decode()


async def test_a_new_serving_certificate(api: Api) -> None:
    """New connections get it, open ones go on."""
    old = await _connect(api)
    assert await _ask(*old) == "HTTP/1.1 200 OK"
    api.server.rotate(api.papers.serving())
    new = await _connect(api)
    assert await _ask(*new) == "HTTP/1.1 200 OK"
    assert await _ask(*old) == "HTTP/1.1 200 OK"
    assert _serial(old[1].transport) != _serial(new[1].transport)
    for _, writer in (old, new):
        writer.close()


async def test_new_client_authorities(api: Api, still: Callable[..., StillPod]) -> None:
    """Nobody stays whom the new ones would not let in; what is under way is finished."""
    pod = still()
    pod.attempt()
    busy = await api.begin(f"{pod.path}/main?follow=true", api.caller(ADMIN))
    idle = await _connect(api)
    assert await _ask(*idle) == "HTTP/1.1 200 OK"
    before, api.papers.client_authority = api.papers.client_authority, trustme.CA()
    api.server.rotate(api.papers.serving())
    assert await idle[0].read() == b""
    assert await _is_refused_by_tls(api.caller(ADMIN, authority=before))
    new = await _connect(api)
    assert await _ask(*new) == "HTTP/1.1 200 OK"
    pod.write("still there")
    async with asyncio.timeout(20):
        assert await busy.content.readline() == b"still there\n"
        pod.end()
        assert await busy.content.read() == b""
    for _, writer in (idle, new):
        writer.close()


async def test_files_are_read_anew(api: Api) -> None:
    files = api.papers.serving()
    api.server.rotate(files)
    first = await _connect(api)
    api.papers.server_authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(files.certificate)
    api.server.rotate()
    second = await _connect(api)
    assert _serial(first[1].transport) != _serial(second[1].transport)
    for _, writer in (first, second):
        writer.close()


async def test_broken_files_change_nothing(api: Api, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("rubbish")
    with pytest.raises(UserError):
        api.server.rotate(TlsFiles(certificate=broken, key=broken))
    assert (await api.get("/healthz"))[0] == 200
    api.server.rotate()
    assert (await api.get("/healthz"))[0] == 200


async def test_before_there_is_a_certificate(agent: Agent, api: Api) -> None:
    server = KubeletServer(Settings(), agent.dispatch, agent.hub, api.server._authenticator, api.server._authorizer)
    await server.start(HOST, 0)
    try:
        with pytest.raises(OSError):  # noqa: PT011  # whatever TLS makes of an end
            await asyncio.open_connection(HOST, server.port, ssl=api.papers.client())
        server.rotate(api.papers.serving())
        _, writer = await asyncio.open_connection(HOST, server.port, ssl=api.papers.client())
        writer.close()
    finally:
        await server.close()
        await server.close()


async def test_old_tls_is_refused(api: Api) -> None:
    context = api.papers.client(ADMIN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(OSError):  # noqa: PT011
        await asyncio.open_connection(HOST, api.server.port, ssl=context)


async def test_plain_http_is_refused(api: Api) -> None:
    reader, writer = await asyncio.open_connection(HOST, api.server.port)
    writer.write(f"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\r\n".encode())
    with contextlib.suppress(ConnectionError):
        assert b"HTTP" not in await reader.read()
    writer.close()
