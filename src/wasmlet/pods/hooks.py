"""postStart and preStop (kubelet-contract 4.8): exec, httpGet and sleep.

`wanted` derives from the facts which hooks are under way now; `Hooks` runs one task for each and tells the pod's
worker how it ended, which the worker saves as a fact. A hook that an agent's end cut off is run again by the next one
(at least once, as Kubernetes promises); a sleep goes on where it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from wasmlet.base.clock import Clock
from wasmlet.base.errors import WasmletError
from wasmlet.base.tasks import Tasks
from wasmlet.kube.types import Container, HTTPGetAction, LifecycleHandler, Pod
from wasmlet.pods import http_get
from wasmlet.pods.exec import Finished
from wasmlet.pods.facts import Facts
from wasmlet.pods.stops import is_pre_stopping
from wasmlet.pods.view import all_containers, is_post_starting, post_start, pre_stop

logger = logging.getLogger(__name__)

USER_AGENT = "kube-lifecycle/1.36"


@dataclass(frozen=True)
class HookKey:
    """A hook of one attempt of one container; `kind` is "postStart" or "preStop"."""

    container: str
    sandbox: str
    kind: str


@dataclass(frozen=True)
class Hook:
    """What to do, and since when (seconds since the epoch; a sleep counts from there)."""

    container: Container
    handler: LifecycleHandler
    since: float


@dataclass(frozen=True)
class Outcome:
    """How a hook ended.

    Attributes:
        error: "" when it went well.
        told: What of it people may see in an event: nothing of what others answered or wrote, which may be secret.
        fallback_host: Not "": https was asked for there, and plain http answered.
    """

    error: str = ""
    told: str = ""
    fallback_host: str = ""


Report = Callable[[HookKey, Outcome], None]

Execute = Callable[[str, Sequence[str]], Awaitable[Finished]]
"""Runs a command in a container to its end; raises WasmletError when it cannot be run."""


class Hooks:
    """The hooks of one pod.

    Args:
        report: Told the end of each hook, but of those that are not wanted any more.
        execute: Runs the commands of exec hooks.
        clock: Tells the present for sleeps.
    """

    def __init__(self, *, report: Report, execute: Execute, clock: Clock) -> None:
        self._report = report
        self._execute = execute
        self._clock = clock
        self._tasks = Tasks()
        self._running: dict[HookKey, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<Hooks {list(self._running)}>"

    def sync(self, pod: Pod, facts: Facts) -> None:
        """Start the hooks that should be under way by these facts, and give up the others."""
        found = dict(wanted(pod, facts))
        for key in set(self._running) - set(found):
            self._running.pop(key).cancel()
        for key in set(found) - set(self._running):
            self._running[key] = self._tasks.start(
                self._run(key, found[key], facts.pod_ip), name=f"{key.kind} {key.container}"
            )

    async def close(self) -> None:
        """Give up all of them."""
        self._running.clear()
        await self._tasks.close()

    async def _run(self, key: HookKey, hook: Hook, pod_ip: str) -> None:
        outcome = await self._outcome(hook, pod_ip)
        if outcome.error:
            # Not in the event: a server's answer may have secrets in it (as in the kubelet).
            logger.warning(f"{key.kind} hook failed", extra={"container": key.container, "error": outcome.error})
        self._report(key, outcome)

    async def _outcome(self, hook: Hook, pod_ip: str) -> Outcome:
        handler = hook.handler
        if handler.http_get is not None:
            return await _get(hook.container, handler.http_get, pod_ip)
        if handler.sleep is not None:
            await asyncio.sleep(max(0.0, hook.since + handler.sleep.seconds - self._clock()))
            return Outcome()
        if handler.exec is not None:
            return await self._exec(hook.container, handler.exec.command)
        return Outcome(error="invalid handler: only httpGet, sleep and exec are hooks")

    async def _exec(self, container: Container, command: Sequence[str]) -> Outcome:
        """Without a time limit of its own: preStop has the pod's grace, and postStart until the container ends."""
        try:
            finished = await self._execute(container.name, command)
        except WasmletError as error:
            return Outcome(error=str(error), told=str(error))
        if finished.exit_code == 0:
            return Outcome()
        what = f"command '{' '.join(command)}' exited with {finished.exit_code}"
        return Outcome(error=f"{what}: {finished.output}", told=what)


def wanted(pod: Pod, facts: Facts) -> Iterator[tuple[HookKey, Hook]]:
    """The hooks that should be under way. A container that is to end, or has ended, has no postStart any more."""
    for container in all_containers(pod):
        attempt = facts.container(container.name).last
        if attempt is None or attempt.started_at is None or attempt.finished_at is not None:
            continue
        if attempt.stopping is not None:
            handler = pre_stop(container)
            if handler is not None and is_pre_stopping(container, attempt):
                key = HookKey(container.name, attempt.id, "preStop")
                yield key, Hook(container, handler, attempt.stopping.at)
        elif (handler := post_start(container)) is not None and is_post_starting(container, attempt):
            yield HookKey(container.name, attempt.id, "postStart"), Hook(container, handler, attempt.started_at)


async def _get(container: Container, action: HTTPGetAction, pod_ip: str) -> Outcome:
    """Any answer is a success; a server that speaks plain HTTP is asked again so."""
    url = http_get.url_of(container, action, pod_ip=pod_ip)
    plain = http_get.url_of(container, action, pod_ip=pod_ip, scheme="HTTP")
    if url is None or plain is None:
        return Outcome(error=f"{action.port!r} is no port")
    try:
        await http_get.get(url, action, user_agent=USER_AGENT)
        return Outcome()
    except http_get.FailedRequestError as error:
        if not error.is_plain:
            return Outcome(error=str(error))
    without = [each for each in action.http_headers if each.name.lower() != "authorization"]
    action = HTTPGetAction(port=action.port, path=action.path, host=action.host, http_headers=without)
    try:
        await http_get.get(plain, action, user_agent=USER_AGENT)
    except http_get.FailedRequestError as error:
        return Outcome(error=str(error))
    return Outcome(fallback_host=plain.removeprefix("http://").partition("/")[0])
