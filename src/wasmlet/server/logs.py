"""GET /containerLogs/{namespace}/{pod}/{container}: `kubectl logs` (kubelet-contract 7.3)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web

from wasmlet.base.clock import Clock, system_clock
from wasmlet.base.errors import NotFoundError, UserError, WasmletError
from wasmlet.base.tasks import Tasks
from wasmlet.kube.types import ContainerStatus, PodStatus
from wasmlet.pods.dispatch import Dispatch
from wasmlet.pods.facts import Attempt
from wasmlet.pods.status import RUNTIME_NAME
from wasmlet.pods.worker import Worker
from wasmlet.server.changes import Changes, Wakeup
from wasmlet.server.hub import Hub, Watch
from wasmlet.server.log_files import LogFiles
from wasmlet.server.log_options import LogOptions, parse_options
from wasmlet.server.log_output import LogOutput

if TYPE_CHECKING:
    from aiohttp.web_protocol import RequestHandler

logger = logging.getLogger(__name__)

READERS: Final = 2
"""Threads that read logs at a time. They share one interpreter with the event loop, which six of them made 6 ms late
and two 2 ms (p99, two cores); all was read in the same time."""

NOT_YET_PULLED = {
    "ErrImagePull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image",
}


@dataclass(frozen=True)
class Instance:
    """One attempt of a container, whose log is wanted."""

    worker: Worker
    container: str
    number: int

    @property
    def is_running(self) -> bool:
        """Whether it may still write. What it has written is in the log when this turns False."""
        attempts = self.worker.facts.container(self.container).attempts
        return any(each.number == self.number and each.finished_at is None for each in attempts)


class Logs:
    """Answers log requests.

    Args:
        split_streams: See `parse_options`.
    """

    def __init__(
        self, dispatch: Dispatch, hub: Hub, *, split_streams: bool = False, clock: Clock = system_clock
    ) -> None:
        self._dispatch = dispatch
        self._hub = hub
        self._split_streams = split_streams
        self._clock = clock
        self._changes = Changes()
        self._open: set[RequestHandler] = set()
        self._readers = asyncio.Semaphore(READERS)

    def break_off(self) -> None:
        """Cut every answer, so that its client sees that it is not the log's end."""
        for connection in list(self._open):
            connection.force_close()

    async def close(self) -> None:
        """Watch no log any more."""
        await self._changes.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The log, chunk by chunk; headers go out at once.

        Raises:
            UserError: Nothing of that name, wrong options, or no log yet; the message is the kubelet's text.
        """
        query = {name: request.query.getall(name) for name in request.query}
        options = parse_options(query, now=self._clock(), split_streams=self._split_streams)
        names = request.match_info
        worker = find_pod(self._dispatch, names["namespace"], names["pod"])
        instance = choose(worker, names["container"], previous=options.previous)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        self._open.add(request.protocol)
        try:
            async with contextlib.aclosing(self.chunks(instance, options)) as chunks:
                async for chunk in chunks:
                    await response.write(chunk)  # waits for a slow client
            await response.write_eof()
        except ConnectionError:
            pass  # the client has left
        except (OSError, WasmletError) as error:
            # It is too late for a status: an answer without its end tells the client.
            logger.error("log broken off", extra={"pod": names["pod"], "error": str(error)})
            request.protocol.force_close()
        finally:
            self._open.discard(request.protocol)
        return response

    async def chunks(self, instance: Instance, options: LogOptions) -> AsyncGenerator[bytes, None]:
        """The output of the log of an instance, as it comes; ends when all is said.

        Files are read in threads, which are held for about a millisecond and never wait for a client.
        """
        files = LogFiles(instance.worker.places.logs, instance.container, f"{instance.number}.log")
        output = LogOutput(options)
        try:
            async with self._wakeups(instance, follow=options.follow) as wakeup:
                await asyncio.to_thread(files.start, tail_lines=options.tail_lines)
                while True:
                    wakeup.clear()
                    # Asked before the files are read: what it wrote before its end is read after that.
                    goes_on = options.follow and instance.is_running and self._dispatch.has(instance.worker.bundle.uid)
                    while (chunk := await self._read(files, output)) is not None:
                        if chunk:
                            yield chunk
                    if output.is_full:
                        return
                    if not goes_on:
                        break
                    await wakeup.wait()
                if options.tail_lines is None or options.follow:
                    yield output.format([files.rest()])
        finally:
            # In a thread too: it waits for a read that a cancelled request has left behind.
            await asyncio.to_thread(files.close)

    async def _read(self, files: LogFiles, output: LogOutput) -> bytes | None:
        """The next output, which may be empty; None at the present end, or when no more is wanted."""
        async with self._readers:
            return await asyncio.to_thread(_next_output, files, output)

    @contextlib.asynccontextmanager
    async def _wakeups(self, instance: Instance, *, follow: bool) -> AsyncIterator[Wakeup]:
        """A wakeup for news of the files and of the pod; without `follow` nobody waits for it."""
        if not follow:
            yield Wakeup()
            return
        tasks = Tasks()
        uid = instance.worker.bundle.uid
        directory = instance.worker.places.logs / instance.container
        with self._changes.watch(directory) as wakeup, self._hub.watch(uid) as watch:
            tasks.start(_pass_on(watch, wakeup), name=f"log of {uid}")
            try:
                yield wakeup
            finally:
                await tasks.close()


async def _pass_on(watch: Watch, wakeup: Wakeup) -> None:
    async for _ in watch:
        watch.news.clear()
        watch.progress.clear()
        wakeup.set()


def _next_output(files: LogFiles, output: LogOutput) -> bytes | None:
    lines = [] if output.is_full else files.read()
    return output.format(lines) if lines else None


# --- which log --------------------------------------------------------------------------------------------------------


def find_pod(dispatch: Dispatch, namespace: str, name: str) -> Worker:
    """The pod of that name that came last.

    Raises:
        NotFoundError: There is none.
    """
    found = dispatch.named(namespace, name)
    if not found:
        raise NotFoundError(f"pod {quoted(name)} does not exist")
    return found[-1]


def choose(worker: Worker, container: str, *, previous: bool) -> Instance:
    """The instance whose log is meant: the present one, running or ended, else the last that ended.

    Raises:
        NotFoundError: The pod has no such container.
        UserError: It has no log yet, or none of a previous instance.
    """
    spec, pod = worker.bundle.pod.spec, worker.bundle.pod.metadata.name
    named = [*spec.containers, *spec.init_containers, *spec.ephemeral_containers]
    if not any(each.name == container for each in named):
        raise NotFoundError(f"container {quoted(container)} not found in pod {quoted(pod)}")
    subject = f"container {quoted(container)} in pod {quoted(pod)}"
    status = _container_status(worker.status(), container)
    identity = _instance_id(status, subject, previous=previous)
    attempt = _attempt(worker, container, identity)
    if attempt is None:  # an ephemeral container; else between a status and its facts nothing waits
        ended = status.state.terminated if status is not None else None
        raise UserError(f"{subject} is not available{f': {ended.message}' if ended and ended.message else ''}")
    return Instance(worker, container, attempt.number)


def _instance_id(status: ContainerStatus | None, subject: str, *, previous: bool) -> str:
    """The container id that `validateContainerLogStatus` of a kubelet chooses."""
    if status is None:
        raise UserError(f"{subject} is not available")
    state, last = status.state, status.last_state.terminated
    if previous:
        if last is None:
            raise UserError(f"previous terminated {subject} not found")
        return last.container_id
    if state.running is not None:
        return status.container_id
    if state.terminated is not None:
        return state.terminated.container_id
    if last is not None:
        return last.container_id
    reason = state.waiting.reason if state.waiting is not None else ""
    if not reason:
        raise UserError(f"{subject} is waiting to start - no logs yet")
    raise UserError(f"{subject} is waiting to start: {NOT_YET_PULLED.get(reason, reason)}")


def _container_status(status: PodStatus, container: str) -> ContainerStatus | None:
    every = [*status.container_statuses, *status.init_container_statuses, *status.ephemeral_container_statuses]
    return next((each for each in every if each.name == container), None)


def _attempt(worker: Worker, container: str, identity: str) -> Attempt | None:
    own = worker.facts.containers.get(container)
    attempts = [] if own is None else own.attempts
    return next((each for each in attempts if identity == f"{RUNTIME_NAME}://{each.id}"), None)


def quoted(text: str) -> str:
    """As Go's %q writes a name."""
    return json.dumps(text, ensure_ascii=False)
