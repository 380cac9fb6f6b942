"""Launching engines: detached, in their place, held to what their pool may use."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from wasmlet.base.errors import RetryableError, WasmletError
from wasmlet.base.files import read_if_present, write_atomically
from wasmlet.sandbox.handle import Handle, connect
from wasmlet.sandbox.placement import Beside, Placement, unprotect
from wasmlet.sandbox.records import RECORD_NAME, Access, PoolKey, Record
from wasmlet.sandbox.refusals import SOCKET_NAME, EngineGoneError

logger = logging.getLogger(__name__)

LOG_NAME = "engine.log"
START_DEADLINE_SECONDS = 10.0
START_POLL_SECONDS = 0.002
TROUBLE_SECONDS = 60.0
"""A failed launch counts against the node for so long: pods try again each 10 s, and without pods nobody would."""

AUTHORITIES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables that say whom guests' https trusts, instead of the machine's authorities."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where engines live and how long an empty one stays.

    Attributes:
        directory: One sub-directory for each engine.
        access: What engines may use of which nobody says it; with nothing in it the kernel holds no engine.
        memory_bytes: What the guests of one engine may have of linear memory together, before the container that is
            most above its request ends; 0 is no bound.
        idle_seconds: An engine without running sandboxes ends after this long.
    """

    directory: Path
    access: Access = field(default_factory=Access)
    memory_bytes: int = 0
    idle_seconds: float = 60.0


class Launcher:
    """Starts engines.

    Attributes:
        program: The engine's file.
        on_trouble: Called when `problem` came or went with a launch.
    """

    def __init__(self, settings: Settings, program: Path, placement: Placement) -> None:
        self.program = program
        self.on_trouble: Callable[[], None] = _hear_nothing
        self._settings = settings
        self._placement = placement
        self._trouble = ""
        self._trouble_at = 0.0
        self._missing: list[str] = []

    def __repr__(self) -> str:
        return f"<Launcher of {self.program}>"

    @property
    def problem(self) -> str:
        """Why no engine can be started now; "" when the last start went well, or was long ago."""
        if not os.access(self.program, os.X_OK):
            return f"the engine's program {self.program} cannot be executed"
        return self._trouble if time.monotonic() < self._trouble_at + TROUBLE_SECONDS else ""

    @property
    def fingerprint(self) -> str:
        """What tells one build of the program from another."""
        try:
            found = self.program.stat()
        except OSError:
            return ""
        return f"{found.st_size}-{found.st_mtime_ns}"

    async def launch(self, key: PoolKey, access: Access | None = None) -> Handle:
        """A new engine for `key`, as soon as it answers.

        Args:
            access: What it may use; None is what the settings say.

        Raises:
            RetryableError: It ended at its start, or does not answer.
            WasmletError: It is of a release that this agent does not understand.
        """
        try:
            handle = await self._launch_placed(key, access or self._settings.access)
        except WasmletError as error:
            self._note(error.message)
            raise
        self._note("")
        return handle

    def _note(self, problem: str) -> None:
        before, self._trouble, self._trouble_at = self._trouble, problem, time.monotonic()
        if bool(before) != bool(problem):
            self.on_trouble()

    async def _launch_placed(self, key: PoolKey, access: Access) -> Handle:
        """An engine in its place; where there is none for it, one beside the agent is better than no pod."""
        try:
            return await self._launch(key, access, self._placement)
        except RetryableError as error:
            if type(self._placement) is Beside:
                raise
            handle = await self._launch(key, access, Beside())
            logger.warning("engine without a place of its own", extra={"engine": handle.record.id, "error": str(error)})
            return handle

    async def _launch(self, key: PoolKey, access: Access, placement: Placement) -> Handle:
        identity = f"{key.namespace[:20] or 'all'}-{os.urandom(4).hex()}"
        directory = self._settings.directory / identity
        directory.mkdir(mode=0o750)
        record = Record(id=identity, key=key, program=self.fingerprint)
        try:
            write_atomically(directory / RECORD_NAME, msgspec.json.encode(record), mode=0o640)
            started = time.monotonic()
            memory = self._settings.memory_bytes
            options = access.arguments()
            options += [f"--memory-budget={memory}"] if memory else []
            options += [f"--network-namespace={key.network}"] if key.network else []
            options += [key.user.argument()] if key.user is not None else []
            pid = self._spawn(directory, placement.command(identity), options)
            record = msgspec.structs.replace(record, pid=pid)
            write_atomically(directory / RECORD_NAME, msgspec.json.encode(record), mode=0o640)
            _place(placement, identity, pid)
            handle = await self._wait_until_it_answers(record, directory, pid)
        except OSError as error:
            shutil.rmtree(directory, ignore_errors=True)
            raise RetryableError(f"cannot start an engine in {directory}: {error.strerror}") from error
        milliseconds = round((time.monotonic() - started) * 1000)
        logger.info("engine started", extra={"engine": identity, "pid": pid, "milliseconds": milliseconds})
        self._tell_confinement(handle)
        return handle

    def _tell_confinement(self, handle: Handle) -> None:
        """What this kernel cannot hold is said once, not for each engine."""
        missing = [] if handle.engine.confinement is None else handle.engine.confinement.missing
        if missing and missing != self._missing:
            logger.warning("engines are not wholly confined", extra={"missing": "; ".join(missing)})
        self._missing = missing

    def _spawn(self, directory: Path, before: list[str], options: list[str]) -> int:
        """Start the program in a session of its own; asyncio's subprocesses end with the loop, this one must not."""
        log = os.open(directory / LOG_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            command = [*before, str(self.program), "serve", "--directory", str(directory), *options]
            authorities = {each: os.environ[each] for each in AUTHORITIES if each in os.environ}
            return os.posix_spawn(
                command[0],
                command,
                {"RUST_LOG": os.environ.get("WASMLET_ENGINE_LOG", "info")} | authorities,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, null, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
            )  # fmt: skip
        finally:
            os.close(log)
            os.close(null)

    async def _wait_until_it_answers(self, record: Record, directory: Path, pid: int) -> Handle:
        deadline = time.monotonic() + START_DEADLINE_SECONDS
        while True:
            if os.waitpid(pid, os.WNOHANG) != (0, 0):  # noqa: ASYNC222  # does not wait
                tail = (read_if_present(directory / LOG_NAME) or b"")[-512:].decode(errors="replace").strip()
                shutil.rmtree(directory, ignore_errors=True)
                raise RetryableError(f"the engine ended at its start: {tail or 'it said nothing'}")
            try:
                if (directory / SOCKET_NAME).exists():
                    with contextlib.suppress(EngineGoneError):
                        return await connect(record, directory)
                if time.monotonic() > deadline:
                    raise RetryableError(
                        f"the engine in {directory} did not answer within {START_DEADLINE_SECONDS:g} s"
                    )
            except WasmletError:
                _kill(pid)
                shutil.rmtree(directory, ignore_errors=True)
                raise
            await asyncio.sleep(START_POLL_SECONDS)


def _place(placement: Placement, identity: str, pid: int) -> None:
    """An engine that cannot be put where it belongs must not go on where it is. Raises OSError."""
    try:
        placement.place(identity, pid)
    except OSError:
        _kill(pid)
        placement.release(identity)
        raise
    unprotect(pid)


def _kill(pid: int) -> None:
    """End a child for which nobody has waited yet."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _hear_nothing() -> None:
    """Nobody listens yet."""
