"""Liveness, readiness and startup probes (kubelet-contract section 5).

`Tally` counts results without I/O; `Prober` runs one task for each (container attempt, kind) and tells the pod's
worker about a changed verdict, which the worker saves as a fact.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec

from wasmlet.base.errors import WasmletError
from wasmlet.base.tasks import Tasks
from wasmlet.kube.types import Container, Pod, Probe
from wasmlet.pods import http_get
from wasmlet.pods.exec import Finished
from wasmlet.pods.expansion import expand
from wasmlet.pods.facts import Facts
from wasmlet.pods.view import all_containers, has_started, is_post_starting

logger = logging.getLogger(__name__)

HANDLER_TRIES = 3
"""An error of the prober itself (not a failure of the container) is retried this often at once."""


class Result(enum.Enum):
    """One probe's outcome; UNKNOWN is an error of the prober and changes no verdict."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNKNOWN = "unknown"


@dataclass
class Tally:
    """Counts results in a row, and says when a threshold is reached."""

    success_threshold: int
    failure_threshold: int
    last: Result | None = None
    run: int = 0

    def add(self, result: Result) -> Result | None:
        """The verdict that this result completes; None while below its threshold, or for UNKNOWN."""
        if result is Result.UNKNOWN:
            return None
        self.run = self.run + 1 if result is self.last else 1
        self.last = result
        needed = self.success_threshold if result is Result.SUCCESS else self.failure_threshold
        return result if self.run >= needed else None


@dataclass(frozen=True)
class Key:
    """A probe of one attempt of one container."""

    container: str
    sandbox: str
    kind: str


Report = Callable[[Key, Result, str], None]
"""Called with each verdict, also when it repeats the one before; the text is what the probe saw."""

Execute = Callable[[str, Sequence[str], float], Awaitable[Finished]]
"""Runs a command in a container, for so many seconds at most; raises as `exec.execute`."""


class Prober:
    """The probes of one pod.

    Args:
        report: Told every verdict.
        execute: Runs the commands of exec probes.
        period_scale: Tests shorten every period and delay by it.
    """

    def __init__(self, *, report: Report, execute: Execute, period_scale: float = 1.0) -> None:
        self._report = report
        self._execute = execute
        self._scale = period_scale
        self._tasks = Tasks()
        self._running: dict[Key, asyncio.Task[None]] = {}

    def sync(self, pod: Pod, facts: Facts, *, fresh: bool) -> None:
        """Start the probes that should run by these facts and end the others.

        Args:
            fresh: False just after the agent's start, when the first probes are spread over their period.
        """
        wanted = dict(_wanted(pod, facts))
        for key in set(self._running) - set(wanted):
            self._running.pop(key).cancel()
        for key in set(wanted) - set(self._running):
            coroutine = self._run(key, wanted[key], pod, facts.pod_ip, fresh=fresh)
            self._running[key] = self._tasks.start(coroutine, name=f"probe {key.kind} {key.container}")

    async def close(self) -> None:
        """End all probes."""
        self._running.clear()
        await self._tasks.close()

    async def _run(self, key: Key, probe: Probe, pod: Pod, pod_ip: str, *, fresh: bool) -> None:
        container = next(each for each in all_containers(pod) if each.name == key.container)
        probe = _with_defaults(probe)
        tally = Tally(probe.success_threshold, probe.failure_threshold)
        delay = probe.initial_delay_seconds if fresh else random.random() * probe.period_seconds  # noqa: S311
        while True:
            await asyncio.sleep(delay * self._scale)
            result, text = await self._probe(container, probe, pod_ip)
            verdict = tally.add(result)
            if verdict is not None or result is Result.UNKNOWN:
                self._report(key, verdict or Result.UNKNOWN, text)
            delay = probe.period_seconds

    async def _probe(self, container: Container, probe: Probe, pod_ip: str) -> tuple[Result, str]:
        result, text = Result.UNKNOWN, ""
        for _ in range(HANDLER_TRIES):
            if probe.exec is not None:
                result, text = await self._exec(container, probe, probe.exec.command)
            else:
                result, text = await _once(container, probe, pod_ip, timeout_seconds=probe.timeout_seconds)
            if result is not Result.UNKNOWN:
                break
        return result, text

    async def _exec(self, container: Container, probe: Probe, command: Sequence[str]) -> tuple[Result, str]:
        """$(VAR) means what the container's env says literally (contract section 5)."""
        values = {each.name: each.value for each in container.env}
        command = [expand(each, values.get) for each in command]
        try:
            finished = await self._execute(container.name, command, probe.timeout_seconds)
        except TimeoutError:
            text = f'command timed out: "{" ".join(command)}" timed out after {probe.timeout_seconds:g}s'
            return Result.FAILURE, text
        except WasmletError as error:
            return Result.UNKNOWN, str(error)
        # What a probe that passes writes is no warning.
        return (Result.FAILURE, finished.output) if finished.exit_code else (Result.SUCCESS, "")


