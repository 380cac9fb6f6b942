"""Events of the cluster (`kubectl describe`): recorded anywhere without waiting, sent by one task.

The correlator decides what is told; here it is queued, sent, and sent again while the API server is away.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from wasmlet.base import clock
from wasmlet.base.clock import Clock
from wasmlet.base.errors import NotFoundError, RetryableError, WasmletError
from wasmlet.kube.client import Client, Patch
from wasmlet.kube.correlator import Correlator, Occurrence, Reference, Report
from wasmlet.kube.errors import AlreadyExistsError, ForbiddenError
from wasmlet.kube.resources import Resource
from wasmlet.kube.types import Leaf, Node, ObjectMeta, Pod

__all__ = ["EVENTS", "Event", "EventSettings", "Recorder", "about_node", "about_pod"]

logger = logging.getLogger(__name__)

MAX_MESSAGE_CHARACTERS: Final = 1024
"""The limit of events.k8s.io/v1's note; core/v1 takes more, etcd and readers do not thank for it."""


class EventSource(Leaf):
    """event.source."""

    component: str = ""
    host: str = ""


class InvolvedObject(Leaf):
    """event.involvedObject (v1 ObjectReference)."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""
    resource_version: str = ""
    field_path: str = ""


class Event(Node):
    """v1 Event."""

    api_version: str = "v1"
    kind: str = "Event"
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    involved_object: InvolvedObject = msgspec.field(default_factory=InvolvedObject)
    reason: str = ""
    message: str = ""
    source: EventSource = msgspec.field(default_factory=EventSource)
    first_timestamp: str | None = None
    last_timestamp: str | None = None
    count: int = 0
    type: str = ""
    reporting_component: str = ""
    reporting_instance: str = ""


EVENTS: Final = Resource(Event, "v1", "events")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSettings:
    """How events are sent.

    Attributes:
        queue_size: Events that may wait; more are dropped. Default 1000.
        attempts: How often one event is sent. Default 12, and
        retry_seconds: the wait between two times, 10 (less, by chance, before the second): client-go's.
        settle_seconds: How long the first of many waits. What an event tells of is more urgent than the telling, and
            shall not share the core with it. Default 0.05.
    """

    queue_size: int = 1000
    attempts: int = 12
    retry_seconds: float = 10.0
    settle_seconds: float = 0.05


def about_pod(pod: Pod, *, field_path: str = "") -> Reference:
    """A pod, or with `spec.containers{name}` one of its containers."""
    metadata = pod.metadata
    return Reference(
        kind="Pod",
        namespace=metadata.namespace,
        name=metadata.name,
        uid=metadata.uid,
        resource_version=metadata.resource_version,
        field_path=field_path,
    )


def about_node(name: str, *, uid: str) -> Reference:
    """A node. `kubectl describe node` looks for the object's real uid (contract section 12)."""
    return Reference(kind="Node", name=name, uid=uid)


class Recorder:
    """Takes occurrences from everybody and tells the API server of them while `run` runs.

    Args:
        client: With limits of its own (`Client.sharing`), so that events never hold up pods.
        host: The node's name.
    """

    def __init__(
        self,
        client: Client,
        *,
        host: str,
        component: str = "kubelet",
        settings: EventSettings | None = None,
        now: Clock = clock.system_clock,
    ) -> None:
        self._client = client
        self._source = EventSource(component=component, host=host)
        self._settings = settings or EventSettings()
        self._now = now
        self._correlator = Correlator()
        self._waiting: dict[str, tuple[Report, bool]] = {}
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.dropped = 0

    def __repr__(self) -> str:
        return f"<Recorder {len(self._waiting)} waiting, {self.dropped} dropped>"

    def record(self, about: Reference, *, type: str, reason: str, message: str) -> None:  # noqa: A002
        """Tell about something; returns at once and never fails.

        Args:
            type: Normal or Warning.
            message: Never holds a secret. Cut after 1024 characters.
        """
        if len(message) > MAX_MESSAGE_CHARACTERS:
            message = message[: MAX_MESSAGE_CHARACTERS - 1] + "…"
        report = self._correlator.observe(Occurrence(about, type, reason, message), now=self._now())
        if report is None:
            return
        # One that still waits is replaced by what has a higher count, and has yet to be created.
        _, is_new = self._waiting.get(report.name, (report, report.count == 1))
        if report.name not in self._waiting and len(self._waiting) >= self._settings.queue_size:
            self.dropped += 1
            if self.dropped.bit_count() == 1:  # at 1, 2, 4, 8, …
                logger.warning("events dropped, too many wait", extra={"dropped": self.dropped})
            return
        self._waiting[report.name] = report, is_new
        self._idle.clear()
        self._news.set()

    async def run(self) -> None:
        """Send what is recorded, until cancelled."""
        while True:
            if not self._waiting:
                self._idle.set()
                self._news.clear()
                await self._news.wait()
                await asyncio.sleep(self._settings.settle_seconds)
            name = next(iter(self._waiting))
            report, is_new = self._waiting.pop(name)
            await self._send(report, is_new=is_new)

    async def flush(self) -> None:
        """Return when nothing waits and nothing is under way; the caller sets the deadline."""
        await self._idle.wait()

    async def _send(self, report: Report, *, is_new: bool) -> None:
        for attempt in range(1, self._settings.attempts + 1):
            try:
                await self._tell(report, is_new=is_new)
            except (ForbiddenError, AlreadyExistsError) as error:
                # A namespace that is being deleted takes no events; one that is there came through before.
                logger.debug("event not taken: %s", error.message)
                return
            except RetryableError as error:
                logger.debug("event delayed: %s", error.message, extra={"attempt": attempt})
            except WasmletError as error:
                logger.warning("event refused: %s", error.message)
                return
            else:
                return
            if attempt < self._settings.attempts:
                # By chance at first: all nodes lost the same API server.
                share = random.random() if attempt == 1 else 1.0  # noqa: S311
                await asyncio.sleep(self._settings.retry_seconds * share)
        self.dropped += 1
        logger.warning("event dropped, the API server does not take it", extra={"reason": report.occurrence.reason})

    async def _tell(self, report: Report, *, is_new: bool) -> None:
        namespace = report.occurrence.about.namespace or "default"
        if not is_new:
            try:
                await self._client.patch(EVENTS, report.name, _patch(report), kind=Patch.STRATEGIC, namespace=namespace)
            except NotFoundError:
                pass  # It has expired (an hour, by default): tell it anew.
            else:
                return
        await self._client.create(EVENTS, self._event(report, namespace), namespace=namespace)

    def _event(self, report: Report, namespace: str) -> Event:
        occurrence = report.occurrence
        about = occurrence.about
        return Event(
            metadata=ObjectMeta(name=report.name, namespace=namespace),
            involved_object=InvolvedObject(
                kind=about.kind,
                namespace=about.namespace,
                name=about.name,
                uid=about.uid,
                api_version=about.api_version,
                resource_version=about.resource_version,
                field_path=about.field_path,
            ),
            reason=occurrence.reason,
            message=occurrence.message,
            source=self._source,
            first_timestamp=clock.to_text(report.first_at),
            last_timestamp=clock.to_text(report.last_at),
            count=report.count,
            type=occurrence.type,
            reporting_component=self._source.component,
            reporting_instance=self._source.host,
        )


def _patch(report: Report) -> dict[str, Any]:
    """What changes when it happens again; the message too, where it stands for many."""
    return {
        "count": report.count,
        "lastTimestamp": clock.to_text(report.last_at),
        "message": report.occurrence.message,
    }
