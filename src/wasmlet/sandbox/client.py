"""One engine, spoken to over its Unix socket.

Every call is idempotent (protocol/engine.openapi.yaml), so a caller that lost an answer asks again.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from wasmlet.base.errors import WasmletError
from wasmlet.base.http import aiohttp
from wasmlet.sandbox import protocol
from wasmlet.sandbox.exec_stream import ExecStream
from wasmlet.sandbox.refusals import SOCKET_NAME, EngineGoneError, error_from

REQUEST_TIMEOUT_SECONDS = 30.0
"""An engine answers in milliseconds; a PUT may wait for a large artifact to be hashed."""

MAX_EVENT_BYTES = 256 * 1024

T = TypeVar("T")


class EngineClient:
    """The control API of the engine whose directory is `directory`.

    The socket is reached through a descriptor of its directory, since a socket's path may have 107 bytes at most
    (unix(7)) and state directories can be deep.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        path = f"/proc/self/fd/{self._descriptor}/{SOCKET_NAME}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path, limit=64),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS),
            auto_decompress=False,
        )

    def __repr__(self) -> str:
        return f"<EngineClient {self.directory.name}>"

    async def close(self) -> None:
        """Close the connections; the engine goes on."""
        await self._session.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    async def engine(self) -> protocol.Engine:
        """GET /engine."""
        return await self._call("GET", "/engine", protocol.Engine)

    async def shut_down(self) -> None:
        """DELETE /engine: it ends unless sandboxes run in it.

        Raises:
            ConflictError: Sandboxes are running.
        """
        await self._call("DELETE", "/engine", None)

    async def sandboxes(self) -> list[protocol.Sandbox]:
        """GET /sandboxes."""
        return (await self._call("GET", "/sandboxes", protocol.SandboxList)).items

    async def put(self, identity: str, spec: protocol.SandboxSpec) -> protocol.Sandbox:
        """PUT /sandboxes/{id}: start it, or learn how it is when it was started before.

        Raises:
            GuestError: The guest cannot be started.
            EngineBusyError: Another engine has to take it.
            ConflictError: The id stands for another body.
            EngineGoneError: No engine there.
        """
        return await self._call("PUT", f"/sandboxes/{identity}", protocol.Sandbox, spec)

    async def stop(self, identity: str, *, grace_seconds: float) -> None:
        """POST /sandboxes/{id}/stop. Raises NotFoundError when the engine does not know it."""
        await self._call("POST", f"/sandboxes/{identity}/stop", None, protocol.Stop(grace_seconds=grace_seconds))

    async def forget(self, identity: str) -> None:
        """DELETE /sandboxes/{id} of an ended sandbox."""
        await self._call("DELETE", f"/sandboxes/{identity}", None)

    async def exec(self, identity: str, spec: protocol.ExecSpec) -> ExecStream:
        """POST /sandboxes/{id}/exec: a further instance in the container; the caller closes the stream.

        Raises:
            ConflictError: The container is not running.
            GuestError: It cannot be run.
            EngineBusyError: Too many run already.
            EngineGoneError: No engine there.
        """
        return await ExecStream.open(self.directory / SOCKET_NAME, identity, spec)

    async def attach(self, identity: str, spec: protocol.AttachSpec) -> ExecStream:
        """POST /sandboxes/{id}/attach; raises as `ExecStream.attach`, and the caller closes the stream."""
        return await ExecStream.attach(self.directory / SOCKET_NAME, identity, spec)

    async def events(self, *, after: int, incarnation: str) -> AsyncIterator[protocol.Event]:
        """GET /events: what happened since `after`, and then as it happens, until the connection ends.

        Raises:
            EngineGoneError: No engine there (also when the stream was cut: ask again).
        """
        query = {"after": str(after), "incarnation": incarnation}
        timeout = aiohttp.ClientTimeout(total=None, connect=REQUEST_TIMEOUT_SECONDS)
        try:
            async with self._session.get(
                "http://engine/events", params=query, timeout=timeout, read_bufsize=MAX_EVENT_BYTES
            ) as response:
                if response.status != 200:
                    raise WasmletError(f"engine {self.directory.name} answered {response.status} to GET /events")
                async for line in response.content:
                    yield msgspec.json.decode(line, type=protocol.Event)
        except (aiohttp.ClientError, OSError) as error:
            raise EngineGoneError(f"engine {self.directory.name} does not answer: {error}") from error

    async def _call(self, method: str, path: str, answer: type[T] | None, body: object | None = None) -> T:
        what = f"engine {self.directory.name}: {method} {path}"
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if content is None else {"Content-Type": "application/json"}
        try:
            async with self._session.request(method, f"http://engine{path}", data=content, headers=headers) as response:
                return _answer(response.status, await response.read(), answer, what=what)
        except (aiohttp.ClientError, OSError) as error:
            raise EngineGoneError(f"{what}: no answer ({type(error).__name__})") from error


def _answer(status: int, content: bytes, answer: type[T] | None, *, what: str) -> T:
    if 200 <= status < 300:
        nothing: Any = None
        try:
            return nothing if answer is None else msgspec.json.decode(content, type=answer)
        except msgspec.DecodeError as error:
            raise WasmletError(f"{what} was answered with what this agent does not understand: {error}") from error
    try:
        document = msgspec.json.decode(content, type=protocol.Error)
    except msgspec.DecodeError as error:
        raise WasmletError(f"{what} was answered with {status} and no reason") from error
    raise error_from(document, what=what)
