"""A pod seen from a terminal: its containers' output as a pipe, its end as an exit status.

The agent says by a watch where each attempt's log file is; the bytes are read from there, so no log byte passes
through the agent, and an agent that dies and comes back loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from wasmlet.base.errors import NotFoundError, WasmletError
from wasmlet.base.tasks import Tasks
from wasmlet.cli.connect import Agent, AgentAwayError, reach
from wasmlet.cli.exits import INTERRUPTED, process_status, start_status
from wasmlet.cli.output import BROKEN_PIPE_STATUS, abandon_stdout
from wasmlet.cli.stdin import send_stdin
from wasmlet.pods.accounts import Account, Frame, Run
from wasmlet.pods.facts import LOST_MESSAGE
from wasmlet.sandbox.logs import Line, LogReader

if TYPE_CHECKING:
    from asyncinotify import Inotify


class StartFailedError(WasmletError):
    """A container could not be started for the first time; `status` is the exit status that stands for it."""

    def __init__(self, message: str, *, status: int, reason: str) -> None:
        super().__init__(message, reason=reason)
        self.status = status


class Output:
    """stdout and stderr: byte for byte for one container, whole lines with a prefix for several."""

    def __init__(self, *, prefixed: bool) -> None:
        self._prefixed = prefixed
        self._rests: dict[tuple[str, str], bytes] = {}

    def write(self, source: str, lines: list[Line]) -> None:
        """Write what `source` wrote. Raises BrokenPipeError when nobody reads any more."""
        for line in lines:
            self._write(line.stream, self._with_prefix(source, line) if self._prefixed else line.content)
        sys.stdout.buffer.flush()

    def finish(self, source: str) -> None:
        """Give out a last line that has no newline."""
        for stream in ("stdout", "stderr"):
            rest = self._rests.pop((source, stream), b"")
            if rest:
                self._write(stream, f"[{source}] ".encode() + rest + b"\n")
        sys.stdout.buffer.flush()

    def _with_prefix(self, source: str, line: Line) -> bytes:
        key = (source, line.stream)
        content = self._rests.pop(key, b"") + line.content
        if not content.endswith(b"\n"):
            self._rests[key] = content
            return b""
        return f"[{source}] ".encode() + content

    def _write(self, stream: str, content: bytes) -> None:
        if stream == "stdout":
            sys.stdout.buffer.write(content)
        elif content:
            sys.stdout.buffer.flush()
            sys.stderr.buffer.write(content)
            sys.stderr.buffer.flush()


class Follower:
    """Follows one pod to its end.

    Args:
        name: How the pod is called in prefixes; "" for the only one.
        show: Told each account and progress, to draw something on a terminal.
        takes_stdin: This process's stdin goes to the pod's first container that has one.
    """

    def __init__(
        self, agent: Agent, uid: str, *, name: str, output: Output, show: Callable[[Frame], None], takes_stdin: bool
    ) -> None:
        self.takes_stdin = takes_stdin
        self.uid = uid
        self.name = name
        self._agent = agent
        self._output = output
        self._show = show
        self._stdin_connected = False
        self._account: Account | None = None
        self._loss: WasmletError | None = None
        self._readers: dict[str, LogReader] = {}
        self._done: set[str] = set()
        self._told: set[str] = set()
        self._watched: set[str] = set()
        self._wake = asyncio.Event()
        self._interrupts = 0
        self._tasks = Tasks()

    async def run(self) -> int:
        """Until the pod has ended, its output is written and it is removed; returns the exit status.

        Raises:
            StartFailedError: A container could not be started.
            WasmletError: The pod was lost: its agent is away and no other can be started, or knows nothing of it.
        """
        from asyncinotify import Inotify

        with Inotify() as inotify:
            self._tasks.start(self._notice(inotify), name="log changes")
            self._tasks.start(self._watch(), name=f"watch {self.uid}")
            try:
                return await self._pump(inotify)
            except BrokenPipeError:
                abandon_stdout()
                return BROKEN_PIPE_STATUS
            finally:
                await self._tasks.close()
                await self._end(remove=True)

    def interrupt(self) -> None:
        """Ctrl-C: stop with grace; once more: at once."""
        self._interrupts += 1
        self._tasks.start(self._end(remove=False, now=self._interrupts > 1), name="interrupt")

    async def _end(self, *, remove: bool, now: bool = False) -> None:
        with contextlib.suppress(NotFoundError, AgentAwayError):
            try:
                await self._delete(remove=remove, now=now)
            except AgentAwayError:
                # A pod that has ended keeps no agent from ending for idleness; nobody else removes what a run leaves.
                if remove and await self._has_agent():
                    await self._delete(remove=True, now=now)

    async def _delete(self, *, remove: bool, now: bool) -> None:
        grace: dict[str, object] = {"gracePeriodSeconds": 0} if now or remove else {}
        await self._agent.call("DELETE", f"/pods/{self.uid}", dict[str, str], remove=str(remove).lower(), **grace)

    # --- what comes in ------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Take the agent's frames; an agent that went away is started again, and takes the pod up."""
        while True:
            try:
                async for line in self._agent.lines(f"/pods/{self.uid}/watch"):
                    self._take(msgspec.json.decode(line, type=Frame))
                return
            except AgentAwayError:
                if not await self._has_agent():
                    return
            except WasmletError as error:
                self._lose(error)
                return

    async def _has_agent(self) -> bool:
        try:
            await reach(self._agent.config)
        except WasmletError as error:
            self._lose(error)
            return False
        return True

    def _lose(self, error: WasmletError) -> None:
        self._loss = error
        self._wake.set()

    def _take(self, frame: Frame) -> None:
        if frame.account is None:
            self._show(frame)
            return
        self._account = frame.account
        self._wake.set()

    async def _notice(self, inotify: Inotify) -> None:
        async for _ in inotify:
            self._wake.set()

    # --- what goes out ------------------------------------------------------------------------------------------------

    async def _pump(self, inotify: Inotify) -> int:
        while True:
            await self._wake.wait()
            self._wake.clear()
            account = self._account
            if self._loss is not None and (account is None or account.stage != "gone"):
                raise self._loss
            if account is None:
                continue
            self._watch_logs(inotify, account)
            await asyncio.to_thread(self._write, account)
            self._show(Frame(account=account))  # after what the containers wrote before it
            self.raise_failed_start(account)
            self._tell_addresses(account)
            self._connect_stdin(account)
            if account.stage == "gone":
                if self._interrupts and not any(run.started for run in account.runs):
                    return INTERRUPTED
                _tell_lost_engines(account)
                return process_status(account.exit_code or 0)

    def _tell_addresses(self, account: Account) -> None:
        """Where it can be reached: once it listens for HTTP, or has begun and may listen itself."""
        for run in account.runs:
            if run.started and run.sandbox not in self._told:
                self._told.add(run.sandbox)
                for address in run.serves:
                    click.echo(address, err=True)

    def _watch_logs(self, inotify: Inotify, account: Account) -> None:
        from asyncinotify import Mask

        for run in account.runs:
            folder = str(Path(run.log).parent)
            if folder not in self._watched:
                self._watched.add(folder)
                inotify.add_watch(folder, Mask.MODIFY | Mask.CREATE | Mask.MOVED_TO)

    def _write(self, account: Account) -> None:
        """Write all there is; a run whose exit is known has written all it ever will."""
        for run in sorted(account.runs, key=lambda each: each.attempt):
            if run.sandbox in self._done:
                continue
            source = f"{self.name}/{run.container}" if self.name else run.container
            reader = self._readers.setdefault(run.sandbox, LogReader(Path(run.log), consume=True))
            while lines := reader.read():
                self._output.write(source, lines)
            if run.exit_code is not None:
                self._output.finish(source)
                reader.close()
                del self._readers[run.sandbox]
                self._done.add(run.sandbox)

    def _connect_stdin(self, account: Account) -> None:
        run = next((each for each in account.runs if _reads_stdin(account, each)), None)
        if self.takes_stdin and not self._stdin_connected and run is not None:
            self._stdin_connected = True
            send_stdin(Path(run.engine_socket), run.sandbox)

    @staticmethod
    def raise_failed_start(account: Account) -> None:
        """A first start that failed ends the run: a terminal waits for no retry."""
        started = {run.container for run in account.runs if run.started}
        for name, failure in account.failures.items():
            if name in started:
                continue
            status = start_status(fault=failure.fault, not_found=failure.not_found and failure.stage == "image")
            raise StartFailedError(f"{_subject(account, name)}: {failure.error}", status=status, reason=failure.shown)
        verdict = account.pod.status
        if account.stage == "gone" and not account.runs and verdict.phase == "Failed" and verdict.message:
            raise StartFailedError(verdict.message, status=2, reason=verdict.reason)


def _subject(account: Account, name: str) -> str:
    """What could not be started: the pod, or one of its containers with its image."""
    pod = account.pod
    if not name:
        return f"cannot start pod {pod.metadata.name}"
    images = {each.name: each.image for each in [*pod.spec.init_containers, *pod.spec.containers]}
    return f"cannot start container {name} ({images[name].removeprefix('file:')})"


def _tell_lost_engines(account: Account) -> None:
    """A container that ended by no deed of its own or of the user wrote nothing about it."""
    for status in account.pod.status.container_statuses:
        ended = status.state.terminated
        if ended is not None and ended.message == LOST_MESSAGE:
            click.echo(f"wasmlet: container {status.name} ended with {ended.exit_code}: {ended.message}", err=True)


def _reads_stdin(account: Account, run: Run) -> bool:
    named = {each.name for each in account.pod.spec.containers if each.stdin}
    return run.container in named and run.started and run.exit_code is None


def catch_interrupts(followers: list[Follower]) -> None:
    """Pass Ctrl-C, SIGTERM and SIGHUP on to every pod."""
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        for follower in followers:
            follower.interrupt()

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(each, interrupt)
