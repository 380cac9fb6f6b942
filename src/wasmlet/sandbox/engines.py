"""Engines of one state directory: found, adopted, given out and ended; and what they said of their sandboxes.

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
import time
from collections.abc import Callable, Collection
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec

from wasmlet.base.errors import NotFoundError, WasmletError
from wasmlet.base.files import read_if_present
from wasmlet.base.tasks import Tasks
from wasmlet.sandbox import protocol
from wasmlet.sandbox.exec_stream import ExecStream
from wasmlet.sandbox.handle import Handle, connect
from wasmlet.sandbox.launching import Launcher, Settings
from wasmlet.sandbox.placement import Beside, Placement
from wasmlet.sandbox.records import RECORD_NAME, Access, PoolKey, Record, User, end_unheard
from wasmlet.sandbox.refusals import EngineBusyError, EngineGoneError

__all__ = ["Access", "Engines", "Handle", "PoolKey", "Record", "Settings", "User"]

logger = logging.getLogger(__name__)

END_DEADLINE_SECONDS = 5.0
"""How long an engine that has taken its end is waited for; milliseconds are usual."""
END_POLL_SECONDS = 0.002
RECONNECT_SECONDS = 0.1


class Engines:
    """Every engine of this state directory.

    Attributes:
        on_change: Called with a pod's UID whenever one of its sandboxes changed, or its engine was lost.
        launcher: What starts them.
    """

    def __init__(self, settings: Settings, *, program: Path, placement: Placement | None = None) -> None:
        self._placement = placement or Beside()
        self.launcher = Launcher(settings, program, self._placement)
        self.on_change: Callable[[str], None] = _ignore
        self._settings = settings
        self._handles: dict[str, Handle] = {}
        self._launches: WeakValueDictionary[PoolKey, asyncio.Lock] = WeakValueDictionary()  # of those under way
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

    async def adopt(self) -> None:
        """Find the engines that an earlier agent left, and remove what dead ones left behind."""
        for directory in sorted(self._settings.directory.iterdir()):
            content = read_if_present(directory / RECORD_NAME)
            if content is None:
                shutil.rmtree(directory, ignore_errors=True)
                continue
            try:
                record = msgspec.json.decode(content, type=Record)
                handle = await connect(record, directory, distance=1)
            except (msgspec.DecodeError, WasmletError) as error:
                logger.info("engine gone", extra={"engine": directory.name, "error": str(error)})
                await asyncio.to_thread(end_unheard, content, directory, why=str(error))
                self._placement.release(directory.name)
                shutil.rmtree(directory, ignore_errors=True)
                continue
            # One of another release goes on with what it has; what is new goes to one of our own (design section 1).
            handle.old = record.program != self.launcher.fingerprint or handle.engine.protocol != protocol.PROTOCOL
            handle.full = handle.old
            self._take_in(handle)
            logger.info("engine adopted", extra={"engine": record.id, "running": handle.running})
            if handle.old:
                theirs = {"release": handle.engine.version, "protocol": handle.engine.protocol}
                logger.info("engine of another release drains", extra={"engine": record.id, **theirs})

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
            handle = await self.launcher.launch(key, access)
            self._take_in(handle)
            return handle

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
            await asyncio.sleep(END_POLL_SECONDS)

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

    def _take_in(self, handle: Handle) -> None:
        self._handles[handle.record.id] = handle
        handle.end = self._tasks.start(self._wait_for_end(handle), name=f"engine {handle.record.id} end")
        self._tasks.start(self._watch(handle), name=f"engine {handle.record.id} events")
        self._rest_if_idle(handle)

    async def _wait_for_end(self, handle: Handle) -> None:
        loop, pidfd = asyncio.get_running_loop(), handle.pidfd
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


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _ignore(_uid: str) -> None:
    """Nobody listens yet."""
