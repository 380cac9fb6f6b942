"""An engine's control socket, asked with as little of Python as there can be, so that the engine is what is measured.

aiohttp takes about as long for a request as the engine takes to start a guest; here a request is one write of bytes
made before, and its answer one read. What is asked is what the agent asks (protocol/engine.openapi.yaml).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

import msgspec

from wasmlet.sandbox import protocol
from wasmlet.sandbox.refusals import SOCKET_NAME


class Wire:
    """One kept connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes) -> None:
        """Send a request and read its answer. Raises RuntimeError when that is a refusal."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        at = head.find(b"content-length: ")
        length = int(head[at + 16 : head.index(b"\r", at)]) if at >= 0 else 0
        body = await self._reader.readexactly(length)
        if head[9:10] != b"2":
            raise RuntimeError(f"the engine answered {(head + body).decode()}")

    async def exits(self, ended: Callable[[str], None]) -> None:
        """Ask for events, and tell the id of each sandbox that exits; until cancelled."""
        self._writer.write(b"GET /events HTTP/1.1\r\nHost: engine\r\n\r\n")
        async for line in self._reader:
            if line.startswith(b"{") and b'"type":"exited"' in line:
                ended(json.loads(line)["sandbox"]["id"])


def put(identity: str, spec: protocol.SandboxSpec) -> bytes:
    """The request that starts a sandbox."""
    body = msgspec.json.encode(spec)
    return f"PUT /sandboxes/{identity} HTTP/1.1\r\nHost: engine\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def forget(identity: str) -> bytes:
    """The request that drops an ended one."""
    return f"DELETE /sandboxes/{identity} HTTP/1.1\r\nHost: engine\r\n\r\n".encode()


@contextlib.asynccontextmanager
async def wire(directory: Path) -> AsyncIterator[Wire]:
    """A connection to the engine in `directory`."""
    reader, writer = await asyncio.open_unix_connection(str(directory / SOCKET_NAME), limit=2**20)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


async def spread(
    directory: Path, work: Iterable[str], do: Callable[[Wire, str], Awaitable[None]], *, at_once: int
) -> None:
    """Do all of `work`, so much at once, each on a connection of its own."""
    left = iter(work)

    async def go_on() -> None:
        async with wire(directory) as line:
            for each in left:
                await do(line, each)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(go_on())
