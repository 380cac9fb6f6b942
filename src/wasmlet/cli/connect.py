"""The agent of a state directory: found by its socket, or started, and spoken to in HTTP over it."""

from __future__ import annotations

import asyncio
import os
import select
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import h11
import msgspec

from wasmlet import __version__
from wasmlet.base.errors import (
    ConflictError,
    Fault,
    GuestError,
    NotFoundError,
    RetryableError,
    UserError,
    WasmletError,
)
from wasmlet.config import KUBECONFIG_NAME, Config, make_state_directory

SOCKET_NAME = "agent.sock"
LOG_NAME = "agent.log"
DISK_HINT = "see to the disk and its space"
START_DEADLINE_SECONDS = 30.0
START_POLL_SECONDS = 0.05
ANSWER_SECONDS = 60.0
"""Whoever is asked for its release answers in milliseconds; one that does not is stopped, or stuck."""

READ_BYTES = 64 * 1024
STREAM_LIMIT_BYTES = 16 * 1024 * 1024

T = TypeVar("T")

_ERRORS: dict[int, type[WasmletError]] = {
    400: UserError,
    404: NotFoundError,
    409: ConflictError,
    503: RetryableError,
}


class AgentAwayError(RetryableError):
    """Nobody answers at the socket (any more)."""


class Agent:
    """The local API of the agent that serves `config.state` (server/local.py)."""

    def __init__(self, config: Config) -> None:
        self.config = config

    async def call(self, method: str, path: str, answer: type[T], body: object | None = None, **query: object) -> T:
        """One request, one answer.

        Raises:
            AgentAwayError: No agent there.
            WasmletError: What the agent says is wrong, as the class that it raised.
        """
        connection = await _Connection.open(self.config.state)
        try:
            status = await connection.send(method, path, body, query)
            content = b"".join([chunk async for chunk in connection.chunks()])
        finally:
            connection.close()
        if status >= 300:
            raise _error(status, content)
        return msgspec.json.decode(content, type=answer)

    async def lines(self, path: str) -> AsyncIterator[bytes]:
        """A stream of lines, until the agent ends it.

        Raises:
            AgentAwayError: The agent went away in the midst.
        """
        connection = await _Connection.open(self.config.state)
        try:
            status = await connection.send("GET", path, None, {})
            if status >= 300:
                raise _error(status, b"".join([chunk async for chunk in connection.chunks()]))
            rest = b""
            async for chunk in connection.chunks():
                *complete, rest = (rest + chunk).split(b"\n")
                for line in complete:
                    yield line
        finally:
            connection.close()


async def reach(config: Config) -> Agent:
    """The agent of the state directory, started when there is none.

    Raises:
        RetryableError: One holds the directory and does not answer.
        ConflictError: It is of another release.
        WasmletError: None can be started.
    """
    agent, deadline, has_started = Agent(config), time.monotonic() + START_DEADLINE_SECONDS, False
    while True:
        try:
            version = await _version(agent)
        except AgentAwayError:
            if time.monotonic() > deadline:
                raise
            if has_started:  # another command was faster, and its agent is about to answer
                await asyncio.sleep(START_POLL_SECONDS)
            else:
                await asyncio.to_thread(start, config)
            has_started = True
            continue
        if version["version"] != __version__:
            raise ConflictError(
                f"the agent of {config.state} is release {version['version']}, this command is {__version__}",
                hint=f"end it (kill {version['pid']}; its pods run on) and try again",
            )
        return agent


async def find(config: Config) -> Agent | None:
    """The agent of the state directory, if one runs; commands that only look start none, unless pods wait for one."""
    agent = Agent(config)
    try:
        await _version(agent)
    except AgentAwayError:
        pods = config.state / "pods"
        if config.state.exists() and not os.access(config.state, os.R_OK | os.X_OK):
            raise UserError(
                f"cannot read the state directory {config.state}", hint="choose another with --state"
            ) from None
        if config.state.exists() and not config.state.is_dir():
            raise UserError(
                f"the state directory {config.state} is a file", hint="choose another with --state"
            ) from None
        return await reach(config) if pods.is_dir() and any(pods.iterdir()) else None
    return agent


async def _version(agent: Agent) -> dict[str, Any]:
    """What the agent says of itself.

    Raises:
        AgentAwayError: No agent there.
        RetryableError: It does not answer.
    """
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await agent.call("GET", "/version", dict[str, Any])
    except TimeoutError:
        state = agent.config.state
        raise RetryableError(
            f"the agent of {state} has not answered for {ANSWER_SECONDS:g} s",
            hint=f"see {state / LOG_NAME}; it is the process in {state / 'agent.lock'}; pods live on without it",
        ) from None


