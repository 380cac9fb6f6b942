"""The machine goes down: which pods end when, with how much grace (kubelet-contract 1.5).

`groups` and `plan` decide; `GracefulShutdown` does it. Ending the agent alone (an upgrade) is no shutdown: pods go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from wasmlet.base import programs
from wasmlet.base.clock import Clock, system_clock
from wasmlet.base.errors import WasmletError
from wasmlet.base.tasks import Tasks
from wasmlet.node.settings import Settings
from wasmlet.pods.admission import Refusal
from wasmlet.pods.dispatch import Dispatch
from wasmlet.pods.facts import Verdict
from wasmlet.pods.report import Reporter

__all__ = [
    "POD_MESSAGE",
    "POD_REASON",
    "REJECTION_MESSAGE",
    "REJECTION_REASON",
    "GracefulShutdown",
    "Group",
    "ShutdownPod",
    "Step",
    "groups",
    "is_machine_stopping",
    "living",
    "plan",
    "terminate",
]

logger = logging.getLogger(__name__)

CRITICAL_PRIORITY: Final = 2_000_000_000
"""system-cluster-critical, the lowest of the critical priorities (scheduling/v1)."""

POD_REASON: Final = "Terminated"
POD_MESSAGE: Final = "Pod was terminated in response to imminent node shutdown."
REJECTION_REASON: Final = "NodeShutdown"
REJECTION_MESSAGE: Final = "Pod was rejected as the node is shutting down."
DEFAULT_POD_GRACE_SECONDS: Final = 30.0
ASK_MAX_BYTES: Final = 1 << 10
ASK_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Pods from `priority` upwards, to the next group's, and the seconds that they have together."""

    priority: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownPod:
    """A pod that lives.

    Attributes:
        grace_seconds: terminationGracePeriodSeconds; None: 30.
    """

    uid: str
    priority: int = 0
    grace_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One group's end: each pod with its own grace, all of them within `seconds`."""

    seconds: float
    pods: tuple[tuple[str, float], ...]


def groups(settings: Settings) -> tuple[Group, ...]:
    """The groups, lowest priority first; none: graceful shutdown is off."""
    if settings.shutdown_grace_by_priority:
        return tuple(
            Group(priority=each, seconds=seconds) for each, seconds in sorted(settings.shutdown_grace_by_priority)
        )
    if settings.shutdown_grace_seconds <= 0:
        return ()
    critical = settings.shutdown_critical_seconds
    return (
        Group(priority=0, seconds=settings.shutdown_grace_seconds - critical),
        Group(priority=CRITICAL_PRIORITY, seconds=critical),
    )


def plan(pods: Sequence[ShutdownPod], among: Sequence[Group]) -> list[Step]:
    """Who ends when: the lowest priorities first. Pods below all groups go with the first.

    A group without pods takes no time.
    """
    if not among:
        return []
    members: list[list[tuple[str, float]]] = [[] for _ in among]
    for pod in pods:
        position = max((place for place, group in enumerate(among) if group.priority <= pod.priority), default=0)
        own = DEFAULT_POD_GRACE_SECONDS if pod.grace_seconds is None else pod.grace_seconds
        members[position].append((pod.uid, min(own, among[position].seconds)))
    return [
        Step(seconds=group.seconds, pods=tuple(those)) for group, those in zip(among, members, strict=True) if those
    ]


class GracefulShutdown:
    """Ends the pods of a machine that goes down.

    Args:
        pods: Those that live.
        terminate: Ends one (uid, grace in seconds), as `POD_REASON`; returns when it has ended and its status is sent.

    Attributes:
        is_active: No new pod is admitted any more.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        pods: Callable[[], Sequence[ShutdownPod]],
        terminate: Callable[[str, float], Awaitable[None]],
    ) -> None:
        self._groups = groups(settings)
        self._pods = pods
        self._terminate = terminate
        self.is_active = False

    def __repr__(self) -> str:
        return f"<GracefulShutdown {'active' if self.is_active else 'waiting'} {self._groups}>"

    @property
    def is_enabled(self) -> bool:
        """Whether the settings give pods any time."""
        return any(group.seconds > 0 for group in self._groups)

    def refuse(self, _pod: object) -> Refusal | None:
        """Why a new pod is not admitted; None: it is."""
        return Refusal(REJECTION_REASON, REJECTION_MESSAGE) if self.is_active else None

    async def run(self) -> None:
        """End all pods, group by group; a group that needs longer than its time is left behind."""
        self.is_active = True
        for step in plan(self._pods(), self._groups):
            logger.info("pods ending", extra={"pods": len(step.pods), "seconds": step.seconds})
            tasks = Tasks()
            started = [tasks.start(self._end(uid, grace), name=f"shutdown {uid}") for uid, grace in step.pods]
            await asyncio.wait(started, timeout=max(step.seconds, 0.0))
            await tasks.close()

    async def _end(self, uid: str, grace_seconds: float) -> None:
        await self._terminate(uid, grace_seconds)


def living(dispatch: Dispatch) -> list[ShutdownPod]:
    """The pods that have not ended, of whatever source."""
    found = []
    for worker in dispatch.workers:
        spec = worker.bundle.pod.spec
        if worker.facts.ended_at is None:
            grace = spec.termination_grace_period_seconds
            found.append(ShutdownPod(uid=worker.bundle.uid, priority=spec.priority or 0, grace_seconds=grace))
    return found


async def terminate(
    dispatch: Dispatch, reporter: Reporter, uid: str, grace_seconds: float, *, now: Clock = system_clock
) -> None:
    """End a pod because the machine goes down, and tell the API server when it has ended.

    Args:
        reporter: Knows the pods of the API server; those of others are told to nobody.
    """
    if not dispatch.has(uid):
        return
    worker = dispatch.get(uid)
    worker.terminate(
        Verdict(
            phase="Failed", reason=POD_REASON, message=POD_MESSAGE, at=now(), grace_seconds=grace_seconds, disrupts=True
        )
    )
    await worker.ended()
    if worker.bundle.source == "api":
        try:
            await reporter.report(worker)
        except WasmletError as error:
            logger.warning("end of a pod not told", extra={"pod": uid, "error": str(error)})


async def is_machine_stopping() -> bool:
    """Whether systemd is taking the machine down: then our SIGTERM is no mere restart of the agent."""
    with contextlib.suppress(OSError):  # a TimeoutError is one
        answer = await programs.ask(["systemctl", "is-system-running"], seconds=ASK_SECONDS, most_bytes=ASK_MAX_BYTES)
        return answer.output.strip() == b"stopping"
    return False
