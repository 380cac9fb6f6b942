"""The connection of an exec or an attach: frames both ways, until the one that tells how it ended.

A frame is a channel's byte, the payload's length (four bytes, big-endian) and the payload
(protocol/engine.openapi.yaml, openExec and openAttach). `encode` and `Decoder` do no I/O. Imports little, since a
terminal starts with it.
"""

from __future__ import annotations

import asyncio
import enum
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from wasmlet.base.errors import ConflictError, WasmletError
from wasmlet.sandbox import protocol
from wasmlet.sandbox.refusals import EngineGoneError, error_from

MAX_PAYLOAD_BYTES = 64 * 1024
OPEN_SECONDS = 30.0
"""An engine answers when the instance is made, which it gives ten seconds."""

_HEAD = struct.Struct(">BI")
_MAX_HEAD_BYTES = 64 * 1024


class Channel(enum.IntEnum):
    """What a frame is about; the numbers of Kubernetes' WebSocket streams (contract 7.4)."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    EXIT = 3
    RESIZE = 4
    DISMISSAL = 5
    CLOSE = 255


def encode(channel: Channel, content: bytes) -> bytes:
    """`content` in as many frames as it needs; none when it is empty."""
    parts = (content[start : start + MAX_PAYLOAD_BYTES] for start in range(0, len(content), MAX_PAYLOAD_BYTES))
    return b"".join(_HEAD.pack(channel, len(part)) + part for part in parts)


class Decoder:
    """Takes bytes as they come, and gives the frames that are whole."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, content: bytes) -> list[tuple[Channel, bytes]]:
        """The frames that `content` completes.

        Raises:
            WasmletError: What comes is no frame; the connection is of no more use.
        """
        rest, position, frames = self._rest + content, 0, list[tuple[Channel, bytes]]()
        while len(rest) - position >= _HEAD.size:
            number, size = _HEAD.unpack_from(rest, position)
            if size > MAX_PAYLOAD_BYTES or number not in Channel.__members__.values():
                raise WasmletError(f"the engine sent a frame of {size} bytes on channel {number}")
            end = position + _HEAD.size + size
            if end > len(rest):
                break
            frames.append((Channel(number), rest[position + _HEAD.size : end]))
            position = end
        self._rest = rest[position:]
        return frames


class DismissedError(ConflictError):
    """The engine lets go of an attached client, and the container goes on: `reason` is Interrupted, TooSlow or
    BadRequest."""  # noqa: D209


class ExecStream:
    """A guest's streams, from `open` or `attach` to `close`.

    Closing it before its end ends an exec's guest, and no container that it is attached to.

    Attributes:
        exit: How the guest ended; None before `output` has.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = Decoder()
        self.exit: protocol.ExecExit | None = None

    @classmethod
    async def open(cls, socket: Path, sandbox: str, spec: protocol.ExecSpec) -> ExecStream:
        """Start the guest in the container of `sandbox`, in the engine at `socket`.

        Raises:
            ConflictError: The container is not running.
            NotFoundError: The engine does not know the sandbox.
            GuestError: It cannot be run.
            EngineBusyError: Too many run already.
            EngineGoneError: No engine there.
        """
        return await cls._open(socket, f"/sandboxes/{sandbox}/exec", spec, what="cannot exec")

    @classmethod
    async def attach(cls, socket: Path, sandbox: str, spec: protocol.AttachSpec) -> ExecStream:
        """Hear what the container of `sandbox` writes from now on, in the engine at `socket`.

        Raises:
            ConflictError: The container is not running; or it has no stdin to give.
            NotFoundError: The engine does not know the sandbox.
            EngineBusyError: Too many are attached.
            EngineGoneError: No engine there.
        """
        return await cls._open(socket, f"/sandboxes/{sandbox}/attach", spec, what="cannot attach")

    @classmethod
    async def _open(cls, socket: Path, path: str, spec: protocol.Document, *, what: str) -> ExecStream:
        try:
            stream = cls(*await _connect(socket))
        except OSError as error:
            raise EngineGoneError(f"no engine answers at {socket}: {error.strerror}") from error
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await stream._ask(path, spec, what=what)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            await stream.close()
            raise EngineGoneError(f"the engine at {socket} went away") from error
        except BaseException:
            await stream.close()
            raise
        return stream

    async def close(self) -> None:
        """Let go of the connection."""
        self._writer.close()

    async def write(self, content: bytes) -> None:
        """Send to the guest's stdin; waits while the guest is far behind. Nothing happens once it has ended."""
        await self._send(encode(Channel.STDIN, content))

    async def close_stdin(self) -> None:
        """The end of the guest's stdin."""
        await self._send(encode(Channel.CLOSE, bytes([Channel.STDIN])))

    async def resize(self, width: int, height: int) -> None:
        """Tell the size of the terminal."""
        size = protocol.TerminalSize(width=width, height=height)
        await self._send(encode(Channel.RESIZE, msgspec.json.encode(size)))

    async def output(self) -> AsyncIterator[tuple[Channel, bytes]]:
        """What the guest writes, until its end; then `exit` is set.

        Raises:
            DismissedError: The engine lets go of this client.
            EngineGoneError: The engine went away before it told the end.
        """
        while self.exit is None:
            try:
                content = await self._reader.read(MAX_PAYLOAD_BYTES)
            except OSError:
                content = b""
            if not content:
                raise EngineGoneError("the engine ended before the container's program did")
            for channel, payload in self._decoder.feed(content):
                if channel is Channel.EXIT:
                    self.exit = msgspec.json.decode(payload, type=protocol.ExecExit)
                elif channel is Channel.DISMISSAL:
                    document = msgspec.json.decode(payload, type=protocol.Error)
                    raise DismissedError(f"detached: {document.message}", reason=document.reason)
                elif channel in (Channel.STDOUT, Channel.STDERR):
                    yield channel, payload

    async def _send(self, content: bytes) -> None:
        try:
            self._writer.write(content)
            await self._writer.drain()
        except OSError:
            pass  # `output` tells what became of it

    async def _ask(self, path: str, spec: protocol.Document, *, what: str) -> None:
        body = msgspec.json.encode(spec)
        head = f"POST {path} HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\n"
        head += f"Upgrade: wasmlet-exec\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        if answer.startswith("http/1.1 101 "):
            return
        lengths = [line.partition(":")[2] for line in answer.splitlines() if line.startswith("content-length:")]
        content = await self._reader.readexactly(min(int(lengths[0]) if lengths else 0, _MAX_HEAD_BYTES))
        try:
            document = msgspec.json.decode(content, type=protocol.Error)
        except msgspec.DecodeError as error:
            raise WasmletError(f"{what}: the engine answered {answer[9:12]} and no reason") from error
        raise error_from(document, what=what)


async def _connect(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """By a descriptor of the folder: a socket's path may have 107 bytes at most (unix(7))."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return await asyncio.open_unix_connection(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
