"""An HTTP client whose connections are gone when it says so."""

import asyncio
import contextlib
import ssl

import aiohttp
import pytest
import trustme

from wasmlet.base import sockets
from wasmlet.base.sockets import Sockets


async def _endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An answer that goes on until the client has left."""
    with contextlib.closing(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n.")
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()


async def test_a_tls_connection_left_in_the_middle_of_an_answer_is_gone_after_the_wait() -> None:
    authority = trustme.CA()
    serving, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(serving)
    authority.configure_trust(trusting)
    made = Sockets()
    server = await asyncio.start_server(_endless, "127.0.0.1", 0, ssl=serving)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}/"
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=made.make))
    response = await session.get(url, ssl=trusting)
    response.close()
    await session.close()
    assert not made.are_closed  # what the wait is for
    await made.closed()
    assert made.are_closed
    server.close()
    await server.wait_closed()


async def test_the_wait_for_a_peer_that_does_not_answer_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "PATIENCE_SECONDS", 0.01)
    made = Sockets()
    with made.make((2, 1, 6, "", ("127.0.0.1", 0))) as left:
        await made.closed()
        assert left.fileno() != -1
    assert made.are_closed
