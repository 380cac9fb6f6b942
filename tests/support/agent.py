"""An agent's rooms in the test's own process, with real engines and short times.

`kill` stands for kill -9: everything is dropped where it is, and `start` builds new rooms on the same directory.
Fixtures end every engine that was ever started, whatever happened in the test.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Literal, TypeVar

from tests.support.processes import end_all
from tests.support.waiting import DEADLINE_SECONDS, eventually
from wasmlet.base.clock import Clock, system_clock
from wasmlet.images.library import Library
from wasmlet.images.settings import Settings as ImageSettings
from wasmlet.kube.types import ContainerStatus, Pod
from wasmlet.pods import handlers
from wasmlet.pods.accounts import News, Progress
from wasmlet.pods.admission import Refusal
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.directories import Directories
from wasmlet.pods.dispatch import Dispatch
from wasmlet.pods.facts import Attempt
from wasmlet.pods.restarts import BackOff
from wasmlet.pods.rooms import NodeSource, Rooms, Settings
from wasmlet.pods.worker import Worker
from wasmlet.sandbox import artifacts, engines, users
from wasmlet.sandbox.logs import LogReader
from wasmlet.sandbox.network import PodAddresses, loopback
from wasmlet.server.hub import Hub

T = TypeVar("T")

BACK_OFF = BackOff(initial_seconds=0.05, maximum_seconds=0.4)
NODE_IP = "127.0.0.1"


class Recorder(Hub):
    """The real hub, and everything that went through it."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[News] = []
        self.progressed: list[Progress] = []

    def news(self, pod: Pod, news: News) -> None:
        self.told.append(news)
        super().news(pod, news)

    def is_watched(self, uid: str) -> bool:
        """Nobody follows a pod of a test."""
        return False

    def progress(self, uid: str, progress: Progress) -> None:
        self.progressed.append(progress)
        super().progress(uid, progress)