def _wanted(pod: Pod, facts: Facts) -> list[tuple[Key, Probe]]:
    """Apps and sidecars only; a startup probe holds the others back; terminating leaves readiness alone."""
    found = []
    ending = facts.deletion is not None or facts.verdict is not None
    for container in all_containers(pod):
        attempt = facts.container(container.name).last
        if attempt is None or attempt.started_at is None or attempt.finished_at is not None:
            continue
        started, waits = has_started(container, attempt), is_post_starting(container, attempt)
        for kind, probe in (
            ("startup", container.startup_probe if not started and not ending and not waits else None),
            ("liveness", container.liveness_probe if started and not ending else None),
            ("readiness", container.readiness_probe if started else None),
        ):
            if probe is not None and (kind == "readiness" or attempt.unhealthy is None):
                found.append((Key(container.name, attempt.id, kind), probe))
    return found


def _with_defaults(probe: Probe) -> Probe:
    """0 means the default, as the API server has it; a manifest from a file comes here as it is."""
    plain = Probe()
    names = ("timeout_seconds", "period_seconds", "success_threshold", "failure_threshold")
    unset = {name: getattr(plain, name) for name in names if getattr(probe, name) <= 0}
    return msgspec.structs.replace(probe, **unset)


# --- handlers ---------------------------------------------------------------------------------------------------------


async def _once(container: Container, probe: Probe, pod_ip: str, *, timeout_seconds: float) -> tuple[Result, str]:
    try:
        async with asyncio.timeout(timeout_seconds):
            if probe.http_get is not None:
                return await _http(container, probe, pod_ip)
            if probe.tcp_socket is not None:
                return await _tcp(container, probe, pod_ip)
    except TimeoutError:
        return Result.FAILURE, f"no answer within {timeout_seconds:g} s"
    kind = "grpc" if probe.grpc is not None else "empty"
    return Result.UNKNOWN, f"{kind} probes cannot be run by this version of wasmlet"


async def _http(container: Container, probe: Probe, pod_ip: str) -> tuple[Result, str]:
    action = probe.http_get
    assert action is not None
    url = http_get.url_of(container, action, pod_ip=pod_ip)
    if url is None:
        return Result.UNKNOWN, f"{action.port!r} is no port"
    try:
        status, warning = await http_get.get(url, action, user_agent="kube-probe/1.36")
    except http_get.FailedRequestError as error:
        return Result.FAILURE, str(error)
    if 200 <= status < 400:
        return Result.SUCCESS, warning
    return Result.FAILURE, f"HTTP probe failed with statuscode: {status}"


async def _tcp(container: Container, probe: Probe, pod_ip: str) -> tuple[Result, str]:
    action = probe.tcp_socket
    assert action is not None
    port = http_get.resolve_port(container, action.port)
    if port is None:
        return Result.UNKNOWN, f"{action.port!r} is no port"
    try:
        _, writer = await asyncio.open_connection(action.host or pod_ip, port)
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        return Result.FAILURE, f"dial tcp {http_get.bracketed(action.host or pod_ip)}:{port}: {text}"
    writer.close()
    return Result.SUCCESS, ""