def start(config: Config) -> None:
    """Start an agent in the background and wait until it answers, or until it says why not.

    It is a session of its own, so that the terminal's end is not its end; it ends itself when nothing lives.

    Raises:
        UserError: The directory cannot be used, or is a node's, whose pods need an agent that knows the cluster.
        WasmletError: The agent ended at its start.
    """
    if (config.state / KUBECONFIG_NAME).exists():
        raise UserError(
            f"{config.state} is the state of a node of a cluster, and its agent does not run",
            hint="start it with `wasmlet node`, or use another directory with --state",
        )
    make_state_directory(config)
    try:
        log = os.open(config.state / LOG_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(
            f"cannot use the state directory {config.state}: {error.strerror}", hint="choose another with --state"
        ) from error
    size = os.fstat(log).st_size
    readable, writable = os.pipe()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        # -P: a folder that somebody works in must not give the agent its modules (a json.py would be imported).
        arguments = [sys.executable, "-P", "-m", "wasmlet", "--state", str(config.state)]
        arguments += ["node", "--idle", "--ready", "3"]
        process = os.posix_spawn(
            sys.executable,
            arguments,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
                (os.POSIX_SPAWN_DUP2, writable, 3),
            ],
            setsid=True,
        )
        os.close(writable)
        writable = -1
        has_news = bool(select.select([readable], [], [], START_DEADLINE_SECONDS)[0])
        if has_news and os.read(readable, 1):
            return
    finally:
        for descriptor in (log, null, readable, writable):
            if descriptor >= 0:
                os.close(descriptor)
    has_failed = has_news and os.waitpid(process, 0)[1] != 0
    _explain_failed_start(config.state, size, has_failed=has_failed)


def _explain_failed_start(state: Path, size_before: int, *, has_failed: bool) -> None:
    """No byte came: either another command was faster (fine), or the log says what is wrong, if it could be written."""
    with (state / LOG_NAME).open("rb") as log:
        log.seek(size_before)
        text = log.read(4096).decode(errors="replace").strip()
    if has_failed and not text:
        raise RetryableError(f"the agent could not start, nor write why to {state / LOG_NAME}", hint=DISK_HINT)
    if "another agent" in text or not text:
        return
    lines = text.splitlines()
    said = next((line.removeprefix("wasmlet: ") for line in reversed(lines) if line.startswith("wasmlet: ")), lines[-1])
    raise WasmletError(f"the agent could not start: {said}", hint=f"see {state / LOG_NAME}")


class _Connection:
    """One request on one connection: HTTP/1.1 by h11, bytes by asyncio."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=STREAM_LIMIT_BYTES)

    @classmethod
    async def open(cls, state: Path) -> _Connection:
        try:
            directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise AgentAwayError(f"there is no agent in {state}: {error.strerror}") from error
        try:
            return cls(*await asyncio.open_unix_connection(f"/proc/self/fd/{directory}/{SOCKET_NAME}"))
        except OSError as error:
            raise AgentAwayError(f"no agent answers in {state}: {error.strerror}") from error
        finally:
            os.close(directory)

    def close(self) -> None:
        self._writer.close()

    async def send(self, method: str, path: str, body: object | None, query: dict[str, object]) -> int:
        """Send a request; returns the answer's status."""
        content = b"" if body is None else msgspec.json.encode(body)
        target = path + (f"?{urlencode(query)}" if query else "")
        headers = [("Host", "agent"), ("Connection", "close"), ("Content-Length", str(len(content)))]
        self._write(h11.Request(method=method, target=target, headers=headers))
        self._write(h11.Data(data=content))
        self._write(h11.EndOfMessage())
        event = await self._next()
        if not isinstance(event, h11.Response):
            raise AgentAwayError("the agent ended before it answered")
        return event.status_code

    async def chunks(self) -> AsyncIterator[bytes]:
        """The answer's body."""
        while True:
            event = await self._next()
            if isinstance(event, h11.EndOfMessage):
                return
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            else:
                raise AgentAwayError("the agent went away")

    def _write(self, event: h11.Event) -> None:
        self._writer.write(self._http.send(event) or b"")

    async def _next(self) -> Any:
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(READ_BYTES))
        except (h11.RemoteProtocolError, OSError) as error:
            raise AgentAwayError(f"the agent went away: {error}") from error
        return event


def _error(status: int, content: bytes) -> WasmletError:
    kind = _ERRORS.get(status, WasmletError)
    try:
        document = msgspec.json.decode(content, type=dict[str, str | None])
        if document.get("fault") == Fault.GUEST.value:
            kind = GuestError
        return kind(document["message"] or "", hint=document.get("hint"), reason=document.get("reason"))
    except (msgspec.DecodeError, KeyError):
        return WasmletError(f"the agent answered {status}: {content[:200].decode(errors='replace')}")
