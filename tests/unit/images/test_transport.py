"""Connections: TLS and plain HTTP, redirects, time limits, attempts."""

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from tests.unit.images.fake_registry import FakeRegistry, hang, on, partly, status
from wasmlet.base.errors import RetryableError, UserError
from wasmlet.images.settings import Settings
from wasmlet.images.transport import PassingError, Progress, Request, Transport, is_loopback


@pytest.fixture
async def transport(settings: Settings) -> AsyncIterator[Transport]:
    transport = Transport(dataclasses.replace(settings, idle_timeout_seconds=0.2))
    yield transport
    await transport.close()


async def get(transport: Transport, url: str, limit: int = 1000) -> bytes:
    async with transport.exchange(Request("GET", url, authorization="Bearer secret")) as response:
        return await transport.read_small(response, limit, what="the answer")


@pytest.mark.parametrize(
    ("registry", "loopback"),
    [
        ("localhost:5000", True),
        ("127.0.0.1", True),
        ("127.8.9.1:5000", True),
        ("[::1]:5000", True),
        ("localhost.example", False),
        ("10.0.0.1:5000", False),
        ("127.0.0.1.example", False),
    ],
)
def test_loopback_is_decided_by_the_name(registry: str, loopback: bool) -> None:
    assert is_loopback(registry) is loopback


async def test_plain_http_is_for_loopback_or_for_whom_it_is_allowed(transport: Transport, fake: FakeRegistry) -> None:
    assert await transport.origin(fake.address) == f"http://{fake.address}"
    assert await transport.origin("ghcr.io") == "https://ghcr.io"
    assert await transport.origin("docker.io") == "https://registry-1.docker.io"
    assert fake.seen == []


async def test_plain_http_is_not_decided_by_a_registry_that_is_down(transport: Transport) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        assert await transport.origin(address) == f"http://{address}"
        assert transport._schemes == {}
        with pytest.raises(RetryableError, match=f"cannot connect to {address}: connection refused"):
            await get(transport, f"http://{address}/")


async def test_a_name_that_does_not_resolve_is_said_at_once(transport: Transport) -> None:
    async with asyncio.timeout(20):
        with pytest.raises(RetryableError, match=r"cannot resolve the name of registry\.invalid"):
            await get(transport, "https://registry.invalid/v2/")


async def test_authorization_stays_with_its_origin(transport: Transport, fake: FakeRegistry) -> None:
    async with FakeRegistry.running() as other:
        other.behaviours.append(status(200))
        fake.behaviours += [
            on("/out", lambda _: redirect(f"http://{other.address}/there?sig=a%2Fb%3D")),
            on("/in", lambda _: redirect("/v2/")),
        ]
        await get(transport, f"http://{fake.address}/out")
        await get(transport, f"http://{fake.address}/in")
    assert [headers.get("Authorization") for _, _, headers in fake.seen] == ["Bearer secret"] * 3
    ((_, path, headers),) = other.seen
    assert path == "/there?sig=a%2Fb%3D"
    assert "Authorization" not in headers


async def redirect(location: str) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": location})


async def test_redirects_in_circles_end(transport: Transport, fake: FakeRegistry) -> None:
    fake.behaviours.append(on("/", lambda _: redirect("/again")))
    with pytest.raises(RetryableError, match=f"{fake.address} redirects in circles"):
        await get(transport, f"http://{fake.address}/again")


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://host/x", "gopher:x"])
def test_redirects_to_other_schemes_are_not_followed(location: str, fake_redirect: Callable[[str], None]) -> None:
    with pytest.raises(RetryableError, match="not followed"):
        fake_redirect(location)


@pytest.fixture
def fake_redirect() -> Callable[[str], None]:
    from types import SimpleNamespace
    from typing import Any, cast

    from wasmlet.images.transport import _redirect

    def run(location: str, url: str = "https://host/x") -> None:
        response = cast(Any, SimpleNamespace(status=302, headers={"Location": location}))
        _redirect(Request("GET", url), url, response)

    return run


def test_https_is_never_left_for_http(fake_redirect: Callable[[str], None]) -> None:
    with pytest.raises(RetryableError, match="from https to http"):
        fake_redirect("http://other/x?sig=secret")


@pytest.mark.parametrize("body", [hang, partly(b"half", length=1000, then="hang")])
async def test_a_registry_that_hangs_is_left(
    transport: Transport, fake: FakeRegistry, body: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> None:
    fake.behaviours.append(body)
    with pytest.raises(RetryableError, match=f"{fake.address} made no progress for 0.2 s"):
        await get(transport, f"http://{fake.address}/")
    await fake.gone.wait()


async def test_a_small_answer_that_drips_is_left(transport: Transport, fake: FakeRegistry) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.02)

    fake.behaviours.append(drip)
    with pytest.raises(RetryableError, match=r"did not come within 0\.4 s"):
        await get(transport, f"http://{fake.address}/")


async def test_a_cut_line_is_passing(transport: Transport, fake: FakeRegistry) -> None:
    fake.behaviours.append(partly(b"half", length=1000, then="cut"))
    with pytest.raises(PassingError, match=f"the connection to {fake.address} broke"):
        await get(transport, f"http://{fake.address}/")


async def test_a_small_answer_has_a_limit(transport: Transport, fake: FakeRegistry) -> None:
    fake.behaviours.append(partly(b"x" * 1001, length=1001, then="end"))
    with pytest.raises(UserError, match="longer than 1000 bytes"):
        await get(transport, f"http://{fake.address}/")


async def test_an_upload_that_is_not_read_is_left(transport: Transport) -> None:
    """The peer accepts, reads nothing, says nothing: only the upload's own deadline can tell."""
    hold = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await hold.wait()
        writer.close()

    async def upload(progress: Progress) -> AsyncIterator[bytes]:
        for _ in range(1000):
            progress.made()
            yield bytes(1 << 16)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=1024)
    async with server:
        port = server.sockets[0].getsockname()[1]
        request = Request("PUT", f"http://127.0.0.1:{port}/", upload=upload, size_bytes=1000 << 16)
        with pytest.raises(RetryableError, match=r"made no progress for 0\.2 s"):
            async with transport.exchange(request):
                pass
        hold.set()


async def test_attempts_are_bounded_and_obey_retry_after(transport: Transport) -> None:
    calls = 0

    async def fail(seconds: float | None) -> None:
        nonlocal calls
        calls += 1
        raise PassingError("busy", retry_after_seconds=seconds)

    with pytest.raises(PassingError):
        await transport.attempts(lambda: fail(None))
    assert calls == 3
    calls = 0
    with pytest.raises(PassingError) as caught:
        await transport.attempts(lambda: fail(3600))
    assert (calls, caught.value.retry_after_seconds) == (1, 3600)
    calls = 0
    with pytest.raises(PassingError):
        await transport.attempts(lambda: fail(0.001))
    assert calls == 3


async def test_a_ca_file_that_is_none_is_named(settings: Settings) -> None:
    path = settings.directory.parent / "ca.pem"
    path.write_text("not a certificate")
    transport = Transport(dataclasses.replace(settings, ca_files=(path,)))
    with pytest.raises(UserError, match=r"ca\.pem"):
        await get(transport, "https://127.0.0.1:1/")
    await transport.close()