class Agent:
    """One state directory, and the rooms that serve it now."""

    def __init__(self, directory: Path, *, program: Path) -> None:
        self.directory = directory
        self.program = program
        self.back_off = BACK_OFF
        self.engine_idle_seconds = 60.0
        self.engine_memory_bytes = 0
        self.isolation: Literal["namespace", "node", "pod"] = "namespace"
        self.compile_memory_bytes = artifacts.DEFAULT_COMPILE_MEMORY_BYTES
        self.users = None if users.problem(users.DEFAULT, directory) else users.DEFAULT
        self.clock: Clock = system_clock
        self.refusal: Refusal | None = None
        self.node: NodeSource | None = None
        self.runtime_handler: Callable[[Pod], Awaitable[str]] = handlers.of_manifest
        self.addresses: Callable[[], PodAddresses] = lambda: loopback(self.directory)
        self.hub = Recorder()

    async def start(self) -> None:
        """Build the rooms as `wasmlet.agent` does, and take up the pods that are there."""
        self.library = Library(ImageSettings(directory=self.directory / "images", allow_local_files=True))
        cache = artifacts.Settings(directory=self.directory / "cache", memory_bytes=self.compile_memory_bytes)
        self.artifacts = artifacts.Artifacts(cache, program=self.program)
        access = engines.Access(read=(self.directory / "cache",))
        pool = engines.Settings(
            directory=self.directory / "engines", access=access,
            memory_bytes=self.engine_memory_bytes, idle_seconds=self.engine_idle_seconds,
        )  # fmt: skip
        self.engines = engines.Engines(pool, program=self.program)
        settings = Settings(
            node_name="node",
            host_ips=(NODE_IP,),
            back_off=self.back_off,
            sync_seconds=0.1,
            probe_scale=0.01,
            isolation=self.isolation,
            allocatable={"cpu": "2", "memory": "1Gi"},
        )
        self.dispatch = Dispatch(
            Rooms(
                settings=settings,
                library=self.library,
                artifacts=self.artifacts,
                engines=self.engines,
                directories=Directories(self.directory, self.users),
                listener=self.hub,
                clock=lambda: self.clock(),
                refuse=lambda _: self.refusal,
                node=self.node,
                runtime_handler=lambda pod: self.runtime_handler(pod),
                addresses=self.addresses(),
            )
        )
        self.engines.on_change = self.dispatch.wake
        await self.engines.adopt()
        self.dispatch.load()

    async def kill(self) -> None:
        """Drop everything; engines and their sandboxes go on."""
        await self.dispatch.close()
        await self.engines.close()
        await self.library.close()

    async def restart(self) -> None:
        """Another agent on the same directory."""
        await self.kill()
        await self.start()

    # --- shorthands ---------------------------------------------------------------------------------------------------

    def worker(self, bundle: Bundle) -> Worker:
        return self.dispatch.get(bundle.uid)

    async def until(
        self, bundle: Bundle, condition: Callable[[Worker], T | None], *, seconds: float = DEADLINE_SECONDS
    ) -> T:
        """The first true value of `condition` on the pod's worker (a new one after a restart)."""
        last = _Shown(self, bundle)
        return await eventually(lambda: condition(self.worker(bundle)), last, seconds=seconds)

    async def until_ended(self, bundle: Bundle) -> str:
        """The pod's final phase."""
        await self.until(bundle, lambda worker: worker.is_gone)
        return self.worker(bundle).status().phase

    async def until_running(self, bundle: Bundle, name: str = "main", *, number: int = 0) -> Attempt:
        """The attempt `number` of a container, or a later one, once the guest runs and has said `ready`."""

        def attempt(worker: Worker) -> Attempt | None:
            last = worker.facts.container(name).last
            return last if last is not None and last.number >= number and last.started_at is not None else None

        found = await self.until(bundle, attempt)
        await eventually(lambda: b"ready\n" in self.output(bundle, name, number=found.number), "ready")
        return found

    async def until_waiting(self, bundle: Bundle, reason: str, name: str = "main") -> str:
        """The message of a container's waiting state, once it has that reason."""

        def found(worker: Worker) -> tuple[str] | None:
            waiting = status_of(worker, name).state.waiting
            return (waiting.message,) if waiting is not None and waiting.reason == reason else None

        return (await self.until(bundle, found))[0]

    def attempts(self, bundle: Bundle, name: str = "main") -> list[tuple[int, int]]:
        """The kept attempts of a container as (number, exit code)."""
        own = self.worker(bundle).facts.container(name)
        return [(each.number, each.exit_code) for each in own.attempts]

    def output(self, bundle: Bundle, name: str = "main", *, number: int = 0, stream: str = "stdout") -> bytes:
        """What an attempt has written."""
        reader = LogReader(self.worker(bundle).places.log_file(name, number))
        with contextlib.closing(reader):
            content = b""
            while lines := reader.read():
                content += b"".join(line.content for line in lines if line.stream == stream)
            return content

    def told(self, reason: str) -> list[str]:
        """The messages of all news of that reason."""
        return [news.message for news in self.hub.told if news.reason == reason]


class _Shown:
    """Shows a pod's state in the message of a test that waited in vain."""

    def __init__(self, agent: Agent, bundle: Bundle) -> None:
        self._agent = agent
        self._bundle = bundle

    def __repr__(self) -> str:
        if not self._agent.dispatch.has(self._bundle.uid):
            return "the pod is not there"
        worker = self._agent.worker(self._bundle)
        return f"{worker} {worker.facts} {self._agent.hub.told}"


def status_of(worker: Worker, name: str = "main") -> ContainerStatus:
    """The status of one container."""
    status = worker.status()
    return next(each for each in [*status.init_container_statuses, *status.container_statuses] if each.name == name)


@contextlib.asynccontextmanager
async def running_agent(
    directory: Path,
    *,
    program: Path,
    isolation: Literal["namespace", "node", "pod"] = "namespace",
    engine_memory_bytes: int = 0,
) -> AsyncIterator[Agent]:
    """An agent of `directory`; at the end every process that it started is ended."""
    agent = Agent(directory, program=program)
    agent.isolation, agent.engine_memory_bytes = isolation, engine_memory_bytes
    try:
        await agent.start()
        yield agent
        await agent.kill()
    finally:
        end_all(directory)
