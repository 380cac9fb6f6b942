"""Launching, adopting and ending engines, and what they said of their sandboxes.

An engine is started detached and found again by its socket, so an agent's end stops nothing (design section 1). A
pidfd tells the end of an engine at once, whether this agent started it or found it. What an engine said of a sandbox
(its *account*) comes from answers and events; an engine that is gone leaves only the `exit.json` files it wrote.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from wasmlet.base.errors import NotFoundError, RetryableError, WasmletError
from wasmlet.base.files import read_if_present, write_atomically
from wasmlet.base.tasks import Tasks
from wasmlet.sandbox import protocol
from wasmlet.sandbox.client import EngineClient
from wasmlet.sandbox.exec_stream import ExecStream
from wasmlet.sandbox.placement import Beside, Placement, unprotect
from wasmlet.sandbox.records import RECORD_NAME, Access, PoolKey, Record, User, end_silent
from wasmlet.sandbox.refusals import SOCKET_NAME, EngineBusyError, EngineGoneError

__all__ = ["Access", "Engines", "Handle", "PoolKey", "Record", "Settings", "User"]

logger = logging.getLogger(__name__)

LOG_NAME = "engine.log"
START_DEADLINE_SECONDS = 10.0
START_POLL_SECONDS = 0.002
END_DEADLINE_SECONDS = 5.0
"""How long an engine that has taken its end is waited for; milliseconds are usual."""
RECONNECT_SECONDS = 0.1
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


@dataclass(eq=False)
class Handle:
    """A living engine. Mutable fields are changed by `Engines` only.

    `full`: it takes no new sandboxes. `old`: it is of another release than the agent. `expected` holds the ids that
    somebody here still cares for: replayed events of forgotten ones are passed over.
    """

    record: Record
    client: EngineClient
    engine: protocol.Engine
    accounts: dict[str, protocol.Sandbox] = field(default_factory=dict)
    expected: set[str] = field(default_factory=set)
    sequence: int = 0
    full: bool = False
    old: bool = False
    idle_timer: asyncio.TimerHandle | None = None
    end: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<engine {self.record.id} pid={self.engine.pid} running={self.running}>"

    @property
    def is_busy(self) -> bool:
        """Whether any sandbox runs in it."""
        return any(account.state != "exited" for account in self.accounts.values())

    def runs_any(self, pods: Collection[str]) -> bool:
        """Whether a sandbox of any of these pods (by UID) runs in it."""
        return any(each.pod_uid in pods and each.state != "exited" for each in self.accounts.values())

    @property
    def running(self) -> int:
        """How many sandboxes run in it."""
        return sum(account.state != "exited" for account in self.accounts.values())


class Engines:
    """Every engine of this state directory.

    Attributes:
        on_change: Called with a pod's UID whenever one of its sandboxes changed, or its engine was lost.
        on_trouble: Called when `launch_problem` came or went with a launch.
    """

    def __init__(self, settings: Settings, *, program: Path, placement: Placement | None = None) -> None:
        self._placement = placement or Beside()
        self.on_change: Callable[[str], None] = _ignore
        self._settings = settings
        self._program = program
        self.on_trouble: Callable[[], None] = _hear_nothing
        self._trouble = ""
        self._trouble_at = 0.0
        self._missing: list[str] = []
        self._handles: dict[str, Handle] = {}
        self._launches: dict[PoolKey, asyncio.Lock] = {}
        self._tasks = Tasks()
        for each in (settings.directory, *settings.access.read, *settings.access.write):
            each.mkdir(parents=True, exist_ok=True, mode=0o750)

    def __repr__(self) -> str:
        return f"<Engines {list(self._handles.values())}>"

    @property
    def handles(self) -> list[Handle]:
        """The living engines."""
        return list(self._handles.values())

    @property
    def keys(self) -> set[PoolKey]:
        """Of the living engines, and of those that are being started."""
        starting = {key for key, lock in self._launches.items() if lock.locked()}
        return starting | {handle.record.key for handle in self.handles}

    @property
    def launch_problem(self) -> str:
        """Why no engine can be started now; "" when the last start went well, or was long ago."""
        if not os.access(self._program, os.X_OK):
            return f"the engine's program {self._program} cannot be executed"
        return self._trouble if time.monotonic() < self._trouble_at + TROUBLE_SECONDS else ""

    async def adopt(self) -> None:
        """Find the engines that an earlier agent left, and remove what dead ones left behind."""
        for directory in sorted(self._settings.directory.iterdir()):
            content = read_if_present(directory / RECORD_NAME)
            if content is None:
                shutil.rmtree(directory, ignore_errors=True)
                continue
            try:
                record = msgspec.json.decode(content, type=Record)
                handle = await self._connect(record, directory)
            except (msgspec.DecodeError, WasmletError) as error:
                logger.info("engine gone", extra={"engine": directory.name, "error": str(error)})
                await asyncio.to_thread(end_silent, content, directory)
                self._placement.release(directory.name)
                shutil.rmtree(directory, ignore_errors=True)
                continue
            # One of another release goes on with what it has; what is new goes to one of our own (design section 1).
            handle.full = handle.old = record.program != _fingerprint(self._program)
            logger.info("engine adopted", extra={"engine": record.id, "running": handle.running})

    async def close(self, *, end_idle: bool = False) -> None:
        """Let go of every engine; they go on. With `end_idle`, those without running sandboxes have ended then."""
        for handle in self.handles:
            if handle.idle_timer is not None:
                handle.idle_timer.cancel()
            if end_idle and not handle.is_busy:
                await self._end_if_idle(handle)
        ending = [each.end for each in self.handles if end_idle and not each.is_busy and each.end is not None]
        if ending:
            await asyncio.wait(ending, timeout=END_DEADLINE_SECONDS)
        await self._tasks.close()
        for handle in self.handles:
            await handle.client.close()
        self._handles.clear()

    async def put(self, identity: str, spec: protocol.SandboxSpec, *, engine: str) -> protocol.Sandbox:
        """Start a sandbox in the engine named `engine` (from `acquire`).

        Raises:
            EngineBusyError: It takes no more; acquire again.
            EngineGoneError: It ended meanwhile.
            GuestError: The guest cannot be started.
        """
        handle = self._handle(engine)
        handle.expected.add(identity)
        try:
            sandbox = await handle.client.put(identity, spec)
        except EngineBusyError:
            handle.full = True
            raise
        finally:
            self._rest_if_idle(handle)
        self._remember(handle, sandbox)
        return sandbox

    async def acquire(self, key: PoolKey, access: Access | None = None) -> Handle:
        """An engine for `key` that takes sandboxes: one that lives, or a new one.

        Args:
            access: What a new one may use; None is what the settings say.
        """
        async with self._launches.setdefault(key, asyncio.Lock()):
            for handle in self.handles:
                if handle.record.key == key and not handle.full:
                    return handle
            try:
                handle = await self._launch_placed(key, access or self._settings.access)
            except WasmletError as error:
                self._note_launch(error.message)
                raise
            self._note_launch("")
            return handle

    def _note_launch(self, problem: str) -> None:
        before, self._trouble, self._trouble_at = self._trouble, problem, time.monotonic()
        if bool(before) != bool(problem):
            self.on_trouble()

    def account(self, engine: str, identity: str) -> protocol.Sandbox | None:
        """What the engine says of a sandbox; None when the engine is gone or never knew it."""
        handle = self._handles.get(engine)
        return None if handle is None else handle.accounts.get(identity)

    def is_alive(self, engine: str) -> bool:
        """Whether the engine of that id is there."""
        return engine in self._handles

    def compatibility(self, engine: str) -> str:
        """What artifacts have to be compiled for, to run in that engine. Raises EngineGoneError."""
        return self._handle(engine).engine.compatibility

    async def stop(self, engine: str, identity: str, *, grace_seconds: float) -> None:
        """Ask a sandbox to end. One that is not there any more has ended.

        Raises:
            EngineGoneError: The engine lives and did not answer.
        """
        try:
            await self._handle(engine).client.stop(identity, grace_seconds=grace_seconds)
        except NotFoundError:
            pass
        except EngineGoneError:
            if self.is_alive(engine):
                raise  # it may have lost the request: the caller asks again

    async def exec(self, engine: str, identity: str, spec: protocol.ExecSpec) -> ExecStream:
        """A further instance in a running sandbox; raises as `EngineClient.exec`."""
        return await self._handle(engine).client.exec(identity, spec)

    async def until_ended(self, pods: Collection[str], *, seconds: float = END_DEADLINE_SECONDS) -> None:
        """Wait until no sandbox of these pods (by UID) runs any more, `seconds` at most."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(each.runs_any(pods) for each in self.handles):  # noqa: ASYNC110
            await asyncio.sleep(START_POLL_SECONDS)

    async def forget(self, engine: str, identity: str) -> None:
        """Drop an ended sandbox from the engine's account, after its end was saved."""
        handle = self._handles.get(engine)
        if handle is None:
            return
        handle.expected.discard(identity)
        if handle.accounts.pop(identity, None) is None:
            return
        with contextlib.suppress(NotFoundError, EngineGoneError):
            await handle.client.forget(identity)
        self._rest_if_idle(handle)

    def _handle(self, engine: str) -> Handle:
        try:
            return self._handles[engine]
        except KeyError:
            raise EngineGoneError(f"engine {engine} has ended") from None

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
        record = Record(id=identity, key=key, program=_fingerprint(self._program))
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
            command = [*before, str(self._program), "serve", "--directory", str(directory), *options]
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
            if (directory / SOCKET_NAME).exists():
                with contextlib.suppress(EngineGoneError):
                    return await self._connect(record, directory)
            if time.monotonic() > deadline:
                raise RetryableError(f"the engine in {directory} did not answer within {START_DEADLINE_SECONDS:g} s")
            await asyncio.sleep(START_POLL_SECONDS)

    async def _connect(self, record: Record, directory: Path) -> Handle:
        client = EngineClient(directory)
        try:
            engine = await client.engine()
            sandboxes = await client.sandboxes()
            pidfd = os.pidfd_open(engine.pid)
        except OSError as error:
            await client.close()
            raise EngineGoneError(f"engine {record.id}: {error}") from error
        except BaseException:
            await client.close()
            raise
        accounts = {sandbox.id: sandbox for sandbox in sandboxes}
        handle = Handle(record, client, engine, accounts, expected=set(accounts))
        self._handles[record.id] = handle
        handle.end = self._tasks.start(self._wait_for_end(handle, pidfd), name=f"engine {record.id} end")
        self._tasks.start(self._watch(handle), name=f"engine {record.id} events")
        self._rest_if_idle(handle)
        return handle

    async def _wait_for_end(self, handle: Handle, pidfd: int) -> None:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        loop.add_reader(pidfd, _resolve, ended)
        try:
            await ended
        finally:
            loop.remove_reader(pidfd)
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222  # does not wait
            os.close(pidfd)
        await self._lose(handle)

    async def _lose(self, handle: Handle) -> None:
        if self._handles.pop(handle.record.id, None) is None:
            return
        if handle.idle_timer is not None:
            handle.idle_timer.cancel()
        if handle.is_busy:
            logger.error("engine lost", extra={"engine": handle.record.id, "running": handle.running})
        pods = {account.pod_uid for account in handle.accounts.values()}
        await handle.client.close()
        self._placement.release(handle.record.id)
        shutil.rmtree(handle.client.directory, ignore_errors=True)
        for uid in sorted(pods):
            self.on_change(uid)

    async def _watch(self, handle: Handle) -> None:
        while handle.record.id in self._handles:
            try:
                events = handle.client.events(after=handle.sequence, incarnation=handle.engine.incarnation)
                async for event in events:
                    await self._take(handle, event)
            except EngineGoneError:
                await asyncio.sleep(RECONNECT_SECONDS)  # its end, if it is one, comes by the pidfd

    async def _take(self, handle: Handle, event: protocol.Event) -> None:
        handle.sequence = max(handle.sequence, event.sequence)
        if event.type == "gap":
            for sandbox in await handle.client.sandboxes():
                self._remember(handle, sandbox)
        elif event.sandbox is not None:
            self._remember(handle, event.sandbox)

    def _remember(self, handle: Handle, sandbox: protocol.Sandbox) -> None:
        known = handle.accounts.get(sandbox.id)
        if sandbox.id not in handle.expected:
            return
        if known is not None and known.state == "exited":
            return  # an answer that was overtaken by the exited event
        handle.accounts[sandbox.id] = sandbox
        self.on_change(sandbox.pod_uid)
        self._rest_if_idle(handle)

    def _rest_if_idle(self, handle: Handle) -> None:
        if handle.idle_timer is not None:
            handle.idle_timer.cancel()
            handle.idle_timer = None
        if not handle.is_busy:
            loop = asyncio.get_running_loop()
            handle.idle_timer = loop.call_later(self._settings.idle_seconds, self._end_later, handle)

    def _end_later(self, handle: Handle) -> None:
        if not handle.is_busy and handle.record.id in self._handles:
            self._tasks.start(self._end_if_idle(handle), name=f"engine {handle.record.id} idle end")

    async def _end_if_idle(self, handle: Handle) -> None:
        """The engine itself refuses while something runs in it, so a start that overtakes this is safe."""
        was_full, handle.full = handle.full, True
        try:
            await handle.client.shut_down()
            logger.info("engine ended idle", extra={"engine": handle.record.id})
        except EngineGoneError:
            pass
        except WasmletError:
            handle.full = was_full


def _fingerprint(program: Path) -> str:
    """What tells one build of the program from another."""
    try:
        found = program.stat()
    except OSError:
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}"


def _place(placement: Placement, identity: str, pid: int) -> None:
    """An engine that cannot be put where it belongs must not go on where it is. Raises OSError."""
    try:
        placement.place(identity, pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        placement.release(identity)
        raise
    unprotect(pid)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _ignore(_uid: str) -> None:
    """Nobody listens yet."""


def _hear_nothing() -> None:
    """Nobody listens yet."""
